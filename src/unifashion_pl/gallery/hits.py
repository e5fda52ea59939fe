"""What a search finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: What parts of a score are called in a sentence; ``image`` and ``caption`` say more than their name.
SAID = {"unlike": "examples that are not wanted", "words": "words", "match": "matching head"}


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        id: of the image. score: image_score + weight × caption_score, and further parts by their weights.
        image_score: similarity to the image's query tokens; of several examples the mean.
        token: the query token of the image that matched best; None in search by image, where all tokens take part.
        caption_score: similarity to the image's caption, None without one.
        caption: the caption itself.
        image: path of the picture, None where it had none.
        product: what it is a view of; the id where nothing was said.
        columns: further values that came with the image.
        parts: the parts of the score before their weights: ``image``, ``caption``, ``unlike``, ``words``, and ``match``, the matching
            head's probability, which is added for those that were ranked by it.
    """

    id: str
    score: float
    image_score: float
    token: int | None = None
    caption_score: float | None = None
    caption: str | None = None
    image: str | None = field(default=None, kw_only=True)
    product: str = field(default="", kw_only=True)
    columns: Mapping[str, Any] = field(default_factory=dict, kw_only=True, hash=False)
    parts: Mapping[str, float] = field(default_factory=dict, kw_only=True, hash=False)

    @property
    def explanation(self) -> str:
        """How the score came about, in words."""
        where = "all query tokens" if self.token is None else f"query token {self.token}"
        said = [f"image {self.image_score:.3f} ({where})"]
        if self.caption_score is not None:
            said.append(f"caption {self.caption_score:.3f} ({self.caption!r})")
        return ", ".join([*said, *(f"{words} {self.parts[name]:.3f}" for name, words in SAID.items() if name in self.parts)])

    def as_json(self) -> dict[str, Any]:
        """``id, score, image, product, columns, parts``, and the caption that took part, as plain values."""
        told = asdict(self)
        return {name: told[name] for name in ("id", "score", "image", "product", "caption", "columns", "parts")}
