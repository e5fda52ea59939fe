"""Trials scored and ranked together are what each is by itself."""

from __future__ import annotations

import pytest
import torch

from unifashion_pl.metrics.best import best_lists
from unifashion_pl.metrics.candidates import Catalogue, Trial, build_candidates
from unifashion_pl.metrics.recall import exact_ranks
from unifashion_pl.metrics.trials import Numbered, rank_trials, trial_scores
from unifashion_pl.team import Rows

PROTOCOLS = ("fashiongen_100", "fashiongen_101_famevil", "fashiongen_groups100")
CPU = torch.device("cpu")


def shop(n: int = 50, views: int = 3) -> tuple[Catalogue, Rows, Rows]:
    """Dyadic vectors, so that every order of sums gives the same number; every fifth picture and text is that of another product."""
    torch.manual_seed(0)
    kinds = {f"p{i}": (f"C{i % 2}", f"S{i % 4}") for i in range(n)}
    rows = {f"p{i}v{v}": f"p{i}" for i in range(n) for v in range(views)}
    tokens = torch.randint(-4, 5, (n * views, 4, 8)) / 4.0
    vectors = torch.randint(-4, 5, (n, 8)) / 4.0
    tokens[5 * views :: 5 * views], vectors[5::5] = tokens[0], vectors[0]
    return Catalogue(rows, kinds), Rows(list(rows), {}, {"tokens": tokens}), Rows(list(kinds), {}, {"embeddings": vectors})


def one_by_one(trial: Trial, images: Rows, texts: Rows) -> torch.Tensor:
    tokens = images.tensors["tokens"][[images.ids.index(row) for row in trial.rows]]
    vectors = texts.tensors["embeddings"][[texts.ids.index(product) for product in trial.products]]
    return torch.einsum("rqe,pe->rqp", tokens, vectors).amax(1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scores_and_ranks_are_those_of_each_trial(protocol):
    catalogue, images, texts = shop()
    trials = build_candidates(catalogue, protocol, 9, 2, group=10).trials
    wording = {product: ("same" if i % 5 == 0 else product) for i, product in enumerate(texts.ids)}
    scores = trial_scores(trials, images, texts, CPU)
    expected = [one_by_one(trial, images, texts) for trial in trials]
    assert torch.equal(scores, torch.cat([matrix.flatten() for matrix in expected]))
    found = iter(rank_trials(trials, scores, catalogue, wording, most=5))
    seen = set()
    for trial, block in zip(trials, expected):
        shown = [catalogue.product_of[row] for row in trial.rows]
        sides = {"i2t": (block, shown, trial.products, trial.products), "t2i": (block.T, trial.products, shown, trial.rows)}
        for direction, (matrix, asking, among, names) in sides.items():
            for i, key in enumerate(trial.queries(direction)):
                query = next(found)
                ranks = exact_ranks(matrix[i : i + 1], [i])
                assert query.ranks[()] == (ranks.better.item(), ranks.ties.item())
                assert (query.key, query.stratum, query.cluster, query.draw) == (key, direction, asking[i], trial.draw)
                twin = any(wording[other] == wording[asking[i]] for other in set(among) - {asking[i]})
                assert query.facts == {"candidates": len(names), "undecidable": twin}
                own = torch.eye(len(names), dtype=torch.bool)[i : i + 1]
                best = best_lists(matrix[i : i + 1], own, names, 5)[0]
                assert query.lists[()].names == best.names
                assert query.right == (names[i],)
                seen.add((twin, ranks.ties.item() > 0))
    assert next(found, None) is None
    assert len(seen) >= 3, "ties and twins have to occur"


def test_rows_of_other_ranks_score_nothing_and_the_shares_add_up():
    catalogue, images, texts = shop()
    trials = build_candidates(catalogue, "fashiongen_100", 9, 2).trials
    shares = [images.take(range(start, len(images), 3)) for start in range(3)]
    parts = [trial_scores(trials, share, texts, CPU) for share in (*shares, images.take([]))]
    assert torch.equal(sum(parts), trial_scores(trials, images, texts, CPU))
    assert not parts[-1].any()


def test_a_view_is_read_once_for_all_its_trials(monkeypatch):
    catalogue, images, texts = shop()
    trials = build_candidates(catalogue, "fashiongen_100", 30, 5).trials
    products = []
    usual = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: products.append(1) or usual(a, b))
    scores = trial_scores(trials, images, texts, CPU)
    rows = {row for trial in trials for row in trial.rows}
    assert len(products) <= len(rows) + len(scores) // 128 < len(trials)


def test_pairs_lie_row_by_row():
    numbered = Numbered.of(
        [Trial(0, "both", ("a", "b"), ("x", "y")), Trial(0, "t2i", ("b", "c"), ("y",))], {"a": 0, "b": 1}, {"x": 0, "y": 1}
    )
    rows, products = numbered.pairs()
    assert rows.tolist() == [0, 0, 1, 1, 1, -1]
    assert products.tolist() == [0, 1, 0, 1, 1, 1]
