"""Filters as people write them: ``price < 50 and category == 'dress'``, read strictly into clauses, and those as SQL with bound values.

Python's parser reads them, and nothing but comparisons of columns with plain values, ``and``, ``or`` and ``not`` passes. No text of a user
becomes SQL: columns are looked up, values are parameters.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.names import quoted, shorten, unknown

OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=",
    ast.NotEq: "<>",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
#: The same comparison seen from its other side.
TURNED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
EXPECTED = "expected comparisons of columns with values, e.g. \"price < 50 and category == 'dress'\""
LONGEST, DEEPEST = 4000, 50
NUMBER, TEXT = "number", "text"
#: Texts in quotes, and names in backquotes.
QUOTED = re.compile(r"""'(?:\\.|[^\\'])*'|"(?:\\.|[^\\"])*"|`[^`]*`""", re.DOTALL)


@dataclass(frozen=True)
class Column:
    """A column that can be filtered on: its name in SQL, or wherever else it is asked, and whether it holds numbers or texts."""

    place: str
    kind: str


@dataclass(frozen=True)
class Compared:
    """``column sign value``; a value of None, with ``=`` and ``<>`` alone, means that there is none."""

    column: Column
    sign: str
    value: Any


@dataclass(frozen=True)
class OneOf:
    """The column holds one of the values."""

    column: Column
    values: Sequence[Any]


@dataclass(frozen=True)
class Inside:
    """The text stands inside of the column's."""

    column: Column
    text: str


@dataclass(frozen=True)
class Denied:
    """Not so; a row without a value is in neither of a clause and its denial."""

    part: Clause


@dataclass(frozen=True)
class Joined:
    """All (``AND``) or any (``OR``) of the parts."""

    word: str
    parts: Sequence[Clause]


Clause = Compared | OneOf | Inside | Denied | Joined


def condition(text: str, columns: Mapping[str, Column]) -> tuple[str, list[Any]]:
    """A filter as SQL and the values bound in it; arguments and errors as of :func:`clause`.

    >>> condition("price < 50 and not size in ('S', 'M')", {"price": Column("c1", NUMBER), "size": Column("c2", TEXT)})
    ('((c1 < ?) AND (NOT (c2 IN (?, ?))))', [50, 'S', 'M'])
    """
    values: list[Any] = []
    return _sql(clause(text, columns), values), values


def _sql(found: Clause, values: list[Any]) -> str:
    """A clause as SQL; what it binds is added to ``values``."""
    if isinstance(found, Joined):
        return "(" + f" {found.word} ".join([_sql(part, values) for part in found.parts]) + ")"
    if isinstance(found, Denied):
        return f"(NOT {_sql(found.part, values)})"
    place = found.column.place
    if isinstance(found, OneOf):
        values += found.values
        return f"({place} IN ({', '.join('?' * len(found.values))}))"
    if isinstance(found, Inside):
        values.append(found.text)
        return f"(instr({place}, ?) > 0)"
    if found.value is None:
        return f"({place} IS {'NOT ' * (found.sign == '<>')}NULL)"
    values.append(found.value)
    return f"({place} {found.sign} ?)"


