"""A state dict that salesforce-lavis' own classes made, in an environment of its own, computes here what LAVIS computes with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import peers
import pytest
import torch
from small import TEXTS, images
from test_starts import RETRIEVAL, backbone, started

from unifashion_pl.backbone.qformer import TextTokens
from unifashion_pl.backbone.words import clean_text
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.loading import load_imported

#: What LAVIS 1.0.2 pins, and what its BLIP-2 imports; torch and numpy are this environment's.
PINNED = (
    "salesforce-lavis==1.0.2",
    "timm==0.4.12",
    "transformers==4.26.1",
    "tokenizers==0.13.3",
    "huggingface_hub==0.23.5",
    "fairscale==0.4.4",
)
BESIDE = (
    "omegaconf",
    "antlr4-python3-runtime==4.9.3",
    "iopath",
    "portalocker",
    "pandas",
    "python-dateutil",
    "pytz",
    "tzdata",
    "six",
)


@pytest.fixture(scope="module")
def lavis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LAVIS' checkpoint, its inputs and its outputs.

    UNIFASHION_LAVIS_PYTHON may name the interpreter of an environment that has it already.
    """
    folder = tmp_path_factory.mktemp("lavis")
    python = os.environ.get("UNIFASHION_LAVIS_PYTHON") or str(folder / "env" / "bin" / "python")
    if not Path(python).is_file():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary",
            "tokenizers",
            "--retries",
            "1",
        ]
        made = subprocess.run([*pip, *PINNED, *BESIDE], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"pip could not install salesforce-lavis: {made.stderr.strip().splitlines()[-1:]}")
    pixels = (images(3, peers.SIDE).float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.save({"pixels": pixels, "texts": [clean_text(text) for text in TEXTS[:3]]}, folder / "inputs.pt")
    sizes = {"hidden": peers.HIDDEN, "layers": peers.LAYERS, "queries": peers.QUERIES, "width": peers.WIDTH, "side": peers.SIDE,
             "embed": peers.EMBED, "vocab": peers.VOCAB, "vocabulary": str(files("unifashion_pl.configs") / "tiny_vocab.txt")}  # fmt: skip
    shared = [path for path in sys.path if path.endswith("site-packages")]
    script = [python, str(Path(__file__).with_name("lavis_peer.py")), json.dumps(sizes), *shared]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(script, cwd=folder, env=clean, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    import_weights(folder / "blip2_pretrained.pth", folder / "weights" / "blip2")
    return folder


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NEAR = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.slow
@pytest.mark.timeout(900)
@torch.no_grad()
def test_the_paper_s_first_stage_computes_what_lavis_computes(lavis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lavis)
    settings = {"model": {"backbone": backbone(lavis, "weights/blip2"), "retrieval": RETRIEVAL}}
    model = started(lavis, monkeypatch, ["phase1.yaml", "paper.yaml", "paper-representation.yaml"], settings)
    theirs = torch.load(lavis / "outputs.pt")
    head, features = model.retrieval_head, model.backbone.image_features(images(3, peers.SIDE))
    assert head is not None
    tokens = model.backbone.tokenize(TEXTS[:3])
    assert torch.equal(tokens.ids, theirs["ids"])
    torch.testing.assert_close(features, theirs["features"], **NEAR)
    torch.testing.assert_close(head.image_embeddings(model.backbone, images(3, peers.SIDE)), theirs["image"], **NEAR)
    torch.testing.assert_close(head.text_embeddings(model.backbone, TEXTS[:3]), theirs["text"], **NEAR)
    torch.testing.assert_close(head.match(model.backbone, features, tokens)[:, 1], theirs["itm"], **NEAR)
    assert float(head.temperature) == pytest.approx(0.0123)


@pytest.mark.slow
@pytest.mark.timeout(900)
@torch.no_grad()
def test_its_language_head_writes_what_lavis_writes(lavis: Path) -> None:
    model = peers.our_model()
    load_imported(model, lavis / "weights" / "blip2")
    theirs = torch.load(lavis / "outputs.pt")
    tokens = model.backbone.tokenize(TEXTS[:3])
    states = model.backbone.language_pass(
        model.backbone.image_features(images(3, peers.SIDE)), TextTokens(tokens.ids, tokens.mask)
    )
    head = model.retrieval_head.lm_head  # type: ignore[union-attr]
    ours = head(states, model.backbone.embeddings.word_embeddings.weight)  # type: ignore[misc]
    torch.testing.assert_close(ours[tokens.mask], theirs["lm"][tokens.mask], **NEAR)
