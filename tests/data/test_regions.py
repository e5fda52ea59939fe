from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unifashion_pl.data.regions import components, flood, grow, shrink, without_small


def searched(mask: NDArray[np.bool_], diagonal: bool) -> NDArray[np.int64]:
    """Connected pieces by depth-first search, numbered from 1."""
    found, number = np.zeros(mask.shape, np.int64), 0
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y or x) and (diagonal or not (y and x))]
    for start in zip(*np.nonzero(mask)):
        if found[start]:
            continue
        number += 1
        stack = [start]
        found[start] = number
        while stack:
            y, x = stack.pop()
            for dy, dx in steps:
                a, b = y + dy, x + dx
                if 0 <= a < mask.shape[0] and 0 <= b < mask.shape[1] and mask[a, b] and not found[a, b]:
                    found[a, b] = number
                    stack.append((a, b))
    return found


def random_masks(count: int) -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    return [rng.random(rng.integers(1, 14, 2)) < rng.uniform(0.2, 0.8) for _ in range(count)]


@pytest.mark.parametrize("diagonal", [False, True])
def test_pieces_are_those_of_a_search(diagonal: bool) -> None:
    for mask in random_masks(150):
        ours, theirs = components(mask, diagonal=diagonal), searched(mask, diagonal)
        assert np.array_equal(ours > 0, mask)
        assert len(set(zip(ours[mask], theirs[mask]))) == theirs.max() == len(set(ours[mask]))


def test_a_spiral_is_one_piece() -> None:
    spiral = np.zeros((41, 41), bool)
    for ring in range(0, 20, 2):
        spiral[ring, ring : 41 - ring] = spiral[ring : 41 - ring, 40 - ring] = spiral[40 - ring, ring : 41 - ring] = True
        spiral[ring + 2 : 41 - ring, ring] = True
        spiral[ring + 2, ring : ring + 3] = True
    assert searched(spiral, False).max() == 1
    assert len(set(components(spiral)[spiral])) == 1


def test_a_flood_reaches_what_is_connected_to_its_seeds() -> None:
    for mask in random_masks(100):
        seeds = np.random.default_rng(1).random(mask.shape) < 0.1
        pieces = searched(mask, False)
        assert np.array_equal(flood(mask, seeds), mask & np.isin(pieces, pieces[mask & seeds]))


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_growing_is_the_maximum_over_a_square_and_shrinking_its_opposite(radius: int) -> None:
    for mask in random_masks(60):
        wide = np.zeros_like(mask)
        for y, x in zip(*np.nonzero(mask)):
            wide[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
        assert np.array_equal(grow(mask, radius), wide)
        assert np.array_equal(shrink(mask, radius), ~grow(~mask, radius))
    assert shrink(np.ones((5, 5), bool), 2).all()


def test_small_pieces_go() -> None:
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = True
    mask[2:5, 3:7] = True
    kept = without_small(mask, lambda largest: 0.2 * largest)
    assert kept.sum() == 12
    assert not kept[0, 0]
    assert not without_small(np.zeros((3, 3), bool), lambda _: 1).any()
