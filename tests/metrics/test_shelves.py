"""Parts of a gallery on several processes count and list what the whole does; a process's part never travels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from unifashion_pl.metrics.fashioniq import FashionIQRecall
from unifashion_pl.metrics.recall import exact_ranks
from unifashion_pl.metrics.shelves import NESTED, Asked, Shelf, best_of, top_lists
from unifashion_pl.team import Rows, Team

G, N, Q, E = 23, 9, 3, 8
NAMES = [f"d{i:02}" for i in range(G)]
TARGETS, REFERENCES = NAMES[2 : 2 + N], [*NAMES[10 : 10 + N - 1], "elsewhere"]
CPU = torch.device("cpu")


def quarters(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)) / 4


def shelf() -> Shelf:
    levels = {name: 0 if name in TARGETS else 1 if name in REFERENCES else 2 for name in NAMES}
    facts = {"category": ["dress"] * G, "image": NAMES, "has_caption": [i % 4 > 0 for i in range(G)]}
    rows = Rows(NAMES, facts, {"tokens": quarters(G, Q, E, seed=0), "captions": quarters(G, E, seed=1)})
    return Shelf(Team(False), "dress", levels, rows, ("image", "caption", "both"), 0.5, CPU)


def asked() -> Asked:
    return Asked([f"q{i}" for i in range(N)], [(name,) for name in TARGETS], REFERENCES, quarters(N, E, seed=2))


def test_counts_are_the_exact_ranks_of_every_variant():
    one, block = shelf(), asked()
    scores = one.score(block, 16)
    captions = quarters(G, E, seed=1) * torch.tensor([[i % 4 > 0] for i in range(G)])
    places = [NAMES.index(name) for name in one.ids]
    image = torch.einsum("ne,gqe->ngq", block.vectors, quarters(G, Q, E, seed=0)).amax(-1)[:, places]
    caption = (block.vectors @ captions.T)[:, places]
    for name, expected in {"image": image, "caption": caption, "both": image + 0.5 * caption}.items():
        assert torch.equal(scores[name], expected)
    reached = one.reached(block, scores)
    ranks = one.ranks(block, one.count(block, scores, reached))
    assert list(ranks) == [(g, r, s) for g in reversed(NESTED) for r in ("ref-kept", "ref-removed") for s in scores]
    tied = 0
    for (gallery, rule, name), (better, ties) in ranks.items():
        level = torch.tensor([one.levels[image] for image in one.ids])
        allowed = (level <= NESTED.index(gallery)).expand(N, G).clone()
        for i, reference in enumerate(REFERENCES):
            if rule == "ref-removed" and reference in one.column:
                allowed[i, one.column[reference]] = False
        columns = [one.column[target] for target in TARGETS]
        expected = exact_ranks(scores[name], columns, allowed)
        assert (better, ties) == (expected.better.tolist(), expected.ties.tolist())
        tied += expected.tied
        assert reached[name].tolist() == [float(scores[name][i, column]) for i, column in enumerate(columns)]
    assert tied > 20
    lists = one.lists(block, scores, 5)
    assert lists.keys() == ranks.keys()


def test_a_score_that_is_not_finite_is_named():
    one, block = shelf(), asked()
    block.vectors[4, 0] = float("inf")
    with pytest.raises(ValueError, match="scores are not finite for queries q4$"):
        one.reached(block, one.score(block, 16))


def test_best_lists_of_parts_are_those_of_the_whole():
    scores = quarters(6, 40, seed=3)
    names = [f"n{(7 * i) % 40:02}" for i in range(40)]
    whole = top_lists(scores, names, 5)
    assert whole == [
        [(name, -value) for value, name in sorted((-float(v), n) for v, n in zip(row, names))[:5]] for row in scores
    ]
    parts = [top_lists(scores[:, part], names[part], 5) for part in (slice(0, 3), slice(3, 40), slice(40, 40))]
    assert [best_of([part[i] for part in parts], 5) for i in range(6)] == whole


def _metric(share: list[int]) -> FashionIQRecall:
    metric = FashionIQRecall((1, 4), listed=4)
    tokens, captions, queries = quarters(40, 3, 512, seed=4), quarters(40, 512, seed=5), quarters(40, 512, seed=6)
    for i in share:
        metric.update_gallery([f"k{i}"], ["dress"], tokens[i : i + 1], None, captions[i : i + 1])
        if i < 12:
            metric.update_queries([f"q{i}"], ["dress"], [f"k{i + 20}"], [f"k{i + 3}"], queries[i : i + 1])
    return metric


def _outcome(metric: FashionIQRecall) -> tuple[object, ...]:
    runs = {name: [(r.query, r.best.names, r.best.scores.tolist()) for r in lists] for name, lists in metric.runs().items()}
    return metric.compute(), metric.per_query(), runs


def _work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    sent: list[int] = []
    usual = dist.broadcast
    dist.broadcast = lambda tensor, *args, **kwargs: sent.append(tensor.nbytes) or usual(tensor, *args, **kwargs)
    share = [i for i in range(40) if i % 2 == rank]
    torch.save((_outcome(_metric(share)), sum(sent)), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_processes_with_parts_of_the_gallery_find_what_one_finds_and_send_queries_alone(tmp_path: Path):
    """Two of them; three, of which one has nothing, are in ``test_metrics_tables.py``."""
    expected = _outcome(_metric([*range(40)]))
    mp.spawn(_work, args=(2, str(tmp_path)), nprocs=2)
    for rank in range(2):
        found, sent = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert found == expected
        assert sent == 12 * 512 * 4, "the queries' vectors, and nothing of the gallery"
