"""The scan against fp64: how near codes are, that the best are the best, and that nothing depends on numkong."""

from __future__ import annotations

import numpy as np
import pytest
from test_gallery_segments import tokens

from unifashion_pl.gallery import scan
from unifashion_pl.gallery.rows import Live
from unifashion_pl.gallery.scan import Corpus, approximate, exact, largest, order
from unifashion_pl.gallery.segments import coded, segment_from


def corpus(values: list[np.ndarray], gone: set[int] = frozenset(), storage: str = "fp32", coarse: int | None = None) -> Corpus:
    """One segment for each array, without the rows of those numbers."""
    held = {number: segment_from({"reference": one}, storage, None, coarse) for number, one in enumerate(values)}
    rows = [(number, place) for number, one in enumerate(values) for place in range(len(one))]
    kept = [(key, *row) for key, row in enumerate(rows) if key not in gone]
    keys, segments, places = (np.array(column, np.int64) for column in zip(*kept))
    return Corpus(held, Live(keys, segments, places, np.full(len(keys), -1)))


@pytest.mark.parametrize("queries", [1, 2, 33])
@pytest.mark.parametrize("width", [8, 100, 256])
def test_codes_give_scores_as_near_as_int8_is(queries: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, asked = tokens(700, 5, width), tokens(queries, 1, width, seed=2)[:, 0]
    expected = np.einsum("me,nqe->mnq", asked.astype(np.float64), values.astype(np.float64)).max(2)
    found = approximate(asked, coded(values))
    assert found == pytest.approx(expected, abs=0.02)
    monkeypatch.setattr(scan, "numkong", None)
    assert np.array_equal(approximate(asked, coded(values)), found)  # the same whole numbers


def test_large_and_tiny_queries_are_searched_alike() -> None:
    values, asked = tokens(50), tokens(1, 1)[:, 0]
    for factor in (1e-20, 1e20):
        assert approximate(asked * np.float32(factor), coded(values)) / np.float32(factor) == pytest.approx(
            approximate(asked, coded(values)), rel=1e-3
        )
    assert not approximate(asked * 0, coded(values)).any()


def test_exact_scores_are_those_of_fp64_and_equal_for_equal_images() -> None:
    values, asked = tokens(40), tokens(3, 1, seed=4)[:, 0]
    values[[7, 23, 39]] = values[0]
    score, token = exact(asked, values)
    dots = np.einsum("me,nqe->mnq", asked.astype(np.float64), values.astype(np.float64))
    assert np.array_equal(score, dots.max(2).astype(np.float32))
    assert np.array_equal(token, dots.argmax(2))
    assert (score[:, [7, 23, 39]] == score[:, :1]).all()


@pytest.mark.parametrize("gone", [set(), {0, 5, 61, 62}, set(range(3, 60))])
@pytest.mark.parametrize("coarse", [None, 3])
def test_a_corpus_sees_its_live_rows_in_their_order(gone: set[int], coarse: int | None) -> None:
    parts = [tokens(60), tokens(1, seed=1), tokens(7, seed=2)]
    whole = np.concatenate(parts)
    kept = np.array([row for row in range(68) if row not in gone])
    made, asked = corpus(parts, gone, coarse=coarse), tokens(2, 1, seed=9)[:, 0]
    expected = np.einsum("me,nqe->mnq", asked, whole[kept]).max(2)
    assert made.approximate("reference", asked) == pytest.approx(expected, abs=0.02)
    assert made.approximate("target", asked) == pytest.approx(expected, abs=0.02)  # that of the reference set
    assert not made.approximate("captions", asked).any()
    positions = np.array([4, 0, len(kept) - 1])
    assert made.exact("reference", asked, positions)[0] == pytest.approx(expected[:, positions], abs=1e-6)
    assert np.array_equal(made.floats("reference", positions), whole[kept[positions]])
    assert made.exact("captions", asked, positions)[1].tolist() == [[-1] * 3] * 2
    assert made.has_coarse == (coarse is not None)


def test_the_largest_are_found_with_all_that_equal_the_least_of_them() -> None:
    scores = np.random.default_rng(0).integers(0, 20, 500).astype(np.float32)
    least = np.sort(scores)[::-1][30]
    found = largest(scores, 31)
    assert sorted(found) == np.flatnonzero(scores >= least).tolist()
    allowed = scores % 2 == 1
    found = largest(scores, 10, allowed)
    assert allowed[found].all()
    assert sorted(found) == np.flatnonzero(allowed & (scores >= np.sort(scores[allowed])[-10])).tolist()
    assert largest(scores, 600).tolist() == list(range(500))
    assert order([1.0, 2.0, 1.0, 2.0], ["d", "c", "b", "a"]) == [3, 1, 2, 0]


def test_codes_are_ranked_by_their_numbers() -> None:
    values, asked = coded(tokens(20)), tokens(2, 1, seed=4)[:, 0]
    score, token = exact(asked, values.codes, values.scales)
    expected, best = exact(asked, values.floats(slice(None)))
    assert score == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(token, best)


@pytest.mark.parametrize("others", [0, 4])
def test_rows_may_lie_in_their_file_in_any_order(others: int) -> None:
    """As of a catalogue whose CSV was sorted anew since its images were embedded, alone in an index or beside other images."""
    held = {0: segment_from({"reference": tokens(10, 3)}, "fp32"), 1: segment_from({"reference": tokens(4, 3, seed=1)}, "fp32")}
    segments, places = (
        np.repeat([0, 1], [10, others]),
        np.concatenate([np.random.default_rng(0).permutation(10), np.arange(others)]),
    )
    corpus = Corpus(held, Live(np.arange(10 + others), segments, places, np.full(10 + others, -1)))
    asked = tokens(2, 1, seed=2)[:, 0]
    assert corpus.approximate("reference", asked) == pytest.approx(
        corpus.exact("reference", asked, np.arange(10 + others))[0], abs=0.02
    )
