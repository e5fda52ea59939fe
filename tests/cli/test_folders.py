"""Where a run writes, its newest checkpoint, and earlier runs that keep their places."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unifashion_pl.cli.folders import asked_to_resume, checkpoints, folders, newest, older_results, set_aside, steps_of


def trainer(root: Path, *dirpaths: Path, version: str | None = "", default: Path | None = None) -> Any:
    saving = [SimpleNamespace(init_args=SimpleNamespace(dirpath=str(place))) for place in dirpaths]
    logger = SimpleNamespace(init_args=SimpleNamespace(save_dir=str(root), name="phase1", version=version))
    return SimpleNamespace(callbacks=saving, logger=logger, default_root_dir=None if default is None else str(default))


def save(path: Path, step: int, age: int = 0, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": step, "loops": {}, "optimizer_states": [{}], "state_dict": {}, **changes}, path)
    os.utime(path, (10_000 - age, 10_000 - age))
    return path


def test_where_a_run_writes(tmp_path: Path) -> None:
    own = tmp_path / "phase1" / "checkpoints"
    assert folders(trainer(tmp_path, own)) == (tmp_path / "phase1", [own])
    assert folders(trainer(tmp_path)) == (tmp_path / "phase1", [own])
    assert folders(trainer(tmp_path, own, version=None)) == (None, [own])
    assert folders(SimpleNamespace(callbacks=None, logger=False)) == (None, [])


def test_the_newest_that_can_be_read(tmp_path: Path) -> None:
    """By time, whoever wrote it; what is cut off or holds weights alone is passed over by name."""
    own, root = tmp_path / "phase1" / "checkpoints", tmp_path / "jobs"
    config = trainer(tmp_path, own, default=root)
    assert newest(config)[0] is None
    assert "no checkpoint is there yet" in newest(config)[1][-1]
    save(own / "last.ckpt", 10, age=4)
    hpc = save(root / "hpc_ckpt_3.ckpt", 12, age=3)
    save(root / "other.ckpt", 99)
    weights = save(own / "weights.ckpt", 13, age=2, optimizer_states=[])
    cut = save(own / "hpc_ckpt_1.ckpt", 14, age=1)
    cut.write_bytes(cut.read_bytes()[:200])
    os.utime(cut, (9_999, 9_999))
    found, said = newest(config)
    assert found == hpc
    assert [str(cut) in said[0], str(weights) in said[1]] == [True, True]
    assert said[2] == f"resume: goes on after step 12 from {hpc}, the newest of 4"
    assert [path.name for path in checkpoints(config)] == ["hpc_ckpt_1.ckpt", "weights.ckpt", "hpc_ckpt_3.ckpt", "last.ckpt"]
    (own / "best.ckpt").symlink_to(own / "gone.ckpt")
    assert newest(config) == (found, said)
    folder = tmp_path / "sharded.ckpt"
    folder.mkdir()
    with pytest.raises(ValueError, match="not complete"):
        steps_of(folder)
    (folder / ".metadata").touch()
    assert steps_of(folder) is None


def test_a_job_that_is_run_again_resumes() -> None:
    assert asked_to_resume("auto", None, {})
    assert asked_to_resume(None, None, {"SLURM_RESTART_COUNT": "1"})
    assert not asked_to_resume(None, "x.ckpt", {"SLURM_RESTART_COUNT": "1"})
    assert not asked_to_resume(None, None, {"SLURM_RESTART_COUNT": "0"})
    with pytest.raises(ValueError, match="leave out one"):
        asked_to_resume("auto", "x.ckpt", {})


def test_an_earlier_run_keeps_its_place(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "phase1", tmp_path / "saved"
    config = trainer(tmp_path, run / "checkpoints", elsewhere)
    run.mkdir()
    (run / "metrics.csv").write_text("step\n")
    assert list(set_aside(config, None, None)) == []
    for number in (1, 2):
        path = save(run / "checkpoints" / "last.ckpt", number)
        save(elsewhere / "best.ckpt", number)
        assert next(iter(set_aside(config, None, str(path)))).startswith(f"{elsewhere} held")  # what it goes on from stays
        save(elsewhere / "best.ckpt", number)
        assert list(set_aside(config, None, "last")) == []
        assert [said.partition(" held")[0] for said in set_aside(config, ["tiny"], None)] == [str(run), str(elsewhere)]
        assert steps_of(tmp_path / f"phase1.{number}" / "checkpoints" / "last.ckpt") == number
        assert not run.exists()
    save(run / "checkpoints" / "last.ckpt", 3)
    assert ["starts from" in said for said in set_aside(config, str(run), None)] == [True]
    assert steps_of(run / "checkpoints" / "last.ckpt") == 3


def test_the_current_folder_is_not_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "last.ckpt", 1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"last.ckpt is of an earlier training.*--resume auto"):
        list(set_aside(SimpleNamespace(callbacks=trainer(Path(), Path()).callbacks, logger=False), None, None))


def test_older_results_are_named(tmp_path: Path) -> None:
    assert older_results(None) == older_results(tmp_path) == ""
    (tmp_path / "results.json").touch()
    assert "results.json is of an earlier test" in older_results(tmp_path)


@pytest.mark.parametrize("step", [None, "7", -1, 2.5, True])
def test_a_file_that_says_no_step_is_passed_over(tmp_path: Path, step: Any) -> None:
    path = save(tmp_path / "phase1" / "checkpoints" / "foreign.ckpt", step)
    found, said = newest(trainer(tmp_path))
    assert found is None
    assert str(path) in said[0]
    assert f"global_step is {step!r}, expected" in said[0]
