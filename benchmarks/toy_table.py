"""The README's table of the toy: ``python benchmarks/toy_table.py demo/runs/phase2/test/results.json``."""

from __future__ import annotations

import sys
from pathlib import Path

from unifashion_pl.metrics.records import ResultRecord, read_records

CIR = "fashioniq/original/ref-kept/image(score={},text=and)"
ROWS = (
    ("composed retrieval R@10, mean of categories", "mean/R@10", CIR.format("itc")),
    ("… text only", "mean/R@10", CIR.format("text-only")),
    ("… reference image only", "mean/R@10", CIR.format("image-only")),
    ("text → image R@1, 100 candidates of one category", "t2i/R@1", "fashiongen_100("),
    ("text → image R@10, whole gallery", "t2i/R@10", "fashiongen_full("),
    ("caption names the right colour first", "caption/colour_accuracy", "first-mention("),
    ("caption names the right category", "caption/category_accuracy", "first-mention("),
    ("caption CIDEr × 100", "CIDEr", "coco("),
)


def find(records: list[ResultRecord], metric: str, protocol: str, chance: bool) -> ResultRecord | None:
    """The record of a metric whose protocol starts so."""
    return next(
        (
            r
            for r in records
            if r.metric == metric and r.protocol.startswith(protocol) and r.protocol.endswith("/chance") == chance
        ),
        None,
    )


def main() -> None:
    records = read_records(Path(sys.argv[1]))
    print("| | value | 95 % interval | chance | n | protocol |\n|---|---|---|---|---|---|")
    for label, metric, protocol in ROWS:
        found = find(records, metric, protocol, False)
        if found is None or found.value is None:
            print(f"| {label} | n/a | | | | |")
            continue
        factor = 100 if metric == "CIDEr" else 1
        level = find(records, metric, protocol.replace("text-only", "itc").replace("image-only", "itc"), True)
        spread = f"{found.interval.low * factor:.1f}–{found.interval.high * factor:.1f}" if found.interval else ""
        chance = f"{level.value:.1f}" if level is not None and level.value is not None else ""
        name = found.protocol.partition(",list=")[0] + (")" if ",list=" in found.protocol else "")
        print(f"| {label} | {found.value * factor:.1f} | {spread} | {chance} | {found.n:,} | `{name}` |")


if __name__ == "__main__":
    main()
