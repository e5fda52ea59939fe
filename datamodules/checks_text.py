"""The findings of ``data check`` for a terminal: a table of the splits, then what each of them lost, then what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from unifashion_pl.datamodules.checks import CheckReport, Duplicates, SplitReport

from unifashion_pl.data.plan import shortened

#: Files of a split, and groups of equal pictures, that are named.
SHOWN = 20


def report_text(report: CheckReport) -> str:
    """All of it; long lists are cut after :data:`SHOWN` lines (JSON has them whole)."""
    said: set[str] = set()
    blocks = [_head(report), _table(report.splits)]
    for split in report.splits:
        blocks.append(_block(split, [note for note in split.notes if note not in said]))
        said |= set(split.notes)
    blocks += [_duplicate_lines(report.duplicates), [f"note: {note}" for note in report.notes], _next(report)]
    return "\n\n".join("\n".join(block) for block in _indented(blocks) if block)


def _indented(blocks: list[list[str]]) -> Iterator[list[str]]:
    for number, block in enumerate(blocks):
        yield [f"  {line}" if number or place else line for place, line in enumerate(block)]


def _head(report: CheckReport) -> list[str]:
    said = f"{report.dataset} in {report.root}: {'complete' if report.complete else 'INCOMPLETE'}"
    more = {"variant: ": report.variant, "licence: ": report.licence, "": report.problem}
    return [said, *(f"{what}{text}" for what, text in more.items() if text)]


def _table(splits: Sequence[SplitReport]) -> list[str]:
    if not splits:
        return []
    rows = [("split", "kind", "expected", "usable", "")]
    rows += [(_split(s), s.kind, f"{s.expected:,}", f"{s.usable:,}", s.size) for s in splits]
    split, kind, expected, usable = (max(len(row[column]) for row in rows) for column in range(4))
    return [f"{a:{split}}  {b:{kind}}  {c:>{expected}}  {d:>{usable}}  {e}".rstrip() for a, b, c, d, e in rows]


def _split(split: SplitReport) -> str:
    return split.name.partition("/")[2]


def _block(split: SplitReport, notes: Sequence[str]) -> list[str]:
    """What there is to say about a split; empty if nothing."""
    takes = {bad: f" (takes {bad.samples} samples along)" if bad.samples > 1 else "" for bad in split.unusable}
    lines = [f"{bad.role} {bad.id}: {bad.reason}{more}" for bad, more in takes.items()]
    if len(lines) > SHOWN:
        reasons = Counter(bad.reason for bad in split.unusable)
        total = f"{len(lines):,} files: {', '.join(f'{n:,} {reason}' for reason, n in reasons.most_common(5))}"
        lines = [total, *lines[:SHOWN], f"… and {len(lines) - SHOWN:,} more files"]
    lines += [f"effect: {effect}" for effect in split.effects]
    if split.oddities:
        odd = [f"{len(ids):,} {oddity} ({shortened(ids, 3)})" for oddity, ids in split.oddities.items()]
        lines.append(f"converted to RGB: {'; '.join(odd)}")
    lines += [f"note: {note}" for note in notes]
    groups = ", ".join(f"{group} {of:,} -> {n:,}" for group, (n, of) in split.losses.items())
    lost = f": {split.expected - split.usable:,} of {split.expected:,} are lost ({groups})" if groups else ""
    return [f"{_split(split)}, {split.kind}{lost}", *(f"  {line}" for line in lines)] if lines else []


def _duplicate_lines(groups: Sequence[Duplicates]) -> list[str]:
    if not groups:
        return []
    across = [group for group in groups if group.across]
    inside = [group for group in groups if not group.across]
    lines = [f"equal pixels: {len(groups):,} groups of ids, {len(across):,} of them in training and evaluation"]
    lines += [f"  {' = '.join(group.ids[:6])} (in {', '.join(group.splits)})" for group in [*across, *inside][:SHOWN]]
    return [*lines, *([f"  … and {len(groups) - SHOWN:,} more groups"] if len(groups) > SHOWN else [])]


def _next(report: CheckReport) -> list[str]:
    if report.problem:
        return []
    command = f"unifashion data shards {report.dataset} --root {report.root} --out SHARDS"
    if report.complete:
        return [f"next: {command}"]
    lines = ["next: mend what is named above and check again, or build without it:", f"  {command}"]
    if any(split.usable < split.expected and not split.name.endswith("/train") for split in report.splits):
        lines[1] += " --allow-missing"
        lines.append("Results on such an evaluation split are of a smaller n and say so; training goes on with what is left.")
    return lines
