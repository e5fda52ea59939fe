"""The command line as its user types it: configs by bare name, the whole way on the tiny wardrobe, errors as sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unifashion_pl.cli import config_chain, main, resolve_config, resolve_configs
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


def test_a_bare_name_is_looked_up_here_first_then_among_the_shipped(empty_folder: Path) -> None:
    assert Path(resolve_config("phase1.yaml")).parent.name == "configs"
    (empty_folder / "phase1.yaml").write_text("model: {}\n")
    assert resolve_config("phase1.yaml") == "phase1.yaml"
    with pytest.raises(SystemExit, match=r"no config 'phase9.yaml' in .* nor among the shipped ones: .*phase1\.yaml"):
        resolve_config("phase9.yaml")


def test_extends_puts_the_base_config_before_its_overlay(empty_folder: Path) -> None:
    assert [Path(p).name for p in config_chain("phase2.yaml")] == ["tiny.yaml", "phase2.yaml"]
    args = resolve_configs(["fit", "--config", "phase2.yaml", "--config=small.yaml", "--x", "1"])
    assert [Path(a).name for a in args] == [
        "fit",
        *("--config", "tiny.yaml", "--config", "phase2.yaml", "--config", "small.yaml"),
        "--x",
        "1",
    ]


@pytest.mark.parametrize(
    "head", ["\ufeff# extends: tiny.yaml\r\n", "# mine\n\n# extends: tiny.yaml\n", "#extends:  tiny.yaml \n"]
)
def test_a_config_extends_whatever_its_editor_put_before(empty_folder: Path, head: str) -> None:
    Path("mine.yaml").write_text(f"{head}trainer: {{max_epochs: 2}}\n", "utf-8", newline="")
    assert [Path(name).name for name in config_chain("mine.yaml")] == ["tiny.yaml", "mine.yaml"]
    Path("mine.yaml").write_text("trainer: {max_epochs: 2}\n# extends: tiny.yaml\n")
    assert config_chain("mine.yaml") == ["mine.yaml"]


def test_a_config_that_extends_nothing_or_is_no_text_is_refused(empty_folder: Path) -> None:
    Path("mine.yaml").write_text("# extends:\n")
    with pytest.raises(SystemExit, match="mine.yaml:1: expected the name of a config behind '# extends:'"):
        config_chain("mine.yaml")
    Path("mine.yaml").write_bytes("# extends: tiny.yaml\n".encode("utf-16"))
    with pytest.raises(ValueError, match="mine.yaml is not UTF-8 text: it is UTF-16"):
        config_chain("mine.yaml")


def test_a_config_extends_its_namesake_and_what_lies_beside_it(empty_folder: Path) -> None:
    Path("phase1.yaml").write_text("# extends: phase1.yaml\ntrainer: {max_epochs: 2}\n")
    assert [Path(p).name for p in config_chain("phase1.yaml")] == ["tiny.yaml", "phase1.yaml", "phase1.yaml"]
    assert Path(config_chain("phase1.yaml")[1]).parent.name == "configs"
    Path("conf").mkdir()
    Path("conf/base.yaml").write_text("trainer: {max_epochs: 3}\n")
    Path("conf/mine.yaml").write_text("# extends: base.yaml\n")
    assert [Path(p).as_posix() for p in config_chain("conf/mine.yaml")] == ["conf/base.yaml", "conf/mine.yaml"]
    Path("a.yaml").write_text("# extends: b.yaml\n")
    Path("b.yaml").write_text("# extends: a.yaml\n")
    with pytest.raises(SystemExit, match="a.yaml, b.yaml extend each other"):
        config_chain("a.yaml")


def test_the_whole_way_from_drawing_to_report(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", "phase1.yaml", *QUICK, *CPU])
    assert "policy phase1_joint: losses cross, itg, q2i" in capsys.readouterr().out
    main(["fit", "--config", "phase2.yaml", *QUICK, *CPU, "--model.init_from", "runs/phase1"])
    evaluator = {
        "class_path": "unifashion_pl.evaluation.Evaluator",
        "init_args": {"max_captions": 4, "max_images": 1, "steps": 2},
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
    assert all(r["protocol"] and r["n"] > 0 for r in records)
    # what the command asks of the evaluation is not overruled by the checkpoint's config
    assert {r["n"] for r in records if r["metric"] == "CIDEr"} == {4}
    assert len(list(Path("runs/phase2/test/images").glob("*--composed-truth.png"))) == 1
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


def test_errors_of_the_user_are_sentences(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["caption", "nowhere.jpg", "--model", "no-such-folder/model"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("unifashion caption:")
    assert "Traceback" not in said
    with pytest.raises(SystemExit):
        main(["dance"])


def test_doctor_names_versions_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    said = capsys.readouterr().out
    assert "torch" in said
    assert "cpu" in said


def test_wardrobe_check_and_shards(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "wardrobe", "--out", "raw", "--size", "tiny", "--workers", "1"])
    main(["data", "check", "fashiongen", "--root", "raw/fashiongen", "--json", "check.json"])
    assert json.loads(Path("check.json").read_text())
    main(["data", "shards", "fashiongen", "--root", "raw/fashiongen", "--out", "shards"])
    assert list(Path("shards").rglob("index.json"))
    next(Path("raw/fashion-iq/images").glob("*.jpg")).unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", "fashioniq", "--root", "raw/fashion-iq"])
    assert stopped.value.code == 1
    assert "missing" in capsys.readouterr().out
