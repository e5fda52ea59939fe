"""Building shards on machines that fail: killed at any moment, full disks, missing rights, limits. Nothing half is left, what is finished is kept."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from data.rawdata import write_fashiongen
from data.test_shards import FORK, contents, train_plan
from unifashion_pl.datamodules import fashiongen

from unifashion_pl import files
from unifashion_pl.data.plan import Item, Made
from unifashion_pl.data.shards import write_shards
from unifashion_pl.files import WriteError, replacing

BUILD = """
import sys
from pathlib import Path
from unifashion_pl.data.shards import write_shards
from unifashion_pl.datamodules import fashiongen
if __name__ == "__main__":
    plan = next(p for p in fashiongen.plans(Path(sys.argv[1]), shard_size=5) if p.split == "train")
    print("begins", flush=True)
    write_shards(plan, sys.argv[2], workers=int(sys.argv[3]), progress=False)
"""


def build(script: Path, root: Path, out: Path, workers: int = 1) -> subprocess.Popen[str]:
    """A builder in a process group of its own, once it has begun."""
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(root), str(out), str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.part")]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_disk_that_fills_up_is_a_sentence_and_leaves_no_half_file(
    fashiongen_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The fourth shard does not fit, whichever call of the system notices."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    done = 0

    class Disk:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            if call == "write" and done >= 3:
                raise full
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Disk:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    def replaced(part: Path, path: Path) -> None:
        nonlocal done
        if call == "replace" and done >= 3 and path.suffix == ".tar":
            raise full
        real_replace(part, path)
        done += path.suffix == ".tar"

    def synced(fd: int) -> None:
        if call == "fsync" and done >= 3:
            raise full

    real_replace = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replaced)
        patch.setattr(files.os, "fsync", synced)
        patch.setitem(vars(files), "open", lambda path, mode: Disk(open(path, mode)))
        with pytest.raises(WriteError, match=r"0000\d\.tar.*: No space left on device.*free some space and run the same"):
            write_shards(train_plan(fashiongen_root), tmp_path / "full", progress=False)
    folder = tmp_path / "full" / "pairs-train"
    assert parts(folder) == []
    assert not (folder / "index.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in sorted(folder.glob("*.tar"))[:2]}
    assert len(kept) == 2
    write_shards(train_plan(fashiongen_root), tmp_path / "full", progress=False)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    write_shards(train_plan(fashiongen_root), tmp_path / "whole", progress=False)
    assert contents(folder) == contents(tmp_path / "whole" / "pairs-train")


def test_a_real_limit_on_file_sizes_is_a_sentence(fashiongen_root: Path, tmp_path: Path) -> None:
    """The kernel refuses the bytes, as a full disk does; a shard of all 36 samples is larger than 20 kB, its side file is not."""
    errors = FORK.Queue()
    process = FORK.Process(target=limited, args=(fashiongen_root, tmp_path / "out", errors))
    process.start()
    err = errors.get(timeout=60)
    process.join()
    assert f"pairs-train-00000.tar: {os.strerror(errno.EFBIG)}" in err
    assert "ulimit -f" in err
    assert [p.name for p in (tmp_path / "out/pairs-train").iterdir()] == [".lock"]


def limited(root: Path, out: Path, errors: Any) -> None:
    """Build where no file may be larger than 20 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    plan = next(p for p in fashiongen.plans(root, shard_size=36) if p.split == "train")
    try:
        errors.put(str(write_shards(plan, out, progress=False)))
    except WriteError as error:
        errors.put(str(error))


def test_missing_rights_are_a_sentence(fashiongen_root: Path, tmp_path: Path) -> None:
    """For root no folder is closed, so the rights are taken away where the system is asked."""
    for cause in (errno.EACCES, errno.EROFS):
        with pytest.raises(WriteError, match="cannot write .*name a"), files.writing(tmp_path):
            raise OSError(cause, os.strerror(cause))
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(WriteError, match="Permission denied"):
            write_shards(train_plan(fashiongen_root), closed, progress=False)


def test_errors_of_the_program_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a mistake"), replacing(tmp_path / "x"):
        raise OSError(errno.EBADF, "a mistake")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


class BadFields:
    """A recipe with a field name that tar readers change."""

    def __init__(self, name: str) -> None:
        self.name = name

    def inputs(self, item: Item) -> list[Any]:
        return []

    def make(self, items: Any) -> Any:
        yield from ((item, Made({self.name: b"x", "meta.json": b"{}"}, item.key)) for item in items)


@pytest.mark.parametrize("name", ["Image.JPG", "image", "a.b.jpg", ".jpg", "im age.jpg"])
def test_field_names_that_a_tar_reader_would_lose_or_change_are_refused(
    fashiongen_root: Path, tmp_path: Path, name: str
) -> None:
    plan = train_plan(fashiongen_root)
    object.__setattr__(plan, "recipe", BadFields(name))
    with pytest.raises(ValueError, match=f"field '{name}' cannot go into a shard"):
        write_shards(plan, tmp_path, progress=False)
    assert parts(tmp_path / "pairs-train") == []


def test_the_work_of_an_orphan_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker outlives its killed builder for a while; it must not put a shard of the old plan among those of a new run."""

    class Gone:
        def is_alive(self) -> bool:
            return False

    monkeypatch.setattr(files.multiprocessing, "parent_process", Gone)
    with pytest.raises(RuntimeError, match="the process that asked for it is gone"), replacing(tmp_path / "x") as file:
        file.write(b"late")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_the_builder_goes_on(tmp_path: Path, workers: int) -> None:
    """SIGKILL at random times until a run gets through; every time what is there is whole, and the end is that of one run."""
    root = write_fashiongen(tmp_path / "raw", products=400, side=64)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = build(tmp_path / "build.py", root, whole)
    started = time.monotonic()
    assert process.wait() == 0
    took = time.monotonic() - started
    chance, folder, kills, longest = random.Random(workers), killed / "pairs-train", 0, took / 4
    while True:
        process = build(tmp_path / "build.py", root, killed, workers)
        try:
            process.wait(chance.uniform(0, longest))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            longest *= 1.2
            assert all(json.loads(side.read_text())["shard"]["samples"] == 5 for side in folder.glob("*.tar.json"))
            continue
        break
    assert process.returncode == 0
    assert kills >= 3
    assert contents(folder) == contents(whole / "pairs-train")
