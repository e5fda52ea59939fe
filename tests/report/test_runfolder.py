from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_run import make_run

from unifashion_pl.metrics.lines import read_lines, write_lines
from unifashion_pl.report.build import build_report
from unifashion_pl.report.runfolder import read_run

ONE, TWO = "phase1/version_0/test", "phase2/version_0/test"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_run_folder_is_read_by_phase(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "demo"))
    assert [label for label, _ in run.curves] == ["phase1", "phase2"]
    assert [e.label for e in run.evaluations] == ["phase1", "phase2"]
    assert run.is_toy
    assert not any(name.startswith("test/") for _, columns in run.curves for name in columns)
    assert len(run.curves[0][1]["train/loss"]) == 200
    assert len(run.evaluations[0].shown("captions")) == 5


def test_the_trained_configuration_stands_before_that_of_the_test(tmp_path: Path) -> None:
    for name, policy in (("config.yaml", "trained"), ("test/config.yaml", "tested"), ("other/test/config.yaml", "alone")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"model: {{policy: {policy}}}\ntrainer: {{max_steps: 7, devices: 1}}\n")
    (tmp_path / "metrics.csv").write_text("step,train/loss\n1,2.0\n")
    run = read_run(tmp_path)
    assert {label: config["model"]["policy"] for label, config in run.configs.items()} == {"": "trained", "other": "alone"}
    page = build_report([tmp_path], tmp_path / "r.html").read_text("utf-8")
    assert ">steps</th><td>7</td><td>tested only</td>" in page
    assert ">devices</th><td>1</td><td>1</td>" in page


def spoil(path: Path, **change: Any) -> None:
    """Other values in the first line; ``gone`` takes a field away."""
    first, *rest = read_lines(path)
    write_lines(path, [{k: v for k, v in {**first, **change}.items() if v != "gone"}, *rest])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (f"{ONE}/predictions/retrieval", {"rank": "3"}, r"got `str` - at `\$.rank`"),
        (f"{ONE}/predictions/retrieval", {"rank": -1}, r"Expected `int` >= 1, got .* - at `\$.rank`"),
        (f"{ONE}/predictions/retrieval", {"rank": 10**12}, r"Expected `int` <= 10000000, got 1.* - at `\$.rank`"),
        (f"{ONE}/predictions/retrieval", {"direction": "up"}, r"Invalid enum value 'up' - at `\$.direction`"),
        (f"{ONE}/predictions/retrieval", {"top": [["a"]]}, r"length 2, got 1 - at `\$.top\[0\]`"),
        (f"{ONE}/predictions/retrieval", {"targets": "gone"}, "missing required field `targets`"),
        (f"{ONE}/predictions/retrieval", {"protocol": "x"}, "missing required field `(product|query|draw|ties|candidates)`"),
        (f"{ONE}/predictions/captions", {"words": {"colour": ["red"]}}, r"length 2, got 1 - at `\$.words"),
        (f"{TWO}/predictions/composed", {"ranks": {"a": [1, 2]}}, "matching regex"),
        (f"{TWO}/predictions/composed", {"ranks": {"a/b/c": [1]}}, r"length 2, got 1 - at `\$.ranks"),
        (f"{TWO}/predictions/images", {"files": ["../x.png", "y.png"]}, r"matching regex .* - at `\$.files\[0\]`"),
        (f"{TWO}/predictions/images", {"truth": "/etc/x.png"}, r"matching regex .* - at `\$.truth`"),
        (f"{TWO}/predictions/images", {"seeds": 5}, r"Expected `array`, got `int` - at `\$.seeds`"),
    ],
)
def test_a_prediction_of_another_form_is_named_and_no_page_is_written(
    run: Path, tmp_path: Path, file: str, change: dict[str, Any], message: str
) -> None:
    spoil(run / f"{file}.jsonl", **change)
    (tmp_path / "r.html").write_text("the good page")
    with pytest.raises(ValueError, match=rf"{file}.jsonl:1 is not a line of .*{message}"):
        build_report([run], tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "the good page"
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("phase1/config.yaml", "model: 5\n", r"is not a configuration: Expected `object \| null`, got `int` - at `\$.model`"),
        ("phase1/config.yaml", "seed_everything: [1]\n", r"at `\$.seed_everything`"),
        ("phase1/config.yaml", "a: 1\nb: !!python/name:os.system\n", ":2 is not a configuration: could not determine"),
        ("phase1/config.yaml", "a: &a [*a]\n", "is not a configuration: nested too deeply"),
        ("phase1/version_0/metrics.csv", "step,train/loss\n1,abc\n", ":2: train/loss is 'abc', expected a number"),
        ("phase1/version_0/metrics.csv", "step,train/loss\nnan,1\n", ":2: step is nan, expected a finite number"),
        ("phase1/version_0/metrics.csv", 'step,train/loss\n1,"2\n3,4\n', ":2: a quote opens a cell and is never closed"),
        (f"{ONE}/results.json", "{}", "is not a list of result records: Expected `array`"),
        (f"{ONE}/results.json", '[{"metric": 5}]', ": record 0: result record: "),
        (
            f"{ONE}/results.json",
            '[{"metric": "a", "value": 1, "unit": "raw", "n": -1, "protocol": "p"}]',
            "record 0: .*no negative",
        ),
        (
            f"{ONE}/results.json",
            '[{"metric": "a", "value": 1, "unit": "raw", "n": 1, "protocol": "p", "x": 1}]',
            "unknown fields: x",
        ),
    ],
)
def test_damaged_files_of_a_run_are_named(run: Path, tmp_path: Path, file: str, content: str, message: str) -> None:
    (run / file).write_text(content)
    with pytest.raises(ValueError, match=rf"{file}.*({message})"):
        build_report([run], tmp_path / "r.html")


