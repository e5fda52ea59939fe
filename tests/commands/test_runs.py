"""``doctor``, ``parameters``, ``ablations``, ``report``: what their command lines offer and refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from unifashion_pl.ablations import TABLES
from unifashion_pl.cli import main
from unifashion_pl.commands import parser


def test_ablations_offers_the_tables_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    for name in TABLES:
        words = ["ablations", name, "--out", "x"]
        assert parser(words).parse_args(words).table == name
    with pytest.raises(SystemExit):
        main(["ablations", "table6", "--out", "x"])
    assert "table6" in capsys.readouterr().err


def test_doctor_names_versions_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    said = capsys.readouterr().out
    assert "torch" in said
    assert "cpu" in said


def test_commercial_only_needs_a_config_to_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--commercial_only"])
    assert stopped.value.code == 2
    assert "name its --config too" in capsys.readouterr().err


def test_parameters_counts_configs_laid_over_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    main(["parameters", "--config", "phase1.yaml", "--config", '{"model": {"diffusion": null}}'])
    said = capsys.readouterr().out
    assert "tsa_llm" in said
    assert "unet" not in said


def test_report_of_what_is_no_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(tmp_path / "nowhere"), "--out", str(tmp_path / "page.html")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("unifashion report: ")
    assert list(tmp_path.iterdir()) == []
