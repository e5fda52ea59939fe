"""A simulated user of the wardrobe's Fashion-IQ: says what must change in a picture to get the one that is wanted."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from unifashion_pl.data.texts import EVALUATION, modifying_text
from unifashion_pl.wardrobe.catalogue import FIQ_SPLITS, WardrobeSpec, fiq_distractors, fiq_parts, spec_of
from unifashion_pl.wardrobe.products import Product, differences
from unifashion_pl.wardrobe.texts import modifying_texts


@dataclass(frozen=True)
class WardrobeFeedback:
    """``feedback(candidate_id, target_id)`` for ``multi_round`` of ``benchmarks/dialogues.py``.

    The text names every attribute in which the two products differ, twice, in other words, and is joined as Fashion-IQ's evaluation
    texts are ("A and b"). The same two ids always give the same text.

    Attributes:
        products: what every image of the wardrobe's Fashion-IQ shows, by id, over all splits.
        seed: of the choice of words.
    """

    products: Mapping[str, Product] = field(repr=False)
    seed: int = 0

    @classmethod
    def of(cls, spec: WardrobeSpec | str = "demo", seed: int = 0) -> WardrobeFeedback:
        """The user of the wardrobe with this spec and seed; no file is read.

        >>> feedback = WardrobeFeedback.of("tiny")
        >>> a, b = list(feedback.products)[:2]
        >>> feedback(a, a) is None, feedback(a, b)
        (True, 'Has no sleeves and has no buttons and has red vertical stripes and without sleeves and fewer buttons and red vertical stripes')
        """
        products: dict[str, Product] = {}
        for part in fiq_parts(spec_of(spec), seed):
            products |= zip(part.ids, part.products)
        for split in FIQ_SPLITS:
            products |= fiq_distractors(seed, split)
        return cls(products, seed)

    def __call__(self, candidate: str, target: str) -> str | None:
        """What leads from the candidate to the target; None where a modifying text has nothing to say: another category, no difference.

        Raises:
            KeyError: an id of another wardrobe.
        """
        if unknown := [i for i in (candidate, target) if i not in self.products]:
            raise KeyError(
                f"{', '.join(unknown)} is not among the {len(self.products)} images of this wardrobe: "
                "build the feedback with the spec and seed that the wardrobe was drawn with"
            )
        shown, wanted = self.products[candidate], self.products[target]
        if shown.category != wanted.category or not differences(shown, wanted):
            return None
        key = f"{self.seed}/feedback/{candidate}/{target}"
        return modifying_text(modifying_texts(shown, wanted, random.Random(key)), EVALUATION, key)
