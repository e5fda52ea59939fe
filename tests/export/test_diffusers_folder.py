"""The folder of the diffusion head: diffusers loads it, in a process that knows nothing of this library, and paints the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import editor, opened, painter, saved_retriever
from torch import Tensor

from unifashion_pl.cli import main
from unifashion_pl.export.diffusers_folder import compare, export_diffusers, garment_source, plain_unet, without_ours
from unifashion_pl.generation import garment
from unifashion_pl.inference.requests import edit_queries
from unifashion_pl.module import UniFashionModule
from unifashion_pl.person.inputs import batch_of, prepare_design, prepare_tryon
from unifashion_pl.tasks.editing import edit_batch
from unifashion_pl.wardrobe.drawing import render_flat
from unifashion_pl.wardrobe.person import draw_figure, render_worn
from unifashion_pl.wardrobe.tryon import fabric_of, person_of, picture_of, product_of, repaint_mask

#: Run where nothing of this library is imported: every call's latents and pictures.
ALONE = """
import sys, numpy, torch
from diffusers import DiffusionPipeline
folder, given, found = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
calls = torch.load(given)
made = {}
for name, call in calls.items():
    seeds = [torch.Generator().manual_seed(seed) for seed in call.pop("seeds")]
    latents = pipe(**call, generator=seeds, output_type="latent").images
    made |= {name + "latent": latents.numpy(), name + "pt": pipe._decoded(latents, "pt").numpy()}
assert not any(name.startswith("unifashion_pl") for name in sys.modules)
numpy.savez(found, **made)
"""


def alone(folder: Path, calls: dict[str, dict[str, Any]]) -> Any:
    """What diffusers paints by itself."""
    given, found = folder.parent / "given.pt", folder.parent / "found.npz"
    torch.save(calls, given)
    ran = subprocess.run([sys.executable, "-c", ALONE, str(folder), str(given), str(found)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return np.load(found)


def edits(model: UniFashionModule, task: Any, text: str = "") -> tuple[Any, Tensor]:
    """Two drawn persons in a garment of another (or its sketch) as the model is given them, and their queries."""
    head: Any = model.diffusion_head
    sizes: dict[str, Any] = {"size": head.edit_size, "image_size": model.backbone.vision.image_size}
    inputs = []
    for number in (50_000, 50_001):
        rng = person_of(0, number)
        worn = render_worn(product_of(0, number), 144, 192, draw_figure(rng), rng, fabric_of(0, number), upper=True)
        known: dict[str, Any] = {"mask": Image.fromarray(repaint_mask(worn)), "densepose": Image.fromarray(worn.dense), **sizes}
        if task == "tryon":
            other = number + 5
            cloth, _, _ = render_flat(product_of(0, other), 144, 192, person_of(0, other), fabric_of(0, other))
            inputs.append(prepare_tryon(worn.image, cloth, **known))
        else:
            inputs.append(prepare_design(worn.image, picture_of(worn.sketch).convert("RGB"), text=text, **known))
    batch = edit_batch(batch_of(inputs), [task] * 2)
    with torch.no_grad():
        return batch, edit_queries(model, batch)


def painted(head: Any, monkeypatch: pytest.MonkeyPatch, paint: Any) -> tuple[np.ndarray, np.ndarray]:
    """Latents and pictures (uint8) of a call of the head's own."""
    kept: list[Tensor] = []
    decode = type(head.vae).decode
    with monkeypatch.context() as patch:
        patch.setattr(type(head.vae), "decode", lambda vae, latents: (kept.append(latents), decode(vae, latents))[1])
        pictures = paint()
    return kept[0].numpy(), pictures.numpy()


def known(batch: Any) -> dict[str, Any]:
    return {"person": batch.pixels, "mask": batch.masks, "pose": batch.pose}


