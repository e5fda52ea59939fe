"""Trainings, models, batches and FLOP counts of ``paper_size.py``, and what ``paper_smoke.py`` shares with it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone import VisionTower
from unifashion_pl.configs import merged, read_config
from unifashion_pl.data.samples import PairBatch, TrainBatch, TripletBatch, TryOnBatch
from unifashion_pl.parameters import with_random_weights
from unifashion_pl.provenance import commit

WORDS = ("red", "dress", "blue", "shirt", "long", "black", "skirt", "with", "buttons", "green", "top", "striped", "sleeves", "white", "collar", "short")  # fmt: skip
#: Laid over a chain by ``--scale tiny``.
TINY = Path(__file__).with_name("paper_size_tiny.yaml")


@dataclass(frozen=True)
class Case:
    """A training to be measured.

    Attributes:
        batch: ``pairs``, ``triplets`` or ``tryon``.
        limit: GB of the card that it may use, None = all.
    """

    name: str
    configs: tuple[str, ...]
    batch: str
    limit: float | None = None


_P1, _P2 = ("phase1.yaml", "paper.yaml"), ("phase2.yaml", "paper.yaml")
TRAININGS = (
    Case("representation", (*_P1, "paper-representation.yaml"), "pairs"),
    Case("phase2", _P2, "triplets"),
    Case("tryon", ("tryon.yaml", "paper.yaml", "paper-tryon.yaml"), "tryon"),
    Case("design", ("design.yaml", "paper.yaml", "paper-design.yaml"), "tryon"),
    Case("commercial-phase1", ("phase1.yaml", "commercial.yaml"), "pairs", 24),
    Case("commercial-phase2", ("phase2.yaml", "commercial.yaml"), "triplets", 24),
    Case("llm", (*_P1, "paper-llm.yaml"), "pairs"),
    Case("diffusion", (*_P1, "paper-diffusion.yaml"), "pairs"),
    Case("joint", _P1, "pairs"),
)
PACKAGES = ("torch", "lightning", "transformers", "diffusers", "timm", "peft")


def environment(device: torch.device, tiny: bool) -> dict[str, Any]:
    """What figures hang on."""
    cuda = device.type == "cuda"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit() or "unknown",
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30 if cuda else None,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "scale": "tiny" if tiny else "paper",
    }


def overlay_batch(configs: tuple[str, ...], batch: str) -> int:
    """The batch size that the overlays name for a stream."""
    found = merged(configs)["data"]["init_args"]
    size = found.get("triplet_batch_size") if batch == "triplets" else None
    return int(size or found["batch_size"])


def shrink(configs: list[str], folder: Path) -> Path:
    """:data:`TINY` without the heads that the configs leave out."""
    tiny, built = read_config(TINY)["model"], merged(configs)["model"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TINY.name
    path.write_text(yaml.safe_dump({"model": {name: value for name, value in tiny.items() if built.get(name) is not None}}))
    return path


def build(case: Case, device: torch.device, tiny: Path | None = None) -> UniFashionModule:
    """The overlays' model with random weights, on the device and in training mode.

    Args:
        tiny: folder for the overlay that makes it tiny; None = the size of the overlays.
    """
    chain = with_random_weights(case.configs)
    configs: list[str | Path] = [*chain] if tiny is None else [*chain, shrink(chain, tiny)]
    torch.manual_seed(0)
    with device:
        model = UniFashionModule.from_config(configs, {"init_from": None, "leave_out": []})
    if model.diffusion_head is not None:
        model.diffusion_head.vae.cache = 0  # the same batch comes again and again here
    return model.to(device).train()


def text(row: int, words: int) -> str:
    return " ".join(WORDS[(row * 7 + i) % len(WORDS)] for i in range(words))


def synthetic(kind: str, rows: int, model: UniFashionModule) -> PairBatch | TripletBatch | TryOnBatch:
    """A batch of noise pictures and texts of 12 words (captions of 24) on the model's device."""
    device = model.backbone.query_tokens.device

    def pictures(height: int, width: int) -> Tensor:
        return torch.randint(0, 256, (rows, 3, height, width), dtype=torch.uint8, device=device)

    side, size = model.backbone.vision.image_size, (0, 0) if model.diffusion_head is None else model.diffusion_head.size
    pixels = None if model.diffusion_head is None else pictures(*size)
    texts, captions = [text(i, 12) for i in range(rows)], [text(i, 24) for i in range(rows)]
    keys, same, number = [str(i) for i in range(rows)], ["dress"] * rows, torch.arange(rows, device=device)
    if kind == "pairs":
        return PairBatch(
            keys=keys, images=pictures(side, side), texts=texts, captions=captions, styles=["fashiongen"] * rows, products=number,
            pixels=pixels, categories=same, subcategories=same, dataset="synthetic",
        )  # fmt: skip
    if kind == "triplets":
        return TripletBatch(
            keys=keys, references=pictures(side, side), targets=pictures(side, side), texts=texts, captions=captions,
            styles=["fashioniq"] * rows, target_ids=number, pixels=pixels, categories=same, dataset="synthetic",
        )  # fmt: skip
    masks = torch.zeros(rows, 1, *size, dtype=torch.bool, device=device)
    masks[..., size[0] // 4 : size[0] // 2, size[1] // 4 : -size[1] // 4] = True
    return TryOnBatch(
        keys=keys, garments=pictures(side, side), pixels=pictures(*size), masks=masks,
        pose=pictures(*size), garment_pixels=pictures(*size), sketches=None, texts=[""] * rows, paired=True, dataset="synthetic",
    )  # fmt: skip


@torch.no_grad()
def with_features(batch: TrainBatch, tower: VisionTower) -> TrainBatch:
    """The batch with the tower's outputs in place of what it sees."""
    seen = [f.name for f in fields(batch) if f.name in ("images", "references", "targets", "garments")]
    made = {name: torch.cat([tower(part) for part in getattr(batch, name).split(32)]) for name in seen}
    return replace(batch, **made)


def flops(work: Callable[[], object], model: torch.nn.Module | None = None) -> tuple[int, int]:
    """FLOPs that torch counts (2 a multiply-add), and how many of them recompute the activations of ``model``."""
    again: list[int] = []

    @contextmanager
    def recomputing() -> Iterator[None]:
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                yield
        finally:
            again.append(counter.get_total_flops())

    function = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), recomputing()))
    kept = [(m, m._gradient_checkpointing_func) for m in _checkpointed(model)]
    for module, _ in kept:
        module._gradient_checkpointing_func = function
    try:
        with FlopCounterMode(display=False) as counter:
            work()
    finally:
        for module, before in kept:
            module._gradient_checkpointing_func = before
    return counter.get_total_flops(), sum(again)


def _checkpointed(model: torch.nn.Module | None) -> list[Any]:
    modules = [] if model is None else model.modules()
    return [m for m in modules if getattr(m, "gradient_checkpointing", False) and hasattr(m, "_gradient_checkpointing_func")]
