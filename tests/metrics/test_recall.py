from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from unifashion_pl.metrics.recall import (
    RecallAtK,
    block_height,
    exact_ranks,
    finite_rows,
    max_similarity,
    padded,
    positive_mask,
    recall_percent,
    token_scores,
    two_way_ranks,
)


def brute_force(scores: np.ndarray, positives: np.ndarray, allowed: np.ndarray) -> tuple[list[int], list[int]]:
    better, ties = [], []
    for row, own, may in zip(scores, positives, allowed):
        best = max(row[own])
        others = [s for s, p, a in zip(row, own, may) if a and not p]
        better.append(sum(s > best for s in others))
        ties.append(sum(s == best for s in others))
    return better, ties


def random_case(seed: int, n: int = 23, g: int = 17) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (n, g), generator=generator) / 8
    positives = torch.rand(n, g, generator=generator) < 0.15
    positives[torch.arange(n), torch.randint(0, g, (n,), generator=generator)] = True
    allowed = positives | (torch.rand(n, g, generator=generator) < 0.7)
    return scores, positives, allowed


def test_worked_examples(examples):
    for case in examples["rank"]:
        ranks = exact_ranks(torch.tensor([case["scores"]]), [case["positives"]])
        assert (ranks.better.item(), ranks.ties.item()) == (case["better"], case["ties"])
        for k, expected in case["hits"].items():
            for policy, value in expected.items():
                assert ranks.hits(int(k), policy).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_exact_ranks_equal_brute_force(seed, chunk):
    scores, positives, allowed = random_case(seed)
    ranks = exact_ranks(scores, positives, allowed, chunk=chunk)
    better, ties = brute_force(scores.numpy(), positives.numpy(), allowed.numpy())
    assert (ranks.better.tolist(), ranks.ties.tolist()) == (better, ties)


def test_positives_in_all_forms():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    mask = torch.tensor([[False, False, True], [True, False, False]])
    forms = [mask, torch.tensor([2, 0]), [2, 0], [[2], [0]]]
    assert all(exact_ranks(scores, form).better.tolist() == [1, 0] for form in forms)
    with pytest.raises(ValueError, match="outside the gallery of 3"):
        positive_mask([3, 0], scores.shape, scores.device)
    with pytest.raises(ValueError, match="positives of 1 queries given for 2"):
        positive_mask([0], scores.shape, scores.device)


def test_expected_policy_is_the_mean_over_random_tie_orders():
    scores, positives, allowed = random_case(3)
    ranks = exact_ranks(scores, positives, allowed)
    generator = np.random.default_rng(0)
    noisy = [
        exact_ranks(scores.double() + torch.from_numpy(generator.uniform(0, 1e-6, scores.shape)), positives, allowed)
        for _ in range(600)
    ]
    simple = positives.sum(1) == 1
    sampled = torch.stack([r.hits(3) for r in noisy]).mean(0)
    assert torch.allclose(sampled[simple], ranks.hits(3, "expected")[simple], atol=0.08)


