"""The report, against numpy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unifashion_pl.export.parity import Parity, _alike, _apart, _best, drawings, refuse_another_function
from unifashion_pl.inference.exported import read_description
from unifashion_pl.reading import converted


def unit(*shape: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def test_vectors_apart() -> None:
    one, two = unit(6, 3, 8, seed=0), unit(6, 3, 8, seed=1)
    found = _apart([one], [two])
    cosines = (one.astype(np.float64) * two).sum(-1)
    assert (found.vectors, found.largest) == (18, pytest.approx(np.abs(one.astype(np.float64) - two).max()))
    assert (found.mean_cosine, found.smallest_cosine) == pytest.approx((cosines.mean(), cosines.min()), abs=1e-6)


def test_the_best_are_those_of_all_scores() -> None:
    gallery, text, image = unit(30, 3, 8, seed=0), unit(4, 8, seed=1), unit(30, 3, 8, seed=2)
    scores = np.einsum("ne,mqe->nmq", text, gallery).max(-1)
    assert (_best(text, gallery, False) == np.argsort(-scores, 1, kind="stable")[:, :10]).all()
    scores = np.einsum("nte,mqe->ntmq", image, gallery).max(-1).mean(1)
    np.fill_diagonal(scores, -np.inf)
    assert (_best(image, gallery, True) == np.argsort(-scores, 1, kind="stable")[:, :10]).all()


def test_searches_alike_are_counted() -> None:
    found = _alike(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]]), np.array([[1, 2], [3, 4]]))
    assert (found.queries, found.best, found.asked, found.asked_first, found.all, found.all_first) == (
        2,
        2,
        0.75,
        0.5,
        1.0,
        1.0,
    )


@pytest.mark.slow
def test_the_report_of_an_export(exported: Path) -> None:
    content = json.loads((exported / "parity.json").read_text())
    found = converted(content, Parity, "parity.json")
    assert found.text() == (exported / "parity.txt").read_text()
    assert (found.pixels, found.tokens, found.images) == (1.0, 1.0, len(drawings().images))
    assert max(found.loss.values()) < 1e-5
    assert read_description(exported).loss == found.loss
    assert all(one.asked == one.all == 1.0 for one in found.searches.values())
    described = read_description(exported)
    refuse_another_function(found, described)
    apart = {**found.parts, "text": replace(found.parts["text"], largest=0.1)}
    with pytest.raises(RuntimeError, match="are not what the model computes"):
        refuse_another_function(replace(found, parts=apart), described)
    refuse_another_function(replace(found, parts=apart), replace(described, dtype="int8"))
    with pytest.raises(RuntimeError, match=r"50.0% of the texts are read otherwise"):
        refuse_another_function(replace(found, tokens=0.5), described)
