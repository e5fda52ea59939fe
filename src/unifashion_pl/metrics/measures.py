"""Measures of whole rankings beside recall: nDCG@K, MAP@K and MRR, of queries whose right answers are right or not.

A tie counts against the query, as in recall: a right answer stands behind all wrong ones that score as it does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

NAME = re.compile(r"(?P<kind>nDCG|MAP)@(?P<cut>[1-9]\d{0,5})|(?P<whole>MRR)")


@dataclass(frozen=True)
class Measure:
    """One measure of a ranking.

    Attributes:
        name: ``nDCG@K``, ``MAP@K`` or ``MRR``.
        kind: ``nDCG``, ``MAP`` or ``MRR``.
        cut: K; 0 = the whole ranking.
    """

    name: str
    kind: str
    cut: int = 0

    @classmethod
    def parse(cls, name: str) -> Measure:
        """From its name.

        Raises:
            ValueError: it is none.

        >>> Measure.parse("nDCG@5").cut, Measure.parse("MRR").cut
        (5, 0)
        """
        found = NAME.fullmatch(name)
        if found is None:
            raise ValueError(
                f"unknown measure {name!r}; expected nDCG@K, MAP@K or MRR, e.g. nDCG@5 (recall is asked for by `ks`)"
            )
        return cls(name, found["kind"] or found["whole"], int(found["cut"] or 0))

    def of(self, places: Sequence[int], right: int) -> float:
        """Its value in 0..1 for one query, as trec_eval defines it.

        * nDCG@K = sum of 1 / log2(place + 1) over right answers among the first K, divided by what the best order gives (Järvelin and Kekäläinen 2002);
        * MAP@K: precision at the place of each right answer among the first K, added up and divided by the number of right answers;
        * MRR: 1 / place of the first right answer.

        Args:
            places: of right answers, from 1, ascending; those beyond the cut may be left out.
            right: how many right answers there are.

        >>> Measure.parse("nDCG@5").of([2], 1), Measure.parse("MAP@10").of([1, 4], 2), Measure.parse("MRR").of([4], 3)
        (0.6309297535714575, 0.75, 0.25)
        """
        if self.kind == "MRR":
            return 1.0 / places[0] if places else 0.0
        within = [place for place in places if place <= self.cut]
        if self.kind == "MAP":
            return math.fsum(number / place for number, place in enumerate(within, 1)) / right
        best = math.fsum(1 / math.log2(place + 1) for place in range(1, min(self.cut, right) + 1))
        return math.fsum(1 / math.log2(place + 1) for place in within) / best


def depth(measures: Sequence[str]) -> int:
    """How many of the best candidates of a query with several right answers the measures have to see.

    Raises:
        ValueError: a name that is none.

    >>> depth(["nDCG@5", "MAP@10", "MRR"]), depth([])
    (10, 0)
    """
    return max((Measure.parse(name).cut for name in measures), default=0)