def test_constant_scores_never_hit_below_the_gallery_size():
    ranks = exact_ranks(torch.zeros(4, 10), [0, 3, 5, 9])
    assert recall_percent(ranks, (1, 9, 10)) == {"R@1": 0.0, "R@9": 0.0, "R@10": 100.0}
    assert recall_percent(ranks, (1,), "optimistic") == {"R@1": 100.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_errors_name_the_queries(bad):
    scores = torch.rand(3, 4)
    scores[1, 2] = bad
    with pytest.raises(ValueError, match="not finite for queries blue"):
        exact_ranks(scores, [0, 0, 0], ids=["red", "blue", "green"])
    allowed = torch.ones(3, 4, dtype=torch.bool)
    allowed[1, 2] = False
    assert len(exact_ranks(scores, [0, 0, 0], allowed)) == 3
    with pytest.raises(ValueError, match="without a positive: green"):
        exact_ranks(torch.rand(3, 4), [[0], [1], []], ids=["red", "blue", "green"])
    with pytest.raises(ValueError, match="outside the allowed candidates .*blue"):
        exact_ranks(torch.rand(3, 4), [0, 2, 0], allowed, ids=["red", "blue", "green"])


def test_policy_is_checked():
    with pytest.raises(ValueError, match="known are pessimistic"):
        RecallAtK(ties="random")
    with pytest.raises(ValueError, match="known are pessimistic"):
        exact_ranks(torch.rand(1, 2), [0]).hits(1, "random")


def test_token_scores_equal_the_naive_form():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randint(-4, 5, (9, 6), generator=generator) / 4
    tokens = torch.randint(-4, 5, (21, 3, 6), generator=generator) / 4
    naive = torch.einsum("ne,gqe->ngq", vectors, tokens).amax(-1)
    for height in (1, 4, 256):
        assert torch.equal(token_scores(vectors, tokens, height), naive)
    assert torch.equal(max_similarity(tokens, vectors), naive.T)
    assert token_scores(vectors, tokens[:0]).shape == (9, 0)


@pytest.mark.parametrize(("n", "most", "height"), [(0, 256, 1), (1, 256, 1), (5, 256, 8), (256, 256, 256), (9000, 256, 256)])
def test_block_height(n, most, height):
    assert block_height(n, most) == height


def test_padding_makes_scores_independent_of_the_neighbours():
    vectors = torch.nn.functional.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    tokens = torch.nn.functional.normalize(torch.randn(50, 4, 64, generator=torch.Generator().manual_seed(1)), dim=2)
    whole = max_similarity(tokens, padded(vectors, 64))[:, :40]
    part = max_similarity(tokens, padded(vectors[:7], 64))[:, :7]
    assert torch.allclose(whole[:, :7], part, atol=2e-7, rtol=0)


@pytest.mark.parametrize("heights", [(4, 8), (16, 2), (256, 1024)])
def test_two_way_ranks_equal_the_full_matrix(heights):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(-4, 5, (13, 2, 5), generator=generator) / 4
    vectors = torch.randint(-4, 5, (6, 5), generator=generator) / 4
    groups, texts = torch.arange(13) % 6, torch.arange(6)
    scores = max_similarity(tokens, vectors)
    same = groups[:, None] == texts[None]
    rows, columns = two_way_ranks(tokens, groups, vectors, texts, heights)
    by_row, by_column = exact_ranks(scores, same), exact_ranks(scores.T, same.T)
    for found, wanted in ((rows, by_row), (columns, by_column)):
        assert torch.equal(found.better, wanted.better)
        assert torch.equal(found.ties, wanted.ties)


def test_two_way_ranks_refuse_nan_and_lonely_rows():
    tokens, vectors = torch.randn(4, 2, 3), torch.randn(2, 3)
    with pytest.raises(ValueError, match="no positive"):
        two_way_ranks(tokens, torch.tensor([0, 1, 5, 0]), vectors, torch.arange(2))
    tokens[2, 1, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        two_way_ranks(tokens, torch.tensor([0, 1, 1, 0]), vectors, torch.arange(2))


def test_autocast_and_tf32_do_not_reach_the_scores():
    from unifashion_pl.metrics.recall import exact_fp32

    a, b = torch.randn(8, 1, 32), torch.randn(8, 32)
    before = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", torch.bfloat16), exact_fp32(a.device):
        inside = max_similarity(a, b)
    assert inside.dtype == torch.float32
    assert torch.allclose(inside.double(), torch.einsum("nqe,me->nqm", a.double(), b.double()).amax(1), atol=1e-5)
    assert torch.get_float32_matmul_precision() == before


class TestMetric:
    def filled(self, size: int, shuffle: bool = False) -> RecallAtK:
        scores, positives, allowed = random_case(7, n=30)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(1)) if shuffle else torch.arange(30)
        metric = RecallAtK(ks=(1, 3, 5))
        for part in order.split(size):
            metric.update(scores[part], positives[part], allowed[part], [f"q{int(i)}" for i in part])
        return metric

    def test_batch_size_order_and_duplicates_do_not_matter(self):
        reference = self.filled(30).compute()
        assert reference["n"] == 30
        assert self.filled(7).compute() == reference == self.filled(4, shuffle=True).compute()
        again = self.filled(7)
        scores, positives, allowed = random_case(7, n=30)
        again.update(scores[:5], positives[:5], allowed[:5], [f"q{i}" for i in range(5)])
        assert again.compute() == reference

    def test_without_ids_every_row_counts(self):
        metric = RecallAtK(ks=(1,))
        metric.update(torch.eye(3), [0, 1, 2])
        metric.update(torch.eye(3), [0, 1, 0])
        assert metric.compute() == {"R@1": pytest.approx(500 / 6), "n": 6.0, "tied": 1.0}

    def test_reset_pickle_clone_and_empty(self):
        metric = self.filled(7)
        reference = metric.compute()
        assert pickle.loads(pickle.dumps(metric)).compute() == reference == copy.deepcopy(metric).compute()
        assert metric.to("cpu").double().compute() == reference
        metric.reset()
        assert metric.compute() == {}

    def test_forward_gives_the_batch_and_accumulates(self):
        metric = RecallAtK(ks=(1,))
        assert metric(torch.eye(2), [0, 1], None, ["a", "b"])["R@1"] == 100.0
        assert metric(torch.eye(2), [1, 0], None, ["c", "d"])["R@1"] == 0.0
        assert metric.compute()["R@1"] == 50.0


def test_rows_are_finite_even_where_their_sum_is_not():
    values = torch.tensor([[3e38, 3e38, 1.0], [1.0, float("nan"), 2.0], [float("inf"), float("-inf"), 0.0], [1.0, 2.0, 3.0]])
    assert finite_rows(values).tolist() == [True, False, False, True]
    assert finite_rows(values[3:]).tolist() == [True]
