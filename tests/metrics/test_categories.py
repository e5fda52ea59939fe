"""Precision beside a count by hand, and the probe beside the optimum that its own gradient shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unifashion_pl.metrics.categories import linear_probe, precision_at


def test_precision_is_a_count_in_which_ties_count_against_the_query() -> None:
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 6, (20, 30)) / 5, rng.random((20, 30)) < 0.4
    for itself in (False, True):
        square, good = (scores[:, :20], right[:, :20]) if itself else (scores, right)
        found = precision_at(square, good, 7, itself)
        for query in range(20):
            rows = [row for row in range(square.shape[1]) if not itself or row != query]
            best = sorted(rows, key=lambda row: (-square[query, row], good[query, row]))[:7]
            assert found[query] == pytest.approx(sum(good[query, row] for row in best) / 7)


@pytest.mark.parametrize("k", [0, 4])
def test_more_answers_than_candidates_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"precision at {k} of 3 candidates"):
        precision_at([[1.0, 2.0, 3.0]], [[True, False, True]], k)


def test_the_probe_is_at_the_optimum_of_its_loss() -> None:
    """Of two classes in one dimension the optimum is where a scalar's gradient is 0; it is found by bisection."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(40, 1, generator=generator) - 1, torch.randn(40, 1, generator=generator) + 1])
    labels, decay = ["a"] * 40 + ["b"] * 40, 0.05
    unit = ((x - x.mean(0)) / (x.std(0, correction=0) + 1e-6)).double().numpy()[:, 0]
    sign = np.array([-1.0] * 40 + [1.0] * 40)
    # by symmetry the weights of both classes are -w and w, the biases -b and b: the loss is logistic in 2 (w x + b)
    w, b = 0.0, 0.0
    for _ in range(2000):
        slope = -2 * sign / (1 + np.exp(2 * sign * (w * unit + b))) / len(unit)
        w, b = w - 0.2 * ((slope * unit).sum() + 4 * decay * w), b - 0.2 * slope.sum()
    grid = torch.linspace(-4, 4, 801)[:, None]
    expected = np.where(w * ((grid - x.mean(0)) / x.std(0, correction=0)).numpy()[:, 0] + b > 0, "b", "a")
    found = linear_probe(x, labels, grid, decay)
    assert found == linear_probe(x, labels, grid, decay)
    assert sum(one != other for one, other in zip(found, expected)) <= 1


def test_a_probe_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="3 features and 2 labels"):
        linear_probe(torch.zeros(3, 2), ["a", "b"], torch.zeros(1, 2))
