"""What the first useful line costs: processor time of a fresh process, from Python's start to its end.

    python benchmarks/first_line.py                 # five rounds of five programs, two minutes
    python benchmarks/first_line.py --scale tiny    # one round of doctor

User and system time of a child, one thread, programs in turns, the median. Beside each: a program that imports torch alone, below which none goes that
needs it, and Lightning alone, which ``UniFashionModule`` is made of.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sidebyside import Goal

COMMAND = "python benchmarks/first_line.py"
MAIN = "from unifashion_pl.cli import main; main({})"
LIMITS = {"torch": "import torch", "Lightning": "import lightning.pytorch"}
SMALL = {"doctor": (3.0, MAIN.format(["doctor"]))}
ROUNDS = {"paper": 5, "tiny": 1}


def seconds(program: str) -> float:
    """Processor time of a Python program in a process of its own.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def index_in(folder: Path) -> Path:
    """An index of four drawn pictures, made by the command."""
    for i in range(4):
        Image.fromarray(np.full((64, 48, 3), 60 * i, np.uint8)).save(folder / f"{i}.png")
    rows = "".join(f"{i}.png,a dress\n" for i in range(4))
    (folder / "items.csv").write_text(f"image,text\n{rows}")
    arguments = ["index", "build", "--csv", str(folder / "items.csv"), "--root", str(folder), "--out", str(folder / "index")]
    seconds(MAIN.format(arguments))
    return folder / "index"


def export_in(folder: Path) -> Path:
    """The shipped model as ONNX, made by the command."""
    seconds(MAIN.format(["export", "tiny", "--out", str(folder / "exported")]))
    return folder / "exported"


def programs(folder: Path) -> dict[str, tuple[float, str]]:
    """What is timed: name -> seconds that it may take, program."""
    index, picture = str(index_in(folder)), str(folder / "1.png")
    exported = ["index", "search", index, "--image", picture, "--model", str(export_in(folder))]
    first = "from unifashion_pl import UniFashionModule; UniFashionModule.from_pretrained('tiny')"
    return {
        "index search --text": (3.0, MAIN.format(["index", "search", index, "--text", "a long red dress"])),
        "index search --image": (3.0, MAIN.format(["index", "search", index, "--image", picture])),
        "index search --image, by an export of its model": (3.0, MAIN.format(exported)),
        "UniFashionModule.from_pretrained('tiny')": (4.0, first),
        **SMALL,
    }


def goals(scale: str = "paper") -> list[Goal]:
    """Measured anew."""
    with tempfile.TemporaryDirectory() as work:
        asked = programs(Path(work)) if scale == "paper" else SMALL
        limits = LIMITS if scale == "paper" else {"torch": LIMITS["torch"]}
        timed = {**{name: program for name, (_, program) in asked.items()}, **limits}
        rounds = [{name: seconds(program) for name, program in timed.items()} for _ in range(ROUNDS[scale])]
    taken = {name: statistics.median(one[name] for one in rounds) for name in timed}
    limit = ", ".join(f"{name} alone {taken[name]:.2f} s" for name in limits)
    found = []
    for name, (most, _) in asked.items():
        words = f"{name} <= {most:.0f} s", f"{taken[name]:.2f} s", f"wanted {most:.0f} s"
        found.append(Goal(*words, most / taken[name], 1.0, "it ends without an error", COMMAND, limit))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=ROUNDS, default="paper")
    for goal in goals(parser.parse_args().scale):
        print(f"{goal.goal}: {goal.ours} ({goal.limit})")
