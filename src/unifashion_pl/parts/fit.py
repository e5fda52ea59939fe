"""Whether tensors are those of a model: the one comparison of two state dicts by names, shapes and kinds of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from unifashion_pl.parts.mapped import taken

#: Examples of each sort in a message.
SHOWN = 3


@dataclass(frozen=True)
class Differences:
    """What keeps two state dicts apart; false where nothing does.

    Attributes:
        missing: names that are expected and not there.
        extra: names that are there and not expected.
        other: name -> shapes of a tensor that is there in another shape or kind of numbers.
    """

    missing: list[str]
    extra: list[str]
    other: dict[str, str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.other)

    def __str__(self) -> str:
        other = [f"{name}: {shapes}" for name, shapes in self.other.items()]
        return (
            f"{len(self.missing)} tensors missing {self.missing[:SHOWN]}, {len(self.extra)} left over {self.extra[:SHOWN]}, "
            f"{len(other)} of another shape {other[:SHOWN]}"
        )


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: Iterable[str] = ()) -> Differences:
    """Compare without looking at values; ``optional`` names may be missing.

    >>> import torch
    >>> print(differences({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(3), "c": torch.ones(1)}))
    1 tensors missing ['c'], 1 left over ['b'], 1 of another shape ['a: file (2,), expected (3,)']
    """
    shapes = {name: _shapes(found[name], expected[name]) for name in sorted(found.keys() & expected.keys())}
    missing, extra = expected.keys() - found.keys() - set(optional), found.keys() - expected.keys()
    return Differences(sorted(missing), sorted(extra), {name: apart for name, apart in shapes.items() if apart})


def require_fit(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], place: str, cure: str, optional: Iterable[str] = ()
) -> None:
    """Refuse tensors that are not the expected ones.

    Args:
        place: where they are, and what they should be.
        cure: how to go on.
        optional: names that may be missing.

    Raises:
        ValueError: with the differences between ``place`` and ``cure``.
    """
    if apart := differences(found, expected, optional):
        raise ValueError(f"{place}: {apart}. {cure}")


def load_exactly(model: nn.Module, state: Mapping[str, Tensor], where: str, optional: Iterable[str] = ()) -> None:
    """Load a state that has every tensor of the model but the optional ones, and nothing else.

    Raises:
        ValueError: with the differences; nothing was loaded.
    """
    check_fit(model, state, where, optional)
    model.load_state_dict(taken(model, state), strict=False)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], where: str, optional: Iterable[str] = ()) -> None:
    """The check of :func:`load_exactly` alone."""
    require_fit(state, model.state_dict(), f"{where} does not fit this model", "Was it made with another config?", optional)


def _shapes(found: Tensor, expected: Tensor) -> str:
    """Shapes, and kinds of numbers where they differ; "" where both are the same."""
    one, other = ("complex" if x.is_complex() else "floats" if x.is_floating_point() else "integers" for x in (found, expected))
    if one != other:
        return f"file {tuple(found.shape)} {one}, expected {tuple(expected.shape)} {other}"
    return "" if found.shape == expected.shape else f"file {tuple(found.shape)}, expected {tuple(expected.shape)}"
