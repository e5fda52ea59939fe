"""Counting parameters without memory: models built on the meta device, where tensors have shapes and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from huggingface_hub import constants

from unifashion_pl.freezing import counts
from unifashion_pl.module import UniFashionModule

#: Overlay -> the one that replaces what it loads by random weights of the same shapes.
RANDOM = {
    "paper.yaml": "paper-random.yaml",
    "paper-tryon.yaml": "paper-editing-random.yaml",
    "paper-design.yaml": "paper-editing-random.yaml",
    "commercial.yaml": "commercial-random.yaml",
    "small.yaml": "small-random.yaml",
}

#: Stages of training at the paper's size, as the README's table lists them.
STAGES: dict[str, tuple[str, ...]] = {
    "1 representation": ("phase1.yaml", "paper.yaml", "paper-representation.yaml"),
    "1 LLM": ("phase1.yaml", "paper.yaml", "paper-llm.yaml"),
    "1 diffusion": ("phase1.yaml", "paper.yaml", "paper-diffusion.yaml"),
    "2 composed": ("phase2.yaml", "paper.yaml"),
    "2 try-on": ("tryon.yaml", "paper.yaml", "paper-tryon.yaml"),
    "2 design": ("design.yaml", "paper.yaml", "paper-design.yaml"),
}


def with_random_weights(configs: Sequence[str]) -> list[str]:
    """Configs with each overlay that names published weights followed by its counterpart of :data:`RANDOM`; a stage's own overlay stays
    behind the paper's, so that heads it removes stay away."""
    chain: list[str] = []
    for name in configs:
        chain.append(name)
        if name in RANDOM and RANDOM[name] not in configs:
            chain.append(RANDOM[name])
    return chain


def shapes_only(configs: Sequence[str]) -> UniFashionModule:
    """The model of one or more configs, on the meta device where they name published weights, which are neither needed nor looked for.

    Raises:
        ValueError, FileNotFoundError: as :meth:`~unifashion_pl.UniFashionModule.from_config`.
        OSError: the configs name other published parts, which are not here.
    """
    chain = with_random_weights(configs)
    large = set(chain) & {*RANDOM, *RANDOM.values()}
    with offline(), torch.device("meta" if large else "cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return UniFashionModule.from_config(chain, {"init_from": None, "leave_out": []})


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is asked of the hub: what its cache does not have is absent at once, not after retries."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def stage_table(stages: Mapping[str, Sequence[str]] | None = None) -> str:
    """Markdown: per part its size, and in which stages it trains (T), is frozen (.) or is not built (-)."""
    stages = STAGES if stages is None else stages
    found = {stage: counts(shapes_only(configs)) for stage, configs in stages.items()}
    parts = list(dict.fromkeys(part for stage in reversed(found.values()) for part in stage))
    lines = [f"| part | parameters | {' | '.join(stages)} |", f"|---|---:|{'---|' * len(stages)}"]
    for part in parts:
        size = max(sum(stage[part]) for stage in found.values() if part in stage)
        marks = [mark(*stage[part]) if part in stage else "-" for stage in found.values()]
        lines.append(f"| {part} | {size:,} | {' | '.join(marks)} |")
    for title, which in (("trainable", 0), ("frozen", 1)):
        sums = [f"{sum(pair[which] for pair in stage.values()):,}" for stage in found.values()]
        lines.append(f"| {title} | | {' | '.join(sums)} |")
    return "\n".join(lines)


def mark(trains: int, frozen: int) -> str:
    """``T``, ``.`` or, where only some of a part trains, its share.

    >>> mark(5, 0), mark(0, 5), mark(1, 3), mark(1, 999)
    ('T', '.', '25 %', '< 1 %')
    """
    if not frozen or not trains:
        return "T" if trains else "."
    share = 100 * trains / (trains + frozen)
    return f"{share:.0f} %" if share >= 1 else "< 1 %"
