"""Composed retrieval: halves of queries, gallery captions, and splits that lack something."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from evaluation.batches import WORDS, evaluate, gallery, make_model, queries
from small import images

from unifashion_pl.data.samples import QueryBatch
from unifashion_pl.evaluation import Context, Setting
from unifashion_pl.evaluation.composed import ABLATIONS, ComposedPart, half_query
from unifashion_pl.metrics.records import read_records
from unifashion_pl.team import team_of_all


def test_gallery_captions_add_scores_and_their_floor(tmp_path: Path) -> None:
    captioned = gallery()
    captioned.captions = [f"a {WORDS[i % 4]} thing" for i in range(10)]
    blind = {"captioner": "c", "weights_hash": "0f", "template": "t", "decoding": "greedy", "inputs": ["image"]}
    captioned.provenance = [blind] * 10
    values = evaluate([captioned, queries()], tmp_path)
    assert {"fashioniq/mean/R@1", "fashioniq/caption-score/mean/R@1", "fashioniq/both-scores/mean/R@1"} <= set(values)
    floors = [r for r in read_records(tmp_path / "results.json") if "score=bm25" in r.protocol]
    assert {r.metric for r in floors} >= {"dress/R@1", "mean/R@2", "Avg"}
    assert next(r for r in floors if r.metric == "mean/R@2").value == 50.0


def test_half_queries_do_not_see_the_other_half() -> None:
    model, batch = make_model(), queries()
    other = queries()
    other.references, other.texts = images(4, seed=9), ["has stripes"] * 4
    with torch.no_grad():
        for name in ABLATIONS:
            changed = QueryBatch(
                **{**vars(batch), **({"references": other.references} if "text" in name else {"texts": other.texts})}
            )
            assert torch.equal(half_query(model, batch, name), half_query(model, changed, name))


def test_recall_without_queries_whose_target_was_trained_on_stands_beside_the_whole(tmp_path: Path) -> None:
    batches = [gallery(), replace(queries(), overlap=[False, True, False, False])]
    named = evaluate(batches, tmp_path / "marked")
    records = read_records(tmp_path / "marked/results.json")
    beside = {
        r.metric: r.n for r in records if r.protocol.endswith("/no-overlap") and "/ref-kept/image(score=itc" in r.protocol
    }
    assert {metric: n for metric, n in beside.items() if metric.endswith("R@1")} == {
        "shirt/R@1": 2,
        "dress/R@1": 1,
        "mean/R@1": 3,
    }
    assert named == evaluate([gallery(), queries()], tmp_path / "unmarked")
    whole = {(r.protocol, r.metric): r.value for r in records if not r.protocol.endswith("/no-overlap")}
    assert whole == {(r.protocol, r.metric): r.value for r in read_records(tmp_path / "unmarked/results.json")}


def test_what_a_shrunken_split_lacks_stands_in_protocol_and_records() -> None:
    """As after ``data shards --allow-missing``: fewer images make recall easier, and must not look like the whole split."""
    whole, short = (ComposedPart((1, 5)).of("f/val", Setting("test", shown=0, top_k=5)) for _ in range(2))
    model, shelves, questions = make_model(), gallery(), queries()
    sizes, asked = Counter(shelves.categories), Counter(questions.categories)
    for evaluation, more in ((whole, 0), (short, 3)):
        planned = {name: n + more for name, n in sizes.items()}
        evaluation.update(model, replace(shelves, planned=planned))
        evaluation.update(model, replace(questions, planned={name: n + more for name, n in asked.items()}, joiner="comma"))
    records = {name: e.finish(Context(team_of_all(), model, True)).records for name, e in (("whole", whole), ("short", short))}
    n, lacking = len(questions), 3 * len(asked)
    assert {r.protocol.partition("/ref")[0] for r in records["whole"] if "R@" in r.metric and "original" in r.protocol} == {
        "fashioniq/original"
    }
    assert all("text=comma" in r.protocol and "gallery=" not in r.protocol for r in records["whole"] if "R@" in r.metric)
    for record in records["short"]:
        if "R@" in record.metric:
            assert f"[{n}/{n + lacking}]" in record.protocol
            assert f"gallery={len(shelves)}/{len(shelves) + 3 * len(sizes)}" in record.protocol
    means = [r for r in records["short"] if r.metric == "mean/R@5" and "/image(score=itc" in r.protocol]
    assert {(r.n, r.n_expected) for r in means if not r.protocol.endswith("/chance")} == {(n, n + lacking)}
    assert {r.data_hash for r in records["whole"] if r.data_hash} == {r.data_hash for r in records["short"] if r.data_hash}
