"""A search in several steps: refine by text, look from another image, take a step back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL.Image import Image

from unifashion_pl.arguments import Images, count
from unifashion_pl.backbone.words import readable
from unifashion_pl.gallery.asking import Asking
from unifashion_pl.gallery.hits import Hits
from unifashion_pl.inference.images import image_list, open_image


@dataclass(frozen=True)
class Step:
    """State after a step: the reference image, or None, and the wishes said since it was chosen."""

    image: Image | None
    texts: tuple[str, ...]

    @property
    def text(self) -> str | None:
        """All wishes as one text, joined as Fashion-IQ joins its two."""
        return " and ".join(self.texts) or None


class Session:
    """Search that remembers.

    Wishes add up: after ``refine("longer sleeves")`` and ``refine("in red")`` the reference image is composed with
    "longer sleeves and in red". :meth:`look_from` makes another image the reference and forgets the wishes; :meth:`undo` takes the
    last step back.

    Args:
        gallery: where to search.
        image: reference image. text: first wish, or a description when there is no image. k: number of hits.

    >>> session = gallery.session("dress.jpg")            # doctest: +SKIP
    >>> session.refine("longer sleeves")[0].id            # doctest: +SKIP
    """

    def __init__(self, gallery: Asking, image: Images | None = None, text: str | None = None, k: int = 10) -> None:
        if image is None and text is None:
            raise ValueError("a session starts from an image, a text, or both")
        self.gallery = gallery
        self.k = count(k, "k")
        texts = () if text is None else (self._wish(text),)
        self._steps = [Step(_reference(image) if image is not None else None, texts)]
        self.hits = self._search()

    @property
    def texts(self) -> tuple[str, ...]:
        """The wishes in force."""
        return self._steps[-1].texts

    def __len__(self) -> int:
        """Steps that can be undone."""
        return len(self._steps) - 1

    def __repr__(self) -> str:
        start = "an image" if self._steps[-1].image is not None else "texts alone"
        return f"Session(from {start}, wishes: {', '.join(self.texts) or 'none'}; {len(self)} to undo, {len(self.hits)} hits)"

    def _repr_html_(self) -> str:
        return self.hits._repr_html_()

    def refine(self, text: str) -> Hits:
        """Add a wish and search again.

        Raises:
            ValueError: an empty text, or one of which the model can read nothing.
        """
        if isinstance(text, str) and not text.strip():
            raise ValueError("refine needs a text, e.g. 'longer sleeves'")
        return self._go(replace(self._steps[-1], texts=(*self.texts, self._wish(text))))

    def look_from(self, image: Images) -> Hits:
        """Make another image the reference, e.g. that of a hit; earlier wishes are forgotten."""
        return self._go(Step(_reference(image), ()))

    def undo(self) -> Hits:
        """Back to the hits before the last step.

        Raises:
            ValueError: nothing to undo.
        """
        if len(self._steps) == 1:
            raise ValueError("nothing to undo: this is where the session started")
        self._steps.pop()
        self.hits = self._search()
        return self.hits

    def _wish(self, text: str) -> str:
        """One text that can be read by itself: beside earlier wishes nobody would notice that it cannot."""
        listed = readable(text, self.gallery.encoder.whole.reader)
        if len(listed) != 1:
            raise ValueError(f"a wish is one text, e.g. 'longer sleeves', got {len(listed)}")
        return listed[0].strip()

    def _go(self, step: Step) -> Hits:
        """Take a step; one that fails leaves the session as it was."""
        self._steps.append(step)
        try:
            self.hits = self._search()
        except Exception:
            self._steps.pop()
            raise
        return self.hits

    def _search(self) -> Hits:
        step = self._steps[-1]
        return self.gallery.search(text=step.text, image=step.image, k=self.k)


def _reference(image: Images) -> Image:
    """One image, opened now, so that a session does not depend on the file staying there."""
    items = image_list(image)
    if len(items) != 1:
        raise ValueError(f"a session has one reference image, got {len(items)}")
    return open_image(items[0])
