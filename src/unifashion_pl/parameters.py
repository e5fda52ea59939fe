"""Counting parameters without memory: models built on the meta device, where tensors have shapes and nothing else."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from huggingface_hub import constants

from unifashion_pl.configs import SHIPPED, merged
from unifashion_pl.freezing import counts
from unifashion_pl.reading import read_json

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

#: Sources with BERT's vocabulary, to which one token is added.
BERTS, BERT_VOCABULARY = ("google-bert/bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"), 30523


class Training(NamedTuple):
    """A training at full size.

    Attributes:
        configs: in the order in which they lie over each other.
        gib: weights, gradients and AdamW's states, as :mod:`unifashion_pl.memory` counts them (a test compares).
        stage: its column in the table of docs/tutorials/paper-stages.md; empty = none.
    """

    configs: tuple[str, ...]
    gib: float
    stage: str = ""


TRAININGS = (
    Training(("phase1.yaml", "paper.yaml"), 35.2),
    Training(("phase1.yaml", "paper.yaml", "paper-representation.yaml"), 4.6, "1 representation"),
    Training(("phase1.yaml", "paper.yaml", "paper-llm.yaml"), 19.9, "1 LLM"),
    Training(("phase1.yaml", "paper.yaml", "paper-diffusion.yaml"), 15.7, "1 diffusion"),
    Training(("phase2.yaml", "paper.yaml"), 20.4, "2 composed"),
    Training(("tryon.yaml", "paper.yaml", "paper-tryon.yaml"), 9.8, "2 try-on"),
    Training(("design.yaml", "paper.yaml", "paper-design.yaml"), 9.8, "2 design"),
    Training(("phase1.yaml", "commercial.yaml"), 20.5),
    Training(("phase2.yaml", "commercial.yaml"), 8.4),
)
STAGES = {training.stage: training.configs for training in TRAININGS if training.stage}


def with_random_weights(configs: Sequence[str]) -> list[str]:
    """Configs, and where they name published weights one more over them, by which random ones of the same shapes take their places.

    Nothing is downloaded for it: for counting parameters, and for figures of speed and memory. Such a model describes nothing.
    """
    model = merged(configs).get("model")
    sizes = read_json(SHIPPED / "sizes.json")
    random = _random("model", model, sizes) if isinstance(model, dict) else {}
    over = json.dumps({"model": {**random, "init_from": None, "leave_out": []}})
    return [*configs, over] if random else [*configs]


def _random(place: str, arguments: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """Arguments by which a part, and the parts in it, load nothing that is published.

    Args:
        sizes: published source -> part of a model that names it -> fields of its config.
    """
    found: dict[str, Any] = {}
    for name, part in arguments.items():
        if isinstance(part, dict) and "class_path" in part and (inner := _random(name, part.get("init_args") or {}, sizes)):
            found[name] = {"class_path": part["class_path"], "init_args": inner}
    if place == "vision" and arguments.get("weights", "none") != "none":
        found["weights"] = "none"
    if arguments.get("tokenizer") in BERTS:
        found |= {"tokenizer": "tiny", "vocab_size": BERT_VOCABULARY}
    if arguments.get("bert") in BERTS:
        found["bert"] = None
    if fields := sizes.get(str(arguments.get("source")), {}).get(place):
        found["config"] = fields
        if place != "vae":
            found["source"] = "tiny" if place == "language_model" else None
    if "text_encoder" in found:
        found["null_start"] = "random"  # there is no tokenizer for an empty prompt
    return found


def shapes_only(configs: Sequence[str], large: bool = False) -> UniFashionModule:
    """The model of one or more configs, on the meta device where they name published weights, which are neither needed nor looked for.

    Args:
        large: on the meta device in any case.

    Raises:
        ValueError, FileNotFoundError: as :meth:`~unifashion_pl.UniFashionModule.from_config`.
        OSError: the configs name other published parts, which are not here.
    """
    from unifashion_pl.module import UniFashionModule

    chain = with_random_weights(configs)
    large = large or len(chain) > len(configs)
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
