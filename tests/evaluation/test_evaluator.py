"""Evaluation end to end: everything that a test writes, whatever batches and ranks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from evaluation.batches import SMALL, evaluate, everything, gallery, make_model, pairs, queries, split
from small import images

from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.evaluation import Evaluator, Outcome
from unifashion_pl.evaluation.composed import ABLATIONS
from unifashion_pl.evaluation.evaluator import named_apart
from unifashion_pl.metrics.lines import image_name, read_lines
from unifashion_pl.metrics.records import read_records


def test_names_and_ranges_of_values(tested: tuple[Path, dict[str, float]]) -> None:
    _, values = tested
    for name in (
        "fashiongen/t2i/R@1",
        "fashiongen/mean",
        "fashiongen/full/i2t/R@5",
        "fashioniq/mean/R@1",
        "fashioniq/Avg",
        "fashioniq/text-only/mean/R@2",
        "fashiongen/caption/CIDEr",
        "fashiongen/caption/colour_accuracy",
    ):
        assert name in values
    lowest = {name: -1 if name.endswith("SSIM") else 0 for name in values}
    assert all(math.isfinite(v) and lowest[name] <= v <= 100 for name, v in values.items())


def test_records_have_protocol_n_chance_and_hashes(tested: tuple[Path, dict[str, float]]) -> None:
    records = read_records(tested[0] / "results.json")
    by = {(r.protocol, r.metric): r for r in records}
    composed = by["fashioniq/original/ref-kept/image(score=itc,text=and)", "mean/R@1"]
    chance = by["fashioniq/original/ref-kept/image(score=itc,text=and)/chance", "mean/R@1"]
    assert composed.n == 4
    assert composed.interval is not None
    assert composed.data_hash
    assert composed.weights_hash
    assert composed.code_version
    assert chance.value == pytest.approx(20.0)
    assert by["fashioniq/union/ref-kept/image(score=itc,text=and)/chance", "mean/R@1"].value == pytest.approx(25.0)
    full = next(
        r
        for r in records
        if r.protocol.startswith("fashiongen_full") and r.protocol.endswith("/chance") and r.metric == "t2i/R@1"
    )
    assert full.value == pytest.approx(100 * 2 / 12)
    for half in ABLATIONS:
        assert any(f"score={half}" in r.protocol for r in records)
    assert sum(r.metric == "caption/colour_accuracy" for r in records) == 2


def test_numbers_say_where_they_come_from_and_have_keys_of_their_own(tmp_path: Path) -> None:
    """Two pair datasets in one test, under equal protocols; seeds of the training, of the test, and of what was drawn."""
    evaluator, model = Evaluator(**SMALL, seed=7), make_model()
    model.training_seed = 3
    evaluator.start("test")
    for dataset in ("shop/val", "shop/test"):
        evaluator.update(model, replace(pairs(), dataset=dataset))
    evaluator.update(model, gallery())
    evaluator.update(model, queries())
    values = evaluator.finish(tmp_path)
    assert {"shop/val/caption/CIDEr", "shop/test/caption/CIDEr"} <= values.keys()
    records = read_records(tmp_path / "results.json")
    assert len({r.key for r in records}) == len(records)
    assert len({r.protocol for r in records if r.metric == "CIDEr"}) == 1
    assert {(r.seed, r.training_seed) for r in records} == {(7, 3)}
    assert {r.dataset for r in records} == {"shop/val", "shop/test", "fashioniq/val"}
    sampled = [r for r in records if r.under.family == "fashiongen_100" and not r.under.chance]
    assert {r.draws for r in sampled} == {(0, 1, 2, 3, 4)}
    assert {r.draws for r in records if r.metric == "SSIM"} == {(0,)}
    assert {r.draws for r in records if r.under.composed} == {None}


def test_prediction_lines_are_complete_and_their_pictures_written(tested: tuple[Path, dict[str, float]]) -> None:
    out = tested[0]
    composed = read_lines(out / "predictions/composed.jsonl")
    assert [line["key"] for line in composed if line["category"] == "dress"] == ["q1", "q3"]
    assert sum(line["shown"] for line in composed) == 3
    for half in ABLATIONS:  # ranks of the halves recompute the recall of the halves
        ranks = [sum(line["halves"][half]) for line in composed if line["category"] == "dress"]
        (record,) = [
            r
            for r in read_records(out / "results.json")
            if r.metric == "dress/R@1" and r.protocol == f"fashioniq/original/ref-kept/image(score={half},text=and)"
        ]
        assert record.value == pytest.approx(100 * sum(rank <= 1 for rank in ranks) / len(ranks))
    for line in composed:
        if line["shown"]:
            for key in (line["reference"], line["target"], *(k for k, _ in line["top"])):
                assert (out / "images" / image_name("fashioniq/val", key)).is_file()
    shown = [line for line in read_lines(out / "predictions/retrieval.jsonl") if line["shown"]]
    assert {line["direction"] for line in shown} == {"t2i", "i2t"}
    assert len(shown) == 6
    captions = read_lines(out / "predictions/captions.jsonl")
    assert len(captions) == 4
    assert all(line["words"]["colour"][0] == "red" for line in captions)
    made = read_lines(out / "predictions/images.jsonl")
    assert {line["kind"] for line in made} == {"reconstruction", "composed"}
    assert len(made) == 4
    assert all((out / "images" / file).is_file() for line in made for file in [*line["files"], line["truth"]])


def test_batch_size_and_order_change_nothing(tested: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    batches = [part for batch in reversed(everything()) for part in reversed(split(batch, 3))]
    assert evaluate(batches, tmp_path) == pytest.approx(tested[1], abs=1e-6)
    for name in ("captions", "images"):
        assert (tmp_path / f"predictions/{name}.jsonl").read_text() == (tested[0] / f"predictions/{name}.jsonl").read_text()


def test_validation_is_recall_only_and_writes_nothing(tested: tuple[Path, dict[str, float]]) -> None:
    values = evaluate(everything(), None, "validation")
    assert set(values) < set(tested[1])
    assert not any("caption" in name or "text-only" in name or "full" in name for name in values)
    assert values["fashioniq/mean/R@1"] == tested[1]["fashioniq/mean/R@1"]


def test_repeated_samples_count_once(tested: tuple[Path, dict[str, float]]) -> None:
    assert evaluate([*everything(), *everything()], None) == pytest.approx(dict(evaluate(everything(), None).items()), abs=1e-6)


def test_a_model_without_heads_measures_nothing() -> None:
    evaluator, model = Evaluator(), make_model()
    model.retrieval_head = model.caption_head = model.diffusion_head = None
    for batch in everything():
        evaluator.update(model, batch)
    assert evaluator.finish(None) == {}


def test_log_samples_reaches_tensorboard_like_loggers() -> None:
    class Experiment:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def add_text(self, tag: str, text: str, step: int) -> None:
            self.seen.append(tag)

        def add_image(self, tag: str, image: object, step: int, dataformats: str) -> None:
            self.seen.append(tag)

    class Logger:
        experiment = Experiment()

    evaluator = Evaluator(validation_captions=2, validation_images=1, image_seeds=(0,))
    evaluator.update(make_model(), pairs())
    evaluator.finish(None)
    evaluator.log_samples([Logger(), None], 7)
    assert "fashiongen/validation/captions" in Logger.experiment.seen
    assert len(Logger.experiment.seen) == 3


def take_part(rank: int, folder: str) -> dict[str, float]:
    """Evaluate an uneven share of the samples as one of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2, timeout=timedelta(seconds=90))
    try:
        batches = [part for batch in everything() for part in split(batch, 1)]
        own = batches[:-2:2] if rank == 0 else [*batches[1::2], *batches[-2:]]
        return evaluate(own, Path(folder) / "test")
    finally:
        dist.destroy_process_group()


