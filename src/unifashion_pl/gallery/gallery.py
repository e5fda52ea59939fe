"""Exact search over images: by text, by image, or by image + modifying text.

Letters: M images, Q query tokens, E embedding width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from unifashion_pl import files
from unifashion_pl.arguments import Id, Ids, Images, asked_at, choice, count, identifier, identifiers, text_list
from unifashion_pl.gallery import staging, store
from unifashion_pl.gallery.asking import Asking, read_for
from unifashion_pl.gallery.embedding import QUERY_SETS, embedded
from unifashion_pl.gallery.items import IndexItem, Value, check_lengths, picture_path, values_of
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.segments import STORAGE
from unifashion_pl.gallery.session import Session
from unifashion_pl.gallery.stored import IndexSettings, Stored
from unifashion_pl.inference.encode import appearance_fingerprint, fingerprint
from unifashion_pl.inference.images import image_list, left_out, open_those, unreadable
from unifashion_pl.inference.requests import head_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.pages import MOST, Tile, preview

#: Images whose vectors are held in fp32 at once, and lie in one file.
TOGETHER = 16384


class Gallery(Asking):
    """Embedded images with ids, and whatever else is known of them.

    Composed queries live in the space of the target queries q_T, texts and images in that of the reference queries q_R (Eq. 9); the
    gallery keeps one set of embeddings for each kind of search and refuses the kinds it has none for.

    A search reads int8 codes of all images and ranks the best by exact numbers, in galleries of some hundred images all of them.

    Args:
        model: embeds images and queries; must have a retrieval head.
        query_set: ``reference``, ``target`` or ``both``.
        storage: how exact numbers are kept: ``fp32``, ``fp16``, or ``int8``, the codes alone.
        pool: tokens of an image that are kept, near ones as their mean; None = all.
        coarse: tokens of an image that a search reads first, for galleries of very many images; None = it reads all.
    """

    def __init__(
        self,
        model: FashionModel,
        query_set: str = "both",
        *,
        storage: str = "fp32",
        pool: int | None = None,
        coarse: int | None = None,
    ) -> None:
        self.model = model
        kind = choice(query_set, "query set", QUERY_SETS)
        few, read = (None if number is None else count(number, name) for number, name in ((pool, "pool"), (coarse, "coarse")))
        how = cast(Any, choice(storage, "storage", STORAGE))
        kept = IndexSettings(cast(Any, kind), "", how, few, read, appearance_fingerprint(model))
        super().__init__(QueryEncoder(lambda: model), Stored(kept, IndexRows(), {}))

    @property
    def ids(self) -> list[str]:
        """Of all images, in the order in which they came."""
        return self._stored.rows.ids()

    @property
    def captions(self) -> list[str]:
        """Of all images, as :attr:`ids`; "" = none."""
        return self._stored.rows.captions()

    @property
    def tokens(self) -> dict[str, Tensor]:
        """``{query set: (M, Q, E)}`` in fp32, as exact as they are kept: a copy."""
        found = {name: self._stored.corpus.floats(name, np.arange(len(self))) for name in QUERY_SETS[self.query_set]}
        return {name: torch.from_numpy(tokens) for name, tokens in found.items() if tokens is not None}

    @property
    def caption_vectors(self) -> Tensor | None:
        """(M, E), zero without a caption; None before the first image."""
        if not len(self):
            return None
        found = self._stored.corpus.floats("captions", np.arange(len(self)))
        width = head_of(self.model, "retrieval").text_proj.out_features
        return torch.zeros(len(self), width) if found is None else torch.from_numpy(found[:, 0])

    def __contains__(self, key: object) -> bool:
        """Whether an id is there; ids are converted as in :meth:`add`.

        Raises:
            TypeError: something that is no id.
        """
        return bool(self._stored.rows.keys_of([identifier(cast(Id, key))]))

    def __repr__(self) -> str:
        captioned = sum(bool(c) for c in self.captions)
        return f"Gallery({len(self)} images, {captioned} with captions, queries: {self.query_set})"

    def _repr_html_(self) -> str:
        rows = self._stored.rows
        first = rows.items(rows.live().keys[:MOST].tolist()).values()
        pictures, _ = open_those({item.id: item.image for item in first})
        tiles = [
            Tile(
                (item.id, *([item.caption] if item.caption else [])),
                pictures.get(item.id),
                "picture cannot be read" if item.image else "no picture",
            )
            for item in first
        ]
        return preview(repr(self), tiles, len(self) - len(tiles))

    def add(
        self,
        images: Images,
        ids: Ids | None = None,
        captions: str | Sequence[str] | None = None,
        batch_size: int = 32,
        *,
        columns: Sequence[Mapping[str, Value]] | None = None,
        products: Sequence[str | None] | None = None,
        max_bad: int | None = None,
    ) -> Gallery:
        """Embed and append images; arguments as in :func:`gallery_of`. Nothing is added on an error.

        With ``max_bad`` None an image is read when it is embedded, and one that cannot be read is an error. A caption of which the
        model can read nothing counts as none in searches, and a warning names it.

        Raises:
            ValueError: other numbers of ids or captions than images, an id that is there already or is none, a column that holds
                another kind of values, or an image whose vectors are no numbers.
        """
        items = image_list(images)
        names = self._names(items) if ids is None else identifiers(ids)
        texts = [""] * len(items) if captions is None else text_list(captions)
        values = [{}] * len(items) if columns is None else list(columns)
        views = [None] * len(items) if products is None else list(products)
        check_lengths(len(items), {"ids": names, "captions": texts, "columns": values, "products": views})
        rows, segments = self._stored.rows, self._stored.segments
        seen = set(rows.keys_of(names))
        if twice := [n for n in names if n in seen or seen.add(n)]:  # type: ignore[func-returns-value]
            raise ValueError(f"ids must be unique, these are there already: {', '.join(twice[:5])}")
        known = [
            IndexItem(name, text, picture_path(image), view, values_of(row, name))
            for image, name, text, view, row in zip(items, names, texts, views, values)
        ]
        if max_bad is not None and (bad := unreadable(items, max_bad)):
            warnings.warn(left_out(bad), stacklevel=asked_at())
            whole = [i for i in range(len(items)) if i not in bad]
            items, known = image_list([items[i] for i in whole]), [known[i] for i in whole]
        made = []
        for start in range(0, len(items), TOGETHER):
            part = slice(start, start + TOGETHER)
            made.append((known[part], *embedded(self.model, items[part], known[part], self._stored.settings, batch_size)))
        number = max(segments, default=-1) + 1
        rows.add([(number + i, items, captioned) for i, (items, captioned, _) in enumerate(made)])
        segments |= {number + i: segment for i, (_, _, segment) in enumerate(made)}
        return self

    def _names(self, items: Sequence[Any]) -> list[str]:
        numbers = [int(name) for name in self.ids if name.isdecimal() and len(name) < 19]
        first = max([len(self) - 1, *numbers]) + 1
        return [identifier(x) if isinstance(x, str | Path) else str(first + i) for i, x in enumerate(items)]

    def remove(self, ids: Ids) -> Gallery:
        """Take images out; ids are converted as in :meth:`add`.

        Raises:
            KeyError: ids that are not there; nothing is removed then.
            ValueError: something that is no id.
        """
        gone = list(dict.fromkeys(identifiers(ids)))
        found = self._stored.rows.keys_of(gone)
        if unknown := sorted(set(gone) - set(found)):
            raise KeyError(f"not in the gallery of {len(self)} images: {', '.join(unknown[:5])}")
        self._stored.rows.remove(found.values())
        return self

    def session(self, image: Images | None = None, text: str | None = None, k: int = 10) -> Session:
        """Start a search that is refined step by step, see :class:`~unifashion_pl.gallery.session.Session`.

        Raises:
            ValueError: neither image nor text, or what :meth:`~unifashion_pl.gallery.asking.Asking.search` refuses.
        """
        return Session(self, image=image, text=text, k=k)

    def save(self, folder: str | Path) -> Path:
        """Write the gallery into a folder, in one commit; where it was read from, or saved before, only what changed since is written.

        To change a gallery that others may change too, hold its folder (:func:`unifashion_pl.files.exclusive`) while it is loaded, changed
        and saved, as ``unifashion index add`` does.

        Returns:
            The folder.

        Raises:
            RuntimeError: it was read from this folder, or saved there, and another process has changed it since: what that one added
                would be lost.
            ValueError: the folder holds what ``unifashion index embed`` made.
            WriteError: the folder cannot be written; an older gallery is as it was.
        """
        folder = Path(folder)
        staging.refuse(folder)
        with files.exclusive(folder):
            now = replace(self._stored, settings=replace(self._stored.settings, model=fingerprint(self.model)))
            self._stored = store.save(folder, now)
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: FashionModel) -> Gallery:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no gallery there.
            ValueError: another format, a damaged file, or a gallery of another model: its vectors would mean nothing to this one.
        """
        stored = read_for(Path(folder), QueryEncoder(lambda: model))
        gallery = cls(model, stored.settings.query_set)
        gallery._stored = stored
        return gallery


