"""What a search is asked: texts, images and examples become vectors, wishes become what may be found. Letters: n requests, Q tokens, E width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unifashion_pl import arguments
from unifashion_pl.arguments import ArgumentError, Ids, Images, OneImage, choice, count, identifiers, number, text_list, whole
from unifashion_pl.gallery import store
from unifashion_pl.gallery.hits import Hit, Hits
from unifashion_pl.gallery.items import Value
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.gallery.ranking import Request, Term, rank
from unifashion_pl.gallery.scan import as_array
from unifashion_pl.gallery.segments import APPEARANCE, Floats
from unifashion_pl.gallery.stored import Stored, Threshold

#: Weight of a part of a search beside the similarity of what the model sees, whose weight is 1; below 0 it counts against a hit.
HEAVIEST = 1_000
USES = {"reference": "search by text or by image", "target": "search by image + modifying text"}


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search is made.

    Args:
        k: hits, at least 1. caption_weight: of the caption score. exclude: ids to leave out.
        like: further examples; the image score is the mean over them and what is asked beside them.
        unlike: examples that are not wanted; ``unlike_weight`` times the mean of their scores is taken off.
        where: a filter, e.g. ``price < 50 and category == 'dress'``, see :func:`unifashion_pl.gallery.where.condition`.
        group: a column, e.g. ``product``: one hit a value of it, the best view.
        words: weight of the lexical part: BM25 over captions and text columns, as a share of the best row's, for words that the model
            does not know.
        appearance: weight of the appearance in a search by image alone and of examples: how far a picture is the very one that was asked with,
            cropped, tilted or darker, see :class:`~unifashion_pl.backbone.appearance.Appearance`; None = what was chosen for the model. With a
            modifying text nothing counts but what the model composed, unless a weight is said.
        rerank: so many of the best are ranked by the matching head, which looks at each picture with the text, its probability added to
            the score; the others follow them.
    """

    k: int = 10
    caption_weight: float = 1.0
    exclude: Ids = ()
    like: Images | None = None
    unlike: Images | None = None
    unlike_weight: float = 0.5
    where: str | None = None
    group: str | None = None
    words: float = 0.0
    appearance: float | None = None
    rerank: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", count(self.k, "k"))
        for name in ("caption_weight", "unlike_weight", "words", "appearance"):
            if name != "appearance" or self.appearance is not None:
                object.__setattr__(self, name, _weight(getattr(self, name), name))
        object.__setattr__(self, "exclude", identifiers(self.exclude))
        if (rerank := whole(self.rerank, "rerank")) < 0:
            raise ArgumentError(f"rerank is {rerank}, expected how many of the best, or 0")


def _weight(value: Any, name: str) -> float:
    """
    Raises:
        ArgumentError: no number, or one so large that scores would be endless.
    """
    expected = f"a weight from -{HEAVIEST:,} to {HEAVIEST:,}"
    found = number(value, name, expected)
    if abs(found) > HEAVIEST:
        raise ArgumentError(f"{name} is {found:g}, expected {expected}")
    return found


def read_for(folder: Path, encoder: QueryEncoder) -> Stored:
    """The index in a folder, if it is of this model.

    Raises:
        FileNotFoundError: no index there.
        ValueError: another format, a damaged file, no index but what is staged for one, or an index of another model.
    """
    stored = store.read(folder)
    require_model(encoder, stored)
    return stored


def require_model(encoder: QueryEncoder, stored: Stored) -> None:
    """Refuse vectors of another model, which would mean nothing to this one.

    Raises:
        ValueError: they are.
    """
    encoder.require(stored.settings.model, f"the gallery in {stored.folder}", "build the gallery again")
    store.check_shapes(stored, *encoder.shape(stored.settings.pool))


