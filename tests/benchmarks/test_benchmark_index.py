"""The benchmark of the index at a size for tests: every line it prints, and recall where nothing is left out."""

from __future__ import annotations

import json

import index
import numpy as np
import pytest


def test_the_benchmark_prints_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    index.main(["--scale", "tiny", "--turns", "1"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ours = {(line["tokens"], line["engine"]): line for line in lines if line["engine"].startswith("ours")}
    assert len(ours) == 12
    for (kind, engine), line in ours.items():
        assert {
            "build",
            "open",
            "add one",
            "remove one, opening included",
            "recall",
            "one",
            "of 32",
            "filtered",
            "peak GB",
        } <= line.keys()
        assert line["recall"] >= (0.99 if "fp32" in engine else 0.9), (kind, engine)
    assert ours["random", "ours, int8"]["bytes an image"] < ours["random", "ours, fp16"]["bytes an image"]
    assert {line["engine"] for line in lines} >= {"int8 bytes read once", "torch fp32"}


def test_tokens_are_unit_vectors_the_same_whenever_asked_for() -> None:
    scale = index.SCALES["tiny"]
    for kind in ("random", "clustered"):
        one = index.drawn(kind, scale, 250, 20)
        assert np.array_equal(one, index.drawn(kind, scale, 250, 20))
        assert np.linalg.norm(one, axis=-1) == pytest.approx(1, abs=1e-5)
    near = index.drawn("clustered", scale, 0, 50)
    assert (near[:, 0] * near[:, 1]).sum(-1).mean() > 0.3 > abs((near[0, 0] * near[1:, 0]).sum(-1)).mean()


def test_its_goals_are_three_rows_of_one_measurement() -> None:
    one, many, recall = index.goals("tiny")
    assert (one.wanted, many.wanted, recall.wanted) == (0.5, 20.0, 0.999)
    assert recall.met
    assert one.equal == many.equal == f"recall@10 {recall.ratio:.4f} of the exact ranking"
    assert one.ratio > 0
    assert many.ratio > 0
