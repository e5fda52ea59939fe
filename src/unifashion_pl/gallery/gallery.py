"""Exact search over images: by text, by image, or by image + modifying text.

Letters: M images, Q query tokens, E embedding width.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from unifashion_pl import files
from unifashion_pl.arguments import (
    ArgumentError,
    Id,
    Ids,
    asked_at,
    choice,
    count,
    identifier,
    identifiers,
    number,
    text_list,
)
from unifashion_pl.arguments import vector as query_vector
from unifashion_pl.backbone.tokenizer import shorten
from unifashion_pl.gallery import store
from unifashion_pl.gallery.session import Hit, Session
from unifashion_pl.inference.encode import compose, encode_image, encode_image_sets, encode_text
from unifashion_pl.inference.images import Images, image_list, left_out, unreadable
from unifashion_pl.inference.requests import head_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.metrics.recall import exact_fp32, token_scores

QUERY_SETS = {"reference": ("reference",), "target": ("target",), "both": ("reference", "target")}
USES = {"reference": "search by text or by image", "target": "search by image + modifying text"}


class Gallery:
    """Embedded images with ids; all scores are exact, in fp32.

    Composed queries live in the space of the target queries q_T, texts and images in that of the reference queries q_R (Eq. 9); the
    gallery keeps one set of embeddings for each kind of search and refuses the kinds it has none for.

    Args:
        model: embeds images and queries; must have a retrieval head.
        query_set: ``reference``, ``target`` or ``both``.
    """

    def __init__(self, model: FashionModel, query_set: str = "both") -> None:
        self.model = model
        self.query_set = choice(query_set, "query set", QUERY_SETS)
        self.ids: list[str] = []
        self.captions: list[str] = []
        self.tokens: dict[str, Tensor] = {}
        self.caption_vectors: Tensor | None = None
        #: The folder that it was read from or written to, and the state that was left there.
        self._at: tuple[Path, str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, key: object) -> bool:
        """Whether an id is there; ids are converted as in :meth:`add`.

        Raises:
            TypeError: something that is no id.
        """
        return identifier(cast(Id, key)) in self.ids

    def __repr__(self) -> str:
        captioned = sum(bool(c) for c in self.captions)
        return f"Gallery({len(self)} images, {captioned} with captions, queries: {self.query_set})"

    def add(
        self, images: Images, ids: Ids | None = None, captions: str | Sequence[str] | None = None, batch_size: int = 32
    ) -> Gallery:
        """Embed and append images; arguments as in :func:`gallery_of`. Nothing is added on an error.

        A caption of which the model can read nothing counts as none in searches, and a warning names it.

        Raises:
            ValueError: other numbers of ids or captions than images, an id that is there already or is none, or an image whose vectors
                are no numbers.
        """
        items = image_list(images)
        names = self._names(items) if ids is None else identifiers(ids)
        texts = [""] * len(items) if captions is None else text_list(captions)
        _check_lengths(len(items), names, texts)
        if twice := [name for name, times in Counter([*self.ids, *names]).items() if times > 1]:
            raise ValueError(f"ids must be unique, these are there already: {', '.join(twice[:5])}")
        new = encode_image_sets(self.model, items, QUERY_SETS[self.query_set], batch_size=batch_size)
        vectors = self._embed_captions(texts, next(iter(new.values())).shape[-1])
        for tensor in (*new.values(), vectors):
            if bad := store.not_finite(tensor):
                found = ", ".join(names[row] for row in bad)
                raise ArgumentError(f"the vectors of {found} are NaN or infinite: look at the model's weights")
        self.tokens = {name: torch.cat([self.tokens[name], t]) if self.ids else t for name, t in new.items()}
        self.caption_vectors = torch.cat([self.caption_vectors, vectors]) if self.caption_vectors is not None else vectors
        self.ids += names
        self.captions += texts
        return self

    def _names(self, items: Sequence[Any]) -> list[str]:
        numbers = [int(name) for name in self.ids if name.isdecimal() and len(name) < 19]
        first = max([len(self) - 1, *numbers]) + 1
        return [identifier(x) if isinstance(x, str | Path) else str(first + i) for i, x in enumerate(items)]

    def _embed_captions(self, texts: Sequence[str], width: int) -> Tensor:
        """(n, E), zero where there is no caption, or none that the model can read."""
        vectors = torch.zeros(len(texts), width)
        given = [i for i, text in enumerate(texts) if text.strip()]
        present = [i for i in given if self.model.backbone.reading_of(texts[i]).says]
        if silent := sorted(set(given) - set(present)):
            names = ", ".join(repr(shorten(texts[i], 40)) for i in silent[:3])
            warnings.warn(
                f"this model's tokenizer can read nothing of {len(silent)} captions, which count as none: {names}",
                stacklevel=asked_at(),
            )
        if present:
            vectors[present] = encode_text(self.model, [texts[i] for i in present])
        return vectors

    def remove(self, ids: Ids) -> Gallery:
        """Take images out; ids are converted as in :meth:`add`.

        Raises:
            KeyError: ids that are not there; nothing is removed then.
            ValueError: something that is no id.
        """
        gone = set(identifiers(ids))
        if unknown := sorted(gone - set(self.ids)):
            raise KeyError(f"not in the gallery of {len(self)} images: {', '.join(unknown[:5])}")
        keep = [i for i, name in enumerate(self.ids) if name not in gone]
        self.ids, self.captions = [self.ids[i] for i in keep], [self.captions[i] for i in keep]
        self.tokens = {name: tokens[keep] for name, tokens in self.tokens.items()}
        if self.caption_vectors is not None:
            self.caption_vectors = self.caption_vectors[keep]
        return self

    def search(
        self,
        text: str | None = None,
        image: Images | None = None,
        k: int = 10,
        *,
        caption_weight: float = 1.0,
        exclude: Ids = (),
    ) -> list[Hit]:
        """The k best images, best first; equal scores in the order of ids.

        Args:
            text: a description, or with ``image`` a modifying text.
            image: one image: a reference, or without ``text`` an example of what is wanted.
            k: at least 1.
            caption_weight: of the caption score, for galleries with captions.
            exclude: ids to leave out, converted as in :meth:`add`; those that are not there change nothing.

        Raises:
            ValueError: neither text nor image, several of either, a text of which the model can read nothing, a number that is none, or an
                empty gallery.
            RuntimeError: the gallery was made without the query set that this search needs.
        """
        if not self.ids:
            raise ValueError("the gallery is empty")
        if text is None and image is None:
            raise ValueError("give a text, an image, or both")
        if image is not None and len(given := image_list(image)) > 1:
            raise ValueError(f"search takes one image, got {len(given)}")
        if text is not None and len(texts := text_list(text)) > 1:
            raise ValueError(f"search takes one text, got {len(texts)}")
        k, weight, left = count(k, "k"), number(caption_weight, "caption_weight"), identifiers(exclude)
        if image is not None and text is not None:
            return self.by_vector(compose(self.model, image, text)[0], "target", k, weight, left)
        if text is not None:
            return self.by_vector(encode_text(self.model, text, strict=True)[0], "reference", k, weight, left)
        assert image is not None
        # each of the example's tokens finds its best match in an image; the score is their mean
        query, tokens = encode_image(self.model, image)[0], self._tokens("reference")
        with exact_fp32(tokens.device):
            score = token_scores(query, tokens).mean(0)
        return [Hit(self.ids[i], float(score[i]), float(score[i])) for i in self._best(score, k, left)]

    def by_vector(
        self, vector: Tensor, query_set: str, k: int = 10, caption_weight: float = 1.0, exclude: Ids = ()
    ) -> list[Hit]:
        """Search with a ready query vector (E,) in the space of a query set; other arguments and errors as in :meth:`search`."""
        k, caption_weight, left = count(k, "k"), number(caption_weight, "caption_weight"), identifiers(exclude)
        tokens = self._tokens(choice(query_set, "query set", USES))
        query = query_vector(vector, tokens.shape[-1])
        with exact_fp32(tokens.device):
            image = token_scores(query[None], tokens)[0]
            caption = self.caption_vectors @ query if self.caption_vectors is not None else torch.zeros(len(self))
        score = image + caption_weight * caption
        hits = []
        for i in self._best(score, k, left):
            with exact_fp32(tokens.device):
                token = int((tokens[i] @ query).argmax())
            text = self.captions[i] or None
            part = float(caption[i]) if text else None
            hits.append(Hit(self.ids[i], float(score[i]), float(image[i]), token, part, text))
        return hits

    def _tokens(self, query_set: str) -> Tensor:
        if query_set not in self.tokens:
            raise RuntimeError(
                f"this gallery was made with {self.query_set} queries and cannot {USES[query_set]}: "
                f"build it with query_set={query_set!r} or 'both'"
            )
        return self.tokens[query_set]

    def _best(self, scores: Tensor, k: int, exclude: list[str]) -> list[int]:
        if not scores.isfinite().all():
            raise ValueError(
                "scores are NaN or infinite: the query's numbers, caption_weight or the model's weights are out of range"
            )
        values, left = scores.tolist(), set(exclude)
        order = sorted(range(len(values)), key=lambda i: (-values[i], self.ids[i]))
        return [i for i in order if self.ids[i] not in left][:k]

    def session(self, image: Images | None = None, text: str | None = None, k: int = 10) -> Session:
        """Start a search that is refined step by step."""
        return Session(self, image=image, text=text, k=k)

    def save(self, folder: str | Path) -> Path:
        """Write ``gallery.json`` and the file of tensors that it names; an older gallery there is replaced as a whole, in one step.

        To change a gallery that others may change too, hold its folder (:func:`unifashion_pl.files.exclusive`) while it is loaded, changed
        and saved, as ``unifashion index add`` does.

        Returns:
            The folder.

        Raises:
            RuntimeError: it was read from this folder, or saved there, and another process has changed it since: what that one added
                would be lost.
            WriteError: the folder cannot be written; an older gallery is as it was.
        """
        folder = Path(folder)
        tensors = {f"tokens.{name}": tokens for name, tokens in self.tokens.items()}
        if self.caption_vectors is not None:
            tensors["captions"] = self.caption_vectors
        model = fingerprint(self.model)
        description = {"query_set": self.query_set, "model": model, "ids": self.ids, "captions": self.captions}
        with files.exclusive(folder):
            place, now = folder.resolve(), store.state_of(folder)
            if self._at is not None and self._at[0] == place and now not in (None, self._at[1]):
                raise RuntimeError(
                    f"the gallery in {folder} was changed by another process since it was read: load it again and repeat the change, "
                    "or save to another folder"
                )
            self._at = place, store.write(folder, description, tensors)
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: FashionModel) -> Gallery:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no gallery there.
            ValueError: another format, a damaged file, or a gallery of another model: its vectors would mean nothing to this one.
        """
        folder = Path(folder)
        stored = store.read(folder)
        content, own = stored.description, fingerprint(model)
        if content.model != own:
            raise ValueError(
                f"the gallery in {folder} was made by another model ({shorten(content.model, 16)}, this one is {own}): "
                "load that model, or build the gallery again"
            )
        gallery, width = cls(model, content.query_set), head_of(model, "retrieval").text_proj.out_features
        shapes: dict[str, tuple[int, ...]] = {"captions": (len(content.ids), width)}
        for name in QUERY_SETS[content.query_set]:
            shapes[f"tokens.{name}"] = (len(content.ids), model.backbone.num_queries, width)
        store.check_tensors(stored, folder, shapes)
        gallery.ids, gallery.captions = content.ids, content.captions
        gallery.tokens = {n.removeprefix("tokens."): t for n, t in stored.tensors.items() if n.startswith("tokens.")}
        gallery.caption_vectors = stored.tensors.get("captions")
        gallery._at = folder.resolve(), stored.state
        return gallery


