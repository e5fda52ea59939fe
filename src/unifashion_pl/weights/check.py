"""``unifashion weights check``: what a file or folder is, whether it is whole, and whether the manifest knows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from unifashion_pl.weights.importing import accounted, convert
from unifashion_pl.weights.kinds import KINDS, recognise
from unifashion_pl.weights.manifest import Part, digest, find, load_manifest
from unifashion_pl.weights.plan import Report
from unifashion_pl.weights.source import Source, open_source
from unifashion_pl.weights.tables import published_shapes


@dataclass
class Found:
    """The outcome of a check.

    Attributes:
        path: what was looked at.
        kind: of :data:`~unifashion_pl.weights.kinds.KINDS`, None = none of them.
        complete: nothing is missing or unexplained, or the hash is that of a part which needs no import.
        problem: why it is not.
        as_published: every shape is that of the published model; None = there is no single published size.
        sha256: hashes by file.
        known: the manifest's part with one of these hashes.
        lines: the findings for people.
    """

    path: Path
    kind: str | None
    complete: bool = False
    problem: str = ""
    as_published: bool | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    known: Part | None = None
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        what = KINDS[self.kind] if self.kind else "none of the kinds that `weights import` takes"
        verdict = "complete" if self.complete else f"NOT COMPLETE: {self.problem}"
        return "\n".join([f"{self.path}: {what}" + (f" (--as {self.kind})" if self.kind else ""), *self.lines, verdict])


def check_weights(path: str | Path, *, progress: bool = False) -> Found:
    """Open a checkpoint as an import would, without writing anything.

    Raises:
        FileNotFoundError: nothing there, or half a download.
        ValueError: not a checkpoint, a damaged one, or one that holds more than tensors.
    """
    source = open_source(path)
    found = Found(Path(path), recognise(source))
    found.sha256 = {file.name: digest(file, progress) for file in source.files}
    found.lines.append(_contents(source))
    _check_structure(source, found)
    _check_hash(found)
    return found


def _contents(source: Source) -> str:
    tensors = [t for part in (source, *source.parts.values()) for t in part.tensors.values()]
    types = Counter(str(t.dtype).removeprefix("torch.") for t in tensors)
    size = sum(file.stat().st_size for file in source.files)
    wrapper = f", under {source.wrapper!r}" if source.wrapper else ""
    return (
        f"  {len(tensors):,} tensors{wrapper}, {sum(t.numel() for t in tensors):,} numbers ({', '.join(types)}), "
        f"{size / 1e6:,.1f} MB in {len(source.files)} file{'s' * (len(source.files) != 1)}"
    )


def _check_structure(source: Source, found: Found) -> None:
    if found.kind is None:
        found.problem = "its names are those of no kind, so nothing says what should be in it"
        return
    report = Report(found.kind, str(found.path))
    try:
        with accounted(found.kind, found.path):
            tensors = convert(source, report)
    except ValueError as error:
        found.problem = str(error).removesuffix(". Nothing was written").removesuffix("; nothing was written")
        return
    found.complete = True
    found.lines.append("  an import would account for: " + ", ".join(f"{n:,} {a}" for a, n in report.counts().items() if n))
    found.lines += [f"  not in it: {part}: {reason}" for part, reason in report.absent.items()]
    found.lines += [f"  note: {note}" for note in report.notes]
    _check_size(found, tensors)


def _check_size(found: Found, tensors: Mapping[str, Tensor]) -> None:
    assert found.kind is not None
    published = published_shapes(found.kind)
    both = [name for name in published if name in tensors]
    if not both:
        return
    other = [name for name in both if tensors[name].shape != published[name]]
    absent = len(published) - len(both)
    found.as_published = not other
    rest = f" ({absent:,} tensors of the published model are not in it)" if absent else ""
    if other:
        name = other[0]
        example = f"{name} is {tuple(tensors[name].shape)}, published {tuple(published[name])}"
        found.lines.append(
            f"  size: not the published one, {len(other):,} of {len(both):,} shapes differ, e.g. {example}{rest}"
        )
    else:
        found.lines.append(f"  size: the published one, {len(both):,} shapes are equal{rest}")


def _check_hash(found: Found) -> None:
    exact = [part for part in load_manifest() if part.sha256 and part.sha256 in found.sha256.values()]
    found.lines += [f"  sha256 {digest} {name}" for name, digest in found.sha256.items()]
    if exact:
        found.known = exact[0]
        found.lines.append(
            f"  it is {exact[0].name} ({exact[0].use}); licence {exact[0].licence}, commercial use: {exact[0].commercial}"
        )
        if found.kind is None:
            found.complete, found.problem = True, ""
        return
    licences = dict.fromkeys(f"{p.licence} (commercial use: {p.commercial})" for p in find(found.kind, found.sha256))
    may = f"; if it is what it looks like, its licence is {' or '.join(licences)}" if licences else ""
    found.lines.append(f"  the manifest knows no file with this hash{may}")
