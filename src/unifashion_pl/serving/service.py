"""The index and the model behind a server: opened, asked in batches, opened anew. Letters: S the side of the tower's pictures."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unifashion_pl.backbone.words import remarks_on
from unifashion_pl.data import decode
from unifashion_pl.gallery.asking import Asking, SearchOptions, read_for
from unifashion_pl.gallery.calibration import verdict
from unifashion_pl.gallery.hits import Hits
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.names import unknown
from unifashion_pl.serving.bodies import CaptionAnswer, EmbedAnswer, FacetCount, HitFound, SearchAnswer
from unifashion_pl.serving.errors import Refusal, refusal_of
from unifashion_pl.serving.lane import Lane
from unifashion_pl.serving.limits import Limits
from unifashion_pl.serving.metrics import Metrics

if TYPE_CHECKING:
    from unifashion_pl.interface import FashionModel

Pixels = NDArray[np.uint8]
logger = logging.getLogger("unifashion_pl.serving")
#: Captions that are made together.
CAPTIONS = 8


@dataclass(frozen=True)
class Ask:
    """A search, or without ``how`` a wish for vectors; pictures are (S, S, 3)."""

    text: str | None
    image: Pixels | None
    how: SearchOptions | None = None
    facets: tuple[str, ...] = ()

    def goes_with(self, other: Ask) -> bool:
        """Whether both can be asked in one call."""
        kinds = [(one.text is None, one.image is None, one.how is None) for one in (self, other)]
        alone = any(one.how is not None and (one.how.like is not None or one.how.unlike is not None) for one in (self, other))
        return kinds[0] == kinds[1] and not alone and self.how == other.how


@dataclass(frozen=True)
class Describe:
    """A wish for a caption of a picture (S, S, 3)."""

    image: Pixels
    style: str


class Service:
    """An index that is asked from many threads and read by one.

    Args:
        index: its folder. load: gives the encoder of its queries, and the model if it captions.
        hidden: texts that no answer may hold, e.g. paths of this machine, and what stands in their place.

    Attributes:
        gallery: None until it is open. fault: why it could not be opened. opened: is called when either is known. stopping: no
            more requests are taken.
    """

    def __init__(
        self,
        index: Path,
        load: Callable[[], tuple[QueryEncoder, FashionModel | None]],
        limits: Limits | None = None,
        hidden: dict[str, str] | None = None,
    ) -> None:
        self.index, self._load, self.limits = index, load, limits or Limits()
        self._hidden = {str(index): "the index", **(hidden or {})}
        self.metrics = Metrics()
        self.gallery: Asking | None = None
        self._told: dict[str, Any] = {}
        self.captioner: FashionModel | None = None
        self.fault: Exception | None = None
        self.stopping = False
        self.opened: Callable[[], Any] = lambda: None
        self._opening = threading.Lock()
        self.searches = self._lane("search", lambda batch: answer(self._open, batch), self.limits.batch)
        self.captions = self._lane("caption", lambda batch: describe(self._captioner, batch), CAPTIONS)
        self.metrics.watch("index_images", "Images of the index", lambda: 0 if self.gallery is None else len(self.gallery))
        self.metrics.watch(
            "ready", "Whether model and index are open", lambda: int(self.gallery is not None and not self.stopping)
        )

    def _lane(self, name: str, work: Callable[[list[Any]], Sequence[Any]], together: int) -> Lane:
        made = Lane(name, work, self.limits.queue, together, self.metrics.batches.labels(name).observe)
        self.metrics.watch(f"waiting_{name}", "Requests that wait, or are being read", lambda: made.taken)
        return made

    def open(self) -> None:
        """Load the model, read the index, and ask both once, so that the first request is no slower than others.

        Raises:
            FileNotFoundError, ValueError: as of loading a model and of :func:`~unifashion_pl.gallery.asking.read_for`.
        """
        encoder, captioner = self._load()
        gallery = Asking(encoder, read_for(self.index, encoder))
        with suppress(RuntimeError, ValueError):  # what it has not learned is said to who asks for it
            square = encoder.whole.pixels(np.full((8, 8, 3), 255, np.uint8))
            encoder.whole.images([square])
            encoder.whole.texts(["a dress"])
        self.captioner = captioner
        self._take(gallery)

    def reload(self) -> tuple[int, int]:
        """Open the index anew beside the one that is served, then serve that: images before and now.

        A batch that is being answered ends on the older one; what waits is answered from the newer one.

        Raises:
            Refusal: it cannot be opened; the older one is served on.
        """
        with self._opening:
            before = self._open
            try:
                now = Asking(before.encoder, read_for(self.index, before.encoder))
                len(now), now.encoder.side.width
            except (OSError, ValueError) as error:
                self.metrics.reloads.labels("failed").inc()
                logger.error("the index was not opened anew: %s", error)
                raise Refusal("conflict", f"{self.public(str(error))}; the older index is served on") from error
            self._take(now)
            self.metrics.reloads.labels("done").inc()
            logger.info("index opened anew: %d images, before %d", len(now), len(before))
            return len(before), len(now)

    def _take(self, gallery: Asking) -> None:
        """Serve an index from now on. What is told of it is asked here, once: its rows are read by the lane's thread alone from then on."""
        threshold = gallery.threshold
        self._told = {
            "images": len(gallery),
            "columns": gallery.columns,
            "query_set": gallery.query_set,
            "model": gallery.encoder.side.fingerprint,
            "threshold": None if threshold is None else threshold.score,
        }
        self.gallery = gallery

    def close(self) -> None:
        """Refuse what waits; batches that are being answered end."""
        self.stopping = True
        for lane in (self.searches, self.captions):
            lane.close()

    def require_ready(self) -> None:
        """
        Raises:
            Refusal: model and index are not open, or the server ends.
        """
        if self.stopping:
            raise Refusal("stopping", "the server is about to end", 5)
        self._open  # noqa: B018

    @property
    def _open(self) -> Asking:
        """What is served, to those that were taken before the end, too.

        Raises:
            Refusal: it is not open.
        """
        if self.gallery is None:
            raise Refusal("starting", "model and index are being opened", 5)
        return self.gallery

    @property
    def _captioner(self) -> FashionModel:
        """
        Raises:
            Refusal: it has not learned to caption.
        """
        if self.captioner is None:
            raise Refusal("not_available", "this model has no caption head, or the server was started with --no-captions")
        return self.captioner

    @property
    def styles(self) -> list[str]:
        """Of captions; none where the model gives none."""
        head = getattr(self.captioner, "caption_head", None)
        return [] if head is None else sorted(head.styles)

    def require_style(self, style: str) -> None:
        """
        Raises:
            Refusal: no captions are made, or none of this style.
        """
        self.require_ready()
        if self._captioner and style not in self.styles:
            raise Refusal("invalid_request", unknown("style", style, self.styles))

    def told(self) -> dict[str, Any]:
        """What is served, in plain values."""
        self.require_ready()
        return {**self._told, "caption_styles": self.styles}

    def pixels(self, data: bytes, field: str) -> Pixels:
        """(S, S, 3) what the tower sees of a file of a picture.

        Raises:
            Refusal: it cannot be read.
        """
        gallery = self._open
        try:
            picture = decode.to_rgb(decode.open_image(data))
        except decode.BadInput as error:
            raise Refusal("unreadable_image", f"{field} is no readable image: {error.reason}") from error
        return gallery.encoder.whole.pixels(picture)

    def public(self, message: str) -> str:
        """A message without the places of this machine. A bare name, e.g. ``index``, is none, and may be any word of the message."""
        for text, instead in self._hidden.items():
            if set(text) & {"/", "\\"}:
                word = instead.replace("\\", r"\\")
                message = re.sub(rf"(?<![\w/\\]){re.escape(text)}(?![\w-])", word, message)
        return message


