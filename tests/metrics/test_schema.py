"""The schema of prediction files, their head, and the page that computes every number again from them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation.batches import WORDS, make_model, pairs
from small import images

from unifashion_pl.data.samples import GalleryBatch, QueryBatch
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.metrics.lines import KINDS, SCHEMA, CaptionLine, Line, read_predictions
from unifashion_pl.metrics.records import ResultRecord, read_records
from unifashion_pl.metrics.schema import FILES, as_text, json_schema, read_head, write_head

pytest.importorskip("pandas", reason="reads prediction files as others do; it is in the extra test")

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "predictions.md").read_text("utf-8")
#: (what is said before it, code) of every block.
BLOCKS = re.findall(r"((?:(?!```).)*?)```python\n(.*?)```", PAGE.split("## Every number again")[1], re.S)
PROTOCOL = re.compile(r"protocol `([^`]+)`(?:, further `([^`]+)`)?")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test of 60 pairs, and of 40 composed queries in two categories of 80 images each."""
    folder = tmp_path_factory.mktemp("run")
    evaluator, model = Evaluator(max_images=0, measures=["nDCG@5", "MAP@10", "MRR"]), make_model()
    evaluator.start("test")
    said = [f"a {WORDS[i % 4]} dress number {i // 2}" for i in range(60)]
    evaluator.update(model, replace(pairs(60), texts=said, captions=said))
    names, categories = [f"g{i}" for i in range(160)], ["dress" if i % 2 else "shirt" for i in range(160)]
    shelf = images(160, seed=5)
    evaluator.update(
        model,
        GalleryBatch(
            keys=names, images=shelf, categories=categories, captions=[""] * 160, in_union=[i < 90 for i in range(160)],
            dataset="fashioniq/val",
        ),
    )  # fmt: skip
    evaluator.update(
        model,
        QueryBatch(
            keys=[f"q{i}" for i in range(40)], references=shelf[:40], reference_ids=names[:40], target_ids=names[40:80],
            texts=[f"is {WORDS[i % 4]}" for i in range(40)], categories=categories[:40], pixels=images(40, 16, 2),
            dataset="fashioniq/val", overlap=[i % 5 == 0 for i in range(40)],
        ),
    )  # fmt: skip
    evaluator.finish(folder / "test")
    return folder


def of_protocol(records: list[ResultRecord], name: str, further: str) -> dict[str, float | None]:
    found = [r for r in records if r.under.name == name and not r.under.chance and r.under.half == "itc"]
    return {r.metric: r.value for r in found if r.under.further == ((further,) if further else ())}


def itc(record: ResultRecord) -> bool:
    return record.under.half == "itc"


def test_the_page_computes_every_number_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    records, scope, checked = read_records("test/results.json"), dict[str, Any](), set[tuple[str, str]]()
    name = further = ""
    for before, code in BLOCKS:
        if said := PROTOCOL.findall(before):
            name, further = said[-1]
        exec(code, scope)
        reported, found = of_protocol(records, name, further), scope["found"]
        assert found
        for metric, value in found.items():
            assert value == pytest.approx(reported[metric], abs=1e-9), (name, further, metric)
            checked.add((name + further, metric))
    main = [
        r for r in records if not r.under.chance and r.value is not None and itc(r) and not r.metric.endswith("sd_over_draws")
    ]
    shown = ("fashioniq/original/ref-kept/image", "fashiongen_100", "fashiongen_full", "coco", "first-mention")
    wanted = {(r.under.name + "".join(r.under.further), r.metric) for r in main if r.under.name in shown}
    left = {metric for _, metric in wanted - checked}
    assert {metric for metric in left if not metric.endswith(("nDCG@5", "MAP@10", "MRR", "METEOR"))} <= {
        "Avg"
    }  # Avg of no-overlap
    recall = [r.value for r in main if r.under.name == shown[0] and r.metric.endswith("R@10")]
    assert all(0 < value < 100 for value in recall if value is not None)


def test_the_schema_is_that_of_the_typed_lines() -> None:
    assert (DOCS / "predictions.schema.json").read_text("utf-8") == as_text()
    schema = json_schema()
    assert set(schema["properties"]) == {*FILES, "head"}
    assert FILES.keys() - KINDS.keys() == {"robustness"}
    table = PAGE.split("## Every number again")[0]
    for name, kinds in FILES.items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}.jsonl`")]
        known = {field for kind in kinds for field in schema["$defs"][kind.__name__]["properties"]}
        assert set(re.findall(r"`(\w+)`", row.split("|")[3])) <= known, name
    assert f"now {SCHEMA})" in table
    composed = schema["$defs"]["ComposedLine"]["properties"]
    assert composed["rank"]["minimum"] == 1
    assert composed["ties"]["minimum"] == 0


def test_every_line_that_is_written_is_of_the_schema(run: Path) -> None:
    """Required fields are there, and no others than the schema's; the head counts them."""
    folder, parts = run / "test/predictions", json_schema()["$defs"]
    head = read_head(folder)
    assert head is not None
    assert (head.schema, head.seed, head.training_seed) == (SCHEMA, 0, None)
    assert head.weights_hash == read_records(run / "test/results.json")[0].weights_hash
    assert set(head.files) == {path.stem for path in folder.glob("*.jsonl")}
    for name, file in head.files.items():
        lines = read_predictions(folder / f"{name}.jsonl", name)
        assert len(lines) == file.lines
        assert sorted({line.dataset for line in lines}) == file.datasets
        for line in lines:
            part, written = parts[type(line).__name__], line.written()
            assert set(part["required"]) <= written.keys() <= part["properties"].keys()


def test_a_head_of_before_and_a_damaged_one(tmp_path: Path) -> None:
    assert read_head(tmp_path) is None
    lines: list[Line] = [CaptionLine(dataset=d, id="a", hypothesis="", reference="x") for d in ("b", "a", "b")]
    write_head(tmp_path, lines, seed=2)
    head = read_head(tmp_path)
    assert head is not None
    assert (head.files["captions"].lines, head.files["captions"].datasets, head.seed) == (3, ["a", "b"], 2)
    (tmp_path / "head.json").write_text('{"files": 3}')
    with pytest.raises(ValueError, match=r"head.json.*files"):
        read_head(tmp_path)
