"""``make fuzz``: all targets, or those that are named; ``--again FOLDER`` tries a kept input once more."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

from fuzz.engine import Place, again, by_name, fuzz, keep, table
from fuzz.targets import TARGETS

#: Seconds after which a target that hangs outside of Python is ended, with a traceback.
PATIENCE = 600


def main() -> int:
    """Exit status: 0 without a failure, else 1."""
    names = by_name(TARGETS)
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names)}; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of inputs")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--again", type=Path, metavar="FOLDER", help="a folder of --out")
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
            if args.targets and target.name not in args.targets:
                continue
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            tallies.append(fuzz(target, place, max(1, round(target.inputs * args.scale)), args.seed))
            for folder, (kind, failure) in zip(
                keep(tallies[-1], target, place, args.out),
                sorted(tallies[-1].failures.items(), key=lambda item: -item[1].count),
            ):
                print(f"{target.name}: {failure.count} × {kind}\n  kept in {folder} (seed {args.seed})", flush=True)
        faulthandler.cancel_dump_traceback_later()
    print(table(tallies))
    return int(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
