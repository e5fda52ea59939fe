"""``fit``, ``test`` and ``predict``: what ``--ckpt_path``, nulls and the order of options mean, and the whole way on the tiny wardrobe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from unifashion_pl.cli import main
from unifashion_pl.cli.training import checkpoint, nulls, resolve_configs, with_config
from unifashion_pl.report import build_report

QUICK = [
    "--data.size",
    "tiny",
    "--data.batch_size",
    "8",
    "--data.triplet_batch_size",
    "8",
    "--trainer.max_steps",
    "2",
    "--trainer.enable_progress_bar",
    "false",
]
CPU = [
    "--trainer.accelerator",
    "cpu",
    "--trainer.check_val_every_n_epoch",
    "1",
    "--trainer.val_check_interval",
    "1.0",
    "--trainer.log_every_n_steps",
    "1",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def empty_folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFASHION_CACHE", str(cache))
    return tmp_path


def test_options_hold_whether_they_stand_before_or_behind_a_config(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {caption: null}\n")
    name = str(tmp_path / "a.yaml")
    for args in (["--model.caption", "null", "--config", name], ["-c", name, "--model.caption", "null"]):
        assert resolve_configs(["test", *args]) == ["test", "--config", name, "--model.caption", "null"]


def test_a_checkpoints_model_lies_over_configs_and_below_options() -> None:
    args = ["test", "--config", "a", "--config", "b", "--x", "1"]
    assert with_config(args, "{}") == ["test", "--config", "a", "--config", "b", "--config", "{}", "--x", "1"]
    assert with_config(["test"], "{}") == ["test", "--config", "{}"]


def test_the_last_config_says_what_is_null(tmp_path: Path) -> None:
    for name, text in (
        ("a", "model: {caption: null, retrieval: null}"),
        ("b", "model: {caption: {x: 1}}\ndata: {diffusion: null}"),
    ):
        (tmp_path / name).write_text(text)
    args = [
        "test",
        "--config",
        str(tmp_path / "a"),
        "--config",
        str(tmp_path / "b"),
        "--config",
        '{"model": {"painter": null}}',
    ]
    assert nulls(args) == {"retrieval", "painter"}


def trainer(folder: Path) -> SimpleNamespace:
    saving = SimpleNamespace(init_args=SimpleNamespace(dirpath=str(folder)))
    return SimpleNamespace(callbacks=[saving], default_root_dir=str(folder))


@pytest.mark.parametrize("asked", ["last", "best", "hpc", "registry", "nowhere.ckpt"])
def test_a_checkpoint_that_is_not_there_is_an_error(asked: str, tmp_path: Path) -> None:
    for command in ("test", "validate", "predict"):
        with pytest.raises(FileNotFoundError, match=f"--ckpt_path {asked}"):
            checkpoint(asked, command, trainer(tmp_path))
    (tmp_path / "epoch=1.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"name.*|there is no such file"):
        checkpoint(asked, "test", trainer(tmp_path))


def test_the_newest_last_is_found_and_fit_may_start_anew(tmp_path: Path) -> None:
    assert checkpoint("last", "fit", trainer(tmp_path)) == "last"
    (tmp_path / "last.ckpt").touch()
    assert checkpoint("last", "test", trainer(tmp_path)) == str(tmp_path / "last.ckpt")
    assert checkpoint(str(tmp_path / "last.ckpt"), "test", trainer(tmp_path)) == str(tmp_path / "last.ckpt")


def test_the_whole_way_from_drawing_to_report(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", "phase1.yaml", *QUICK, *CPU])
    assert "policy phase1_joint: losses cross, itg, q2i" in capsys.readouterr().out
    also = [{"class_path": "evaluation.brightness.Brightness"}]  # the command's to say: a checkpoint's is not looked at
    measure = ["--model.evaluator.also", json.dumps(also)]
    main(["fit", "--config", "phase2.yaml", *QUICK, *CPU, "--model.init_from", "runs/phase1", *measure])
    evaluator = {
        "class_path": "unifashion_pl.evaluation.Evaluator",
        "init_args": {"max_captions": 4, "max_images": 1, "steps": 2, "also": also},
    }
    ckpt = "runs/phase2/checkpoints/last.ckpt"
    main(
        [
            "test",
            "--config",
            "phase2.yaml",
            *QUICK,
            *CPU,
            "--ckpt_path",
            ckpt,
            "--model.evaluator",
            json.dumps(evaluator),
        ]
    )
    records = json.loads(Path("runs/phase2/test/results.json").read_text("utf-8"))
    assert all(r["protocol"] and r["n"] > 0 and r["dataset"] for r in records)
    assert {(r["seed"], r["training_seed"]) for r in records} == {(0, 0)}
    # what the command asks of the evaluation is not overruled by the checkpoint's config
    assert {r["n"] for r in records if r["metric"] == "CIDEr"} == {4}
    assert len(list(Path("runs/phase2/test/images").glob("*--composed-truth.png"))) == 1
    assert Path("runs/phase2/test/predictions/brightness.jsonl").is_file()
    assert any(r["protocol"].startswith("fashioniq/original/ref-kept") for r in records)
    page = build_report([Path("runs/phase1"), Path("runs/phase2")], Path("report.html")).read_text("utf-8")
    assert "toy" in page.lower()
    assert "data:image/" in page
    assert 'src="http' not in page


@pytest.mark.slow
def test_it_measures_what_was_asked(empty_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Heads set to null stay null, beside a checkpoint too; a test of a part, or of random weights, says so."""
    main(["fit", "--config", "phase1.yaml", *QUICK, *CPU, "--model.diffusion", "null"])
    quick = [*QUICK, *CPU, "--model.diffusion", "null", "--trainer.limit_test_batches", "1"]
    main(["test", "--model.caption", "null", "--config", "phase1.yaml", *quick, "--ckpt_path", "last"])
    records = json.loads(Path("runs/phase1/test/results.json").read_text("utf-8"))
    assert {r["unit"] for r in records} == {"percent"}
    assert all(r["n"] < r["n_expected"] and "shortened=64/72" in r["protocol"] and r["weights"] is None for r in records)
    assert "left out: caption_head" in capfd.readouterr().out
    main(["test", "--config", "phase1.yaml", *quick, "--model.caption=null"])
    assert "RANDOM WEIGHTS" in capfd.readouterr().err
    assert {r["weights"] for r in json.loads(Path("runs/phase1/test/results.json").read_text("utf-8"))} == {"random"}
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", "phase2.yaml", *quick, "--ckpt_path", "last"])
    assert stopped.value.code == 2


