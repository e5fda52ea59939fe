"""Result lists of text and image queries."""

from __future__ import annotations

from pathlib import Path

from unifashion_pl.metrics.lines import read_lines


def test_shown_ranks_agree_with_the_metric(tested: tuple[Path, dict[str, float]]) -> None:
    lines = read_lines(tested[0] / "predictions/retrieval.jsonl")
    exact = {(x["direction"], x["query"]): x["rank"] for x in lines if not x["shown"] and x["protocol"] == "fashiongen_full"}
    for line in lines:
        if line["shown"]:
            assert line["rank"] == exact[line["direction"], line["key"]]
