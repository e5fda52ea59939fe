"""What ``unifashion doctor`` says: machine, trainings that fit, parts of an overlay, licences, places to start from; and its refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unifashion_pl.cli import main
from unifashion_pl.commands.options import Model
from unifashion_pl.devices import default_device
from unifashion_pl.doctor import examine, examine_overlay
from unifashion_pl.memory import needed
from unifashion_pl.parameters import TRAININGS, shapes_only
from unifashion_pl.weights.card import IMPORTED, parts_of

LLM = ["phase1.yaml", "paper.yaml", "paper-llm.yaml"]


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def pretend(*gib: float) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gib))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a card")
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda which: SimpleNamespace(
                name="a card", total_memory=gib[which if isinstance(which, int) else which.index or 0] * 2**30
            ),
        )
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)

    return pretend


def test_apple_s_gpu_is_taken_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch tells of it; nothing here ran on one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for here, device in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda here=here: here)
        assert default_device({"LOCAL_RANK": "1"}) == device
        assert Model().place() == device
        assert ("Apple (mps)" in line(examine(trainings=False), "gpu")) == here
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    assert "this torch has mps" in line(examine(trainings=False), "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (default_device({"LOCAL_RANK": "1"}), default_device({})) == ("cuda:1", "cuda")
    assert Model(device="cpu").place() == "cpu"


def line(text: str, start: str) -> str:
    found = [row for row in text.splitlines() if row.startswith(start)]
    assert len(found) == 1, text
    return found[0]


def test_an_overlay_s_parts_licences_memory_and_start(nothing_here: Path, gpus: Callable[..., None]) -> None:
    gpus(80.0)
    text = examine_overlay(LLM)
    assert line(text, "fits").split() == ["fits", "yes"]
    assert "19.9 GiB" in line(text, "memory") or "GiB of weights" in line(text, "memory")
    assert "Llama 2 Community; commercial use: unclear): absent: comes from the hub" in line(
        text, "needs           lmsys/vicuna"
    )
    blip2 = line(text, "needs           weights/blip2")
    assert "BSD-3-Clause" in blip2
    assert "MIT" in blip2
    assert "`unifashion weights import blip2_pretrained.pth --tower eva_vit_g.pth --out weights/blip2`" in blip2
    assert "CompVis" not in text  # paper-llm.yaml builds no diffusion model
    assert line(text, "starts from").endswith("absent: runs/phase1-representation (an earlier stage's run, or an import)")
    datasets = ("fashiongen", "fashion-iq", "fashion200k")
    assert line(text, "data").split(maxsplit=1)[1].startswith(", ".join(f"data/{name}" for name in datasets) + ": absent")
    (nothing_here / "runs" / "phase1-representation").mkdir(parents=True)
    for name in datasets:
        (nothing_here / "data" / name).mkdir(parents=True)
    (nothing_here / "weights" / "blip2").mkdir(parents=True)
    gpus(8.0)
    again = examine_overlay(LLM)
    assert line(again, "fits").split() == ["fits", "no"]
    assert line(again, "starts from").split(": ", 1)[1].startswith("here, but unfit: no weights at")
    assert line(again, "starts from").endswith("Move it away, or name another start, or none, by --model.init_from")
    assert line(again, "data").endswith("data/fashion200k: here")
    assert "here, but unfit: no weights file at weights/blip2/model.safetensors" in line(again, "needs           weights/blip2")


def test_phase_2_reads_the_datasets_of_its_own_streams(nothing_here: Path) -> None:
    (nothing_here / "data" / "fashiongen").mkdir(parents=True)
    row = line(examine_overlay(["phase2.yaml", "paper.yaml"]), "data")
    assert row.split(maxsplit=1)[1].startswith("data/fashion-iq: absent: ")


def test_commercial_only_names_what_it_refuses(nothing_here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ValueError, match=r"refused under --commercial-only.*lmsys/vicuna-7b-v1.5 \(Llama 2 Community; unclear\)"
    ):
        examine_overlay(LLM, commercial_only=True)
    text = examine_overlay(["phase2.yaml", "commercial.yaml"], commercial_only=True)
    assert text.count("commercial use: yes") == text.count("\nneeds") == 4
    assert "timm/vit_base_patch16_siglip_gap_224.webli" in text
    assert line(text, "starts from").split(maxsplit=2)[2].startswith("absent: runs/phase1")  # the tiny model would not fit
    with pytest.raises(SystemExit) as status:
        main(["doctor", "--commercial-only"])
    assert status.value.code == 2
    assert "name its --config too" in capsys.readouterr().err


def test_the_machine_and_what_can_be_trained_on_it(gpus: Callable[..., None]) -> None:
    assert not [row for row in examine(trainings=False).splitlines() if row.startswith("training")]
    assert "fits: no GPU here" in examine() if not torch.cuda.device_count() else True
    gpus(24.0)
    rows = [row for row in examine().splitlines() if row.startswith("training")]
    assert len(rows) == len(TRAININGS)
    verdicts = {row.split(":")[0].split(maxsplit=1)[1]: row.split("fits: ")[1] for row in rows}
    assert verdicts["phase1.yaml + paper.yaml + paper-representation.yaml"] == "yes"
    assert verdicts["phase1.yaml + paper.yaml"] == "no"
    gpus(24.0, 24.0)
    assert "phase1.yaml + paper.yaml: 35.2 GiB + activations; fits: sharded over the GPUs here (fsdp.yaml)" in examine()


@pytest.mark.slow
def test_the_trainings_memory_is_what_is_counted() -> None:
    for training in TRAININGS:
        assert sum(needed(shapes_only(training.configs))) / 2**30 == pytest.approx(training.gib, abs=0.06), training


def test_the_folders_of_shipped_overlays_are_made_of_parts_in_the_manifest() -> None:
    for folder, names in IMPORTED.items():
        assert {part.name for part in parts_of(folder)} == set(names)
        assert all(part.kind for part in parts_of(folder))


def test_the_hub_is_not_asked(nothing_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when it may be: what the cache does not have is absent."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    text = examine_overlay(["small.yaml"])
    assert "33,603,030" in line(text, "encoder ")
    assert line(text, "needs           timm/tf_efficientnet_lite0").endswith("or name a folder instead")
    (nothing_here / "own.yaml").write_text("model: {backbone: {init_args: {tokenizer: some/bert}}}\n")
    assert "not counted, because a part cannot be read: no BERT tokenizer at 'some/bert'" in line(
        examine_overlay(["phase1.yaml", "own.yaml"]), "memory"
    )


def test_overlays_of_the_trainer_alone_lie_over_a_phase(nothing_here: Path) -> None:
    phase = examine_overlay(["phase2.yaml"]).splitlines()
    assert examine_overlay(["phase2.yaml", "ema.yaml", "ddp.yaml"]).splitlines()[1:] == phase[1:]
    with pytest.raises(ValueError, match=r"ddp.yaml has no `model:` section with settings: name a phase's config too"):
        examine_overlay(["ddp.yaml"])


def test_a_look_at_the_machine_builds_nothing() -> None:
    code = "import sys; from unifashion_pl.doctor import examine; examine(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"lightning", "transformers", "diffusers", "timm", "torchvision"} & set(loaded) == set()
