"""Killing a command again and again until it has done its work, for tests of any command that goes on where it stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def killed_until_done(line: Sequence[str], folder: Path, kills: int, seed: int, longest: float) -> int:
    """Run ``unifashion LINE`` in a folder, kill its process group ``kills`` times at random moments, and let it end.

    Args:
        line: the command; ``--resume`` becomes ``--ckpt_path`` of the folder's ``last.ckpt``, if there is one.
        longest: seconds after which it is killed at the latest.

    Returns:
        How many runs were killed; fewer than ``kills`` if one ended before.
    """
    chance = random.Random(seed)
    for number in range(kills + 1):
        process = _start(line, folder)
        try:
            code = process.wait(timeout=chance.uniform(0.2, 1.0) * longest if number < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.2)
            continue
        assert code == 0, (folder / "log.txt").read_text()[-2000:]
        return number
    raise AssertionError("not reached")


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
