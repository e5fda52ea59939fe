"""Prediction lines and records of a run that was never made, random but for how good it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unifashion_pl.metrics.lines import CaptionLine, ComposedLine, Line, RetrievalLine
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.outcomes import Outcomes, outcomes
from unifashion_pl.report.runfolder import Evaluation

COMPOSED = "fashioniq/original/ref-kept/image(score=itc,text=and)"
HUNDRED = "fashiongen_100(pool=subcategory,n=40,draws=2,seed=0,list=aaaa)"
SIZES = {"dress": 90, "shirt": 40, "toptee": 60}


def composed(seed: int, better: float, copies: int = 1) -> list[ComposedLine]:
    """Queries with random ranks, smaller with ``better``; a third shares its reference with another."""
    rng = np.random.default_rng(seed)
    lines = []
    for category, n in SIZES.items():
        for i in range(n):
            rank, ties = int(rng.geometric(better) - 1) * 3 + 1, int(rng.integers(0, 2))
            ranks = {"original/ref-kept/image": (rank, ties), "original/ref-removed/image": (rank, ties)}
            for copy in range(copies):
                lines.append(
                    ComposedLine(
                        dataset="fashioniq/val",
                        key=f"{category}-{i:03d}-{copy}",
                        category=category,
                        reference=f"r{i - i % 3 // 2}",
                        target=f"t{i}",
                        text=f"is {i}",
                        ranks=ranks,
                        rank=rank,
                        ties=ties,
                    )
                )
    return lines


def retrieval(seed: int, better: float) -> list[RetrievalLine]:
    """Two draws; more image queries than text queries."""
    rng = np.random.default_rng(seed)
    shared = {"dataset": "fashiongen/val", "protocol": "fashiongen_100", "ties": 0, "candidates": 100}
    return [
        RetrievalLine(direction=d, draw=draw, query=f"{d}{i}", product=f"p{i % 20}", rank=int(rng.geometric(better)), **shared)
        for draw in range(2)
        for d, n in (("i2t", 40), ("t2i", 20))
        for i in range(n)
    ]


def captions(seed: int) -> list[CaptionLine]:
    rng = np.random.default_rng(seed)
    return [
        CaptionLine(
            dataset="fashiongen/val",
            id=f"c{i}",
            style="fashiongen",
            reference=f"red {i}",
            hypothesis="red",
            scores={"BLEU-4": 0.1, "METEOR": None, "ROUGE-L": float(rng.random()), "CIDEr": float(rng.random())},
            words={"colour": ("red" if rng.random() < 0.7 else "blue", "red" if i else None)},
        )
        for i in range(50)
    ]


def records(hundred: str = HUNDRED, data: str = "d") -> list[ResultRecord]:
    made = [ResultRecord(f"mean/R@{k}", 50.0, "percent", 190, COMPOSED, data_hash=data) for k in (10, 50)]
    made += [ResultRecord("mean/R@10", 10.0, "percent", 190, COMPOSED.replace("itc", "text-only"))]
    made += [ResultRecord(f"i2t/R@{k}", 50.0, "percent", 40, hundred, data_hash=data) for k in (1, 5)]
    return [*made, ResultRecord("CIDEr", 1.0, "raw", 50, "coco(tokenizer=ptb-py)")]


def evaluation(seed: int = 0, better: float = 0.15, **said: str) -> Evaluation:
    predictions: dict[str, list[Line]] = {
        "composed": [*composed(seed, better)],
        "retrieval": [*retrieval(seed, better)],
        "captions": [*captions(seed)],
    }
    return Evaluation("", Path("run"), records(**said), predictions)


def both(kind: str, a: Evaluation, b: Evaluation) -> tuple[Outcomes, Outcomes]:
    """The outcomes of that kind in two evaluations."""
    return next((x, outcomes(b)[title]) for title, x in outcomes(a).items() if kind in title)