def clause(text: str, columns: Mapping[str, Column]) -> Clause:
    """A filter, read.

    Columns stand by name; one whose name is no word stands in backquotes: ``\\`list price\\` < 50``. ``in`` takes a list of values, or looks
    for a text inside a text column (``'silk' in title``). IndexRows without a value are found by ``== None`` alone.

    Raises:
        ArgumentError: anything else, an unknown column, or a number compared with a text.
    """
    if not isinstance(text, str) or not text.strip():
        raise ArgumentError(f"the filter is {quoted(text)}, {EXPECTED}")
    if len(text) > LONGEST:
        raise ArgumentError(f"the filter has {len(text):,} characters, at most {LONGEST:,} are read")
    plain, named = _without_backquotes(text)
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
        return _Reader(text, columns, named).logic(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise _fault(text, f"cannot be read ({error.__class__.__name__}): {EXPECTED}") from error


def _fault(text: str, said: str) -> ArgumentError:
    return ArgumentError(f"the filter {quoted(text)} {said}")


def _without_backquotes(text: str) -> tuple[str, dict[str, str]]:
    """The filter with a word of ours for each name in backquotes, and the names by those words."""
    named: dict[str, str] = {}

    def word(found: re.Match[str]) -> str:
        if not found[0].startswith("`"):
            return found[0]
        named[name := f"_column_{len(named)}_"] = found[0][1:-1]
        return name

    if left := re.search("['\"`]", QUOTED.sub("", text)):
        raise _fault(text, f"has a quote {left[0]} that is not closed")
    return QUOTED.sub(word, text), named


class _Reader:
    """Walks Python's tree."""

    def __init__(self, text: str, columns: Mapping[str, Column], named: Mapping[str, str]) -> None:
        self.text, self.columns, self.named = text, columns, named

    def logic(self, node: ast.expr, depth: int = 0) -> Clause:
        if depth > DEEPEST:
            raise self._fault(f"is nested more than {DEEPEST} times")
        if isinstance(node, ast.BoolOp):
            return Joined(
                "AND" if isinstance(node.op, ast.And) else "OR", [self.logic(part, depth + 1) for part in node.values]
            )
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Denied(self.logic(node.operand, depth + 1))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            parts = [self._comparison(one, operator, two) for one, operator, two in zip(sides, node.ops, sides[1:])]
            return parts[0] if len(parts) == 1 else Joined("AND", parts)
        raise self._refused(node)

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Clause:
        if isinstance(operator, ast.In | ast.NotIn):
            found = self._inside(left, right)
            return Denied(found) if isinstance(operator, ast.NotIn) else found
        if type(operator) not in OPERATORS:
            raise self._refused(left)
        sign = OPERATORS[type(operator)]
        if not isinstance(left, ast.Name) and isinstance(right, ast.Name):
            left, right, sign = right, left, TURNED[sign]
        column = self._column(left)
        value = self._value(right)
        if value is None:
            if sign not in ("=", "<>"):
                raise self._fault("asks what is more than nothing: None goes with == and != alone")
        else:
            value = self._fitting(value, column, left)
        return Compared(column, sign, value)

    def _inside(self, left: ast.expr, right: ast.expr) -> Clause:
        """``column in (values)``, or ``'text' in column``."""
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            column = self._column(left)
            return OneOf(column, [self._fitting(self._value(value), column, left) for value in right.elts])
        column = self._column(right)
        value = self._value(left)
        if column.kind != TEXT or not isinstance(value, str):
            raise self._fault(f"looks inside of {self._name(right)!r}: in looks for a text in a text column")
        return Inside(column, value)

    def _fitting(self, value: Any, column: Column, node: ast.expr) -> Any:
        """A value that a column may hold, as SQL has it: true and false are 1 and 0."""
        if (NUMBER if isinstance(value, int | float) else TEXT) != column.kind or value is None:
            raise self._fault(
                f"compares {self._name(node)!r}, which holds {column.kind}s, with {quoted(value)}"
                + (": write the number without quotes" if column.kind == NUMBER and value is not None else "")
                + (f": write it in quotes, {str(value)!r}" if column.kind == TEXT and value is not None else "")
            )
        return int(value) if isinstance(value, bool) else value

    def _name(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise self._refused(node)
        return self.named.get(node.id, node.id)

    def _column(self, node: ast.expr) -> Column:
        name = self._name(node)
        if name not in self.columns:
            raise self._fault(f"names an {unknown('column', name, self.columns)}")
        return self.columns[name]

    def _value(self, node: ast.expr) -> Any:
        """A text, a number that SQL can hold, true, false, or None."""
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, node = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
            if not isinstance(node, ast.Constant) or isinstance(node.value, str | None):
                raise self._refused(node)
        if isinstance(node, ast.Name):
            word = shorten(self._name(node))
            raise self._fault(f"compares with the word {word}: write values in quotes, {word!r}")
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str | int | float | None):
            raise self._refused(node)
        value = node.value
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            value = sign * value
            if (isinstance(value, float) and not math.isfinite(value)) or abs(value) >= 2**63:
                raise self._fault("compares with a number that is too large")
        elif isinstance(value, str):
            value.encode()  # half a character is a ValueError
        return value

    def _refused(self, node: ast.expr) -> ArgumentError:
        shown = ast.unparse(node)
        for word, name in self.named.items():
            shown = shown.replace(word, f"`{name}`")
        return self._fault(f"has {quoted(shown)}, {EXPECTED}")

    def _fault(self, said: str) -> ArgumentError:
        return _fault(self.text, said)
