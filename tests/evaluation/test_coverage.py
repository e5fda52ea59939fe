"""Numbers of a part of the data say so, know how many there are in all, and fill no published table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import images, pair_batch, small_backbone

from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.plan import compact_json
from unifashion_pl.data.reader import RawSample
from unifashion_pl.data.stream import EvalLoader
from unifashion_pl.data.texts import number_of
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.evaluation.coverage import Coverage
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import ResultRecord, read_records
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks import RetrievalModule
from unifashion_pl.team import Team

N, VIEWS = 12, 2


@dataclass
class Described:
    """Pairs whose pictures nobody may look at."""

    dataset: str = "shop/val"
    hash: str = "a"
    split: str = "val"
    kind: str = "pairs"
    features: str = ""
    fields: tuple[str, ...] = ("image", "meta")
    keys: list[str] = field(default_factory=lambda: [f"r{i:02d}" for i in range(N)])

    def read(self, number: int) -> RawSample:
        meta = {"id": self.keys[number], "product": f"p{number // VIEWS}", "category": "dress", "subcategory": "long"}
        return RawSample(self.keys[number], {"meta.json": compact_json({**meta, "description": f"dress {number // VIEWS}"})})


def loader(**changes: Any) -> EvalLoader[Any]:
    source: Any = replace(Described(), **changes)
    return EvalLoader(source, PairAssembler(EncoderTransform(32)), batch_size=4)


def seen(n: int) -> Any:
    names = [f"dress {i // VIEWS}" for i in range(n)]
    return pair_batch(
        n,
        keys=[f"r{i:02d}" for i in range(n)],
        images=images(n),
        texts=names,
        captions=names,
        styles=["fashiongen"] * n,
        products=torch.tensor([number_of(f"p{i // VIEWS}") for i in range(n)]),
        categories=["dress"] * n,
        subcategories=["long"] * n,
        dataset="shop/val",
    )


def measured(n: int, folder: Path, loaders: Any, limit: float | None) -> list[ResultRecord]:
    torch.manual_seed(0)
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8)).eval()
    model.learned = frozenset({"composed"})
    evaluator = Evaluator(pair_protocols=("fashiongen_100", "fashiongen_full"), draws=2)
    evaluator.start("test", loaders, limit)
    evaluator.update(model, seen(n))
    evaluator.finish(folder)
    return read_records(folder / "results.json")


def test_a_part_is_labelled_and_knows_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = measured(4, tmp_path, [loader()], 1)
    assert "only 4 of 12 samples of shop/val (pairs) were seen" in capsys.readouterr().out
    assert all(r.shortened and r.flaw and r.dataset == "shop/val" for r in records)
    expected = {(r.protocol.partition("(")[0], r.metric): (r.n, r.n_expected) for r in records}
    assert expected["fashiongen_full", "i2t/R@10"] == (4, 12)
    assert expected["fashiongen_full", "t2i/R@10"] == (2, 6)
    assert expected["fashiongen_full", "mean"] == (6, 18)
    assert expected["fashiongen_100", "t2i/R@10"] == (4, 12)
    assert {r.weights for r in records} == {"not trained for retrieval"}


def test_the_whole_is_not(tmp_path: Path) -> None:
    records = measured(N, tmp_path, [loader()], 1.0)
    assert not any(r.shortened for r in records)
    assert all(r.n == r.n_expected for r in records)
    lines = read_lines(tmp_path / "predictions" / "retrieval.jsonl")
    assert {line["schema"] for line in lines} == {2}
    full = [x for x in lines if x.get("protocol") == "fashiongen_full" and x["direction"] == "t2i"]
    (value,) = (r.value for r in records if r.protocol.startswith("fashiongen_full(") and r.metric == "t2i/R@1" and r.interval)
    assert value == pytest.approx(100 * sum(x["rank"] + x["ties"] <= 1 for x in full) / len(full))
    assert min(x["rank"] for x in lines) >= 1


def test_other_peoples_loaders_are_counted_as_cut_when_the_trainer_cuts_them(tmp_path: Path) -> None:
    records = measured(4, tmp_path, ["some loader"], 1)
    assert all("shortened=4/?" in r.protocol for r in records)


def test_two_sets_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two different sets of pairs are called shop/val"):
        Coverage([loader(), [loader(hash="b")]])
    Coverage([loader(), loader(), loader(dataset="shop/test", hash="b")])


def test_counts_add_up() -> None:
    coverage = Coverage([loader()])
    coverage.add(seen(4))
    coverage.close(Team(False))
    assert coverage.missed(("shop/val", "pairs")) == "4/12"
    plain = ResultRecord("CIDEr", 1.0, "raw", 4, "coco")
    once = coverage.labelled(plain, ("shop/val", "pairs"))
    assert once.protocol == "coco(shortened=4/12)"
    assert coverage.labelled(once, ("shop/val", "pairs")) == once
