from __future__ import annotations

import random

import pytest
import torch

from unifashion_pl.metrics.candidates import (
    CandidateLists,
    Catalogue,
)
from unifashion_pl.metrics.fashiongen import FashionGenRecall, natural
from unifashion_pl.metrics.recall import exact_ranks, max_similarity

ALL = ("fashiongen_100", "fashiongen_101_famevil", "fashiongen_groups100", "fashiongen_full")


def catalogue(n: int = 60, views: int = 2) -> Catalogue:
    products = {f"p{i}": (f"C{i % 2}", f"C{i % 2}S{i % 6}") for i in range(n)}
    return Catalogue({f"{p}v{v}": p for p in products for v in range(views)}, products)


def quarters(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)) / 4


def filled(shop: Catalogue, tokens, vectors, batch: int = 1000, shuffle: int | None = None, **kwargs) -> FashionGenRecall:
    metric = FashionGenRecall(**{"ks": (1, 5), "n_queries": 20, "draws": 2, "group": 10, **kwargs})
    rows, products = list(shop.product_of), list(shop.kind_of)
    steps = [("images", part) for part in torch.arange(len(rows)).split(batch)]
    steps += [("texts", part) for part in torch.arange(len(products)).split(batch)]
    if shuffle is not None:
        random.Random(shuffle).shuffle(steps)
    for what, part in steps:
        if what == "images":
            names = [rows[i] for i in part]
            owners = [shop.product_of[r] for r in names]
            kinds = [shop.kind_of[p] for p in owners]
            metric.update_images(names, owners, [k[0] for k in kinds], [k[1] for k in kinds], tokens[part])
        else:
            metric.update_texts([products[i] for i in part], vectors[part], [f"text of {products[i]}" for i in part])
    return metric


def test_worked_example_full(examples):
    case = examples["fashiongen_full"]
    scores = torch.tensor(case["scores_image_by_text"])
    metric = FashionGenRecall("fashiongen_full", ks=(1, 2))
    metric.update_images([f"r{i}" for i in range(5)], case["image_product"], ["A"] * 5, ["B"] * 5, scores[:, None])
    metric.update_texts(case["text_product"], torch.eye(3), ["x", "y", "z"])
    results = metric.compute()
    for name, directions in case["expected"].items():
        for direction, value in directions.items():
            assert results[f"fashiongen_full/{direction}/{name}"] == pytest.approx(value, abs=1e-5)
    for direction in ("i2t", "t2i"):
        lines = [line for line in metric.per_query() if line["direction"] == direction]
        assert [[line["rank"] - 1, line["ties"]] for line in lines] == case[direction]


def test_worked_example_groups(examples):
    case = examples["fashiongen_groups"]
    metric = FashionGenRecall("fashiongen_groups100", ks=(1, 2), group=case["size"], draws=1)
    for k, block in enumerate(case["blocks_image_by_text"]):
        tokens = torch.zeros(3, 1, 6)
        tokens[:, 0, 3 * k : 3 * k + 3] = torch.tensor(block)
        products = [f"p{k}{i}" for i in range(3)]
        metric.update_images([f"r{p}" for p in products], products, [f"c{k}"] * 3, ["x"] * 3, tokens)
        metric.update_texts(products, torch.eye(6)[3 * k : 3 * k + 3], products)
    results = metric.compute()
    for name, directions in case["expected"].items():
        for direction, value in directions.items():
            assert results[f"fashiongen_groups100/{direction}/{name}"] == pytest.approx(value, abs=1e-5)
    lines = metric.per_query()
    for direction in ("i2t", "t2i"):
        found = {line["product"]: [line["rank"] - 1, line["ties"]] for line in lines if line["direction"] == direction}
        assert [found[f"p{k}{i}"] for k in range(2) for i in range(3)] == case[direction]


def test_sampled_protocols_equal_brute_force():
    shop = catalogue(60)
    tokens, vectors = quarters(120, 2, 5), quarters(60, 5, seed=1)
    metric = filled(shop, tokens, vectors, protocol=ALL[:3])
    results = metric.compute()
    row_at, product_at = {r: i for i, r in enumerate(shop.product_of)}, {p: i for i, p in enumerate(shop.kind_of)}
    scores = max_similarity(tokens, vectors)
    for protocol in ALL[:3]:
        hits = {(d, k): {} for d in ("i2t", "t2i") for k in (1, 5)}
        for trial in metric.lists[protocol].trials:
            part = scores[[row_at[r] for r in trial.rows]][:, [product_at[p] for p in trial.products]]
            for direction, matrix in (("i2t", part), ("t2i", part.T)):
                if trial.direction in (direction, "both"):
                    ranks = exact_ranks(matrix, list(range(len(matrix))))
                    for k in (1, 5):
                        hits[direction, k].setdefault(trial.draw, []).extend(ranks.hits(k).tolist())
        for (direction, k), draws in hits.items():
            expected = 100 * sum(sum(h) / len(h) for h in draws.values()) / len(draws)
            assert results[f"{protocol}/{direction}/R@{k}"] == pytest.approx(expected)


def test_full_protocol_equals_brute_force_and_batching_does_not_matter():
    shop = catalogue(30)
    tokens, vectors = quarters(60, 2, 5), quarters(30, 5, seed=1)
    scores = max_similarity(tokens, vectors)
    same = torch.tensor([[shop.product_of[r] == p for p in shop.kind_of] for r in shop.product_of])
    results = filled(shop, tokens, vectors, protocol=ALL).compute()
    for k in (1, 5):
        assert results[f"fashiongen_full/i2t/R@{k}"] == pytest.approx(100 * exact_ranks(scores, same).hits(k).mean().item())
        assert results[f"fashiongen_full/t2i/R@{k}"] == pytest.approx(100 * exact_ranks(scores.T, same.T).hits(k).mean().item())
    assert filled(shop, tokens, vectors, batch=7, shuffle=3, protocol=ALL).compute() == results


