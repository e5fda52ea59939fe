"""What differs between two items, and how people say it: one notion for drawn garments and for the rows of a catalogue.

An item is a mapping of attributes to values, as words. What is said follows tables of phrases, which name the wanted value as
``{wanted}``, the shown one as ``{shown}`` and the attribute as ``{name}``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Item = Mapping[str, str]


@dataclass(frozen=True)
class Phrases:
    """How people speak of an attribute.

    Attributes:
        absolute: sentences about what is wanted, as people write feedback: "is red".
        relative: about both items: "red instead of blue".
        asked: as people type into a search beside a picture: "in red".
        values: a value that is spoken of in its own way -> (absolute, relative, asked).
        order: values from the least to the most, for which ``compared`` is said.
        compared: what is said of a step down and of one up the order, instead of ``relative``: "shorter", "longer".
    """

    absolute: tuple[str, ...]
    relative: tuple[str, ...]
    asked: tuple[str, ...] = ()
    values: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    compared: tuple[str, str] | None = None

    def about(self, wanted: str) -> tuple[str, ...]:
        """Templates of :attr:`absolute` for a value."""
        return self.values[wanted][0] if wanted in self.values else self.absolute

    def between(self, shown: str, wanted: str) -> tuple[str, ...]:
        """Templates of :attr:`relative` for two values."""
        if wanted in self.values:
            return self.values[wanted][1]
        if self.compared is None or shown not in self.order or wanted not in self.order:
            return self.relative
        return (self.compared[self.order.index(wanted) > self.order.index(shown)],)

    def typed(self, wanted: str) -> tuple[str, ...]:
        """Templates of :attr:`asked` for a value."""
        return self.values[wanted][2] if wanted in self.values else self.asked


def _lone(
    adjective: str, *asked: str, absolute: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """What is said of a value that is no more than a word of its own: "sleeveless"."""
    return absolute or (f"is {adjective}",), (asked or (adjective,))[:1], asked or (adjective, f"make it {adjective}")


_NO_SLEEVES = _lone("sleeveless", "without sleeves", "sleeveless", absolute=("is sleeveless", "has no sleeves"))

COLOUR = Phrases(
    ("is {wanted}", "is {wanted} in color"),
    ("{wanted} instead of {shown}", "more {wanted}"),
    ("in {wanted}", "the same in {wanted}", "make it {wanted}", "{wanted}"),
)
SLEEVES = Phrases(
    ("has {wanted} sleeves",),
    ("{wanted} sleeves instead of {shown} ones",),
    ("with {wanted} sleeves", "the same with {wanted} sleeves", "{wanted} sleeves"),
    {"none": _NO_SLEEVES, "no": _NO_SLEEVES, "sleeveless": _NO_SLEEVES},
    ("none", "short", "long"),
    ("shorter sleeves", "longer sleeves"),
)
LENGTH = Phrases(
    ("is {wanted}",),
    ("{wanted} instead of {shown}",),
    ("{wanted}", "a {wanted} one", "make it {wanted}"),
    order=("short", "knee-length", "long"),
    compared=("shorter", "longer"),
)
PATTERN = Phrases(
    ("has {wanted}",),
    ("{wanted}",),
    ("with {wanted}", "the same with {wanted}"),
    {"plain": _lone("plain", "without a pattern", "plain", absolute=("is plain", "has no pattern"))},
)
NECKLINE = Phrases(
    ("has a {wanted}",),
    ("a different neckline: {wanted}",),
    ("with a {wanted}", "the same with a {wanted}"),
    {
        "strapless": _lone("strapless"),
        "V-neck": (("has a V-neck",), ("a different neckline: v-neck",), ("with a V-neck", "the same with a V-neck")),
    },
)
BUTTONS = Phrases(
    ("has {wanted} buttons",),
    ("{wanted} buttons instead of {shown}",),
    ("with {wanted} buttons",),
    order=("no", "three", "five"),
    compared=("fewer buttons", "more buttons"),
)
MATERIAL = Phrases(
    ("is made of {wanted}", "is {wanted}"),
    ("{wanted} instead of {shown}",),
    ("in {wanted}", "the same in {wanted}", "made of {wanted}"),
)
CATEGORY = Phrases(
    ("is a {wanted}",),
    ("a {wanted} instead of a {shown}",),
    ("the same in a {wanted}", "a {wanted} like this", "as a {wanted}"),
)
#: Of a word that was changed for another one in a text, of which nobody knows what it is about.
WORD = Phrases(
    ("is {wanted}",),
    ("{wanted} instead of {shown}", "more {wanted}"),
    ("{wanted}", "in {wanted}", "make it {wanted}", "with {wanted}"),
)
#: Of any other attribute.
FURTHER = Phrases(
    ("{name} is {wanted}", "has {wanted} {name}"),
    ("{name} is {wanted} instead of {shown}", "{wanted} {name} instead of {shown}"),
    ("with {wanted} {name}", "{name} {wanted}", "the same with {wanted} {name}"),
)
#: Names of columns, in lower case -> how they are spoken of.
KNOWN = {
    **dict.fromkeys(("colour", "color", "main colour", "main color", "base colour", "basecolour", "base color"), COLOUR),
    **dict.fromkeys(("sleeve", "sleeves", "sleeve length"), SLEEVES),
    "length": LENGTH,
    **dict.fromkeys(("material", "fabric"), MATERIAL),
    "category": CATEGORY,
}


def phrases_of(attribute: str) -> Phrases:
    """How an attribute is spoken of, by its name; others than those of :data:`KNOWN` by :data:`FURTHER`.

    >>> phrases_of("Sleeve_length") is SLEEVES, phrases_of("collar") is FURTHER
    (True, True)
    """
    return KNOWN.get(spoken(attribute), FURTHER)


def spoken(attribute: str) -> str:
    """A column's name as it is said: ``Sleeve_length`` -> ``sleeve length``."""
    return " ".join(attribute.replace("_", " ").replace("-", " ").lower().split())


