"""All goals in one table: every script of this folder that has ``goals()``, one after another, each in a process of its own.

    make bench                                 # measures anew and prints the table; about a quarter of an hour on two cores
    make bench WRITE=1                         # … and renews the table in benchmarks/README.md
    python benchmarks/bench.py step index      # these scripts alone; with --write other scripts' rows stay as they are

A goal that is not met is marked in its row. A script whose peer is not installed, or that fails, has a row that says so; failing scripts end the
command with 1, goals that are not met do not.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from sidebyside import Goal
from tqdm import tqdm

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- goals: written by make bench WRITE=1 -->", "<!-- end of goals -->"
HEAD = ("goal", "ours", "peer", "limit", "ratio", "equal", "date", "command")
#: Seconds that a script may take before it is stopped.
LIMIT = 900
#: What the child ends with if a module of a peer is absent.
ABSENT = 3


@dataclass
class Found:
    """What a script measured, or why it did not."""

    script: str
    goals: list[Goal] = field(default_factory=list)
    reason: str = ""
    failed: bool = False
    seconds: float = 0.0


def scripts(folder: Path = HERE) -> list[str]:
    """Names of the scripts that have a function ``goals``, found without importing them."""
    found = []
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "goals" for node in tree.body):
            found.append(path.stem)
    return found


def child(script: str, folder: Path, into: Path) -> int:
    """In a process of its own: measure a script's goals and write them as JSON."""
    sys.path.insert(0, str(folder))
    try:
        goals = importlib.import_module(script).goals()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("unifashion_pl", script):
            raise
        into.write_text(json.dumps({"absent": error.name}), "utf-8")
        return ABSENT
    into.write_text(json.dumps([asdict(goal) for goal in goals]), "utf-8")
    return 0


def measured(script: str, folder: Path = HERE, limit: float = LIMIT) -> Found:
    """The goals of one script, by a child of one thread; what it prints goes to stderr."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        into = Path(place) / "goals.json"
        line = [sys.executable, str(HERE / "bench.py"), "--child", script, "--folder", str(folder), "--into", str(into)]
        try:
            code = subprocess.run(
                line, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return Found(script, reason=f"not measured: stopped after {limit:g} s", failed=True, seconds=limit)
        made = json.loads(into.read_text("utf-8")) if into.is_file() else None
    took = time.monotonic() - start
    if code == ABSENT and isinstance(made, dict):
        return Found(script, reason=f"not measured: {made['absent']}, its peer, is not installed", seconds=took)
    if code or not isinstance(made, list):
        return Found(script, reason=f"not measured: the script failed (exit {code})", failed=True, seconds=took)
    return Found(script, [Goal(**fields) for fields in made], seconds=took)


def ratio_of(goal: Goal) -> str:
    """
    >>> ratio_of(Goal("step", "1 s", "peer 2 s", 2.0, 1.35, "", "")), ratio_of(Goal("step", "2 s", "peer 2 s", 1.0, 1.35, "", ""))
    ('2.00 × (wanted 1.35)', '**1.00 ×, not met: wanted 1.35**')
    """
    digits = f"{goal.ratio:.4f}".rstrip("0") if 0.99 < goal.ratio < 1.0 else f"{goal.ratio:.2f}"
    if goal.met is None:
        return f"{digits} ×"
    return f"{digits} × (wanted {goal.wanted:g})" if goal.met else f"**{digits} ×, not met: wanted {goal.wanted:g}**"


def rows(found: Found, day: str) -> list[str]:
    """Lines of the table for a script."""
    command = f"`python benchmarks/bench.py {found.script}`"
    if not found.goals:
        reason = found.reason or "not measured: the script gave no goals"
        return [row([f"{found.script}: {reason}", *[""] * 5, day, command])]
    cells = [[g.goal, g.ours, g.peer, g.limit, ratio_of(g), g.equal, day, f"`{g.command}`"] for g in found.goals]
    named = [own if found.script in scripts_of(row(own)) else [*own[:-1], command] for own in cells]
    return [row(own) for own in named]


def row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def scripts_of(line: str) -> set[str]:
    """The scripts that a row names in its command.

    >>> scripts_of("| a | `python benchmarks/step.py --only lm` |"), scripts_of("| a | `python benchmarks/bench.py index` |")
    ({'step'}, {'index'})
    """
    found = re.findall(r"benchmarks/(\w+)\.py(?: (\w+))?", line.rpartition("| `")[2])
    return {other if name == "bench" else name for name, other in found}


def table_of(text: str) -> list[str]:
    """The rows between the markers of a README.

    Raises:
        ValueError: there are no markers.
    """
    inside = re.search(f"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", text, re.DOTALL)
    if inside is None:
        raise ValueError(f"no lines {BEGIN!r} and {END!r}, between which the table stands")
    return [line for line in inside[1].splitlines() if line.startswith("|")][2:]


def renewed(text: str, found: Sequence[Found], day: str) -> str:
    """A README with the rows of these scripts in the place of their former ones; rows of scripts that are gone are left out."""
    fresh = {one.script: rows(one, day) for one in found}
    kept = [line for line in table_of(text) if scripts_of(line) <= {*scripts()} - {*fresh}]
    lines = sorted([*kept, *(line for own in fresh.values() for line in own)], key=lambda line: sorted(scripts_of(line)))
    table = "\n".join([row(HEAD), row(["---"] * len(HEAD)), *lines])
    start, end = text.index(BEGIN), text.index(END)
    return f"{text[:start]}{BEGIN}\n{table}\n{text[end:]}"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SCRIPT", help="default: all that have goals()")
    parser.add_argument("--write", action="store_true", help=f"renew the table in {README.name}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=HERE, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args(args)
    if told.child:
        return child(told.child, told.folder, told.into)
    names = [name.removesuffix(".py") for name in told.names] or scripts(told.folder)
    if unknown := sorted({*names} - {*scripts(told.folder)}):
        parser.error(f"{', '.join(unknown)}: no script with goals(); there are {', '.join(scripts(told.folder))}")
    found = []
    with tqdm(names, desc="goals", unit="script") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            found.append(measured(name, told.folder))
            tqdm.write(
                f"{name}: {found[-1].reason or f'{len(found[-1].goals)} goals'}, {found[-1].seconds:.0f} s", file=sys.stderr
            )
    day = date.today().isoformat()
    print("\n".join([row(HEAD), row(["---"] * len(HEAD)), *(line for one in found for line in rows(one, day))]))
    goals = [goal for one in found for goal in one.goals]
    print(f"\n{sum(g.met is True for g in goals)} goals met, {sum(g.met is False for g in goals)} not met", file=sys.stderr)
    if told.write:
        README.write_text(renewed(README.read_text("utf-8"), found, day), "utf-8")
        print(f"{README} is renewed", file=sys.stderr)
    return int(any(one.failed for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
