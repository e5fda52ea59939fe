"""Rankings against a full sort of exact scores: with more images than candidates, filters, groups, ties and several terms."""

from __future__ import annotations

import numpy as np
import pytest
from test_gallery_segments import tokens
from test_scan import corpus

from unifashion_pl.gallery import ranking, scan
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.ranking import Request, Term, rank
from unifashion_pl.gallery.rows import IndexRows

N = 3000


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    made = tokens(N, 4, 32)
    made[1000:1200] = made[17]  # more equal images than candidates
    return made


@pytest.fixture(scope="module")
def rows() -> IndexRows:
    made = IndexRows()
    items = [
        IndexItem(f"i{n * 7919 % N:04d}", product=None if n % 5 else f"p{n // 50}", columns={"price": n}) for n in range(N)
    ]
    made.add([(0, items, [-1] * N)])
    return made


def brute(values: np.ndarray, rows: IndexRows, terms: list[Term]) -> tuple[np.ndarray, list[str]]:
    score = np.zeros(N, np.float64)
    for term in terms:
        products = np.einsum("me,nqe->mnq", term.vectors.astype(np.float64), values.astype(np.float64)).max(2).mean(0)
        score += term.weight * term.share * (products if term.reach is None else np.exp((products - 1) / term.reach))
    return score, rows.ids()


def expected(score: np.ndarray, ids: list[str], k: int, allowed: np.ndarray | None = None) -> list[str]:
    inside = range(N) if allowed is None else np.flatnonzero(allowed)
    return [ids[i] for i in sorted(inside, key=lambda i: (-np.float32(score[i]), ids[i]))[:k]]


def test_the_best_are_those_of_a_full_sort(values: np.ndarray, rows: IndexRows) -> None:
    asked = [[Term("image", "reference", tokens(1, 1, 32, seed)[0])] for seed in range(80)]
    found = rank(corpus([values]), rows, [Request(terms, 10) for terms in asked])
    same = [[hit.id for hit in hits] == expected(*brute(values, rows, terms), 10) for terms, hits in zip(asked, found)]
    assert sum(same) == len(same)


def test_a_term_with_a_reach_counts_for_what_is_nearly_the_same(values: np.ndarray, rows: IndexRows) -> None:
    near = values[40, :1] + 0.05 * tokens(1, 1, 32, 9)[0]
    look = near / np.linalg.norm(near)
    terms = [Term("image", "reference", tokens(1, 1, 32, 8)[0]), Term("appearance", "reference", look, 3.0, reach=0.1)]
    hits = rank(corpus([values]), rows, [Request(terms, 10)])[0]
    score, ids = brute(values, rows, terms)
    assert [hit.id for hit in hits] == expected(score, ids, 10)
    assert hits[0].id == ids[40]
    assert 0.5 < hits[0].parts["appearance"] <= 1
    assert hits[0].score == pytest.approx(hits[0].parts["image"] + 3 * hits[0].parts["appearance"], abs=1e-6)
    assert hits[1].parts["appearance"] < 0.05
    assert "appearance 0.9" in hits[0].explanation or "appearance 0." in hits[0].explanation


def test_several_terms_filters_and_examples(values: np.ndarray, rows: IndexRows) -> None:
    terms = [
        Term("image", "reference", tokens(1, 1, 32, 5)[0], share=0.5),
        Term("image", "reference", tokens(1, 4, 32, 6)[0], share=0.5),
        Term("unlike", "reference", tokens(1, 4, 32, 7)[0], -0.7),
    ]
    allowed = np.arange(N) % 3 == 0
    hits = rank(corpus([values]), rows, [Request(terms, 25, allowed)])[0]
    score, ids = brute(values, rows, terms)
    assert [hit.id for hit in hits] == expected(score, ids, 25, allowed)
    place = {id: i for i, id in enumerate(ids)}
    assert [hit.score for hit in hits] == pytest.approx([score[place[hit.id]] for hit in hits], abs=1e-6)
    assert [hit.parts["image"] - 0.7 * hit.parts["unlike"] for hit in hits] == pytest.approx(
        [hit.score for hit in hits], abs=1e-6
    )
    assert {hit.token for hit in hits} == {None}
    tenth = np.arange(N) % 11 == 0  # is searched by itself
    words = {22: 0.5, 23: 9.0}
    hits = rank(corpus([values]), rows, [Request(terms, 25, tenth, words=words, word_weight=2.0)])[0]
    raised = score + np.where(np.arange(N) == 22, 1.0, 0.0)
    assert [hit.id for hit in hits] == expected(raised, ids, 25, tenth)
    few = np.zeros(N, bool)
    few[[3, 900, 2999]] = True
    assert len(rank(corpus([values]), rows, [Request(terms, 25, few)])[0]) == 3
    assert rank(corpus([values]), rows, [Request(terms, 25, few & False)])[0] == []


