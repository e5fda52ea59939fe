"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        id: of the image. score: image_score + weight × caption_score.
        image_score: similarity to the image's query tokens.
        token: the query token of the image that matched best; None in search by image, where all tokens take part.
        caption_score: similarity to the image's caption, None without one.
        caption: the caption itself.
    """

    id: str
    score: float
    image_score: float
    token: int | None = None
    caption_score: float | None = None
    caption: str | None = None

    @property
    def explanation(self) -> str:
        """How the score came about, in words."""
        where = "all query tokens" if self.token is None else f"query token {self.token}"
        text = f"image {self.image_score:.3f} ({where})"
        return text if self.caption_score is None else f"{text}, caption {self.caption_score:.3f} ({self.caption!r})"
