"""Agreement of lists, ranks of products and success by rounds."""

from __future__ import annotations

import random

import pytest
import torch

from unifashion_pl.metrics.recall import exact_ranks
from unifashion_pl.metrics.robustness import overlap_at, product_ranks, product_scores, success_by_round


def test_overlap_of_lists() -> None:
    assert overlap_at("abcde", "edcba", 5) == 1.0
    assert overlap_at("abcde", "edcba", 2) == 0.0
    assert overlap_at("abcde", "abxyz", 4) == 0.5
    assert overlap_at("ab", "ba", 10) == 1.0
    with pytest.raises(ValueError, match="k is 0"):
        overlap_at("a", "a", 0)
    with pytest.raises(ValueError, match="1 and 0 entries"):
        overlap_at("a", "", 3)


def test_product_ranks_by_counting() -> None:
    rng = random.Random(0)
    products = [f"p{i // 3}" for i in range(12)]
    scores = torch.tensor([[rng.randrange(9) / 8 for _ in products] for _ in range(20)])
    targets = [rng.choice(products) for _ in range(20)]
    ranks = product_ranks(scores, products, targets)
    for row, target, better, ties in zip(scores.tolist(), targets, ranks.better.tolist(), ranks.ties.tolist()):
        best = {p: max(s for s, q in zip(row, products) if q == p) for p in products}
        assert better == sum(best[p] > best[target] for p in best)
        assert ties == sum(best[p] == best[target] for p in best) - 1


def test_products_of_one_image_rank_as_images_and_views_take_no_places() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    image = exact_ranks(scores, [3])
    assert torch.equal(product_ranks(scores, "abcd", ["d"]).better, image.better)
    assert product_ranks(scores, "aaad", ["d"]).better.tolist() == [1]
    assert product_scores(scores, [0, 0, 2, 2], 3).tolist() == [[pytest.approx(0.9), float("-inf"), pytest.approx(0.7)]]


def test_product_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="without an image in the gallery of 2: z"):
        product_ranks(torch.ones(1, 2), ["a", "b"], ["z"])
    with pytest.raises(ValueError, match="products of 1 images given for 2 columns"):
        product_scores(torch.ones(1, 2), [0], 1)
    with pytest.raises(ValueError, match=r"must be 0..0, got \[1\]"):
        product_scores(torch.ones(1, 2), [0, 1], 1)
    with pytest.raises(ValueError, match="not finite for queries q7"):
        product_ranks(torch.tensor([[float("nan"), 1.0]]), ["a", "b"], ["a"], ["q7"])


def test_success_stays_and_an_early_end_is_no_success() -> None:
    assert success_by_round([[3, 0], [3, 11, 2], [12], []], 4, 3) == [
        [True, True, True],
        [True, True, True],
        [False, False, False],
        [False, False, False],
    ]
    assert success_by_round([[3, 11, 0]], 1, 3) == [[False, False, True]]
