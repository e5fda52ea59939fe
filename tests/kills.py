"""Killing a command again and again until it has done its work, for tests of any command that goes on where it stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

WORK = ("*.ckpt", "*.csv", "out/**/*", "shards/**/*", ".*.part/**/*")
STARTS = 120.0


def killed_until_done(line: Sequence[str], folder: Path, kills: int, seed: int, longest: float) -> int:
    """Run ``unifashion LINE`` in a folder, kill its process group ``kills`` times while it works, and let it end.

    Args:
        line: the command; ``--resume`` becomes ``--ckpt_path`` of the folder's ``last.ckpt``, if there is one.
        longest: seconds between its first change of a file (:data:`WORK`) and the kill, at most.

    Returns:
        How many runs were killed; fewer than ``kills`` if one ended before.
    """
    chance = random.Random(seed)
    for number in range(kills + 1):
        before = _files(folder)
        process = _start(line, folder)
        try:
            if number < kills:
                _wait_for_work(process, folder, before)
            code = process.wait(timeout=chance.uniform(0.0, longest) if number < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.2)
            continue
        assert code == 0, (folder / "log.txt").read_text()[-2000:]
        return number
    raise AssertionError("not reached")


def _files(folder: Path) -> dict[str, int]:
    """When the files of :data:`WORK` were changed."""
    found = {}
    for pattern in WORK:
        with suppress(FileNotFoundError):  # it took its place since it was listed
            for path in folder.glob(pattern):
                if path.name != ".lock":  # of a writer that has yet to write
                    found[str(path)] = path.stat().st_mtime_ns
    return found


def _wait_for_work(process: subprocess.Popen[bytes], folder: Path, before: dict[str, int]) -> None:
    deadline = time.monotonic() + STARTS
    while process.poll() is None and not {*_files(folder).items()} - {*before.items()}:
        assert time.monotonic() < deadline, (folder / "log.txt").read_text()[-2000:]
        time.sleep(0.02)


def _start(line: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    words = list(line)
    last = folder / "last.ckpt"
    if "--resume" in words:
        at = words.index("--resume")
        words[at : at + 1] = ["--ckpt_path", str(last)] if last.exists() else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "unifashion_pl", *words], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
