"""The gallery of a category, each process with a part of it: queries travel to the gallery, 1 kB each, and only counts and best lists come back.

Letters: N queries of a block, G gallery images of this process, Q tokens, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unifashion_pl.metrics.best import Unranked, best_keys
from unifashion_pl.metrics.protocol import SCORES
from unifashion_pl.metrics.recall import block_height, finite_rows, max_similarity, padded
from unifashion_pl.team import Rows, Team

#: Galleries from the smallest to the largest; each holds those before it.
NESTED = ("targets", "union", "original")
Counts = dict[tuple[str, str, str], tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Asked:
    """A block of queries, of which every process has all.

    Attributes:
        keys, references: N names. right: names of the right answers of each. vectors: (N, E).
    """

    keys: Sequence[object]
    right: Sequence[Sequence[str]]
    references: Sequence[str]
    vectors: Tensor

    @classmethod
    def of(cls, rows: Rows) -> Asked:
        """From rows with the facts ``right`` and ``reference``."""
        return cls(rows.ids, rows.facts["right"], rows.facts["reference"], rows.tensors["embeddings"])

    def __len__(self) -> int:
        return len(self.keys)


class Shelf:
    """This process's part of a category's gallery.

    Args:
        team: who has the other parts; every method is a collective.
        category: of the gallery.
        levels: image -> position in ``NESTED`` of the smallest gallery that it is in, of all parts.
        rows: images of this process, of all categories: facts ``category``, ``image``, ``has_caption``, tensors ``tokens`` (·, Q, E) and
            ``captions`` (·, E).
        scores: which of ``image``, ``caption`` and ``both`` are wanted. weight: of the caption score in ``both``.
        device: where scores are computed.
    """

    def __init__(
        self,
        team: Team,
        category: str,
        levels: Mapping[str, int],
        rows: Rows,
        scores: Sequence[str],
        weight: float,
        device: torch.device,
    ) -> None:
        pairs = zip(rows.facts.get("category", ()), rows.facts.get("image", ()))
        here = sorted((levels[image], image, i) for i, (of, image) in enumerate(pairs) if of == category)
        order = torch.tensor([i for _, _, i in here], dtype=torch.long)
        self.team, self.levels, self.weight, self.device = team, levels, weight, device
        self.ids = [image for _, image, _ in here]
        self.column = {name: i for i, name in enumerate(self.ids)}
        self.tokens = rows.tensors["tokens"][order] if len(rows) else torch.zeros(0, 1, 1)
        self.captions: Tensor | None = None
        self.scores = tuple(name for name in SCORES if name in scores)
        if len(rows) and self.scores != ("image",):
            real = torch.tensor(rows.facts["has_caption"], dtype=torch.float32)[order]
            self.captions = rows.tensors["captions"][order] * real[:, None]
        own = [levels[name] for name in self.ids]
        self.parts = [own.count(level) for level in range(len(NESTED))]
        # the same in all processes, because equal shapes make equal inputs give equal last bits
        self.height = block_height(len(levels), 256)
        self._buffer: Tensor | None = None

    def score(self, asked: Asked, height: int) -> dict[str, Tensor]:
        """Scores (N, G) by name; ``height`` rows are multiplied, whatever N is."""
        vectors = padded(asked.vectors, height).to(self.device)
        image, caption = (vectors.new_empty(len(asked), len(self.ids)) for _ in range(2))
        tall = self.height * (self.tokens.shape[1] if len(self.ids) else 0)
        if self._buffer is None or self._buffer.shape != (tall, height):
            self._buffer = vectors.new_empty(tall, height)
        for start in range(0, len(self.ids), self.height):
            part = slice(start, min(start + self.height, len(self.ids)))
            block = padded(self.tokens[part].to(self.device), self.height)
            found = max_similarity(block, vectors, self._buffer)
            image[:, part] = found[: part.stop - start, : len(asked)].T
            if self.captions is not None:
                found = padded(self.captions[part].to(self.device), self.height) @ vectors.T
                caption[:, part] = found[: part.stop - start, : len(asked)].T
        if self.scores == ("image",):
            return {"image": image}
        every = {"image": image, "caption": caption, "both": image + self.weight * caption}
        return {name: every[name] for name in self.scores}

    def reached(self, asked: Asked, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores (N,) of the best right answers, from whoever has them.

        Raises:
            ValueError: in all processes, naming queries of which a score is not finite.
        """
        here, columns = self._right(asked)
        found = torch.full((len(self.scores) + 1, len(asked)), float("-inf"), device=self.device)
        for row, values in zip(found, scores.values()):
            row.scatter_reduce_(0, here, values[here, columns], "amax")
            found[-1][~finite_rows(values)] = 1.0
        found = self.team.reduce(found.nan_to_num(float("-inf")), "max")
        if len(bad := (found[-1] > 0).nonzero().flatten().tolist()):
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise ValueError(f"scores are not finite for queries {', '.join(str(asked.keys[i]) for i in bad[:5])}{more}")
        return dict(zip(self.scores, found))

    def _right(self, asked: Asked) -> tuple[Tensor, Tensor]:
        """Rows and columns of the right answers among this process's images."""
        pairs = [(i, self.column[name]) for i, names in enumerate(asked.right) for name in names if name in self.column]
        rows, columns = torch.tensor(pairs, dtype=torch.long, device=self.device).reshape(-1, 2).T
        return rows, columns

    def count(self, asked: Asked, scores: Mapping[str, Tensor], reached: Mapping[str, Tensor]) -> Tensor:
        """Wrong images of this process above and beside the best right one: (scores, 2, levels + 1, N), of each level and of the reference alone."""
        found = torch.zeros(len(self.scores), 2, len(NESTED) + 1, len(asked), dtype=torch.int64, device=self.device)
        pairs = list(zip(asked.references, asked.right))
        here = [i for i, (reference, right) in enumerate(pairs) if reference in self.column and reference not in right]
        columns, own = [self.column[asked.references[i]] for i in here], self._right(asked)
        for number, (name, values) in enumerate(scores.items()):
            flags = torch.empty_like(values)
            for kind, compare in enumerate((torch.gt, torch.eq)):
                compare(values, reached[name][:, None], out=flags)
                flags[own] = 0
                for level, part in enumerate(flags.split(self.parts, dim=1)):
                    found[number, kind, level] = part.sum(1)  # exact below 2^24 images
                found[number, kind, -1, here] = flags[here, columns].long()
        return found

    def ranks(self, asked: Asked, counts: Tensor) -> Counts:
        """(gallery, reference rule, score) -> better and ties of each query, from the sum of all processes' :meth:`count`."""
        level = torch.tensor([self.levels.get(reference, len(NESTED)) for reference in asked.references], device=counts.device)
        within, lone = counts[:, :, : len(NESTED)].cumsum(2), counts[:, :, -1]
        found: Counts = {}
        for place, gallery in reversed([*enumerate(NESTED)]):
            for rule, off in (("ref-kept", 0), ("ref-removed", lone * (level <= place))):
                for score, (better, ties) in zip(self.scores, (within[:, :, place] - off).tolist()):
                    found[gallery, rule, score] = better, ties
        return found

    def lists(self, asked: Asked, scores: Mapping[str, Tensor], most: int) -> dict[tuple[str, str, str], list[Unranked]]:
        """The best candidates among this process's, by variant."""
        own = torch.zeros(len(asked), len(self.ids), dtype=torch.bool)
        allowed = torch.ones_like(own)
        own[tuple(part.cpu() for part in self._right(asked))] = True
        for i, (right, reference) in enumerate(zip(asked.right, asked.references)):
            if reference in self.column and reference not in right:
                allowed[i, self.column[reference]] = False
        found = {}
        for name, values in scores.items():
            for place, gallery in enumerate(NESTED):
                inside = (torch.arange(len(self.ids)) < sum(self.parts[: place + 1]))[None]
                for rule, mask in (("ref-kept", inside), ("ref-removed", inside & allowed)):
                    found[gallery, rule, name] = best_keys(values, own, self.ids, most, mask)
        return found


def top_lists(scores: Tensor, ids: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
    """The k best (id, score) pairs of every row of ``scores`` (N, G); equal ones in the order of ids."""
    k = min(k, scores.shape[1])
    if not k:
        return [[] for _ in scores]
    least = scores.topk(k).values[:, -1:]
    found: list[list[tuple[float, str]]] = [[] for _ in scores]
    rows, columns = (scores >= least).nonzero(as_tuple=True)
    for row, column, value in zip(rows.tolist(), columns.tolist(), scores[rows, columns].tolist()):
        found[row].append((-value, ids[column]))
    return [[(name, -value) for value, name in sorted(row)[:k]] for row in found]


def best_of(parts: Sequence[Sequence[tuple[str, float]]], k: int) -> list[tuple[str, float]]:
    """The k best of the :func:`top_lists` of several processes for one query."""
    return sorted((pair for part in parts for pair in part), key=lambda pair: (-pair[1], pair[0]))[:k]
