"""What becomes of errors, signals and readers that go away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from unifashion_pl import commands
from unifashion_pl.cli import main
from unifashion_pl.cli.main import INTERRUPTED, TERMINATED, notes, sentences, signals
from unifashion_pl.files import check_writable, write_text
from unifashion_pl.origin import PACKAGE


def said(error: BaseException, capsys: pytest.CaptureFixture[str], command: str = "report") -> tuple[int, str]:
    """Exit code and what stands on stderr when a command fails."""
    with pytest.raises(SystemExit) as caught, sentences(command):
        raise error
    return int(caught.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("k is 0, expected at least 1"), "k is 0, expected at least 1"),
        (KeyError("no such table"), "no such table"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.csv"), "x.csv: No such file or directory"),
        (ModuleNotFoundError("pip install 'unifashion-pl[annotate]'"), "pip install 'unifashion-pl[annotate]'"),
    ],
)
def test_an_error_is_one_sentence(error: Exception, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(error, capsys) == (2, f"unifashion report: {text}\n")


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFASHION_TRACEBACK", "1")
    with pytest.raises(ValueError, match="x"), sentences("report"):
        raise ValueError("x")


def test_while_a_model_trains_only_errors_of_this_library_and_of_the_system_are_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="mine"), sentences("fit"):
        raise ValueError("mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"), sentences("fit"):
        check_writable(tmp_path / "file" / "x")
    assert capsys.readouterr().err.startswith(f"unifashion fit: cannot write {tmp_path / 'file' / 'x'}: ")


def test_ctrl_c_and_sigterm_have_the_exit_codes_of_shells(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(KeyboardInterrupt(), capsys) == (INTERRUPTED, "unifashion report: interrupted\n")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert caught.value.code == TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_end_by_lightning_after_a_signal_is_no_success() -> None:
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    with pytest.raises(SystemExit) as caught, sentences("fit"), signals():
        raise SIGTERMException
    assert caught.value.code == TERMINATED

    def ends_as_lightning_does() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    with pytest.raises(SystemExit) as caught, sentences("fit"):
        ends_as_lightning_does()
    assert caught.value.code == INTERRUPTED


def test_a_reader_that_goes_away_is_one_sentence() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "unifashion_pl", "weights", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read().decode() == "unifashion weights: nobody reads the output any more\n"
    assert process.wait() == 2


PLACES: list[tuple[str, ...]] = [
    ("data", "wardrobe", "--out", "OUT"),
    ("data", "check", "fashiongen", "--root", ".", "--json", "OUT"),
    ("data", "shards", "fashiongen", "--root", ".", "--out", "OUT"),
    ("data", "annotate", "--root", ".", "--out", "OUT"),
    ("weights", "import", "x.pth", "--out", "OUT"),
    ("report", ".", "--out", "OUT"),
    ("generate", "a dress", "--out", "OUT.png"),
    ("tryon", "a.png", "b.png", "--out", "OUT.png"),
    ("design", "a.png", "red", "--out", "OUT.png"),
    ("index", "build", "--csv", "x.csv", "--root", ".", "--out", "OUT"),
    ("ablations", "table4", "--out", "OUT"),
]


@pytest.mark.parametrize("words", PLACES, ids=lambda words: "-".join(words[:2]))
@pytest.mark.parametrize("place", ["taken/below", "/proc/nothing"])
def test_places_that_cannot_be_written_are_found_before_the_work(
    words: tuple[str, ...], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main([word.replace("OUT", place) for word in words])
    assert caught.value.code == 2
    assert f": cannot write {place}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["taken"]


def test_a_command_that_fails_late_leaves_the_older_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    page.write_text("older")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)

    def report() -> None:
        """Write a page."""
        write_text(page, "newer")

    monkeypatch.setattr(commands, "COMMANDS", (report,))
    with pytest.raises(SystemExit, match="2"):
        main(["report"])
    assert capsys.readouterr().err == (
        f"unifashion report: cannot write {page}: No space left on device. What is finished is kept: free some space and run the same "
        "command again\n"
    )
    assert page.read_text() == "older"
    assert os.listdir(tmp_path) == ["report.html"]


def test_warnings_of_this_library_are_notes_and_those_of_others_stay_whole() -> None:
    usual = warnings.formatwarning
    with notes():
        ours, other = (
            warnings.formatwarning(UserWarning("it is small"), UserWarning, filename, 7)
            for filename in (str(PACKAGE / "inference.py"), "/elsewhere/torch/nn.py")
        )
    assert ours == "note: it is small\n"
    assert other == "/elsewhere/torch/nn.py:7: UserWarning: it is small\n"
    assert warnings.formatwarning is usual


def test_names_that_no_encoding_knows_are_printed(tmp_path: Path) -> None:
    """Bytes of a file's name that are no UTF-8, and a terminal that knows no accents, end no command after its work."""
    program = "from unifashion_pl import commands; from unifashion_pl.cli import main; commands.run = lambda argv, typed: print(*argv); main()"
    run = [sys.executable, "-c", program, os.fsencode("é") + b"\xff.jpg"]
    done = subprocess.run(run, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "1"})
    assert (done.returncode, done.stdout) == (0, b"\\xe9\\udcff.jpg\n")


def test_errors_of_the_user_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["caption", "nowhere.jpg", "--model", "no-such-folder/model"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("unifashion caption:")
    assert "Traceback" not in said
    with pytest.raises(SystemExit):
        main(["dance"])
