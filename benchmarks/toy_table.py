"""The table of the toy: ``python benchmarks/toy_table.py demo/runs/phase2/test/results.json``; of several files, one a seed, mean and standard deviation."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from unifashion_pl.metrics.records import ResultRecord, read_records

#: Label, metric, family of protocols, half of the query.
ROWS = (
    ("composed retrieval R@10, mean of categories", "mean/R@10", "fashioniq", "itc"),
    ("… text only", "mean/R@10", "fashioniq", "text-only"),
    ("… reference image only", "mean/R@10", "fashioniq", "image-only"),
    ("text → image R@1, 100 candidates of one category", "t2i/R@1", "fashiongen_100", "itc"),
    ("text → image R@10, whole gallery", "t2i/R@10", "fashiongen_full", "itc"),
    ("caption names the right colour first", "caption/colour_accuracy", "first-mention", "itc"),
    ("caption names the right category", "caption/category_accuracy", "first-mention", "itc"),
    ("caption CIDEr × 100", "CIDEr", "coco", "itc"),
)
VARIANTS = (("", "", ""), ("original", "ref-kept", "image"))


def find(records: list[ResultRecord], metric: str, family: str, half: str, chance: bool) -> ResultRecord | None:
    """The record of a metric under the family's first protocol."""
    for record in records:
        under = record.under
        asked = (record.metric, under.family, under.half, under.chance) == (metric, family, half, chance)
        if asked and under.variant in VARIANTS and not under.further and not under.robustness:
            return record
    return None


def main() -> None:
    runs = [read_records(Path(path)) for path in sys.argv[1:]]
    column = "95 % interval" if len(runs) == 1 else "by seed"
    print(f"| | value | {column} | chance | n | protocol |\n|---|---|---|---|---|---|")
    for label, metric, family, half in ROWS:
        every = [
            record for records in runs if (record := find(records, metric, family, half, False)) and record.value is not None
        ]
        if not every or len(every) < len(runs):
            print(f"| {label} | n/a | | | | |")
            continue
        found, factor = every[0], 100 if metric == "CIDEr" else 1
        values = [factor * float(record.value or 0) for record in every]
        level = find(runs[0], metric, family, "itc", True)
        value, spread = (
            f"{values[0]:.1f}",
            f"{found.interval.low * factor:.1f}–{found.interval.high * factor:.1f}" if found.interval else "",
        )
        if len(runs) > 1:
            value, spread = f"{mean(values):.1f} ± {stdev(values):.1f}", ", ".join(f"{one:.1f}" for one in values)
        chance = f"{level.value:.1f}" if level is not None and level.value is not None else ""
        hashed = family.startswith("fashiongen")  # of a candidate list, which says nothing here; else the list's name
        name = replace(found.under, details=tuple(one for one in found.under.details if one[0] != "list" or not hashed))
        print(f"| {label} | {value} | {spread} | {chance} | {found.n:,} | `{name}` |")


if __name__ == "__main__":
    main()