def test_equal_scores_come_in_the_order_of_ids_however_many_they_are(values: np.ndarray, rows: IndexRows) -> None:
    terms = [Term("image", "reference", values[17, :1])]
    hits = rank(corpus([values]), rows, [Request(terms, 10)])[0]
    assert [hit.id for hit in hits] == sorted(rows.ids()[i] for i in (17, *range(1000, 1200)))[:10]
    assert len({hit.score for hit in hits}) == 1


def test_a_group_is_found_by_its_best_view(values: np.ndarray, rows: IndexRows) -> None:
    terms = [Term("image", "reference", values[17, :1])]
    hits = rank(corpus([values]), rows, [Request(terms, 30, group="product")])[0]
    products = rows.named(list(range(N)), "product")
    score, ids = brute(values, rows, terms)
    best: dict[str, str] = {}
    for i in sorted(range(N), key=lambda i: (-np.float32(score[i]), ids[i])):
        best.setdefault(products[i], ids[i])
    assert [hit.id for hit in hits] == list(best.values())[:30]
    assert len({hit.product for hit in hits}) == 30
    everything = rank(corpus([values]), rows, [Request(terms, 5000, group="product")])[0]
    assert len(everything) == len(set(products.values()))


def test_words_raise_images_that_vectors_would_not_have_chosen(values: np.ndarray, rows: IndexRows) -> None:
    terms = [Term("image", "reference", tokens(1, 1, 32, 5)[0])]
    last = int(brute(values, rows, terms)[0].argmin())
    hit = rank(corpus([values]), rows, [Request(terms, 3, words={last: 0.9, 5: 0.1}, word_weight=10.0)])[0][0]
    assert hit.id == rows.ids()[last]
    assert hit.score == pytest.approx(hit.parts["image"] + 9.0, abs=1e-5)
    assert hit.parts["words"] == pytest.approx(0.9)


def test_coarse_tokens_choose_and_exact_numbers_rank(
    values: np.ndarray, rows: IndexRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "WIDE", 600)
    made, terms = corpus([values], coarse=2), [Term("image", "reference", values[44, :1])]
    hits = rank(made, rows, [Request(terms, 10)])[0]
    exact = expected(*brute(values, rows, terms), 10)
    assert hits[0].id == rows.ids()[44] == exact[0]
    assert len({hit.id for hit in hits} & set(exact)) >= 6


def test_few_are_ranked_by_exact_numbers_where_coarse_tokens_need_not_choose(
    values: np.ndarray, rows: IndexRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    usual = scan.Corpus.exact
    monkeypatch.setattr(ranking, "WIDE", 4096)  # more than there are images
    monkeypatch.setattr(
        scan.Corpus, "exact", lambda self, name, vectors, where: seen.append(len(where)) or usual(self, name, vectors, where)
    )
    terms = [Term("image", "reference", values[44, :1])]
    for allowed in (None, np.arange(len(values)) % 2 == 0):
        found = rank(corpus([values], coarse=2), rows, [Request(terms, 10, allowed)])[0]
        right = rank(corpus([values]), rows, [Request(terms, 10, allowed)])[0]
        assert [hit.id for hit in found] == [hit.id for hit in right]
    assert max(seen) <= ranking.CANDIDATES
    everything = rank(corpus([values], coarse=2), rows, [Request(terms, len(values) + 5)])[0]
    assert len(everything) == len(values)


def test_scores_that_are_no_numbers_are_a_sentence(values: np.ndarray, rows: IndexRows) -> None:
    for vector in (np.full((1, 32), np.nan, np.float32), np.full((1, 32), 3e38, np.float32)):
        with pytest.raises(ValueError, match="scores are NaN or infinite"):
            rank(corpus([values]), rows, [Request([Term("image", "reference", vector)], 3)])