def test_a_last_line_of_curves_that_is_still_written_does_not_count(run: Path) -> None:
    path = run / "phase1/version_0/metrics.csv"
    path.write_text("step,train/loss,val/x\n1,0.5,\n2,inf,1e300\n3,0.4,0.1\n4,0.")
    assert read_run(run).curves[0][1] == {"train/loss": [(1, 0.5), (3, 0.4)], "val/x": [(3, 0.1)]}


def test_runs_that_made_room_for_others_are_left_out(run: Path) -> None:
    whole, curves = read_run(run), read_run(run / "phase1").curves
    shutil.copytree(run / "phase1", run / "phase1.1")
    shutil.copytree(run / "phase1", run / "lr0.1")  # beside nothing called lr0
    assert {label for label, _ in read_run(run).curves} == {label for label, _ in whole.curves} | {"lr0.1"}
    assert read_run(run / "phase1.1").curves == curves


def test_links_out_of_a_run_are_not_followed(run: Path, tmp_path: Path) -> None:
    """Pictures are left out, texts are refused: a page must not carry a reader's own files away."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"SECRET PICTURE")
    picture = run / TWO / "images/gen-0-0.png"
    picture.unlink()
    picture.symlink_to(secret)
    page = build_report([run], tmp_path / "r.html").read_text()
    assert "U0VDUkVUIFBJQ1RVUk" not in page
    assert "1 pictures named by the prediction files are missing from the run folder, or lie outside of it" in page
    (run / "phase1/config.yaml").unlink()
    (run / "phase1/config.yaml").symlink_to(secret)
    with pytest.raises(ValueError, match="config.yaml is a link to .*secret, outside of the run folder"):
        build_report([run], tmp_path / "r.html")


def test_a_page_of_extreme_numbers_is_drawn(run: Path, tmp_path: Path) -> None:
    records = json.loads((run / ONE / "results.json").read_text())
    records[0] |= {"value": 1e308, "n": 2**60}
    (run / ONE / "results.json").write_text(json.dumps(records))
    (run / "phase1/version_0/metrics.csv").write_text("step,train/loss\n0,5e-324\n1e30,1e30\n-1e30,-1e30\n")
    assert build_report([run], tmp_path / "r.html").stat().st_size > 10_000
