"""The schema of prediction files as JSON Schema, and the head beside them: which version, how many lines, from which data, weights and seeds.

The typed lines of :mod:`unifashion_pl.metrics.lines` are the one source; ``python -m unifashion_pl.metrics.schema`` prints what follows from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from unifashion_pl.files import write_text
from unifashion_pl.metrics.lines import KINDS, SCHEMA, Line, ProductLine, RewrittenLine
from unifashion_pl.reading import read_json

#: In the folder of the prediction files.
HEAD = "head.json"
#: File -> kinds of its lines, those of ``robustness`` too.
FILES: dict[str, tuple[type[Line], ...]] = {**KINDS, RewrittenLine.file: (RewrittenLine, ProductLine)}


class FileHead(msgspec.Struct, kw_only=True):
    """A prediction file: how many lines it has, and the datasets that they are of."""

    lines: int
    datasets: list[str]


class Head(msgspec.Struct, kw_only=True):
    """What the prediction files of a test have in common.

    Attributes:
        schema: version of the lines.
        files: by name without ``.jsonl``.
        seed: of the evaluation. training_seed: of the weights' last training; None = not known.
        weights_hash, code_version, commit: as in result records.
    """

    schema: int = SCHEMA
    files: dict[str, FileHead]
    seed: int | None = None
    training_seed: int | None = None
    weights_hash: str | None = None
    code_version: str | None = None
    commit: str | None = None


def write_head(folder: Path, lines: Iterable[Line], **context: Any) -> Path:
    """Write ``head.json`` beside prediction files of these lines.

    Args:
        context: further fields of :class:`Head`.
    """
    files: dict[str, FileHead] = {}
    for line in lines:
        found = files.setdefault(line.file, FileHead(lines=0, datasets=[]))
        found.lines += 1
        found.datasets = sorted({*found.datasets, line.dataset})
    said = msgspec.to_builtins(Head(files=files, **context))
    return write_text(folder / HEAD, json.dumps(said, indent=1, sort_keys=True) + "\n")


def read_head(folder: Path) -> Head | None:
    """Inverse of :func:`write_head`; None for files of before 2026-11-30, which have none.

    Raises:
        FormatError: with file and field.
    """
    path = folder / HEAD
    return read_json(path, Head, "the head of prediction files") if path.is_file() else None


def json_schema() -> dict[str, Any]:
    """Draft 2020-12: under ``properties`` what a line of each file is, under ``$defs`` every kind of line, the head and their parts."""
    kinds = [kind for kinds in FILES.values() for kind in kinds]
    places, parts = msgspec.json.schema_components([*kinds, Head], ref_template="#/$defs/{name}")
    refs = dict(zip(kinds, places))
    found = {name: refs[own[0]] if len(own) == 1 else {"anyOf": [refs[kind] for kind in own]} for name, own in FILES.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"unifashion-pl prediction files, schema {SCHEMA}",
        "properties": {**found, "head": places[-1]},
        "$defs": parts,
    }


def as_text() -> str:
    """:func:`json_schema` as the file ``docs/predictions.schema.json`` has it."""
    return json.dumps(json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(as_text(), end="")