def test_a_run_does_not_start_from_what_it_writes(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a second phase 1 of paper.yaml would, whose list of places to start from begins with phase 1 itself."""
    fit = ["fit", "--config", "phase1.yaml", *QUICK, *CPU, "--model.caption", "null", "--model.diffusion", "null"]
    several = ["--model.init_from", '["runs/phase1", "tiny"]']
    main([*fit, *several])
    said = capsys.readouterr().out
    assert "init_from: runs/phase1 is what this run writes, so it does not start from it" in said
    assert "weights: " in said
    assert "checkpoints/tiny" in said
    main([*fit, "--model.init_from", "runs/phase1"])  # one place alone is meant
    assert "weights: runs/phase1" in capsys.readouterr().out


def run(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **env}
    command = [sys.executable, "-m", "unifashion_pl", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_two_processes_train_and_validate_through_the_command_line(empty_folder: Path, cache: Path) -> None:
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--model.diffusion", "null"]
    done = run(
        empty_folder,
        "fit",
        "--config",
        "phase1.yaml",
        *QUICK,
        *CPU,
        *ddp,
        "--trainer.max_steps",
        "-1",
        "--trainer.max_epochs",
        "1",
        UNIFASHION_CACHE=str(cache),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert (empty_folder / "runs/phase1/checkpoints/last.ckpt").is_file()
    assert "val/fashiongen/mean" in (empty_folder / "runs/phase1/metrics.csv").read_text()
