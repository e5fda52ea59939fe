"""Workers end with the process that asked for them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unifashion_pl.processes import worker_pool

WORK = """
import os, sys, time
from pathlib import Path
from unifashion_pl.cli.main import sentences, signals
from unifashion_pl.files import exclusive, replacing
from unifashion_pl.processes import worker_pool

def write(path):
    with replacing(path) as file:
        file.write(b"half")
        file.flush()
        Path(f"{path}.pid").write_text(str(os.getpid()))
        time.sleep(600)

if __name__ == "__main__":
    out = Path(sys.argv[1])
    with sentences("data"), signals(), exclusive(out), worker_pool(2, "unifashion_pl.files") as pool:
        [future.result() for future in [pool.submit(write, out / name) for name in "ab"]]
"""


def gone(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to take notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_to_the_parent_ends_the_workers(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "work.py").write_text(WORK)
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, str(tmp_path / "work.py"), str(out)], stderr=subprocess.PIPE)
    pids: list[Path] = []
    deadline = time.monotonic() + 60
    while len(pids) < 2 and time.monotonic() < deadline:
        pids = [path for path in out.glob("?.pid") if path.read_text()]
        time.sleep(0.05)
    workers = [int(path.read_text()) for path in pids]
    assert len(workers) == 2
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    deadline = time.monotonic() + 20
    while not all(map(gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(gone, workers))
    left = [path.name for path in out.iterdir() if path.suffix == ".part"]
    assert len(left) == (2 if number == signal.SIGKILL else 0)  # the next run's exclusive() removes them


def test_results_of_a_pool() -> None:
    with worker_pool(2, "unifashion_pl.files") as pool:
        assert sorted(pool.map(abs, [-2, 1])) == [1, 2]
    with pytest.raises(ValueError, match="mine"), worker_pool(1, "unifashion_pl.files") as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        raise ValueError("mine")