def _check_lengths(images: int, ids: list[str] | None, captions: list[str] | None) -> None:
    """Refuse columns that are not as long as the images are many."""
    for what, column in (("ids", ids), ("captions", captions)):
        if column is not None and len(column) != images:
            raise ValueError(f"{images} images but {len(column)} {what}")


def fingerprint(model: FashionModel) -> str:
    """Hash of the small tensors that every training of the embeddings changes: queries, ``ln_vision``, both projections."""
    digest = hashlib.sha256()
    state = {**model.backbone.ln_vision.state_dict(), "queries": model.backbone.query_tokens}
    head = model.retrieval_head
    if head is not None:
        state |= {f"v.{n}": t for n, t in head.vision_proj.state_dict().items()}
        state |= {f"t.{n}": t for n, t in head.text_proj.state_dict().items()}
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def gallery_of(
    model: FashionModel,
    images: Images,
    ids: Ids | None = None,
    captions: str | Sequence[str] | None = None,
    *,
    query_set: str = "both",
    batch_size: int = 32,
    max_bad: int = 0,
) -> Gallery:
    """A searchable collection of a user's images.

    Args:
        ids: unique texts, paths or whole numbers, kept as texts; None = the paths, or the positions of images that are no paths.
        captions: one per image, written without sight of any query, "" = none; or None.
        query_set: ``reference`` (search by text or image), ``target`` (image + modifying text), or ``both``.
        max_bad: images that cannot be read and are left out with a warning; all images are read once before any is embedded.

    Raises:
        UnreadableImages: a ValueError that names more than ``max_bad`` images.
    """
    items = image_list(images)
    names = None if ids is None else identifiers(ids)
    texts = None if captions is None else text_list(captions)
    _check_lengths(len(items), names, texts)
    if bad := unreadable(items, max_bad):
        warnings.warn(left_out(bad), stacklevel=asked_at())
        names = names or [str(item) if isinstance(item, str | Path) else str(i) for i, item in enumerate(items)]
        kept = [i for i in range(len(items)) if i not in bad]
        items, names = [items[i] for i in kept], [names[i] for i in kept]
        texts = None if texts is None else [texts[i] for i in kept]
    return Gallery(model, query_set=query_set).add(items, ids=names, captions=texts, batch_size=batch_size)