def answer(gallery: Asking, batch: Sequence[Ask]) -> list[Any]:
    """The answer of each, or the error in its place; those of one kind are asked in one call."""
    groups: list[list[int]] = []
    for i, ask in enumerate(batch):
        group = next((group for group in groups if batch[group[0]].goes_with(ask)), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    answers: dict[int, Any] = {}
    for group in groups:
        answers |= zip(group, _answered(gallery, [batch[i] for i in group]))
    return [answers[i] for i in range(len(batch))]


def _answered(gallery: Asking, group: Sequence[Ask]) -> list[Any]:
    """As :func:`answer`, of one kind. One that cannot be meant fails alone."""
    texts = None if group[0].text is None else [str(ask.text) for ask in group]
    images = None if group[0].image is None else [ask.image for ask in group if ask.image is not None]
    how = group[0].how
    try:
        if how is None:
            vectors, within = gallery.vectors(texts, images)
            model = gallery.encoder.side.fingerprint
            return [
                EmbedAnswer(vectors=one.tolist(), query_set=within, model=model, notes=_notes(gallery, ask))
                for ask, one in zip(group, vectors)
            ]
        found = gallery.search_many(texts, images, **vars(how))
        return [_told(gallery, ask, hits) for ask, hits in zip(group, found)]
    except Exception as error:
        if len(group) == 1:
            return [error]
        return [one for ask in group for one in _answered(gallery, [ask])]


def _told(gallery: Asking, ask: Ask, hits: Hits) -> SearchAnswer | Exception:
    assert ask.how is not None
    try:
        counted = {column: gallery.facets(column, ask.how.where) for column in ask.facets}
    except ValueError as error:
        return error
    said = verdict(gallery, hits, ask.how, ask.text, ask.image)
    return SearchAnswer(
        hits=[HitFound(**{name: value for name, value in hit.as_json().items() if name != "image"}) for hit in hits],
        facets={column: [FacetCount(value, n) for value, n in counts.items()] for column, counts in counted.items()} or None,
        match=None if said is None else said.as_json(),
        notes=_notes(gallery, ask),
    )


def _notes(gallery: Asking, ask: Ask) -> list[str]:
    """What of a text is not read."""
    return [] if ask.text is None else remarks_on([gallery.encoder.whole.reader.reading_of(ask.text)])


def describe(model: FashionModel, batch: Sequence[Describe]) -> list[Any]:
    """The caption of each, or the error in its place; those of one style are made together."""
    from unifashion_pl.inference.captions import caption

    answers: dict[int, Any] = {}
    for style in dict.fromkeys(one.style for one in batch):
        own = [i for i, one in enumerate(batch) if one.style == style]
        try:
            texts = caption(model, [batch[i].image for i in own], style, batch_size=CAPTIONS)
            answers |= {i: CaptionAnswer(caption=text, style=style) for i, text in zip(own, texts)}
        except Exception as error:
            answers |= dict.fromkeys(own, error)
    return [answers[i] for i in range(len(batch))]


def refused(service: Service, error: BaseException) -> Refusal | None:
    """:func:`~unifashion_pl.serving.errors.refusal_of` without the places of this machine."""
    found = refusal_of(error)
    if found is None or isinstance(error, Refusal):
        return found
    return Refusal(found.code, service.public(found.message))
