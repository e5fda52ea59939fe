"""What the page asks, as plain values, and what the model says to it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec
from PIL import Image

from unifashion_pl import toy
from unifashion_pl.backbone.words import readable
from unifashion_pl.data.decode import to_rgb
from unifashion_pl.demo import examples
from unifashion_pl.demo.catalogue import Catalogue
from unifashion_pl.demo.examples import Example
from unifashion_pl.demo.models import NEEDED, Models
from unifashion_pl.demo.uploads import Refused, from_address, read_picture
from unifashion_pl.gallery.hits import Hit
from unifashion_pl.gallery.session import Step
from unifashion_pl.inference.captions import caption
from unifashion_pl.inference.persons import design, try_on
from unifashion_pl.names import quoted
from unifashion_pl.pages import inside, small
from unifashion_pl.person.problems import InputError

Style = Literal["fashion200k", "fashiongen", "fashioniq"]
Sampler = Literal["few", "paper"]
#: Side of thumbnails, most hits, most characters of a text, most texts of a search.
THUMB, MOST, LONGEST, WISHES = 320, 48, 500, 32


class SearchAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step of a session: see :class:`~unifashion_pl.gallery.session.Step`; pictures are data URIs, ``hit:ID`` or ``example:NAME``."""

    texts: tuple[str, ...] = ()
    image: str | None = None
    where: str | None = None
    k: int = 12


class CaptionAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A picture to be described."""

    image: str


class PaintAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person to be repainted.

    Attributes:
        garment: its photo; of try-on. text, sketch: of design.
        mask: white = repaint, in the person's proportions.
        paste_back: the photo itself stays outside of the mask.
    """

    person: str
    garment: str | None = None
    text: str = ""
    sketch: str | None = None
    mask: str | None = None
    seed: int = 0
    sampler: Sampler = "few"
    paste_back: bool = True


