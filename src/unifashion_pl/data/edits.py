"""Composed triplets that items of one's own give: which items differ in what can be said, and what is said of it.

An item has a category and attributes, or only a text. From a reference, an **edit** leads to items that share everything with it but one or a
few attributes. All of those are right answers, not the drawn one alone. Nothing here reads a picture.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from unifashion_pl.arguments import choice
from unifashion_pl.data.differences import CATEGORY, WORD, Item, Phrases, asked_text, modifying_texts, phrases_of
from unifashion_pl.data.plan import compact_json, shortened

#: The attribute of what was changed in a text, where items have no attributes.
WORDS = "word"
#: Blanks and marks that are no part of a word.
MARKS = ".,;:!?()[]\"'"
#: Share of drawn edits that change one attribute, where more may change; and of drawn texts that are such as people type into a search.
SINGLE, TYPED = 0.75, 0.5
#: What an edit changes, and what stays: the names that differ, and everything else that can be said of an item.
Context = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class EditItem:
    """What is known of an item.

    Attributes:
        key: of its sample, unique. id: as people know it.
        category: "" where it is not known.
        attributes: name -> value, without empty ones.
        text: description, for items without attributes.
    """

    key: str
    id: str
    category: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Edit:
    """From an item to another.

    Attributes:
        reference, target: their numbers.
        names: what differs.
        shown, wanted: values of the names.
        right: numbers of all items that answer, the target among them.
        answer: equal for edits with the same right answers.
    """

    reference: int
    target: int
    names: tuple[str, ...]
    shown: Item
    wanted: Item
    right: Sequence[int]
    answer: str


@dataclass(frozen=True)
class _Place:
    """An item among those that share a context with it: its own values of what may change there."""

    context: Context
    value: tuple[str, ...]


class Edits:
    """All edits among some items.

    Args:
        items: whose pictures may be reference or target.
        attributes: names of :attr:`EditItem.attributes` that may be spoken of; none = one word of the text for another one, at any place of it.
        changes: most attributes that differ between reference and target; all others are equal. Of texts always one word.
        categories: whether the category may be what differs too ("the same in a skirt").

    Attributes:
        names: what may differ.

    Raises:
        ValueError: no pair of items differs in what may be spoken of, with the reasons.
    """

    def __init__(
        self, items: Sequence[EditItem], attributes: Sequence[str] = (), changes: int = 2, categories: bool = False
    ) -> None:
        if changes < 1:
            raise ValueError(f"changes is {changes}, expected at least 1: how many attributes may differ")
        self.items, self.attributes, self.changes, self.categories = list(items), tuple(attributes), changes, categories
        self.names = (*(self.attributes or (WORDS,)), *(["category"] if categories else []))
        self.phrases: dict[str, Phrases] = {name: phrases_of(name) for name in self.attributes}
        self.phrases |= {WORDS: WORD, "category": CATEGORY}
        found: dict[Context, dict[tuple[str, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
        places = [list(self._places(item)) for item in self.items]
        for number, own in enumerate(places):
            for place in own:
                found[place.context][place.value].append(number)
        self._cells = {context: dict(values) for context, values in found.items() if len(values) > 1}
        self._places_of = [[p for p in own if p.context in self._cells and self._leads_on(p)] for own in places]
        if not any(self._places_of):
            raise ValueError(f"no two of {len(self.items):,} items make a triplet: {self.told()}. {self._cure()}")

    def _places(self, item: EditItem) -> list[_Place]:
        """Every way of leaving out what may change."""
        if not self.attributes:
            words = [word.strip(MARKS) for word in item.text.lower().split()]
            places = [
                _Place(((WORDS,), _named([item.category, *words[:i], "*", *words[i + 1 :]])), (words[i],))
                for i in range(len(words))
                if words[i]
            ]
        else:
            places = []
            for size in range(1, min(self.changes, len(self.attributes)) + 1):
                for names in combinations(self.attributes, size):
                    if all(name in item.attributes for name in names):
                        rest = [item.attributes.get(name, "") for name in self.attributes if name not in names]
                        places.append(
                            _Place((names, _named([item.category, *rest])), tuple(item.attributes[name] for name in names))
                        )
        if self.categories and item.category:
            said = [item.attributes.get(name, "") for name in self.attributes] or [item.text]
            places.append(_Place((("category",), _named(said)), (item.category,)))
        return places

    def _leads_on(self, place: _Place) -> bool:
        """Whether some value in a place's context differs from its own in everything that may change there."""
        return any(_differ(value, place.value) for value in self._cells[place.context])

    @property
    def usable(self) -> list[bool]:
        """Of each item whether any edit starts from it."""
        return [bool(places) for places in self._places_of]

    @property
    def identity(self) -> bytes:
        """Equal iff the edits are."""
        rows = [[item.key, item.category, dict(item.attributes), item.text] for item in self.items]
        return compact_json([rows, self.attributes, self.changes, self.categories])

    def draw(self, number: int, rng: random.Random) -> Edit:
        """An edit of an item: what changes, to which value and to which of its items are drawn, each as likely as any other."""
        own = self._places_of[number]
        single = [place for place in own if len(place.context[0]) == 1]
        several = [place for place in own if len(place.context[0]) > 1]
        place = rng.choice(single if single and (not several or rng.random() < SINGLE) else several)
        return self._edit(number, place, rng)

    def queries(self, seed: int) -> list[Edit]:
        """To evaluate: for each item and each single thing that may change an edit to a drawn value; the same for the same seed."""
        found = []
        for number, own in enumerate(self._places_of):
            for name in self.names:
                if ways := [place for place in own if place.context[0] == (name,)]:
                    rng = random.Random(f"{seed}/edit/{self.items[number].key}/{name}")
                    found.append(self._edit(number, rng.choice(ways), rng))
        return found

    def _edit(self, number: int, place: _Place, rng: random.Random) -> Edit:
        names = place.context[0]
        value = rng.choice([value for value in self._cells[place.context] if _differ(value, place.value)])
        right = self._cells[place.context][value]
        target = rng.choice(right)
        shown, wanted = dict(zip(names, place.value)), dict(zip(names, value))
        return Edit(number, target, names, shown, wanted, right, self.answer(target))

    def answer(self, number: int) -> str:
        """Everything that is said of an item: what makes it as right as others of which the same is said."""
        item = self.items[number]
        return _named([item.category, *([item.attributes.get(name, "") for name in self.attributes] or [item.text.lower()])])

    def text(self, edit: Edit, rng: random.Random | None = None) -> str:
        """What is said of an edit; None = as in evaluation, what people type most simply."""
        if rng is None or rng.random() < TYPED:
            return asked_text(edit.shown, edit.wanted, edit.names, self.phrases, rng)
        return rng.choice(modifying_texts(edit.shown, edit.wanted, edit.names, self.phrases, rng))

    def told(self) -> str:
        """How many items each attribute gives edits of, and how many give none and why."""
        counts = Counter(name for own in self._places_of for name in {n for place in own for n in place.context[0]})
        given = ", ".join(f"{name} {counts[name]:,}" for name in self.names)
        none = Counter(self._fault(item) for item, usable in zip(self.items, self.usable) if not usable)
        said = f"{sum(self.usable):,} of {len(self.items):,} rows are references ({given})"
        return "; ".join([said, *(f"{count:,} are not: {why}" for why, count in none.most_common())])

    def _fault(self, item: EditItem) -> str:
        """Why no edit starts from an item."""
        if not self.attributes:
            same = "no other text of the category differs from theirs in one word"
            return same if item.text.strip() else "they have no text"
        if not any(name in item.attributes for name in self.attributes):
            return f"they have no {' and no '.join(self.attributes)}"
        return f"no row of their category has another {' or '.join(self.attributes)}" + (
            " and is otherwise equal" if len(self.attributes) > 1 else ""
        )

    def _cure(self) -> str:
        if self.attributes:
            return "Name fewer attributes, so that more rows are equal but for one of them"
        return "Name columns that say what can differ (attributes), e.g. a column colour"


