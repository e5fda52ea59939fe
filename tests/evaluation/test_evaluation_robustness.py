"""Robustness on a model whose understanding is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from evaluation.understanding import gallery, make_model, pieces, queries, views
from small import small_backbone

from unifashion_pl.data.rewriting import REWRITINGS
from unifashion_pl.data.samples import Batch
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import read_records
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule


def evaluate(model: Any, batches: Sequence[Batch], out: Path, **options: Any) -> dict[str, float]:
    """What the logger gets of an evaluation in test."""
    settings = {"composed_ks": (1, 5), "ablations": False, "shown": 0, "top_k": 4, "robustness": True, **options}
    evaluator = Evaluator(**settings)
    evaluator.start("test")
    for batch in batches:
        evaluator.update(model, batch)
    return evaluator.finish(out)


def measured(model: Any, batches: Sequence[Batch], out: Path, **options: Any) -> dict[str, dict[str, float | None]]:
    """``{rewriting: {metric: value}}`` of the records of :func:`evaluate`."""
    evaluate(model, batches, out, **options)
    found: dict[str, dict[str, float | None]] = {}
    for record in read_records(out / "results.json"):
        if record.protocol.startswith("robustness/"):
            found.setdefault(record.protocol.split("/")[1], {})[record.metric] = record.value
    return found


def test_a_model_that_understands_is_not_moved_by_other_words_and_obeys_denials(tmp_path: Path) -> None:
    found = measured(make_model(), [gallery(), queries()], tmp_path)
    assert set(found) == set(REWRITINGS)
    for rule in ("paraphrase-verb", "paraphrase-pronoun", "paraphrase-order", "paraphrase-all"):
        numbers = found[rule]
        assert numbers["changed"] == numbers["R@1"] == numbers["R@1/original"] == numbers["overlap@4"] == 100.0
        assert numbers["R@1/difference"] == numbers["rank_change"] == numbers["rank_falls"] == numbers["score_falls"] == 0.0
    assert found["paraphrase-spelling"] == {"changed": 0.0}
    denied = found["negation"]
    assert denied["R@1/original"] == denied["rank_falls"] == denied["score_falls"] == 100.0
    assert denied["R@5"] == 0.0
    assert denied["R@5/difference"] == -100.0
    assert denied["score_change"] == pytest.approx(-(1 + 0.75) - (1 + 0.75))


def test_a_model_deaf_to_no_is_found_out(tmp_path: Path) -> None:
    denied = measured(make_model(hears_no=False), [gallery(), queries()], tmp_path)["negation"]
    assert denied["changed"] == denied["R@1"] == denied["overlap@4"] == 100.0
    assert denied["score_falls"] == denied["rank_falls"] == 0.0


def test_a_model_that_hangs_on_words_is_found_out(tmp_path: Path) -> None:
    found = measured(make_model(deaf_to=" with "), [gallery(), queries()], tmp_path, top_k=1)
    hung, other = found["paraphrase-verb"], found["paraphrase-pronoun"]
    assert hung["R@1"] == hung["overlap@1"] == 0.0
    assert hung["R@1/difference"] == -100.0
    assert hung["rank_change"] == 3.0
    assert other["R@1"] == other["overlap@1"] == 100.0


def test_records_say_what_they_are_of_and_lines_recompute_them(tmp_path: Path) -> None:
    some = queries()
    some.texts[:7] = ["striped"] * 7
    measured(make_model(deaf_to=" with "), [gallery(), some], tmp_path)
    records = [r for r in read_records(tmp_path / "results.json") if r.protocol.startswith("robustness/paraphrase-verb/")]
    by = {r.metric: r for r in records}
    base = "robustness/paraphrase-verb/fashioniq/original/ref-kept/image(pooled,{}score=itc,text=and)"
    assert by["changed"].protocol == base.format("")
    assert (by["changed"].value, by["changed"].n) == (65.0, 20)
    recall = by["R@1"]
    assert (recall.protocol, recall.n, recall.n_expected) == (base.format("queries=changed,"), 13, 20)
    assert all(r.interval is not None and r.data_hash and r.weights_hash and r.code_version for r in records)
    assert all(r.interval.low - 1e-9 <= r.value <= r.interval.high + 1e-9 for r in records)  # type: ignore[union-attr, operator]
    lines = [x for x in read_lines(tmp_path / "predictions/robustness.jsonl") if x["rule"] == "paraphrase-verb"]
    assert len(lines) == 13
    after, before = ([x[f"{name}rank"] + x[f"{name}ties"] for x in lines] for name in ("rewritten_", ""))
    assert set(after) == {4}
    assert recall.value == 100 * sum(place <= 1 for place in after) / 13
    assert by["overlap@4"].value == pytest.approx(100 * sum(x["overlap"] for x in lines) / 13)
    assert by["rank_change"].value == pytest.approx(sum(abs(a - b) for a, b in zip(after, before)) / 13)
    first = next(x for x in lines if x["key"] == "q07")
    assert (first["text"], first["rewritten"]) == (some.texts[7], some.texts[7].replace("has", "with"))
    standard = {x["key"]: x["rank"] for x in read_lines(tmp_path / "predictions/composed.jsonl")}
    assert all(x["rank"] == standard[x["key"]] for x in lines)


def test_batch_size_and_repeats_change_nothing(tmp_path: Path) -> None:
    one = measured(make_model(deaf_to=" with "), [gallery(), queries()], tmp_path / "one")
    batches = [*pieces(queries(), 3), *pieces(gallery(), 7), *pieces(queries(), 8)]
    assert measured(make_model(deaf_to=" with "), batches, tmp_path / "two") == one
    files = [(tmp_path / name / "predictions/robustness.jsonl").read_text() for name in ("one", "two")]
    assert files[0] == files[1]


def take_part(rank: int, folder: str) -> dict[str, float]:
    """Evaluate an uneven share of the samples, some of them twice, as one of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2, timeout=timedelta(seconds=90))
    try:
        batches = [*pieces(gallery(), 7), *pieces(queries(), 3), *pieces(views(), 5)]
        own = batches[::2] if rank == 0 else [*batches[1::2], batches[4]]
        return evaluate(make_model(deaf_to=" with "), own, Path(folder) / "two", pair_protocols=("fashiongen_full",))
    finally:
        dist.destroy_process_group()


