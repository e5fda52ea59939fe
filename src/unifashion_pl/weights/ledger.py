"""Where every tensor of a published checkpoint goes: taken, renamed, split, merged or dropped, each name exactly once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unifashion_pl.files import write_text
from unifashion_pl.parts.fit import require_fit
from unifashion_pl.reading import converted, read_json

Action = Literal["taken", "renamed", "split", "merged", "dropped"]
#: Regular expressions of whole names, and what replaces them; the first that matches counts.
Rules = Sequence[tuple[str, str]]

REPORT = "report.json"
FORMAT = "unifashion-import/1"


@dataclass(frozen=True)
class LedgerEntry:
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
        kind: of :data:`unifashion_pl.weights.manifest.KINDS`.
        source: the file or folder that was imported.
        sha256: of the source's weight files by name.
        licence: of the published part, as far as the manifest knows it.
        entries: one per tensor of the source.
        absent: parts of the model that the source does not hold -> what stands in their place.
        folders: subfolders that were written -> what loads them.
        settings: place in our model -> what is no tensor there and changes what its tensors compute; models that have it otherwise are refused.
        notes: what a user should know.
        use: how to use the outcome.
    """

    kind: str
    source: str
    sha256: dict[str, str] = field(default_factory=dict)
    licence: str = "unknown"
    entries: list[LedgerEntry] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
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
        write_text(folder / REPORT, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

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
        return converted(content, cls, str(path))


def is_imported(folder: str | Path) -> bool:
    """Whether a folder was written by ``unifashion weights import``."""
    path = Path(folder) / REPORT
    return path.is_file() and FORMAT in path.read_bytes()[:200].decode("utf-8", "replace")


class Ledger:
    """Assigns the tensors of ``source``, each once, and collects the result in ``tensors`` under new names."""

    def __init__(self, source: Mapping[str, Tensor]) -> None:
        self.source = source
        self.tensors: dict[str, Tensor] = {}
        self.entries: list[LedgerEntry] = []
        self._left = dict.fromkeys(source)

    @property
    def left(self) -> list[str]:
        """Names that nothing has accounted for yet, in the file's order."""
        return list(self._left)

    def below(self, prefix: str) -> dict[str, str]:
        """What is left below a prefix: name without it -> name."""
        return {name.removeprefix(prefix): name for name in self._left if name.startswith(prefix)}

    def move(self, name: str, target: str, tensor: Tensor | None = None, reason: str = "") -> None:
        """``tensor``: in place of the source's own, where more than its name changes; ``reason`` says what was done."""
        action: Action = "taken" if name == target else "renamed"
        self._assign(action, (name,), {target: self.source[name] if tensor is None else tensor}, reason)

    def split(self, name: str, parts: Mapping[str, Tensor], reason: str) -> None:
        """One tensor becomes several."""
        self._assign("split", (name,), parts, reason)

    def merge(self, names: Sequence[str], target: str, tensor: Tensor, reason: str) -> None:
        """Several tensors become one."""
        self._assign("merged", tuple(names), {target: tensor}, reason)

    def drop(self, names: Iterable[str], reason: str) -> None:
        """Tensors that have no place in ours."""
        for name in list(names):
            self._assign("dropped", (name,), {}, reason)

    def drop_matching(self, pattern: str, reason: str) -> None:
        """Drop what is left and matches the whole of a regular expression."""
        self.drop([name for name in self.left if re.fullmatch(pattern, name)], reason)

    def rename(self, rules: Rules) -> None:
        """Move everything that is left and that a rule knows."""
        for name in self.left:
            self.rename_one(name, rules)

    def rename_one(self, name: str, rules: Rules, reason: str = "", tensor: Tensor | None = None) -> None:
        """:meth:`move` a tensor to the name that a rule gives it; one that no rule knows stays."""
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, name):
                self.move(name, match.expand(replacement), tensor, reason)
                break

    def close(self, path: str | Path, report: Report) -> None:
        """Enter everything into the report.

        Raises:
            ValueError: names that no rule explains.
        """
        if self._left:
            raise ValueError(
                f"{path} was read as {report.kind}, but {len(self._left)} of its {len(self.source)} tensors are unexplained, "
                f"e.g. {self.left[:4]}: is it another architecture? Nothing was written"
            )
        report.entries += self.entries

    def _assign(self, action: Action, names: tuple[str, ...], parts: Mapping[str, Tensor], reason: str) -> None:
        for name in names:
            if name not in self._left:
                raise KeyError(f"{name} is not in the source or was already assigned")
            del self._left[name]
        for target, tensor in parts.items():
            if target in self.tensors:
                raise ValueError(f"two tensors of the source would become {target}: the file mixes naming schemes")
            self.tensors[target] = tensor
        self.entries.append(LedgerEntry(action, names, tuple(parts), reason))


def compare(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Names and shapes against a reference built on the meta device.

    Raises:
        ValueError: what is missing, superfluous or of another shape, with examples.
    """
    require_fit(tensors, expected, f"{path} is incomplete or of another architecture", "Nothing was written")