@dataclass(frozen=True)
class Answers:
    """Everything that the page can ask; one request at a time.

    Args:
        models: that answer. catalogue: that is searched; None = there is none. persons, clothes: examples.
    """

    models: Models
    catalogue: Catalogue | None
    persons: list[Example] = field(default_factory=examples.persons)
    clothes: list[Example] = field(default_factory=examples.clothes)

    def state(self) -> dict[str, Any]:
        """What the page shows before anything is asked."""
        columns = {} if self.catalogue is None else self.catalogue.asking.columns
        return {
            "model": self.models.sentence(),
            "catalogue": None if self.catalogue is None else self.catalogue.name,
            "columns": columns,
            "missing": {what: self.models.missing(what) for what in NEEDED},
            "persons": [_shown(example) for example in self.persons],
            "clothes": [_shown(example) for example in self.clothes],
            "searches": () if self.catalogue is None else self.catalogue.texts,
            "shelf": self.shelf(),
            "changes": examples.CHANGES if self.catalogue is not None and self.catalogue.drawn else (),
            "designs": examples.DESIGNS,
            "styles": get_args(Style),
        }

    def shelf(self) -> list[dict[str, Any]]:
        """Some images of the catalogue, as hits are shown, without scores."""
        if self.catalogue is None:
            return []
        shown = [(id, title, self.catalogue.picture(id)) for id, title in self.catalogue.shelf.items()]
        return [
            {"id": id, "title": title, "picture": inside(small(picture, THUMB))}
            for id, title, picture in shown
            if picture is not None
        ]

    def look(self, data: bytes) -> dict[str, Any]:
        """An upload as the page works with it from then on: upright, without metadata, not too large.

        Raises:
            Refused: it cannot be used.
        """
        picture = read_picture(data)
        photo = any(shown.model.toy for shown in (self.models.main, self.models.persons)) and not toy.is_drawing(picture)
        return {"picture": inside(picture), "width": picture.width, "height": picture.height, "notes": [toy.SENTENCE] * photo}

    def search(self, asked: SearchAsked) -> dict[str, Any]:
        """Hits of a step, best first.

        Raises:
            Refused: nothing to search in, or for. ValueError, RuntimeError: as :meth:`~unifashion_pl.gallery.asking.Asking.search`.
        """
        if self.catalogue is None:
            raise Refused("there is no index to search", "one of this model", "Start the page with --index FOLDER")
        if any(len(text) > LONGEST for text in asked.texts):
            raise Refused(f"a text has {max(map(len, asked.texts)):,} characters", f"at most {LONGEST}", "Say it shorter")
        if len(asked.texts) > WISHES:
            raise Refused(f"there are {len(asked.texts):,} wishes", f"at most {WISHES}", "Begin a new search")
        if not 1 <= asked.k <= MOST:
            raise Refused(f"k is {asked.k}", f"1 to {MOST}", "Ask for fewer hits" if asked.k > MOST else "Ask for some")
        asking = self.catalogue.asking
        with _noted() as said:
            for text in asked.texts:  # beside other wishes nobody would notice one that cannot be read
                readable(text, asking.encoder.whole.reader)
            step = Step(None if asked.image is None else self._picture(asked.image), asked.texts)
            own = [(asked.image or "").removeprefix("hit:")] if (asked.image or "").startswith("hit:") else []
            found = asking.search(step.text, step.image, asked.k, where=(asked.where or "").strip() or None, exclude=own)
        return {"hits": [self._hit(place, hit) for place, hit in enumerate(found, 1)], "text": step.text, **said}

    def caption(self, asked: CaptionAsked) -> dict[str, Any]:
        """A caption in each of the three styles.

        Raises:
            RuntimeError: the model has not learned to caption.
        """
        picture = self._picture(asked.image)
        with _noted() as said:
            texts = {style: caption(self.models.main.model, picture, style)[0] for style in get_args(Style)}
        return {"captions": texts, **said}

    def tryon(self, asked: PaintAsked) -> dict[str, Any]:
        """The person in the garment.

        Raises:
            Refused: no garment. InputError: an input that does not fit.
        """
        if asked.garment is None:
            raise Refused("no garment is chosen", "a photo of one", "Choose an example, or a photo of your own")
        person, garment = self._picture(asked.person), self._picture(asked.garment)
        with _noted() as said:
            made = try_on(self.models.persons.model, person, garment, **self._how(asked))[0]
        return {"picture": inside(made, "PNG"), **said}

    def design(self, asked: PaintAsked) -> dict[str, Any]:
        """The person in what a text and, if there is one, a sketch say.

        Raises:
            Refused: no text. InputError: an input that does not fit.
        """
        if not 0 < len(text := asked.text.strip()) <= LONGEST:
            raise Refused(
                f"the description has {len(text)} characters",
                f"1 to {LONGEST}",
                "Say what is to be worn, e.g. red with white dots",
            )
        person = self._picture(asked.person)
        sketch = None if asked.sketch is None else from_address(asked.sketch)
        with _noted() as said:
            made = design(self.models.persons.model, person, text, sketch=sketch, **self._how(asked))[0]
        return {"picture": inside(made, "PNG"), **said}

    def _how(self, asked: PaintAsked) -> dict[str, Any]:
        """Where and how it is painted."""
        how: dict[str, Any] = {"seed": asked.seed, "sampler": asked.sampler, "paste_back": asked.paste_back, "pictures": False}
        if asked.mask is None:
            raise Refused(
                "nothing says where to paint",
                "a region drawn over the person",
                "Draw over what is to be repainted, or fill a box by its four numbers",
            )
        return {**how, "mask": from_address(asked.mask).convert("L")}

    def _picture(self, source: str) -> Image.Image:
        """A data URI, ``hit:ID`` of the catalogue, or ``example:NAME``."""
        kind, _, name = source.partition(":")
        if kind == "hit" and self.catalogue is not None:
            if (found := self.catalogue.picture(name)) is None:
                raise Refused(f"the picture of {quoted(name)} cannot be read", "a picture at its place", "Choose another one")
            return found
        if kind == "example":
            for example in (*self.persons, *self.clothes):
                if example.name == name:
                    return to_rgb(example.picture)
            raise Refused(f"there is no example {quoted(name)}", "one of the page", "Load the page again", 404)
        return from_address(source)

    def _hit(self, place: int, hit: Hit) -> dict[str, Any]:
        assert self.catalogue is not None
        picture = self.catalogue.picture(hit.id)
        columns = dict(hit.columns)
        title = str(columns.pop("name", None) or hit.caption or hit.id)
        return {
            "id": hit.id,
            "place": place,
            "title": title,
            "score": round(hit.score, 3),
            "explanation": hit.explanation,
            "columns": {name: str(value) for name, value in list(columns.items())[:6]},
            "picture": None if picture is None else inside(small(picture, THUMB)),
        }


def _shown(example: Example) -> dict[str, Any]:
    mask = None if example.mask is None else inside(example.mask, "PNG")
    return {"name": example.name, "said": example.said, "picture": inside(example.picture), "mask": mask}


@contextmanager
def _noted() -> Iterator[dict[str, Any]]:
    """Warnings of this library as ``notes``, and ``seconds``; nothing else runs meanwhile, so that they are of this request."""
    said: dict[str, Any] = {}
    since = time.monotonic()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield said
    said["notes"] = list(dict.fromkeys(str(one.message) for one in found if issubclass(one.category, UserWarning)))
    said["seconds"] = round(time.monotonic() - since, 2)


def told(error: Exception) -> dict[str, Any]:
    """An error of :class:`Answers` as the page shows it: ``found``, ``expected``, ``cure``, ``picture``."""
    if isinstance(error, InputError):
        return Refused(f"{error.subject} {error.found}", error.expected, error.cure, picture=error.picture).told()
    if isinstance(error, Refused):
        return error.told()
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return {"found": str(text), "expected": "", "cure": "", "picture": None}
