"""Published tables: arithmetic, matching of protocols, and when a cell may be called reproduced."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.published import broken_averages, compare, judge, load_published
from unifashion_pl.report.runfolder import Evaluation, Run

FULL = "fashioniq/original/ref-kept/image(score=itc,text=and)"


def run_with(
    value: float, n: int = 6016, config: str = "", protocol: str = FULL, seed: int | None = None, policy: str = "a"
) -> Run:
    record = ResultRecord("Avg", value, "percent", n, protocol)
    configs = {"": {"seed_everything": seed, "model": {"policy": policy}}} if seed is not None else {}
    evaluations = [Evaluation("", Path("run"), [record], {})]
    return Run(Path("run"), configs=configs, config_texts={"": config}, evaluations=evaluations)


def test_printed_values_have_every_column() -> None:
    for block in load_published()["tables"]:
        for row in block["rows"]:
            assert set(row["values"]) == set(block["columns"])


def test_broken_averages_are_the_known_ones() -> None:
    wrong = {(method, metric): round(mean, 2) for _, method, metric, _, mean in broken_averages(load_published())}
    assert wrong["TG-CIR", "Avg"] == 62.2
    assert wrong["SPRC", "mean/R@10"] == 54.72
    assert wrong["CASE", "mean/R@10"] == 48.7
    assert "FashionVLP" not in {method for method, _ in wrong}
    assert not any(method.startswith("UniFashion") for method, _ in wrong)


def test_toy_and_partial_runs_are_not_run() -> None:
    row = ("4", "UniFashion w/o cap", "Avg", 65.04)
    assert compare(*row, [run_with(90.0, config="class_path: WardrobeDataModule")]).status == "not run (toy data)"
    assert compare(*row, [run_with(65.0, n=500)]).status == "not run (not the full split)"
    assert compare(*row, []).status == "not run (no evaluation)"
    assert compare(*row, [run_with(65.0, n=500)]).ours is None


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([65.0], "inconclusive"),
        ([65.0, 65.1, 64.9], "reproduced"),
        ([67.0, 67.05, 67.1], "exceeds"),
        ([60.0, 60.05, 60.1], "below"),
        ([60.0, 65.0, 70.0], "inconclusive"),
    ],
)
def test_status_needs_three_seeds_and_a_tight_interval(values: list[float], status: str) -> None:
    found = compare("4", "UniFashion w/o cap", "Avg", 65.04, [run_with(v) for v in values])
    assert found.status == status
    assert found.ours == pytest.approx(sum(values) / len(values))


def test_other_recipes_and_repeated_seeds_are_no_further_seeds() -> None:
    row = ("4", "UniFashion w/o cap", "Avg", 65.04)
    mixed = [run_with(65.0, seed=0), run_with(65.1, seed=1), run_with(64.9, seed=2, policy="b")]
    assert compare(*row, mixed).status == "inconclusive"
    assert compare(*row, [run_with(65.0, seed=0)] * 3).status == "inconclusive"
    assert compare(*row, [run_with(v, seed=i) for i, v in enumerate((65.0, 65.1, 64.9))]).status == "reproduced"


def test_other_galleries_scores_and_halves_do_not_count() -> None:
    row = ("4", "UniFashion w/o cap", "Avg", 65.04)
    for other in (FULL.replace("original", "union"), FULL.replace("ref-kept", "ref-removed"), FULL.replace("itc", "text-only")):
        assert compare(*row, [run_with(65.0, protocol=other)]).status == "not run (no evaluation)"


def test_unpublished_candidate_lists_cannot_be_reproduced() -> None:
    assert judge("1", "UniFashion (Ours)", 71.4, 71.4, 0.1).startswith("protocol not reproducible")
    assert judge("4", "UniFashion", 67.93, 67.93, 0.1).startswith("protocol not reproducible")
    assert judge("4", "UniFashion w/o cap", 65.04, 65.0, math.inf) == "inconclusive"
    # that the authors' row read the captions that they published is a guess
    assert judge("4", "UniFashion w/o img", 48.22, 48.22, 0.1).endswith("is not known")


def test_another_catalogues_pairs_and_a_shrunken_gallery_fill_no_cell() -> None:
    """The protocols of pairs do not name the data, and serve any catalogue."""
    record = ResultRecord("i2t/R@1", 99.0, "percent", 100, "fashiongen_100(pool=subcategory,n=100)")
    runs = {}
    for name in ("CatalogueDataModule", "FashionGenDataModule"):
        configs = {"test": {"data": {"class_path": f"unifashion_pl.datamodules.{name}"}}}
        runs[name] = Run(
            Path("run"), configs=configs, config_texts={"": ""}, evaluations=[Evaluation("", Path("run"), [record], {})]
        )
    row = ("1", "UniFashion", "i2t/R@1", 71.44)
    assert compare(*row, [runs["CatalogueDataModule"]]).status == "not run (not FashionGen)"
    for flaw, changes in (
        ("random weights", {"weights": "random"}),
        ("a shortened test", {"protocol": "fashiongen_100(n=100,shortened=64/32528)"}),
        ("100 of 1,000", {"n_expected": 1000}),
    ):
        flawed = replace(
            runs["FashionGenDataModule"], evaluations=[Evaluation("", Path("run"), [replace(record, **changes)], {})]
        )
        assert compare(*row, [flawed]).status == f"not run ({flaw})"
    assert compare(*row, [runs["FashionGenDataModule"]]).ours == 99.0
    short = run_with(65.0, protocol=FULL.replace("text=and", "text=and,gallery=5000/5373"))
    assert compare("4", "UniFashion w/o cap", "Avg", 65.04, [short]).status == "not run (not the full split)"
