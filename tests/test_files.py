"""One writer: whole or not at all, sentences for a disk that says no, nothing left behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unifashion_pl import files
from unifashion_pl.files import (
    WriteError,
    check_writable,
    exclusive,
    remove_parts,
    replacing,
    replacing_folder,
    replacing_path,
    write_checkpoint,
    write_tensors,
    write_text,
)

DEAD = 2**22 + 1  # no process has this number


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of more than 64 KB: what a full disk does, for any library."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new" / "page.html", "older")
    with replacing(path) as file:
        file.write(b"newer")
        assert path.read_text() == "older"
    assert path.read_text() == "newer"
    assert os.listdir(path.parent) == ["page.html"]


def test_a_file_of_which_the_block_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = write_text(tmp_path / "page.html", "older")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "older"
    assert os.listdir(tmp_path) == ["page.html"]


@pytest.mark.parametrize("write", ["text", "tensors", "checkpoint"])
def test_a_full_disk_is_a_sentence_whatever_library_writes(tmp_path: Path, write: str, small_files: None) -> None:
    path = tmp_path / "result"
    path.write_text("older")
    large = torch.zeros(100_000)
    writers: dict[str, Any] = {
        "text": lambda: write_text(path, "x" * 100_000),
        "tensors": lambda: write_tensors(path, {"a": large}),
        "checkpoint": lambda: write_checkpoint(path, {"a": large}),
    }
    with pytest.raises(WriteError, match=r"cannot write .*result: File too large\. What is finished is kept: raise the limit"):
        writers[write]()
    assert path.read_text() == "older"
    assert os.listdir(tmp_path) == ["result"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_refusals_name_the_file_and_the_cure(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(WriteError, match=f"cannot write .*page.html: {os.strerror(number)}.*{files.CURES[number]}"),
        replacing(tmp_path / "page.html"),
    ):
        raise OSError(number, os.strerror(number))


def test_what_a_block_reads_is_not_blamed_on_what_it_writes(tmp_path: Path) -> None:
    source = tmp_path / "photos" / "x.jpg"
    with pytest.raises(PermissionError) as caught, replacing(tmp_path / "out" / "page.html"):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))
    assert not isinstance(caught.value, WriteError)
    with pytest.raises(NotADirectoryError), replacing_folder(tmp_path / "index"):
        (tmp_path / "file").write_text("")
        (tmp_path / "file" / "x").read_text()


def test_permissions_follow_the_umask_whatever_library_writes(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        paths = [
            write_text(tmp_path / "a", "x"),
            write_tensors(tmp_path / "b", {"x": torch.zeros(1)}),
            write_checkpoint(tmp_path / "c", 1),
        ]
        with exclusive(tmp_path / "folder"):
            pass
        with replacing_folder(tmp_path / "d") as part:
            (part / "file").write_text("")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in [*paths, tmp_path / "folder" / files.LOCK, tmp_path / "d" / "file"]} == {
        0o640
    }
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


def test_tensors_come_back(tmp_path: Path) -> None:
    kept = torch.arange(6).view(2, 3).T
    assert torch.equal(load_file(write_tensors(tmp_path / "x.safetensors", {"a": kept}))["a"], kept)
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_what_dead_processes_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    names = {
        f"page[1].html.{DEAD}.part": False,
        f"page[1].html.{DEAD}.room.part": False,
        f"page[1].html.{os.getppid()}.part": True,
        f"other.html.{DEAD}.part": True,
        "page[1].html.mine.part": True,
    }
    for name in names:
        (tmp_path / name).write_text("")
    write_text(tmp_path / "page[1].html", "x")
    assert {name: (tmp_path / name).exists() for name in names} == names
    remove_parts(tmp_path)
    assert not (tmp_path / f"other.html.{DEAD}.part").exists()
    assert (tmp_path / f"page[1].html.{os.getppid()}.part").exists()


def test_a_folder_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "index"
    (tmp_path / f".index.{DEAD}.part").mkdir()
    for text in ("older", "newer"):
        with replacing_folder(target) as part:
            (part / text).write_text(text)
    assert os.listdir(target) == ["newer"]
    with pytest.raises(ValueError, match="no"), replacing_folder(target) as part:
        (part / "half").write_text("")
        raise ValueError("no")
    assert os.listdir(target) == ["newer"]
    assert os.listdir(tmp_path) == ["index"]


def test_a_folder_is_replaced_where_the_system_cannot_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "index"
    for text in ("older", "newer"):
        with replacing_folder(target) as part:
            (part / text).write_text(text)
    assert os.listdir(target) == ["newer"]
    os.replace(target, tmp_path / f".index.{DEAD}.old")  # killed between its two steps
    with pytest.raises(ValueError, match="stop"), replacing_folder(target):
        raise ValueError("stop")
    assert os.listdir(target) == ["newer"]
    assert os.listdir(tmp_path) == ["index"]


def test_places_that_cannot_be_written_are_refused_and_nothing_is_made(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for path, folder, message in [
        (taken / "x", False, "a file stands where a folder is needed"),
        (taken, True, "a file stands where a folder is needed"),
        (taken / "x" / "y", True, "a file stands where a folder is needed"),
        (tmp_path, False, "a folder stands where a file is needed"),
        (Path("/proc/nothing/here"), False, "name another folder"),
        (Path("/proc/nothing/here"), True, "name another folder"),
    ]:
        with pytest.raises(WriteError, match=message):
            check_writable(path, folder=folder)
    check_writable(tmp_path / "a" / "b" / "c")
    check_writable(tmp_path / "a" / "b", folder=True)
    assert os.listdir(tmp_path) == ["taken"]
    assert taken.read_text() == "mine"


def test_a_refusal_names_the_place_not_the_file_that_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(dir: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(dir / "tmp123"))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(WriteError, match=r"^cannot write .*/new: Read-only file system\. "):
        check_writable(tmp_path / "new", folder=True)


def test_a_device_is_written_to_and_stays_a_device(tmp_path: Path) -> None:
    check_writable("/dev/null")
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not list(Path("/dev").glob("null.*.part"))


HOLD = """
import sys, time
from unifashion_pl.files import exclusive, replacing
with exclusive(sys.argv[1]) as folder, replacing(folder / "result") as file:
    file.write(b"half")
    file.flush()
    print("holds", flush=True)
    time.sleep(600)
"""


def test_one_writer_at_a_time_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"holds\n"
    with pytest.raises(RuntimeError, match="another process is writing there"), exclusive(tmp_path, wait=0):
        pass
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="try again"), exclusive(tmp_path, wait=0.2):
        pass
    assert time.monotonic() - start >= 0.2
    process.kill()
    process.wait()
    assert len(list(tmp_path.glob("*.part"))) == 1
    with exclusive(tmp_path, wait=5):
        assert os.listdir(tmp_path) == [files.LOCK]


def test_a_library_may_write_by_name(tmp_path: Path) -> None:
    with replacing_path(tmp_path / "x.bin") as part:
        part.write_bytes(b"content")
    assert (tmp_path / "x.bin").read_bytes() == b"content"
