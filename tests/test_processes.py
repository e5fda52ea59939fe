"""Workers end with the process that asked for them, however that ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from data.rawdata import write_fashiongen
from unifashion_pl.datamodules import FashionGenDataModule

from unifashion_pl.processes import refuse_while_importing, worker_pool

WORK = """
import os, signal, sys, time
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
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


#: Scripts without a main guard, one for every place that starts processes; each worker runs them anew.
UNGUARDED = {
    "a pool under a lock": """
import os
from unifashion_pl.files import exclusive
from unifashion_pl.processes import worker_pool
with exclusive(out), worker_pool(2, "unifashion_pl.files") as pool:
    pool.submit(os.getpid).result()
""",
    "a pool": """
import os
from unifashion_pl.processes import worker_pool
with worker_pool(2, "unifashion_pl.files") as pool:
    pool.submit(os.getpid).result()
""",
    "the wardrobe": """
from unifashion_pl.datamodules import WardrobeDataModule
WardrobeDataModule(out, "tiny").prepare_data()
""",
    "shards, waiting": """
from data.rawdata import write_fashiongen
from unifashion_pl.data.shards import write_shards
from unifashion_pl.datamodules import fashiongen
if not out.exists():
    write_fashiongen(out)
write_shards(next(iter(fashiongen.plans(out, shard_size=5))), out / "shards", workers=2, wait=True)
""",
    "shards": """
from data.rawdata import write_fashiongen
from unifashion_pl.data.shards import write_shards
from unifashion_pl.datamodules import fashiongen
if not out.exists():
    write_fashiongen(out)
write_shards(next(iter(fashiongen.plans(out, shard_size=5))), out / "shards", workers=2)
""",
    **{
        f"{kind} by {method}": f"""
from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.stream import {kind}, Workers
from unifashion_pl.data.transforms import EncoderTransform
source = ShardSource(out / "shards" / "pairs-train")
next(iter({kind}(source, PairAssembler(EncoderTransform(16)), batch_size=4, workers=Workers(2, start_method="{method}"))))
"""
        for kind in ("TrainLoader", "EvalLoader")
        for method in ("spawn", "forkserver")
    },
}


@pytest.mark.skipif(sys.platform == "win32", reason="the last lines are others there")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if "pool" in name else pytest.mark.slow) for name in UNGUARDED])
def test_a_script_without_a_main_guard_ends_with_the_reason(tmp_path: Path, name: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"from pathlib import Path\nout = Path({str(tmp_path / 'out')!r})\n{UNGUARDED[name]}")
    if "by" in name:
        FashionGenDataModule(write_fashiongen(tmp_path / "out")).prepare_data()
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1
    assert "current process has finished its bootstrapping phase" in done.stderr  # Python's own words
    assert "waiting for it" not in done.stderr
    last = done.stderr.splitlines()[-1]
    if "by" in name:
        assert re.fullmatch(r"RuntimeError: DataLoader worker \(pid\(s\) .*\) exited unexpectedly", last)
    else:
        assert last.endswith('what the script does belongs below `if __name__ == "__main__":`')
    assert not list(tmp_path.rglob("*.part"))


def test_only_a_process_that_imports_the_script_is_refused() -> None:
    refuse_while_importing()
    with worker_pool(1, "unifashion_pl.processes") as pool:
        assert pool.submit(refuse_while_importing).result() is None


def test_a_worker_ends_that_the_pool_does_not_know_yet() -> None:
    """As when Ctrl-C comes while the second process is being started."""
    with pytest.raises(KeyboardInterrupt), worker_pool(2, "unifashion_pl.files") as pool:
        for _ in range(2):
            pool.submit(time.sleep, 60)
        known: dict[int, Any] = dict(pool._processes)  # type: ignore[arg-type]
        assert len(known) == 2
        pool._processes.popitem()  # type: ignore[union-attr]
        begun = time.monotonic()
        raise KeyboardInterrupt
    while not all(map(gone, known)) and time.monotonic() < begun + 20:
        time.sleep(0.05)
    assert all(map(gone, known))
