"""Three gloo processes, one of them without data, give what one process gives: uneven shards, padding duplicates, sub-groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from unifashion_pl.metrics.caption_scores import CaptionScores
from unifashion_pl.metrics.fashiongen import FashionGenRecall
from unifashion_pl.metrics.fashioniq import FashionIQRecall
from unifashion_pl.metrics.images import ImageDistances, MeanImageScore
from unifashion_pl.metrics.recall import RecallAtK
from unifashion_pl.team import Rows, Team

WORLD = 3
N = 26


def quarters(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)) / 4


def rows_of(rank: int | None) -> list[list[int]]:
    """Batches of sample numbers: rank 0 has few, rank 1 the rest and some of rank 0 again (padding), rank 2 none."""
    if rank is None:
        return [list(range(N))]
    shards = [list(range(5)), [*range(5, N), 0, 1], []]
    return [shards[rank][i : i + 4] for i in range(0, len(shards[rank]), 4)]


def run_metrics(rank: int | None, group: Any = None) -> dict[str, Any]:
    """Fill every metric with this rank's samples and compute."""
    names = [f"k{i}" for i in range(N)]
    scores, tokens, captions = quarters(N, 9, seed=0), quarters(N, 3, 6, seed=1), quarters(N, 6, seed=2)
    queries, features, values = (
        quarters(N, 6, seed=3),
        torch.randn(N, 4, generator=torch.Generator().manual_seed(4)),
        torch.rand(N, generator=torch.Generator().manual_seed(5)),
    )
    recall = RecallAtK((1, 3), process_group=group)
    fashioniq = FashionIQRecall((1, 4), process_group=group)
    fashiongen = FashionGenRecall(
        ("fashiongen_100", "fashiongen_101_famevil", "fashiongen_groups100", "fashiongen_full"),
        ks=(1, 3), n_queries=6, draws=2, group=4, process_group=group,
    )  # fmt: skip
    texts = CaptionScores(tokenizer="ptb-py", meteor=False, process_group=group)
    distances, mean = ImageDistances("toy", process_group=group), MeanImageScore("SSIM", process_group=group)
    for part in rows_of(rank):
        keys, categories = [names[i] for i in part], ["dress" if i % 2 else "shirt" for i in part]
        recall.update(scores[part], [i % 9 for i in part], ids=keys)
        fashioniq.update_gallery(keys, categories, tokens[part], None, captions[part])
        others = ([names[(i + 2) % N] for i in part], [names[(i + 4) % N] for i in part])
        fashioniq.update_queries(keys, categories, *others, queries[part])
        products = [f"p{i // 2}" for i in part]
        fashiongen.update_images(keys, products, ["c"] * len(part), [f"s{i // 8}" for i in part], tokens[part])
        fashiongen.update_texts(products, captions[[i // 2 for i in part]], [f"text {i // 2}" for i in part])
        hypotheses = [f"a red dress number {i % 5} with lace" for i in part]
        texts.update(hypotheses, [[f"the red dress number {i % 7} with some lace"] for i in part], keys)
        distances.update(keys, features[part], real=True)
        distances.update(keys, features[part] * 2, real=False)
        mean.update(keys, values[part])
    metrics = {
        "recall": recall, "fashioniq": fashioniq, "fashiongen": fashiongen, "captions": texts, "distances": distances, "mean": mean
    }  # fmt: skip
    results: dict[str, Any] = {name: metric.compute() for name, metric in metrics.items()}
    results["lines"] = [*fashioniq.per_query(), *fashiongen.per_query(), *texts.per_caption()]
    results["records"] = [r.to_dict() for m in (fashioniq, fashiongen, texts) for r in m.records(resamples=20)]
    return json.loads(json.dumps(results))


def failure(rank: int) -> str:
    """A bad sample on one rank must raise the same error on all."""
    metric = FashionIQRecall((1,))
    if rank == 1:
        metric.update_gallery(["a", "b"], ["dress"] * 2, torch.ones(2, 1, 4))
        metric.update_queries(["q"], ["dress"], ["a"], ["b"], torch.full((1, 4), float("nan")))
    try:
        metric.compute()
    except ValueError as error:
        return str(error)
    return "no error"


def clash(rank: int) -> str:
    """One id with different facts on two ranks is an error on all."""
    try:
        Team(True).own(Rows(["x"], {"target": [rank]}))
    except ValueError as error:
        return str(error)
    return "no error"


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    pair = dist.new_group([0, 1])
    local = RecallAtK((1,), sync_on_compute=False)
    local.update(torch.eye(2), [0, rank % 2], ids=["a", "b"])
    results = {"world": run_metrics(rank), "failure": failure(rank), "clash": clash(rank), "local": local.compute()}
    if rank < 2:
        results["pair"] = run_metrics(rank, pair)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def assert_same(found: Any, expected: Any) -> None:
    """Equal numbers to 1e-6 relative, everything else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    else:
        assert found == expected


def test_processes_agree_with_one_process(tmp_path):
    expected = run_metrics(None)
    mp.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    for rank, results in enumerate(found):
        assert_same(results["world"], expected)
        assert results["world"]["recall"] == expected["recall"]
        assert results["world"]["fashioniq"] == expected["fashioniq"]
        assert results["world"]["fashiongen"] == expected["fashiongen"]
        assert "not finite for queries q" in results["failure"]
        assert "'x' was given twice with different target" in results["clash"]
        assert results["local"]["R@1"] == (100.0 if rank == 1 else 50.0)
    for results in found[:2]:
        assert_same(results["pair"], expected)
