"""The GPU benchmark at a size for the CPU: its search, its FLOP counts against calculation, its tables; the paper's FLOPs on meta."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import paper_size
import pytest
import torch
from paper_parts import Case, build, flops, overlay_batch, synthetic, with_features

from unifashion_pl.backbone import VisionTower
from unifashion_pl.generation import SD1_UNET, Denoiser

CPU = torch.device("cpu")


def bench(out: Path, minutes: float = 10.0) -> paper_size.Bench:
    return paper_size.Bench(CPU, True, 2, 1, out, time.monotonic() + 60 * minutes)


def case(name: str) -> Case:
    return next(c for c in paper_size.TRAININGS if c.name == name)


@pytest.mark.parametrize(
    ("most", "start", "limit", "expected"), [(37, 8, 512, 36), (3, 32, 512, 3), (900, 8, 20, 20), (0, 8, 64, 0), (1, 1, 64, 1)]
)
def test_the_largest_batch_is_found_to_an_eighth(most: int, start: int, limit: int, expected: int) -> None:
    asked: list[int] = []

    def fits(rows: int) -> bool:
        asked.append(rows)
        return rows <= most

    assert paper_size.largest(fits, start, limit) == expected
    assert len(asked) < 12
    assert len(set(asked)) == len(asked)


def test_the_overlays_own_batches_are_read() -> None:
    assert overlay_batch(("phase1.yaml", "paper.yaml"), "pairs") == 128
    assert overlay_batch(case("llm").configs, "pairs") == 32
    assert overlay_batch(("phase2.yaml", "commercial.yaml"), "triplets") == 64


def test_recomputed_activations_are_counted_apart(tmp_path: Path) -> None:
    model = build(case("diffusion"), CPU, tmp_path)
    batch = synthetic("pairs", 2, model)
    parts = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    assert parts

    def step() -> None:
        torch.manual_seed(0)
        torch.stack(list(model.compute_losses(batch).values())).sum().backward()

    total, again = flops(step, model)
    for module in parts:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    plain, nothing = flops(step, model)
    assert again > 0
    assert nothing == 0
    assert total - again == plain


def test_features_stand_for_pictures(tmp_path: Path) -> None:
    model = build(case("representation"), CPU, tmp_path).eval()
    batch = synthetic("pairs", 3, model)
    seen = with_features(batch, model.backbone.vision)
    assert seen.images.shape == (3, 5, 32)  # type: ignore[union-attr]
    losses: list[Any] = []
    for part in (batch, seen):
        torch.manual_seed(0)
        losses.append(torch.stack(list(model.compute_losses(part).values())).sum())
    assert torch.equal(*losses)


def test_two_cases_give_rows_and_failures_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: paper_size.Bench) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(paper_size, "tower", broken)
    paper_size.run(["representation", "tower"], bench(tmp_path))
    found = json.loads((tmp_path / "paper_size.json").read_text())
    assert [(row["case"], row["variant"]) for row in found["rows"]] == [
        ("tower", "failed"), ("representation", "pictures"), ("representation", "features"),
    ]  # fmt: skip
    pictures, features = found["rows"][1:]
    assert pictures["batch"] == features["batch"] == 2
    assert pictures["tflop"] > features["tflop"] > 0
    assert pictures["rate"] == pytest.approx(2 / pictures["seconds"])
    assert pictures["mfu"] == pytest.approx(
        pictures["tflop"] * 1e12 / pictures["seconds"] / (found["environment"]["matmul_peak_tflops"] * 1e12)
    )
    assert {"date", "commit", "device", "versions"} <= found["environment"].keys()
    table = (tmp_path / "paper_size.md").read_text()
    assert "| tower | failed |" in table
    assert "CUDA out of memory" in table


def test_no_case_begins_when_the_time_is_over(tmp_path: Path) -> None:
    paper_size.run(["phase2"], bench(tmp_path, minutes=0.0))
    assert json.loads((tmp_path / "paper_size.json").read_text())["rows"][0]["note"] == "no time left"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in paper_size.ORDER if name not in ("representation", "sampling-compiled")])
def test_every_case_runs(tmp_path: Path, name: str) -> None:
    paper_size.run([name], bench(tmp_path))
    rows = json.loads((tmp_path / "paper_size.json").read_text())["rows"]
    assert rows
    assert not [row for row in rows if row["variant"] in ("failed", "not run")]


def test_tower_and_unet_of_the_papers_size_do_what_was_calculated() -> None:
    with torch.device("meta"), torch.no_grad():
        tower = VisionTower("eva_giant_patch14_clip_224", image_size=224, timm_kwargs={"depth": 39})
        count, _ = flops(lambda: tower(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)))
        assert count == pytest.approx(520e9, rel=0.01)
        denoiser = Denoiser(config=SD1_UNET, in_channels=13, garment="branch").eval()
        latents, time_, context = torch.zeros(1, 4, 64, 48), torch.zeros(1, dtype=torch.long), torch.zeros(1, 77, 768)
        plain, _ = flops(lambda: denoiser(latents, time_, context))
        assert plain == pytest.approx(580.4e9, rel=0.002)
        dressed, _ = flops(lambda: denoiser(latents, time_, context, garment=latents))
        assert dressed == pytest.approx((901.0 + 171.2) * 1e9, rel=0.002)
        more, _ = flops(lambda: denoiser(latents, time_, torch.zeros(1, 109, 768)))
        assert more == pytest.approx(582.7e9, rel=0.002)
