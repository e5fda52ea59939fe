"""What ``--ckpt_path``, nulls and the order of options mean; no model is built."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from unifashion_pl.cli.configs import nulls, resolve_configs, with_config
from unifashion_pl.cli.training import checkpoint


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
