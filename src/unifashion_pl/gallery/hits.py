"""What a search finds, one hit or all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from unifashion_pl.pages import MOST, Tile, preview

if TYPE_CHECKING:
    from PIL import Image

#: What parts of a score are called in a sentence; ``image`` and ``caption`` say more than their name.
SAID = {"appearance": "appearance", "unlike": "examples that are not wanted", "words": "words", "match": "matching head"}


@dataclass(frozen=True, repr=False)
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
        parts: the parts of the score before their weights: ``image``, ``appearance`` (1 for the very picture that was asked with, next to 0 for
            what does not look the same), ``caption``, ``unlike``, ``words``, and ``match``, the matching head's probability, which is added for
            those that were ranked by it.
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

    def __repr__(self) -> str:
        return f"Hit({self.id!r}, {self.score:.3f}: {self.explanation})"


class Hits(list[Hit]):
    """The hits of a request, best first: a list, which notebooks show with pictures.

    >>> Hits([Hit("a.jpg", 0.71, 0.71, token=3), Hit("b.jpg", 0.52, 0.52, token=0)])
    2 hits
      1  0.710  a.jpg  image 0.710 (query token 3)
      2  0.520  b.jpg  image 0.520 (query token 0)
    """

    @overload
    def __getitem__(self, place: SupportsIndex) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> Hits: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Hit | Hits:
        return Hits(super().__getitem__(place)) if isinstance(place, slice) else super().__getitem__(place)

    def pictures(self) -> tuple[dict[str, Image.Image], list[str]]:
        """By their ids the pictures of hits that have one and can be read, in RGB, and what is wrong with the others."""
        from unifashion_pl.inference.images import open_those  # needs torch, which a search by text does without

        return open_those({hit.id: hit.image for hit in self})

    def __repr__(self) -> str:
        lines = [f"{place:>3}  {hit.score:.3f}  {hit.id}  {hit.explanation}" for place, hit in enumerate(self[:MOST], 1)]
        more = [f"  … and {len(self) - MOST:,} more"] if len(self) > MOST else []
        return "\n".join([self._head(), *lines, *more])

    def _repr_html_(self) -> str:
        shown = self[:MOST]
        pictures, _ = shown.pictures()
        tiles = []
        for place, hit in enumerate(shown, 1):
            columns = (f"{name}: {value}" for name, value in list(hit.columns.items())[:4])
            lines = (f"{place}. {hit.id}  {hit.score:.3f}", *([hit.caption] if hit.caption else []), *columns, hit.explanation)
            tiles.append(Tile(lines, pictures.get(hit.id), "no picture" if hit.image is None else "picture cannot be read"))
        return preview(self._head(), tiles, len(self) - len(shown))

    def _head(self) -> str:
        return f"{len(self):,} hit{'' if len(self) == 1 else 's'}"