@pytest.mark.slow
def test_diffusers_alone_paints_what_the_shipped_model_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = UniFashionModule.from_pretrained("tiny", heads=("diffusion",))
    head: Any = model.diffusion_head
    assert "-> " in export_diffusers(model, tmp_path / "pipe")
    worn, look = edits(model, "tryon")
    drawn, idea = edits(model, "design", "red with white dots")
    texts, seeds = ["red dress", "blue shirt, long sleeves"], [3, 4]
    own = {
        "text": lambda: head.generate(None, texts, seeds=seeds, steps=20),
        "tryon": lambda: head.paint(look, worn, seeds=seeds),
        "design": lambda: head.paint(idea, drawn, seeds=seeds, steps=12, garment_guidance=1.5, garment_until=0.6),
    }
    calls: dict[str, dict[str, Any]] = {
        "text": {"prompt": texts, "num_inference_steps": 20},
        "tryon": {"queries": look, **known(worn), "garment": worn.garments},
        "design": {
            "prompt": drawn.texts,
            "queries": idea,
            **known(drawn),
            "sketch": drawn.garments,
            "num_inference_steps": 12,
            "garment_guidance": 1.5,
            "garment_until": 0.6,
        },
    }
    found = alone(tmp_path / "pipe", {name: {**call, "seeds": seeds} for name, call in calls.items()})
    for name, paint in own.items():
        latents, pictures = painted(head, monkeypatch, paint)
        apart = np.abs(found[name + "latent"] - latents).max()
        pixels = np.abs(found[name + "pt"].astype(int) - pictures).max()
        print(f"{name}: latents {apart:.2g} of up to {np.abs(latents).max():.2g}, pixels {pixels} of 255")
        assert apart < 1e-4 * max(1.0, np.abs(latents).max()), name  # measured: 7e-6, 1e-5 and 7e-5
        assert pixels <= 1, name


@pytest.mark.parametrize("way", ["branch", "panels", "lora", "text"])
def test_every_kind_of_head_is_the_same_in_diffusers(way: str, tmp_path: Path) -> None:
    if way == "text":
        model = painter(channels=4)
    else:
        model = opened(editor("lora" if way == "lora" else "editing_control", garment=None if way == "lora" else way)).eval()
    head: Any = model.diffusion_head
    if way == "lora":
        for name, parameter in head.denoiser.unet.named_parameters():
            if ".lora_" in name:
                parameter.data.normal_(std=0.2)
    export_diffusers(model, tmp_path / "pipe")
    index = json.loads((tmp_path / "pipe" / "model_index.json").read_text())
    assert (index["garment_branch"][0] is not None) == (way == "branch")
    assert compare(head, tmp_path / "pipe") < 2e-5
    head.null_context.data.add_(1)
    head.denoiser.unet.conv_in.weight.data.mul_(2)
    assert compare(head, tmp_path / "pipe") > 1e-3


def test_a_u_net_s_adapters_are_in_its_copy_s_weights() -> None:
    unet = editor("lora", garment=None).diffusion_head.denoiser.unet  # type: ignore[union-attr]
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(std=0.2)
    given = torch.randn(1, 13, 8, 8), torch.tensor([5]), torch.randn(1, 3, unet.config.cross_attention_dim)
    plain = plain_unet(unet)
    assert not [name for name, _ in plain.named_parameters() if "lora" in name]
    assert [name for name, _ in unet.named_parameters() if "lora" in name]
    with torch.no_grad():
        assert torch.allclose(plain(*given).sample, unet(*given).sample, atol=1e-5)


def test_sources_stand_by_themselves(tmp_path: Path) -> None:
    assert "import annotations" not in without_ours(garment)
    assert "unifashion_pl" not in garment_source()
    compile(garment_source(), "garment", "exec")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "tiny", "--out", str(tmp_path / "out"), "--format", "diffusers", "--dtype", "fp16"])
    assert "--format diffusers writes the head that paints as it is" in capsys.readouterr().err
    retriever = saved_retriever(tmp_path / "retriever")
    with pytest.raises(SystemExit):
        main(["export", str(retriever), "--out", str(tmp_path / "out"), "--format", "diffusers"])
    assert "has no diffusion head" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_pipeline_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = painter(channels=4)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match="holds other files"):
        export_diffusers(model, tmp_path)
    monkeypatch.setattr("unifashion_pl.export.diffusers_folder.compare", lambda head, folder: 0.5)
    with pytest.raises(RuntimeError, match="is not the model's: noise differs by 0.5"):
        export_diffusers(model, tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()
    model.diffusion_head = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="diffusion head is a Identity"):
        export_diffusers(model, tmp_path / "pipe")