def differences(shown: Mapping[str, Any], wanted: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The attributes among ``names``, in their order, in which two items differ.

    >>> differences({"colour": "red", "fit": "slim"}, {"colour": "red", "fit": "wide"}, ("colour", "fit"))
    ['fit']
    """
    return [name for name in names if shown.get(name, "") != wanted.get(name, "")]


def modifying_texts(
    shown: Item, wanted: Item, names: Sequence[str], phrases: Mapping[str, Phrases], rng: random.Random
) -> tuple[str, str]:
    """Two texts that lead from the item that is shown to the wanted one, from different tables; each names every difference.

    Args:
        names: attributes in which they differ.
        phrases: of each of them.

    Raises:
        ValueError: no difference.

    >>> modifying_texts({"length": "short"}, {"length": "long"}, ["length"], {"length": LENGTH}, random.Random(0))
    ('is long', 'longer')
    """
    if not names:
        raise ValueError("reference and target have the same attributes: there is nothing to say")
    names = list(names)
    rng.shuffle(names)
    absolute = " and ".join(one_of(phrases[name].about(wanted[name]), shown, wanted, name, rng) for name in names)
    rng.shuffle(names)
    relative = " and ".join(
        one_of(phrases[name].between(shown[name], wanted[name]), shown, wanted, name, rng) for name in names
    )
    return absolute, relative


def asked_text(
    shown: Item, wanted: Item, names: Sequence[str], phrases: Mapping[str, Phrases], rng: random.Random | None = None
) -> str:
    """What people type beside a picture of what is shown: "in red and with long sleeves".

    Args:
        names: attributes in which they differ.
        rng: of the words; None = the first of each table.

    >>> asked_text({"colour": "blue"}, {"colour": "red"}, ["colour"], {"colour": COLOUR})
    'in red'
    """
    return " and ".join(one_of(phrases[name].typed(wanted[name]), shown, wanted, name, rng) for name in names)


def one_of(templates: Sequence[str], shown: Item, wanted: Item, name: str, rng: random.Random | None) -> str:
    """One of some templates, filled in; where there is but one, nothing is drawn."""
    chosen = templates[0] if rng is None or len(templates) == 1 else rng.choice(templates)
    return chosen.format(name=spoken(name), shown=shown[name], wanted=wanted[name])