def second(_: int, folder: str) -> None:
    torch.set_num_threads(1)
    (Path(folder) / "second.json").write_text(json.dumps(take_part(1, folder)))


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    other = mp.spawn(second, args=(str(tmp_path),), nprocs=1, join=False)
    first = take_part(0, str(tmp_path))
    other.join()
    model, batches = make_model(deaf_to=" with "), [gallery(), queries(), views()]
    one = evaluate(model, batches, tmp_path / "one", pair_protocols=("fashiongen_full",))
    assert first == json.loads((tmp_path / "second.json").read_text()) == pytest.approx(one)
    assert {name.split("/")[2] for name in one if "/robustness/" in name} == {"paraphrase-all", "negation", "product-level"}
    files = [(tmp_path / name / "predictions/robustness.jsonl").read_text() for name in ("one", "two")]
    assert files[0] == files[1]


def test_it_is_an_option_of_the_test_stage(tmp_path: Path) -> None:
    assert measured(make_model(), [gallery(), queries()], tmp_path, robustness=False) == {}
    assert not (tmp_path / "predictions/robustness.jsonl").exists()
    evaluator = Evaluator(composed_ks=(1,), robustness=True)
    for batch in (gallery(), queries()):
        evaluator.update(make_model(), batch)
    assert not any("robustness" in name for name in evaluator.finish(None))


def test_texts_without_anything_to_rewrite_are_counted(tmp_path: Path) -> None:
    found = measured(make_model(), [gallery(), queries(" ")], tmp_path)
    assert all(numbers == {"changed": 0.0} for numbers in found.values())
    assert set(found) == set(REWRITINGS)


def test_products_of_pairs_count_once_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8)).eval()
    batch = views()
    found = measured(model, [batch], tmp_path, pair_ks=(1, 2, 4), pair_protocols=("fashiongen_full",))["product-level"]
    with torch.no_grad():
        assert model.retrieval_head is not None
        tokens = model.retrieval_head.image_embeddings(model.backbone, batch.images)
        vectors = model.retrieval_head.text_embeddings(model.backbone, batch.texts[::3])
    scores = torch.einsum("nqe,me->mnq", tokens, vectors).amax(2).view(4, 4, 3).amax(2)
    ranks = [int((row > row[i]).sum()) + 1 for i, row in enumerate(scores)]
    assert found == {f"t2i/R@{k}": 25.0 * sum(rank <= k for rank in ranks) for k in (1, 2, 4)}
    lines = read_lines(tmp_path / "predictions/robustness.jsonl")
    assert [line["rank"] for line in lines] == ranks
    assert found["t2i/R@4"] == 100.0