class Asking:
    """What can be searched: an index as it was read, a :class:`~unifashion_pl.gallery.Gallery`, or a collection on a Qdrant server.

    Args:
        encoder: of the model that made the vectors.
    """

    def __init__(self, encoder: QueryEncoder, stored: Stored) -> None:
        self.encoder, self.query_set, self._stored = encoder, str(stored.settings.query_set), stored

    def __len__(self) -> int:
        return len(self._stored.rows)

    @property
    def columns(self) -> dict[str, str]:
        """Names of the columns that came with the images, and ``number`` or ``text``, which they hold."""
        return {name: kind for name, (_, kind) in self._stored.rows.columns().items()}

    @property
    def threshold(self) -> Threshold | None:
        """Of the best score of a text, below which nothing matches; None = not calibrated."""
        return self._stored.settings.threshold

    def absent(self, ids: Iterable[str]) -> list[str]:
        """Those of some ids that are not there."""
        asked = list(dict.fromkeys(ids))
        there = self._stored.rows.keys_of(asked)
        return [id for id in asked if id not in there]

    def search(
        self,
        text: str | None = None,
        image: Images | None = None,
        k: int = 10,
        *,
        caption_weight: float = 1.0,
        exclude: Ids = (),
        **options: Any,
    ) -> Hits:
        """The k best images, best first; equal scores in the order of ids.

        Args:
            text: a description, or with ``image`` a modifying text.
            image: one image: a reference, or without ``text`` an example of what is wanted.
            k: at least 1.
            caption_weight: of the caption score, for galleries with captions.
            exclude: ids to leave out, converted as in :meth:`~unifashion_pl.gallery.Gallery.add`; those that are not there change nothing.
            options: ``like, unlike, unlike_weight, where, group, words, appearance, rerank``, see :class:`SearchOptions`.

        Raises:
            ValueError: neither text nor image, several of either, a text of which the model can read nothing, a number that is none, a
                filter that cannot be meant, or an empty gallery.
            RuntimeError: the gallery was made without the query set that this search needs.

        >>> gallery.search(text="a red dress", k=5, where="price < 50", group="product")  # doctest: +SKIP
        >>> gallery.search(image="dress.jpg", text="in blue", k=5)[0].explanation  # doctest: +SKIP
        """
        how = SearchOptions(k=k, caption_weight=caption_weight, exclude=exclude, **options)
        self._require_images()
        if text is None and image is None and how.like is None:
            raise ValueError("give a text, an image, or both")
        if text is not None and len(texts := text_list(text)) > 1:
            raise ValueError(f"search takes one text, got {len(texts)}")
        found = self._many(None if text is None else [text], image, how)
        if len(found) > 1:
            raise ValueError(f"search takes one image, got {len(found)}; several examples are given as like")
        return found[0]

    def search_many(
        self,
        texts: Sequence[str] | None = None,
        images: Images | None = None,
        k: int = 10,
        *,
        caption_weight: float = 1.0,
        exclude: Ids = (),
        **options: Any,
    ) -> list[Hits]:
        """:meth:`search` for many texts, images, or pairs of both, which read the gallery together: hits of each, in their order."""
        return self._many(texts, images, SearchOptions(k=k, caption_weight=caption_weight, exclude=exclude, **options))

    def _many(self, texts: Sequence[str] | None, images: Images | None, how: SearchOptions) -> list[Hits]:
        self._require_images()
        allowed = self._allowed(how)
        asked, said = self._terms(texts, images, how)
        found = self._best(asked, said, how, allowed, max(how.k, how.rerank))
        if how.rerank:
            within = "target" if texts is not None and images is not None else "reference"
            found = [self._matched(hits, text, within, how.rerank) for hits, text in zip(found, said)]
        return [Hits(hits[: how.k]) for hits in found]

    def by_vector(
        self, vector: Any, query_set: str, k: int = 10, caption_weight: float = 1.0, exclude: Ids = (), **options: Any
    ) -> Hits:
        """Search with a ready query vector (E,) in the space of a query set; other arguments and errors as in :meth:`search`."""
        how = SearchOptions(k=k, caption_weight=caption_weight, exclude=exclude, **options)
        within = choice(query_set, "query set", USES)
        self._require_images()
        self._require_set(within)
        ready = as_array(arguments.vector(vector, self.encoder.side.width))[None]
        terms = self._with_examples([_with_caption(ready, within, how)], how)[0]
        return Hits(self._best([terms], [""], how, self._allowed(how), how.k)[0])

    def facets(self, column: str, where: str | None = None, most: int = 100) -> dict[Value, int]:
        """How many images have each value of a column, most frequent first.

        Args:
            column: one of :attr:`columns`, or ``product``.
            where: count among these alone, see :class:`SearchOptions`.
            most: values that are told.

        Raises:
            ValueError: an unknown column, with the known ones, or a filter that cannot be meant.
        """
        return self._stored.rows.facets(column, where, count(most, "most"))

    def vectors(self, texts: Sequence[str] | None, images: Images | None) -> tuple[list[Floats], str]:
        """For each request its vectors, one (1, E) or of an image alone (Q, E), and the set that they are searched among."""
        if texts is not None and images is not None:
            self._require_set("target")
            return [one[None] for one in self.encoder.whole.composed(images, texts)], "target"
        self._require_set("reference")
        if texts is not None:
            return [one[None] for one in self.encoder.side.texts(texts)], "reference"
        assert images is not None
        return self.encoder.whole.images(images), "reference"

    def heat_maps(
        self, hits: Sequence[Hit], pictures: Sequence[OneImage], text: str, image: Images | None = None
    ) -> dict[str, Floats]:
        """By the ids of hits of a request, where on their pictures the query token that matched best saw it.

        See :meth:`~unifashion_pl.gallery.model_queries.ModelQueries.heat_map`.
        """
        (vectors,), within = self.vectors([text], image)
        asked = [(hit.id, picture, hit.token) for hit, picture in zip(hits, pictures) if hit.token is not None]
        return {id: self.encoder.whole.heat_map(picture, vectors[0], within, token) for id, picture, token in asked}

    def _terms(
        self, texts: Sequence[str] | None, images: Images | None, how: SearchOptions
    ) -> tuple[list[list[Term]], list[str]]:
        """The terms of each request, and its text."""
        if texts is None and images is None:
            return self._with_examples([[]], how), [""]
        if texts is None:
            assert images is not None
            asked = self._looking_like(images, how)
            return self._with_examples(asked, how), [""] * len(asked)
        ready, within = self.vectors(texts, images)
        asked = [_with_caption(one, within, how) for one in ready]
        if images is not None and how.appearance:
            looks = [terms[1:] for terms in self._looking_like(images, how)]
            asked = [[*terms, *looks[i % len(looks)]] for i, terms in enumerate(asked)]
        return self._with_examples(asked, how), [*texts] * (len(ready) if len(texts) == 1 else 1)

    def _looking_like(self, images: Images, how: SearchOptions) -> list[list[Term]]:
        """The terms of each image by itself: its query tokens, and its appearance where that counts."""
        self._require_set("reference")
        if (counts := self._appearance(how.appearance)) is None:
            return [[Term("image", "reference", one)] for one in self.encoder.whole.images(images)]
        weight, reach = counts
        return [
            [Term("image", "reference", tokens), Term("appearance", APPEARANCE, look, weight, reach=reach)]
            for tokens, look in self.encoder.whole.looked_at(images)
        ]

    @property
    def _made_by(self) -> str | None:
        """Fingerprint of what made the appearance vectors that are searched; None without any."""
        return self._stored.settings.appearance

    def _appearance(self, weight: float | None) -> tuple[float, float] | None:
        """Weight and reach of the appearance; None where it does not count.

        Raises:
            RuntimeError: a weight is said, and the index or the model has no appearance. ValueError: they have different ones.
        """
        if weight == 0 or (weight is None and self._made_by is None):
            return None
        own = self.encoder.whole.appearance
        if own is None or self._made_by is None:
            if weight is None:
                return None
            what = "this model has no appearance" if own is None else "this gallery has no vectors of the appearance"
            raise RuntimeError(
                f"{what}: choose one on photos of a catalogue (`unifashion adapt`, or choose_appearance) and build the gallery with that model"
            )
        made, chosen, reach = own
        if made != self._made_by:
            raise ValueError(
                f"the gallery's appearance vectors were made by another projection ({self._made_by}, this model's is {made}): load the model "
                "as it was, build the gallery again, or search with appearance 0"
            )
        chosen = chosen if weight is None else weight
        return (chosen, reach) if chosen else None

    def _with_examples(self, asked: list[list[Term]], how: SearchOptions) -> list[list[Term]]:
        if how.like is not None:
            wanted = self._looking_like(how.like, how)
            share, more = 1 / (len(wanted) + bool(asked[0])), [term for terms in wanted for term in terms]
            asked = [
                [replace(term, share=share) if term.part in ("image", "appearance") else term for term in (*terms, *more)]
                for terms in asked
            ]
        if how.unlike is not None:  # what it shows is not wanted, which is no matter of its appearance
            self._require_set("reference")
            seen = self.encoder.whole.images(how.unlike)
            off = [Term("unlike", "reference", one, -how.unlike_weight / len(seen)) for one in seen]
            asked = [[*terms, *off] for terms in asked]
        return asked

    def _best(
        self, asked: Sequence[Sequence[Term]], said: Sequence[str], how: SearchOptions, allowed: Any, most: int
    ) -> list[list[Hit]]:
        """The ``most`` best images for the terms and text of each request, of those that :meth:`_allowed` lets through."""
        rows = self._stored.rows
        requests = [
            Request(terms, most, allowed, how.group, rows.words(text) if how.words and text else {}, how.words if text else 0.0)
            for terms, text in zip(asked, said)
        ]
        return rank(self._stored.corpus, rows, requests)

    def _allowed(self, how: SearchOptions) -> Any:
        """(M,) which images may be found; None = all."""
        rows, live, allowed = self._stored.rows, self._stored.rows.live(), None
        if how.group is not None:
            rows.column(how.group)
        if how.where is not None:
            allowed = np.isin(live.keys, rows.matching(how.where), assume_unique=True)
        if gone := rows.keys_of(identifiers(how.exclude)):
            allowed = np.ones(len(live), bool) if allowed is None else allowed
            allowed[np.searchsorted(live.keys, list(gone.values()))] = False
        return allowed

    def _matched(self, hits: list[Hit], text: str, within: str, most: int) -> list[Hit]:
        """The first hits by the matching head, the others behind them."""
        if not text:
            raise ValueError("rerank looks at pictures with the text of a search: give a text")
        best = hits[:most]
        if absent := [hit.id for hit in best if hit.image is None]:
            raise ValueError(
                f"rerank reads the pictures, and the gallery has no path of {', '.join(absent[:5])}: add images by their paths"
            )
        chances = self.encoder.whole.matches([hit.image for hit in best if hit.image is not None], text, within)
        scored = [
            replace(hit, score=hit.score + chance, parts={**hit.parts, "match": chance}) for hit, chance in zip(best, chances)
        ]
        return [*sorted(scored, key=lambda hit: (-hit.score, hit.id)), *hits[most:]]

    def _require_images(self) -> None:
        if not len(self):
            raise ValueError("the gallery is empty")

    def _require_set(self, name: str) -> None:
        if self.query_set not in (name, "both"):
            raise RuntimeError(
                f"this gallery was made with {self.query_set} queries and cannot {USES[name]}: "
                f"build it with query_set={name!r} or 'both'"
            )


def _with_caption(ready: Floats, within: str, how: SearchOptions) -> list[Term]:
    """A vector among the images' tokens and among the captions."""
    return [Term("image", within, ready), Term("caption", "captions", ready, how.caption_weight)]
