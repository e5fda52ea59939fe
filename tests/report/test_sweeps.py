"""Several runs: the settings in which they differ, and the spread over seeds beside the interval over queries."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import scipy.stats
from fake_run import interval

from unifashion_pl.metrics.records import ResultRecord, write_records
from unifashion_pl.report.build import build_report
from unifashion_pl.report.runfolder import read_run
from unifashion_pl.report.sweeps import sweep

HEADLINE = "fashioniq/original/ref-kept/image(score=itc,text=and)"
VALUES = {0: 54.9, 1: 55.4, 2: 55.1}  # half-widths 0.625161 and 1.250322


def make(folder: Path, seed: int, value: float, lr: str = "1.0e-3", data: str = "d", trained: int | None = None) -> Path:
    """A run whose config says its seed, and whose records say that of the weights."""
    test = folder / "test"
    test.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"seed_everything: {seed}\nckpt_path: {folder}/x.ckpt\n"
        f"trainer: {{logger: {{init_args: {{save_dir: {folder}, name: a}}}}, max_steps: 9,\n"
        f"  callbacks: [{{class_path: ModelCheckpoint, init_args: {{dirpath: {folder}, every_n_epochs: 1}}}}]}}\n"
        f"model: {{policy: p, optim: {{init_args: {{qformer_lr: {lr}}}}}}}\n"
    )
    more = {"data_hash": data, "dataset": "fashioniq/val", "training_seed": seed if trained is None else trained}
    records = [
        ResultRecord("mean/R@10", value, "percent", 60, HEADLINE, interval=interval(value, 2.0)).with_context(**more),
        ResultRecord("mean/R@10", 5.0, "percent", 60, HEADLINE + "/chance").with_context(**more),
        ResultRecord("CIDEr", value / 100, "raw", 60, "coco(text=description)").with_context(**more),
    ]
    write_records(test / "results.json", records)
    return folder


def test_the_spread_over_seeds_stands_beside_the_interval_over_queries(tmp_path: Path) -> None:
    runs = [read_run(make(tmp_path / f"seed{seed}", seed, value)) for seed, value in VALUES.items()]
    (found,) = sweep(runs)
    assert found.runs == ["seed0", "seed1", "seed2"]
    assert found.differing == [("seed_everything", ["0", "1", "2"])]  # places are none
    ((title, spreads),) = found.groups
    assert title == "seed0 (seed 0), seed1 (seed 1), seed2 (seed 2)"
    composed, cider = spreads
    assert (composed.record.metric, cider.record.metric) == ("mean/R@10", "CIDEr")
    assert composed.summary.mean == pytest.approx(statistics.mean(VALUES.values()))
    assert composed.summary.sd == pytest.approx(statistics.stdev(VALUES.values()))
    half = float(scipy.stats.t.ppf(0.975, 2)) * statistics.stdev(VALUES.values()) / math.sqrt(3)
    assert composed.summary.half_mean == pytest.approx(half) == pytest.approx(0.625161, abs=1e-6)
    assert composed.over_queries == pytest.approx(2.0)
    assert cider.over_queries is None
    page = build_report([run.path for run in runs], tmp_path / "report.html").read_text()
    for said in ("Settings and seeds", "± 0.63", "± 1.25", "± 2.00", "<b>55.13</b>", "seed_everything"):
        assert said in page
    # one folder that holds them all is the same sweep
    (folder,) = sweep([read_run(tmp_path)])
    assert [s.summary for s in folder.groups[0][1]] == [s.summary for s in spreads]


def test_what_differs_is_not_mixed(tmp_path: Path) -> None:
    """Other settings are another recipe, other data other numbers, equal seeds one run."""
    runs = [
        make(tmp_path / "a", 0, 50.0),
        make(tmp_path / "b", 1, 52.0),
        make(tmp_path / "c", 1, 99.0),
        make(tmp_path / "d", 2, 70.0, lr="2.0e-3"),
        make(tmp_path / "e", 3, 71.0, lr="2.0e-3", data="other"),
    ]
    (found,) = sweep([read_run(run) for run in runs])
    assert ("model.optim.qformer_lr", ["0.001", "0.001", "0.001", "0.002", "0.002"]) in found.differing
    ((title, spreads),) = found.groups
    assert title == "a (seed 0), b (seed 1)"
    assert [s.values for s in spreads] == [[50.0, 52.0], [0.5, 0.52]]
    assert sweep([read_run(runs[0])]) == []


def test_the_seed_is_that_of_the_weights(tmp_path: Path) -> None:
    """A test under the same command, of weights of two trainings."""
    runs = [make(tmp_path / "a", 0, 50.0, trained=4), make(tmp_path / "b", 0, 52.0, trained=5)]
    (found,) = sweep([read_run(run) for run in runs])
    assert found.groups[0][0] == "a (seed 4), b (seed 5)"
    assert found.differing == []
