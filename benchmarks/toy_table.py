"""The README's table of the toy: ``python benchmarks/toy_table.py demo/runs/phase2/test/results.json``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

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
    records = read_records(Path(sys.argv[1]))
    print("| | value | 95 % interval | chance | n | protocol |\n|---|---|---|---|---|---|")
    for label, metric, family, half in ROWS:
        found = find(records, metric, family, half, False)
        if found is None or found.value is None:
            print(f"| {label} | n/a | | | | |")
            continue
        factor = 100 if metric == "CIDEr" else 1
        level = find(records, metric, family, "itc", True)
        spread = f"{found.interval.low * factor:.1f}–{found.interval.high * factor:.1f}" if found.interval else ""
        chance = f"{level.value:.1f}" if level is not None and level.value is not None else ""
        name = replace(found.under, details=tuple(detail for detail in found.under.details if detail[0] != "list"))
        print(f"| {label} | {found.value * factor:.1f} | {spread} | {chance} | {found.n:,} | `{name}` |")


if __name__ == "__main__":
    main()
