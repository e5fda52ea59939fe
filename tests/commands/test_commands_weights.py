"""``unifashion weights``: the manifest as a list, and exit codes of a check."""

from __future__ import annotations

from pathlib import Path

import pytest

from unifashion_pl.cli import main
from unifashion_pl.weights.manifest import KINDS, load_manifest


def test_the_list_holds_every_part_or_those_that_are_free_for_commercial_use(capsys: pytest.CaptureFixture[str]) -> None:
    for options, wanted in (([], ("yes", "no", "unclear")), (["--commercial-only"], ("yes",))):
        main(["weights", "list", *options])
        shown = capsys.readouterr().out
        for part in load_manifest():
            assert any(line.startswith(part.name) for line in shown.splitlines()) == (part.commercial in wanted), part.name


def test_what_is_no_checkpoint_is_said_and_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.pth").write_bytes(b"no checkpoint")
    for words in (["check", str(tmp_path / "x.pth")], ["import", str(tmp_path / "x.pth"), "--out", str(tmp_path / "out")]):
        with pytest.raises(SystemExit) as stopped:
            main(["weights", *words])
        assert stopped.value.code == 2
        assert "is no weights file, or a damaged one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_help_of_import_names_every_kind_in_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["weights", "import", "--help"])
    starts = [line.strip().partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert [name for name in starts if name in KINDS] == [*KINDS]
