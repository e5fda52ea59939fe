"""Where every tensor of a published checkpoint goes: taken, renamed, split, merged or dropped, each name exactly once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from torch import Tensor

from unifashion_pl.reading import FormatError, read_json

Action = Literal["taken", "renamed", "split", "merged", "dropped"]
#: What a rule gives for a name that it does not know.
Rename = Callable[[str], str | None]

REPORT = "report.json"
FORMAT = "unifashion-import/1"


@dataclass(frozen=True)
class Entry:
    """What happened to one tensor of the source.

    Attributes:
        sources, targets: names before and after; a dropped tensor has no target.
        reason: why it was dropped, or what was done to it beside a new name.
    """

    action: Action
    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class Report:
    """Everything an import did, written as ``report.json`` beside the tensors.

    Attributes:
        kind: of :data:`unifashion_pl.weights.kinds.KINDS`.
        source: the file or folder that was imported.
        sha256: of the source's weight files by name.
        licence: of the published part, as far as the manifest knows it.
        entries: one per tensor of the source.
        absent: parts of the model that the source does not hold -> what stands in their place.
        folders: subfolders that were written -> what loads them.
        notes: what a user should know.
        use: how to use the outcome.
    """

    kind: str
    source: str
    sha256: dict[str, str] = field(default_factory=dict)
    licence: str = "unknown"
    entries: list[Entry] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    use: str = ""

    def counts(self) -> dict[str, int]:
        """Tensors of the source per action."""
        counted: Counter[str] = Counter()
        for entry in self.entries:
            counted[entry.action] += len(entry.sources)
        return {action: counted[action] for action in ("taken", "renamed", "split", "merged", "dropped")}

    def text(self) -> str:
        """A summary for people; the single tensors are in ``report.json``."""
        total = sum(self.counts().values())
        lines = [f"{self.source}: {self.kind}, licence: {self.licence}"]
        lines.append(f"{total:,} tensors: " + ", ".join(f"{n:,} {action}" for action, n in self.counts().items() if n))
        dropped = Counter(entry.reason for entry in self.entries if entry.action == "dropped" for _ in entry.sources)
        lines += [f"  dropped {n:,}: {reason}" for reason, n in dropped.most_common()]
        lines += [f"  not in the source: {part}: {reason}" for part, reason in self.absent.items()]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  {folder}: {what}" for folder, what in self.folders.items()]
        return "\n".join([*lines, self.use] if self.use else lines)

    def write(self, folder: Path) -> None:
        content = {"format": FORMAT, **asdict(self), "counts": self.counts()}
        (folder / REPORT).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Report:
        """
        Raises:
            FileNotFoundError: the folder has no report.
            ValueError: its report is of another kind.
        """
        path = folder / REPORT
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {REPORT}: expected a folder written by `unifashion weights import`")
        content = read_json(path, dict[str, Any], "a report of an import")
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is no report of an import: expected format {FORMAT!r}")
        content.pop("counts", None)
        try:
            return msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise FormatError(f"{path}: {error}") from error


class Plan:
    """Assigns the tensors of ``source``, each once, and collects the result in ``tensors`` under new names."""

    def __init__(self, source: Mapping[str, Tensor]) -> None:
        self.source = source
        self.tensors: dict[str, Tensor] = {}
        self.entries: list[Entry] = []
        self._left = dict.fromkeys(source)

    @property
    def left(self) -> list[str]:
        """Names that nothing has accounted for yet, in the file's order."""
        return list(self._left)

    def move(self, name: str, target: str, tensor: Tensor | None = None, reason: str = "") -> None:
        """``tensor``: in place of the source's own, where more than its name changes; ``reason`` says what was done."""
        self._spend((name,))
        self._put(target, self.source[name] if tensor is None else tensor)
        self.entries.append(Entry("taken" if name == target else "renamed", (name,), (target,), reason))

    def split(self, name: str, parts: Mapping[str, Tensor], reason: str) -> None:
        self._spend((name,))
        for target, tensor in parts.items():
            self._put(target, tensor)
        self.entries.append(Entry("split", (name,), tuple(parts), reason))

    def merge(self, names: Sequence[str], target: str, tensor: Tensor, reason: str) -> None:
        self._spend(names)
        self._put(target, tensor)
        self.entries.append(Entry("merged", tuple(names), (target,), reason))

    def drop(self, names: Iterable[str], reason: str) -> None:
        for name in list(names):
            self._spend((name,))
            self.entries.append(Entry("dropped", (name,), (), reason))

    def drop_matching(self, pattern: str, reason: str) -> None:
        """Drop what is left and matches the whole of a regular expression."""
        self.drop([name for name in self.left if re.fullmatch(pattern, name)], reason)

    def rename(self, rename: Rename) -> None:
        """Move everything that is left and that ``rename`` knows."""
        for name in self.left:
            if (target := rename(name)) is not None:
                self.move(name, target)

    def require_complete(self, path: str, kind: str) -> None:
        """
        Raises:
            ValueError: names that no rule explains.
        """
        if self._left:
            raise ValueError(
                f"{path} was read as {kind}, but {len(self._left)} of its {len(self.source)} tensors are unexplained, "
                f"e.g. {self.left[:4]}: is it another architecture? Nothing was written"
            )

    def _spend(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._left:
                raise KeyError(f"{name} is not in the source or was already assigned")
            del self._left[name]

    def _put(self, target: str, tensor: Tensor) -> None:
        if target in self.tensors:
            raise ValueError(f"two tensors of the source would become {target}: the file mixes naming schemes")
        self.tensors[target] = tensor


def patterns(rules: Sequence[tuple[str, str]]) -> Rename:
    """Renaming by the first regular expression that matches the whole name; the second part is its replacement."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str | None:
        for pattern, replacement in compiled:
            if match := pattern.fullmatch(name):
                return match.expand(replacement)
        return None

    return rename


def compare(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str) -> None:
    """Names and shapes against a reference built on the meta device.

    Raises:
        ValueError: what is missing, superfluous or of another shape, with examples.
    """
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name}: file {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{path} is incomplete or of another architecture: {len(missing)} tensors missing {missing[:3]}, {len(extra)} left over "
            f"{extra[:3]}, {len(shapes)} of another shape {sorted(shapes)[:2]}. Nothing was written"
        )