def gallery_of(
    model: FashionModel,
    images: Images,
    ids: Ids | None = None,
    captions: str | Sequence[str] | None = None,
    *,
    query_set: str = "both",
    batch_size: int = 32,
    max_bad: int = 0,
    columns: Sequence[Mapping[str, Value]] | None = None,
    products: Sequence[str | None] | None = None,
    **kept: Any,
) -> Gallery:
    """A searchable collection of a user's images.

    Args:
        images: paths, PIL images, arrays (H, W, 3), tensors (3, H, W), one or a list, or a tensor (M, 3, H, W).
        ids: unique texts, paths or whole numbers, kept as texts; None = the paths, or the positions of images that are no paths.
        captions: one per image, written without sight of any query, "" = none; or None.
        query_set: ``reference`` (search by text or image), ``target`` (image + modifying text), or ``both``.
        columns: one mapping per image, e.g. ``{"price": 49.9, "category": "dress"}``: numbers and texts, which come back in hits and can be
            filtered on; a column holds one kind.
        products: what each image is a view of; None = a product by itself.
        batch_size: images that are embedded together.
        kept: ``storage, pool, coarse``, see :class:`Gallery`.
        max_bad: images that cannot be read and are left out with a warning; all images are read once before any is embedded.

    Raises:
        UnreadableImages: a ValueError that names more than ``max_bad`` images.
        ValueError: as :meth:`Gallery.add`.

    >>> from PIL import Image
    >>> from unifashion_pl import UniFashionModule
    >>> model = UniFashionModule.from_pretrained("tiny", heads=["retrieval"])
    >>> model.gallery([Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")], ids=["r", "b"])
    Gallery(2 images, 0 with captions, queries: both)
    """
    made = Gallery(model, query_set, **kept)
    return made.add(images, ids, captions, batch_size, columns=columns, products=products, max_bad=max_bad)
