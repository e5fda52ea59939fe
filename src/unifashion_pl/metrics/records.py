"""Result records: one JSON object per number, with everything needed to know what the number means."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from unifashion_pl.arguments import choice
from unifashion_pl.files import write_text
from unifashion_pl.metrics.protocol import AUDIT, Protocol
from unifashion_pl.reading import FormatError, converted, from_json, read_json

UNITS = ("percent", "raw", "count")
#: Fields that records of before do not have.
LATER = ("doubt", "training_seed", "draws")


@dataclass(frozen=True)
class Interval:
    """Interval of a number, in the number's unit.

    Attributes:
        low, high: the ends.
        level: nominal coverage, e.g. 0.95.
        method: how it was made, e.g. ``wilson`` or ``bootstrap(clusters=reference,B=2000,seed=0)``.
    """

    low: float
    high: float
    level: float
    method: str

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit, e.g. ``factor=100`` for percent."""
        return replace(self, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True, repr=False)
class ResultRecord:
    """One number with its meaning.

    Attributes:
        metric: e.g. ``dress/R@10``, ``i2t/R@1``, ``CIDEr``.
        value: the number; None = not available, ``implementation`` says why.
        unit: ``percent`` (recall), ``raw`` (captions, FID, KID) or ``count``.
        n: queries, captions or images it was computed from.
        n_expected: how many there are in all; None = not known. A smaller ``n`` is a part: a draw of captions or images, or of data that
            were not all seen, which the protocol then says (``shortened=…``).
        protocol: :class:`~unifashion_pl.metrics.protocol.Protocol` as text, see :attr:`under`. Numbers of different protocols do not
            share a column.
        dataset: e.g. ``fashiongen/validation``; None in records of before 2026-11-29.
        interval: see :class:`Interval`; None where none is defined.
        ties: number of queries whose positive ties with another candidate.
        dropped: reason -> number of samples left out.
        seed: of the evaluation: what it drew (samples, candidates) and painted follows from it. None in records of before 2026-11-30 that
            painted nothing.
        training_seed: of the last training of the weights; None = not known, as of models of others.
        draws: numbers of the drawings of candidates, or seeds of the pictures, that the value is averaged over, e.g. ``(0, 1, 2, 3, 4)``; each
            follows from its number and ``seed``. None = nothing of the kind.
        data_hash, weights_hash: of the evaluated data and the weights.
        weights: what is wrong with them, ``random`` or ``not trained for …``; None = nothing, or nobody knows.
        doubt: what is wrong with gallery captions that were read: why numbers are labelled ``leaked`` or ``suspicious``, what their
            audit found. None = nothing.
        implementation: code or tokeniser that produced the value.
        code_version: version of this library.
        commit: git commit of the checkout that it ran from, ``-dirty`` behind it where files were changed; None = installed package.
        wall_seconds: duration of the whole evaluation that the number is part of.

    >>> record = ResultRecord("i2t/R@1", 71.4, "percent", 1000, "fashiongen_100(n=1000)")
    >>> ResultRecord.from_json(record.to_json()) == record
    True
    """

    metric: str
    value: float | None
    unit: str
    n: int
    protocol: str
    n_expected: int | None = None
    interval: Interval | None = None
    ties: int | None = None
    dropped: dict[str, int] | None = None
    seed: int | None = None
    data_hash: str | None = None
    weights_hash: str | None = None
    implementation: str | None = None
    code_version: str | None = None
    commit: str | None = None
    wall_seconds: float | None = None
    dataset: str | None = None
    weights: str | None = None
    doubt: str | None = None
    training_seed: int | None = None
    draws: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        """What is known of it."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return f"ResultRecord({', '.join(f'{name}={value!r}' for name, value in named if value is not None)})"

    def __post_init__(self) -> None:
        if self.doubt is None and self.implementation is not None:
            object.__setattr__(self, "doubt", _older_doubt(self.under, self.implementation))
        choice(self.unit, f"unit of {self.metric}", UNITS)
        if self.n < 0 or (self.n_expected or 0) < 0:
            raise ValueError(
                f"{self.metric} under {self.protocol} has n={self.n} of {self.n_expected}: expected no negative counts"
            )
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.metric} under {self.protocol} is {self.value}: a result must be a finite number or None")

    @cached_property
    def under(self) -> Protocol:
        """The protocol as a value."""
        return Protocol.parse(self.protocol)

    @property
    def key(self) -> tuple[str, str, str]:
        """What no two numbers of one test share: dataset, protocol and metric."""
        return self.dataset or "", self.protocol, self.metric

    @property
    def shortened(self) -> bool:
        """Whether only a part of the data was seen, as the protocol then says."""
        return self.under.shortened

    @property
    def flaw(self) -> str:
        """Why the number must not stand beside published ones; "" = nothing that the record knows of."""
        if self.weights is not None:
            return "random weights" if self.weights == "random" else self.weights
        if self.shortened:
            return "a shortened test"
        return f"{self.n:,} of {self.n_expected:,}" if self.n_expected is not None and self.n < self.n_expected else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON; later fields where they say something, so that older versions read all others."""
        values = {**asdict(self), "draws": None if self.draws is None else list(self.draws)}
        return {name: value for name, value in values.items() if value is not None or name not in LATER}

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ResultRecord:
        """Inverse of :meth:`to_dict`.

        Raises:
            FormatError: fields are unknown, missing or of another type.
        """
        names = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - names):
            raise FormatError(f"result record has unknown fields: {', '.join(unknown)}")
        record: ResultRecord = converted(dict(data), cls, "result record")
        return record

    @classmethod
    def from_json(cls, text: str) -> ResultRecord:
        """Inverse of :meth:`to_json`."""
        return cls.from_dict(from_json(text, dict[str, Any], "result record"))

    def with_context(self, **context: Any) -> ResultRecord:
        """The same number with ``dataset``, ``seed``, hashes, versions or whatever else it comes from filled in."""
        return replace(self, **context)


def _older_doubt(under: Protocol, implementation: str) -> str | None:
    """The doubt of records of before the field, which say it in ``implementation``."""
    if under.score == AUDIT:
        found = implementation.partition("bag of words: ")[2].partition(";")[0]
        return None if found == "ok" else found or None
    return implementation.partition(f"{under.unsafe}: ")[2] or None if under.unsafe else None


def write_records(path: str | Path, records: Iterable[ResultRecord]) -> None:
    """Write ``results.json``: a JSON list, one record per line."""
    lines = ",\n".join(record.to_json() for record in records)
    write_text(path, f"[\n{lines}\n]\n" if lines else "[]\n")


def read_records(path: str | Path) -> list[ResultRecord]:
    """Inverse of :func:`write_records`.

    Raises:
        FileNotFoundError: no such file.
        FormatError: with the file, the number of the record and the field.
    """
    records = []
    for number, item in enumerate(read_json(path, list[dict[str, Any]], "a list of result records")):
        try:
            records.append(ResultRecord.from_dict(item))
        except FormatError as error:
            raise FormatError(f"{path}: record {number}: {error}") from error
    return records
