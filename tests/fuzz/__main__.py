"""``make fuzz``: all targets, or those that are named; ``--again FOLDER`` tries a kept input once more."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

from fuzz.engine import Place, Tally, Target, again, by_name, fuzz, keep, table
from fuzz.targets import TARGETS

#: Seconds after which a target that hangs outside of Python is ended, with a traceback.
PATIENCE = 600


def main() -> int:
    """Exit status: 0 without a failure, else 1."""
    names = by_name(TARGETS)
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names)}; default all")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of inputs")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failing inputs are kept")
    parser.add_argument("--again", type=Path, metavar="FOLDER", help="try a folder of --out once more")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        place = Place(Path(base).resolve())
        if args.again:
            outcome, text = again(names[args.again.resolve().parent.name], place, args.again)
            print(outcome, text, sep="\n")
            return int(outcome not in ("accepted", "refused"))
        tallies = []
        for target in TARGETS:
            if not args.targets or target.name in args.targets:
                tallies.append(_run(target, place, args))
    print(table(tallies))
    return int(any(tally.failures for tally in tallies))


def _run(target: Target, place: Place, args: argparse.Namespace) -> Tally:
    """One target; what failed is kept and said at once."""
    with quiet() as errors:
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=errors)
        tally = fuzz(target, place, max(1, round(target.inputs * args.scale)), args.seed)
        faulthandler.cancel_dump_traceback_later()
    for folder, what in keep(tally, target, place, args.out).items():
        print(f"{target.name}, seed {args.seed}: {what}\nkept in {folder}\n", flush=True)
    return tally


@contextmanager
def quiet() -> Iterator[int]:
    """Libraries in C write to the terminal whatever they please; yields a descriptor that still does."""
    errors = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield errors
    finally:
        os.dup2(errors, 2)
        os.close(errors)


if __name__ == "__main__":
    sys.exit(main())
