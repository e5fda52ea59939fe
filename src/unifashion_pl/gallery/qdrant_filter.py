"""Clauses of a filter as Qdrant's conditions, with SQL's meaning: a row without a value is in neither of a clause and its denial."""

from __future__ import annotations

from typing import Any

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.gallery.qdrant import models
from unifashion_pl.gallery.where import TEXT, Clause, Column, Compared, Denied, Inside, Joined, OneOf
from unifashion_pl.names import quoted

OPPOSITE = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
#: Whole numbers beyond this are not told apart by Qdrant's ranges.
EXACT = 2**53


def filter_of(found: Clause, denied: bool = False) -> models.Filter:
    """The points that a clause, or its denial, lets through.

    Args:
        found: of columns whose places are paths in payloads.

    Raises:
        ArgumentError: what Qdrant cannot be asked: which of two texts comes first in the alphabet, and whole numbers beyond 2⁵³.
    """
    if isinstance(found, Denied):
        return filter_of(found.part, not denied)
    if isinstance(found, Joined):
        parts: list[Any] = [filter_of(part, denied) for part in found.parts]
        return models.Filter(must=parts) if (found.word == "AND") != denied else models.Filter(should=parts)
    column = found.column
    if isinstance(found, Compared) and found.value is None:
        return _present(column) if (found.sign == "=") == denied else _absent(column)
    if isinstance(found, Compared):
        return _compared(column, OPPOSITE[found.sign] if denied else found.sign, found.value)
    if isinstance(found, OneOf) and not found.values:
        return models.Filter() if denied else models.Filter(must=[models.HasIdCondition(has_id=[])])
    match = _one_of(found) if isinstance(found, OneOf) else _inside(found)
    return models.Filter(must=[_present(column)], must_not=[match]) if denied else match


def _compared(column: Column, sign: str, value: Any) -> models.Filter:
    if sign in ("=", "<>"):
        same = _equal(column, value)
        return same if sign == "=" else models.Filter(must=[_present(column)], must_not=[same])
    if column.kind == TEXT:
        raise ArgumentError(
            f"the filter asks which texts come before or after {quoted(value)}, which Qdrant cannot be asked: compare texts by == and in"
        )
    return _field(column, range=models.Range(**{BOUNDS[sign]: _number(value)}))


def _equal(column: Column, value: Any) -> models.Filter:
    if column.kind == TEXT:
        return _field(column, match=models.MatchValue(value=value))
    return _field(column, range=models.Range(gte=_number(value), lte=_number(value)))


def _one_of(found: OneOf) -> models.Filter:
    if found.column.kind == TEXT:
        return _field(found.column, match=models.MatchAny(any=list(found.values)))
    return models.Filter(should=[_equal(found.column, value) for value in found.values])


def _inside(found: Inside) -> models.Filter:
    if not found.text:
        return _present(found.column)
    return _field(found.column, match=models.MatchSubstring(substring=found.text))


def _field(column: Column, **condition: Any) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=column.place, **condition)])


def _absent(column: Column) -> models.Filter:
    return models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key=column.place))])


def _present(column: Column) -> models.Filter:
    return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=column.place))])


def _number(value: Any) -> float:
    if abs(value) > EXACT:
        raise ArgumentError(f"the filter compares with {value}, and Qdrant tells numbers apart up to 2^53 ({EXACT:,}) only")
    return float(value)