def second(_: int, folder: str) -> None:
    torch.set_num_threads(1)
    (Path(folder) / "second.json").write_text(json.dumps(take_part(1, folder)))


def scored(run: Path) -> dict[str, list[tuple[str, float]]]:
    """Query -> documents of a TREC file and their scores, by rank."""
    found: dict[str, list[tuple[str, float]]] = {}
    for line in run.read_text().splitlines():
        query, _, document, rank, score, _ = line.split()
        rows = found.setdefault(query, [])
        rows.append((document, float(score)))
        assert int(rank) == len(rows)
    return found


def same_ranking(one: list[tuple[str, float]], two: list[tuple[str, float]]) -> bool:
    """Equal scores at every rank and of every document. Batches of other sizes round otherwise, so documents nearer than that may change places."""
    by_document = [dict(rows) for rows in (one, two)]
    return (
        by_document[0].keys() == by_document[1].keys()
        and by_document[0] == pytest.approx(by_document[1], abs=1e-6)
        and [score for _, score in one] == pytest.approx([score for _, score in two], abs=1e-6)
    )


def test_rankings_are_the_same_up_to_rounding() -> None:
    rows = [("a", 0.9), ("b", 0.5000005), ("c", 0.5), ("d", 0.1)]
    assert same_ranking(rows, [rows[0], ("c", 0.5000005), ("b", 0.5), rows[3]])
    assert not same_ranking(rows, [("b", 0.9), ("a", 0.5000005), *rows[2:]])
    assert not same_ranking(rows, rows[:3])


def test_two_ranks_equal_one(tested: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    other = mp.spawn(second, args=(str(tmp_path),), nprocs=1, join=False)
    first = take_part(0, str(tmp_path))
    other.join()
    assert first == json.loads((tmp_path / "second.json").read_text()) == pytest.approx(tested[1], abs=1e-6)
    for name in ("captions", "images"):
        written = (tested[0] / f"predictions/{name}.jsonl").read_text()
        assert (tmp_path / f"test/predictions/{name}.jsonl").read_text() == written
    one, two = ({p.name: p for p in (folder / "trec").iterdir()} for folder in (tested[0], tmp_path / "test"))
    assert one.keys() == two.keys()
    assert len(one) > 2
    for name, run in one.items():
        if run.suffix != ".run":
            assert sorted(run.read_text().splitlines()) == sorted(two[name].read_text().splitlines()), name
            continue
        ours, theirs = scored(run), scored(two[name])
        assert ours.keys() == theirs.keys()
        assert [(name, query) for query in ours if not same_ranking(ours[query], theirs[query])] == []
    assert {p.name for p in (tmp_path / "test/images").iterdir()} == {p.name for p in (tested[0] / "images").iterdir()}


def test_try_on_batches_are_passed_over() -> None:
    x = images(1)
    batch = TryOnBatch(
        keys=["a"],
        garments=x,
        pixels=x,
        masks=x[:, :1] > 0,
        pose=None,
        garment_pixels=x,
        sketches=None,
        texts=[""],
        paired=True,
        dataset="vitonhd/test",
    )
    evaluator = Evaluator()
    evaluator.update(make_model(), batch)
    assert evaluator.finish(None) == {}


def test_names_of_two_datasets_are_kept_apart() -> None:
    one, two = Outcome("shop/val", {"shop/CIDEr": 1.0, "shop/a": 3.0}), Outcome("shop/test", {"shop/CIDEr": 2.0})
    assert named_apart([one, two]) == {"shop/val/CIDEr": 1.0, "shop/val/a": 3.0, "shop/test/CIDEr": 2.0}
    assert named_apart([one]) == one.values
