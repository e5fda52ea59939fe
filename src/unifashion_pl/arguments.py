"""What callers ask for, turned into plain values in one place: ids, counts, seeds, numbers, texts, vectors.

The same request means the same wherever it is made: an id that was given as a number is found as a number, a number of numpy or torch is
a number. What cannot be meant is refused with a sentence, never answered with something else.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, TypeGuard
from uuid import UUID

import numpy as np

from unifashion_pl.names import quoted, unknown

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

#: One id, or several.
Id = str | os.PathLike[str] | SupportsIndex | UUID
Ids = Id | Iterable[Id]
#: One image, or several; names of types, because who asks by texts has not imported torch.
OneImage: TypeAlias = "str | Path | Image.Image | Tensor | np.ndarray[Any, Any]"
Images: TypeAlias = "OneImage | Sequence[OneImage]"
#: One seed, or several; of any kind of whole number.
Seeds = SupportsIndex | Iterable[SupportsIndex]
#: Seeds are those of :meth:`torch.Generator.manual_seed`, without the negative ones, which repeat the large ones.
MAX_SEED = 2**64 - 1
#: What answers requests.
ANSWERING = tuple(
    str(Path(__file__).parent / name) for name in ("gallery", "inference", "person", "toy.py", "backbone/words.py")
)


class ArgumentError(ValueError, TypeError):
    """A request that cannot be meant; the message says what was found and what was expected.

    Of both of Python's kinds, so that whoever answers other people's requests has one to catch.
    """


def asked_at() -> int:
    """``stacklevel`` of a warning about a request: that of the line that asked, outside of what answers."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ANSWERING):
        frame, level = frame.f_back, level + 1
    return level


def plain(value: Any) -> Any:
    """The only element of an array or tensor, or a number of numpy, as Python's own; everything else as it is."""
    torch = sys.modules.get("torch")  # who has a tensor has imported it; a command that needs none does without
    if torch is not None and isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value
    if isinstance(value, np.ndarray | np.generic):
        return value.item() if value.size == 1 else value
    return value


def is_array(value: Any) -> TypeGuard[np.ndarray[Any, Any] | Tensor]:
    """Whether it is an array of numpy or a tensor."""
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def shown(value: Any) -> str:
    """A value and its type, short."""
    return f"{quoted(value, 60)} ({type(value).__name__})"


def whole(value: Any, name: str) -> int:
    """A whole number of any kind: Python's, numpy's, the only element of an array or tensor.

    Raises:
        ArgumentError: a fraction, even 2.0, a bool, a text, or nothing.
    """
    number = plain(value)
    if not isinstance(number, bool):
        try:
            return operator.index(number)
        except TypeError:
            pass
    raise ArgumentError(f"{name} is {shown(value)}, expected a whole number")


def count(value: Any, name: str) -> int:
    """How many: a whole number from 1.

    Raises:
        ArgumentError: something else.
    """
    number = whole(value, name)
    if number < 1:
        raise ArgumentError(f"{name} is {number}, expected at least 1")
    return number


def number(value: Any, name: str, expected: str = "a finite number") -> float:
    """A finite number of any kind.

    Raises:
        ArgumentError: not a number, infinite, a bool, or a text.
    """
    found = plain(value)
    if isinstance(found, int | float) and not isinstance(found, bool):
        try:
            result = float(found)
        except OverflowError:
            result = math.inf
        if math.isfinite(result):
            return result
        raise ArgumentError(f"{name} is {result}, expected {expected}")
    raise ArgumentError(f"{name} is {shown(value)}, expected {expected}")


def choice(value: Any, name: str, known: Iterable[str]) -> str:
    """One of a few names.

    Raises:
        ArgumentError: something else, with the names that there are.
    """
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise ArgumentError(unknown(name, value, names))
    return value


def seeds(value: Seeds) -> list[int]:
    """One seed or many -> a list of whole numbers from 0 to 2^64 - 1.

    Raises:
        ArgumentError: none, or something else.
    """
    one = plain(value)
    many = list(one) if isinstance(one, Iterable) and not isinstance(one, str | bytes) else [one]
    if not many:
        raise ArgumentError("the list of seeds is empty")
    found = [whole(seed, "seed") for seed in many]
    if wrong := [seed for seed in found if not 0 <= seed <= MAX_SEED]:
        raise ArgumentError(f"seed is {wrong[0]}, expected 0 to 2^64 - 1; there is no seed that means chance")
    return found


def identifier(value: Id) -> str:
    """An id as galleries keep it: a text as it is, a path or a whole number as text.

    Raises:
        ArgumentError: of another type, or no text that can be written to a file.
    """
    item = plain(value)
    if isinstance(item, os.PathLike):
        item = os.fspath(item)
    if isinstance(item, bool) or not isinstance(item, str | int | UUID):
        raise ArgumentError(
            f"an id is {shown(value)}, expected a text, a path or a whole number; numbers that were read with a point "
            "(101.0) have to be read as text"
        )
    return _written(str(item), "id")


def identifiers(values: Ids) -> list[str]:
    """One id or many -> a list; see :func:`identifier`. A text alone is one id, not its letters.

    Raises:
        ArgumentError: something that is no id.
    """
    one = plain(values)
    alone = isinstance(one, str | bytes | os.PathLike) or not isinstance(one, Iterable)
    return [identifier(value) for value in ([one] if alone else one)]


def text_list(values: str | Iterable[str]) -> list[str]:
    """One text or many -> a list.

    Raises:
        ArgumentError: nothing given, something that is no text, or half a character.
    """
    given = plain(values)
    if not isinstance(given, str) and (isinstance(given, bytes) or not isinstance(given, Iterable)):
        raise ArgumentError(f"expected a text or a list of texts, got {type(given).__name__}")
    items = [given] if isinstance(given, str) else list(given)
    if not items:
        raise ArgumentError("the list of texts is empty")
    for item in items:
        if not isinstance(item, str):
            raise ArgumentError(f"expected texts, got {type(item).__name__}" + "; no text is ''" * (item is None))
        _written(item, "text")
    return [str(item) for item in items]


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Inputs of equal numbers, or of one that goes with all, as rows.

    Raises:
        ValueError: other numbers.
    """
    n = max(map(len, columns.values()))
    if any(len(column) not in (1, n) for column in columns.values()):
        counts = ", ".join(f"{len(column)} of {name}" for name, column in columns.items())
        raise ValueError(f"{counts}: expected equally many, or one of each kind")
    return [{name: column[i % len(column)] for name, column in columns.items()} for i in range(n)]


def vector(value: Any, width: int) -> Tensor:
    """A query vector (E,) as float32 on the CPU, from a tensor, an array or a list.

    Raises:
        ArgumentError: of another shape, no numbers, NaN, infinite, or all zero, which has no direction.
    """
    import torch

    try:
        given = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"the query vector is {shown(value)}, expected {width} numbers") from error
    if given.ndim != 1 or len(given) != width or given.dtype == torch.bool or given.is_complex():
        raise ArgumentError(
            f"the query vector is {given.dtype} of shape {tuple(given.shape)}, expected one vector of {width} numbers"
        )
    found = given.cpu().float()
    if not found.isfinite().all():
        raise ArgumentError("the query vector holds NaN or infinite numbers, expected finite ones")
    if not found.any():
        raise ArgumentError("the query vector is all zero: it has no direction, so nothing is nearer to it than anything else")
    return found


def _written(text: str, what: str) -> str:
    """The text itself, if UTF-8 has it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"the {what} {quoted(text)} holds half a character: read it as UTF-8, or name it otherwise"
        ) from error
    return text