def test_mean_is_the_mean_of_all_recalls_and_ties_are_counted():
    metric = filled(catalogue(30), torch.ones(60, 2, 4), torch.ones(30, 4), protocol="fashiongen_full")
    results = metric.compute()
    assert results["fashiongen_full/mean"] == 0.0
    assert results["fashiongen_full/tied"] == results["fashiongen_full/n"] == 90


def test_equal_texts_are_counted_as_undecidable():
    metric = FashionGenRecall("fashiongen_full", ks=(1,))
    metric.update_images(["r1", "r2", "r3"], ["a", "b", "c"], ["x"] * 3, ["y"] * 3, torch.eye(3)[:, None])
    metric.update_texts(["a", "b", "c"], torch.eye(3), ["red dress", "red dress", "blue coat"])
    results = metric.compute()
    assert results["fashiongen_full/undecidable"] == 4
    sampled = FashionGenRecall("fashiongen_100", ks=(1,), draws=1)
    sampled.images, sampled.texts = metric.images, metric.texts
    assert sampled.compute()["fashiongen_100/undecidable"] == 4


def test_equal_texts_tie_though_their_vectors_were_rounded_in_other_batches():
    """Products a and b are called alike; by its last bit each image is nearer to its own product's vector."""
    near = torch.nextafter(torch.ones(()), torch.zeros(()))
    vectors = torch.tensor([[1.0, near, 0.0], [near, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for order in ([0, 1, 2], [2, 1, 0]):
        metric = FashionGenRecall(("fashiongen_full", "fashiongen_100"), ks=(1, 2), draws=1)
        names = [["a", "b", "c"][i] for i in order]
        metric.update_images(["r" + name for name in names], names, ["x"] * 3, ["y"] * 3, torch.eye(3)[order][:, None])
        for i in order:
            metric.update_texts([["a", "b", "c"][i]], vectors[i : i + 1], [["red dress", "red dress", "blue coat"][i]])
        results = metric.compute()
        for protocol in ("fashiongen_full", "fashiongen_100"):
            assert results[f"{protocol}/i2t/R@1"] == pytest.approx(100 / 3)
            assert results[f"{protocol}/i2t/R@2"] == 100.0
        ties = {line["query"]: line["ties"] for line in metric.per_query() if line["direction"] == "i2t"}
        assert ties == {"ra": 1, "rb": 1, "rc": 0}


def test_the_text_of_a_product_is_that_of_its_first_row():
    assert sorted(["r10", "r9", "r2b", "r2"], key=natural) == ["r2", "r2b", "r9", "r10"]
    metric = FashionGenRecall("fashiongen_full", ks=(1,))
    metric.update_images(["r9", "r10", "r11"], ["a", "a", "b"], ["x"] * 3, ["y"] * 3, torch.eye(2)[[0, 0, 1]][:, None])
    metric.update_texts(["a", "a", "b"], torch.eye(2)[[1, 0, 1]], ["later", "first", "other"], ["r10", "r9", "r11"])
    assert metric.compute()["fashiongen_full/i2t/R@1"] == 100.0
    with pytest.raises(ValueError, match="different text"):
        clash = FashionGenRecall()
        clash.update_texts(["a", "a"], torch.eye(2), ["one", "two"])
        clash.compute()


def test_errors_name_ids():
    tokens, vectors = quarters(6, 2, 4), quarters(3, 4)
    shop = catalogue(3)
    metric = filled(shop, tokens, vectors)
    metric.update_texts(["ghost"], torch.rand(1, 4), ["?"])
    with pytest.raises(ValueError, match="1 products have no image, e.g. ghost"):
        metric.compute()
    tokens[3] = float("nan")
    with pytest.raises(ValueError, match="tokens are not finite for p1v1"):
        filled(shop, tokens, vectors).compute()
    with pytest.raises(ValueError, match="no query is left of 3 products"):
        filled(shop, quarters(6, 2, 4), vectors, protocol="fashiongen_groups100").compute()
    with pytest.raises(ValueError, match="unknown protocol fashiongen_99"):
        FashionGenRecall("fashiongen_99")


def test_records(tmp_path):
    shop = catalogue(300)
    metric = filled(shop, torch.randn(600, 2, 8), torch.randn(300, 8), protocol=ALL, n_queries=15, draws=3)
    records = metric.records(resamples=100, weights_hash="w")
    hundred = {r.metric: r for r in records if r.protocol.startswith("fashiongen_100(")}
    digest = metric.lists["fashiongen_100"].digest[:12]
    wanted = f"fashiongen_100(pool=subcategory,n=15,draws=3,seed=0,text=name_description,score=itc,list={digest})"
    assert hundred["mean"].protocol == wanted
    assert (hundred["mean"].n, hundred["i2t/R@1"].n, hundred["mean"].weights_hash) == (90, 45, "w")
    assert hundred["i2t/R@5"].interval.low <= hundred["i2t/R@5"].value <= hundred["i2t/R@5"].interval.high
    assert "i2t/R@1/sd_over_draws" in hundred
    full = [r for r in records if r.protocol.startswith("fashiongen_full(")]
    assert {r.metric for r in full} == {"i2t/R@1", "i2t/R@5", "t2i/R@1", "t2i/R@5", "mean"}
    metric.lists["fashiongen_100"].save(tmp_path / "lists.json")
    again = filled(
        shop,
        torch.randn(600, 2, 8),
        torch.randn(300, 8),
        candidates={"fashiongen_100": CandidateLists.load(tmp_path / "lists.json")},
    )
    again.compute()
    assert again.lists["fashiongen_100"].digest[:12] == digest
