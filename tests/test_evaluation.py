"""Evaluation end to end with real embeddings and small stand-ins for the generating heads."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from small import images, pair_batch, small_backbone
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from unifashion_pl.data.samples import Batch, GalleryBatch, PairBatch, QueryBatch, TryOnBatch
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.evaluation.collect import Chosen, chance_recall, order, team_of_all
from unifashion_pl.evaluation.composed import ABLATIONS, ComposedEvaluation, half_query
from unifashion_pl.evaluation.samples import COLOURS, first_mention, word_accuracy
from unifashion_pl.metrics.images import ssim
from unifashion_pl.metrics.records import read_records
from unifashion_pl.module import UniFashionModule
from unifashion_pl.report.runfolder import image_name, read_lines
from unifashion_pl.tasks.retrieval import RetrievalModule

WORDS = ["red", "blue", "black", "green"]


class Captioner(nn.Module):
    """Says the same of every picture."""

    styles = {"fashiongen": "", "fashioniq": ""}

    def generate(self, queries: Tensor, styles: list[str], **_: object) -> list[str]:
        return ["A red dress with long sleeves." for _ in styles]


class Painter(nn.Module):
    """Noise from the seed."""

    size = (16, 16)

    def generate(self, queries: Tensor | None, prompts: list[str], *, seeds: list[int], **_: object) -> Tensor:
        return torch.cat([images(1, 16, seed) for seed in seeds])


def make_model() -> UniFashionModule:
    torch.manual_seed(0)
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8))
    model.caption_head, model.diffusion_head = Captioner(), Painter()  # type: ignore[assignment]
    return model.eval()


def pairs(n: int = 12) -> PairBatch:
    texts = [f"a {WORDS[i // 2 % 4]} dress number {i // 2}" for i in range(n)]
    return pair_batch(
        n,
        keys=[f"r{i:02d}" for i in range(n)],
        texts=texts,
        captions=texts,
        styles=["fashiongen"] * n,
        products=torch.arange(n) // 2,
        product_names=[""] * n,
        categories=["dress"] * n,
        subcategories=["dress"] * n,
        pixels=images(n, 16, 1),
        dataset="fashiongen/validation",
    )


def gallery(n: int = 10) -> GalleryBatch:
    cats = ["dress" if i % 2 else "shirt" for i in range(n)]
    return GalleryBatch(
        keys=[f"g{i}" for i in range(n)],
        images=images(n),
        categories=cats,
        captions=[""] * n,
        in_union=[i < 8 for i in range(n)],
        dataset="fashioniq/val",
    )


def queries() -> QueryBatch:
    return QueryBatch(
        keys=[f"q{i}" for i in range(4)],
        references=images(10)[:4],
        reference_ids=[f"g{i}" for i in range(4)],
        target_ids=[f"g{i + 4}" for i in range(4)],
        texts=[f"is {w}" for w in WORDS],
        categories=["shirt", "dress"] * 2,
        pixels=images(4, 16, 2),
        dataset="fashioniq/val",
    )


def split(batch: Batch, size: int) -> list[Batch]:
    def cut(value: object, rows: slice) -> object:
        return value[rows] if isinstance(value, list | Tensor) else value

    return [
        type(batch)(**{k: cut(v, slice(i, i + size)) for k, v in vars(batch).items()})  # type: ignore[arg-type]
        for i in range(0, len(batch), size)
    ]


def evaluate(batches: Iterable[Batch], out: Path | None, stage: str = "test", **options: object) -> dict[str, float]:
    evaluator = Evaluator(composed_ks=(1, 2), pair_ks=(1, 5), max_captions=4, max_images=2, shown=3, **options)  # type: ignore[arg-type]
    evaluator.start(stage)  # type: ignore[arg-type]
    model = make_model()
    for batch in batches:
        evaluator.update(model, batch)
    return evaluator.finish(out)


def everything() -> list[Batch]:
    return [pairs(), gallery(), queries()]


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("run") / "test"
    return out, evaluate(everything(), out)


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


def test_reconstructions_are_scored_against_the_written_truth(tested: tuple[Path, dict[str, float]]) -> None:
    out, values = tested
    lines = [x for x in read_lines(out / "predictions/images.jsonl") if x["kind"] == "reconstruction"]
    made, truth = (
        torch.stack([pil_to_tensor(Image.open(out / "images" / name)) for name in names]).float() / 255
        for names in ([x["files"][0] for x in lines], [x["truth"] for x in lines])
    )
    (record,) = [r for r in read_records(out / "results.json") if r.metric == "SSIM"]
    assert record.n == len(lines) == 2
    assert record.value == pytest.approx(float(ssim(made, truth).mean()), abs=1e-6)
    assert values["fashiongen/image/SSIM"] == record.value


def test_shown_ranks_agree_with_the_metric(tested: tuple[Path, dict[str, float]]) -> None:
    lines = read_lines(tested[0] / "predictions/retrieval.jsonl")
    exact = {(x["direction"], x["query"]): x["rank"] for x in lines if not x["shown"] and x["protocol"] == "fashiongen_full"}
    for line in lines:
        if line["shown"]:
            assert line["rank"] == exact[line["direction"], line["key"]]


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


def test_try_on_batches_are_passed_over() -> None:
    x = images(1)
    batch = TryOnBatch(
        keys=["a"],
        garments=x,
        pixels=x,
        agnostic=x,
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


def test_first_mention() -> None:
    assert first_mention("Dresses in dark navy, white trim", COLOURS) == "navy"
    assert first_mention("a coloured thing", ["red"]) is None
    assert first_mention("off-white shirt", ["white", "shirt"]) == "shirt"


def test_word_accuracy_and_its_chance() -> None:
    ours, chance = word_accuracy("colour", [("red", "red"), (None, "red"), ("blue", "green"), ("red", None)], 3)
    assert (ours.value, ours.n, ours.dropped) == (pytest.approx(100 / 3), 3, {"reference names none": 1})
    assert chance.value == pytest.approx(200 / 3)
    assert chance.protocol == ours.protocol + "/chance"


def test_chance_recall_by_counting() -> None:
    assert chance_recall(5, 2, 2) == pytest.approx(70.0)
    assert chance_recall(3, 1, 10) == 100.0


def test_chosen_keeps_the_smallest_hashes_in_any_order() -> None:
    names = [f"p{i}" for i in range(40)]
    expected = sorted(names, key=lambda n: order(0, n))[:5]
    for stream in (names, names[::-1]):
        chosen: Chosen[str] = Chosen(5)
        for name in stream:
            chosen.add(name, "b", "late")
            chosen.add(name, "a", "early")
        assert list(chosen.everywhere(team_of_all())) == expected
        assert set(chosen.own(team_of_all()).values()) == {("a", "early")}


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


def test_two_ranks_equal_one(tested: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    other = mp.spawn(second, args=(str(tmp_path),), nprocs=1, join=False)
    first = take_part(0, str(tmp_path))
    other.join()
    assert first == json.loads((tmp_path / "second.json").read_text()) == pytest.approx(tested[1], abs=1e-6)
    for name in ("captions", "images"):
        one = (tested[0] / f"predictions/{name}.jsonl").read_text()
        assert (tmp_path / f"test/predictions/{name}.jsonl").read_text() == one
    assert {p.name for p in (tmp_path / "test/images").iterdir()} == {p.name for p in (tested[0] / "images").iterdir()}


def test_what_a_shrunken_split_lacks_stands_in_protocol_and_records() -> None:
    """As after ``data shards --allow-missing``: fewer images make recall easier, and must not look like the whole split."""
    whole, short = ComposedEvaluation("f/val", (1, 5), True, 0, 5, 0), ComposedEvaluation("f/val", (1, 5), True, 0, 5, 0)
    model, shelves, questions = make_model(), gallery(), queries()
    sizes, asked = Counter(shelves.categories), Counter(questions.categories)
    for evaluation, more in ((whole, 0), (short, 3)):
        planned = {name: n + more for name, n in sizes.items()}
        evaluation.update_gallery(model, replace(shelves, planned=planned))
        evaluation.update_queries(
            model, replace(questions, planned={name: n + more for name, n in asked.items()}, joiner="comma")
        )
    records = {name: e.finish(team_of_all(), True).records for name, e in (("whole", whole), ("short", short))}
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