def _differ(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return all(a != b for a, b in zip(one, other))


def _named(parts: Sequence[str]) -> str:
    return compact_json(list(parts)).decode()


def chosen_attributes(
    items: Sequence[Mapping[str, str]], asked: Sequence[str] | None, most: int = 30, each: int = 5
) -> tuple[list[str], str]:
    """Columns that are attributes, and a sentence about those that were taken and those that were not.

    Without a word from the user those with at least two and at most ``most`` values, of which each stands on average on ``each`` rows or more, and
    which are no numbers.

    Args:
        items: cells of each row, without those that are something else (image, id, text, name, product, split, category).
        asked: names; None = choose.

    Raises:
        ValueError: a name that no row has, with the known ones; or one with a single value.
    """
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for cells in items:
        for name, cell in cells.items():
            values[name][cell] += 1
    if asked is not None:
        for name in asked:
            if len(values[choice(name, "attribute column", sorted(values))]) < 2:
                raise ValueError(
                    f"the column {name} has one value in all rows, {next(iter(values[name]))!r}: nothing can differ in it"
                )
        return list(asked), f"attributes are {', '.join(asked) or 'none: words of the texts are'}"
    taken, left = [], []
    for name, counts in values.items():
        few = 2 <= len(counts) <= most and counts.total() >= each * len(counts)
        if few and not all(map(_is_number, counts)):
            taken.append(name)
        else:
            left.append(f"{name} ({len(counts):,} values)")
    said = ", ".join(f"{name} ({len(values[name])} values)" for name in taken)
    also = f"; other columns are not: {shortened(left)}" if left else ""
    return taken, f"attributes are {said or 'none of the columns, but words of the texts'}{also}"


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True
