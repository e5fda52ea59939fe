"""Exact search over images: by text, by image, or by image + modifying text.

Letters: M images, Q query tokens, E embedding width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unifashion_pl.inference import Images, compose, encode_image, encode_image_sets, encode_text, image_list
from unifashion_pl.metrics.recall import exact_fp32, token_scores

if TYPE_CHECKING:
    from unifashion_pl.gallery.session import Session
    from unifashion_pl.module import UniFashionModule

FORMAT = 1
DESCRIPTION, TENSORS = "gallery.json", "gallery.safetensors"
QUERY_SETS = {"reference": ("reference",), "target": ("target",), "both": ("reference", "target")}
USES = {"reference": "search by text or by image", "target": "search by image + modifying text"}


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


class Gallery:
    """Embedded images with ids; all scores are exact, in fp32.

    Composed queries live in the space of the target queries q_T, texts and images in that of the reference queries q_R (Eq. 9); the
    gallery keeps one set of embeddings for each kind of search and refuses the kinds it has none for.

    Args:
        model: embeds images and queries; must have a retrieval head.
        query_set: ``reference``, ``target`` or ``both``.
    """

    def __init__(self, model: UniFashionModule, query_set: str = "both") -> None:
        if query_set not in QUERY_SETS:
            raise ValueError(f"query_set is {query_set!r}, expected one of {', '.join(QUERY_SETS)}")
        self.model = model
        self.query_set = query_set
        self.ids: list[str] = []
        self.captions: list[str] = []
        self.tokens: dict[str, Tensor] = {}
        self.caption_vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, key: object) -> bool:
        return key in self.ids

    def __repr__(self) -> str:
        captioned = sum(bool(c) for c in self.captions)
        return f"Gallery({len(self)} images, {captioned} with captions, queries: {self.query_set})"

    def add(
        self,
        images: Images,
        ids: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> Gallery:
        """Embed and append images; arguments as in :func:`unifashion_pl.inference.gallery`. Nothing is added on an error.

        Raises:
            ValueError: other numbers of ids or captions than images, or an id that is there already.
        """
        items = image_list(images)
        names = [str(i) for i in ids] if ids is not None else self._names(items)
        texts = list(captions) if captions is not None else [""] * len(items)
        for what, column in (("ids", names), ("captions", texts)):
            if len(column) != len(items):
                raise ValueError(f"{len(items)} images but {len(column)} {what}")
        seen = set(self.ids)
        if twice := [n for n in names if n in seen or seen.add(n)]:  # type: ignore[func-returns-value]
            raise ValueError(f"ids must be unique, these are there already: {', '.join(twice[:5])}")
        new = encode_image_sets(self.model, items, QUERY_SETS[self.query_set], batch_size=batch_size)
        vectors = self._embed_captions(texts, next(iter(new.values())).shape[-1])
        self.tokens = {name: torch.cat([self.tokens[name], t]) if self.ids else t for name, t in new.items()}
        self.caption_vectors = torch.cat([self.caption_vectors, vectors]) if self.caption_vectors is not None else vectors
        self.ids += names
        self.captions += texts
        return self

    def _names(self, items: Sequence[Any]) -> list[str]:
        numbers = [int(name) for name in self.ids if name.isdecimal()]
        first = max([len(self) - 1, *numbers]) + 1
        return [str(x) if isinstance(x, str | Path) else str(first + i) for i, x in enumerate(items)]

    def _embed_captions(self, texts: Sequence[str], width: int) -> Tensor:
        """(n, E), zero where there is no caption."""
        vectors = torch.zeros(len(texts), width)
        present = [i for i, text in enumerate(texts) if text]
        if present:
            vectors[present] = encode_text(self.model, [texts[i] for i in present])
        return vectors

    def remove(self, ids: str | Iterable[str]) -> Gallery:
        """Take images out.

        Raises:
            KeyError: ids that are not there; nothing is removed then.
        """
        gone = {ids} if isinstance(ids, str) else set(ids)
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
        exclude: Iterable[str] = (),
    ) -> list[Hit]:
        """The k best images, best first; equal scores in the order of ids.

        Args:
            text: a description, or with ``image`` a modifying text.
            image: one image: a reference, or without ``text`` an example of what is wanted.
            caption_weight: of the caption score, for galleries with captions.
            exclude: ids to leave out.

        Raises:
            ValueError: neither text nor image, several images, or an empty gallery.
            RuntimeError: the gallery was made without the query set that this search needs.
        """
        if not self.ids:
            raise ValueError("the gallery is empty")
        if text is None and image is None:
            raise ValueError("give a text, an image, or both")
        if image is not None and len(image_list(image)) != 1:
            raise ValueError(f"search takes one image, got {len(image_list(image))}")
        if image is not None and text is not None:
            return self.by_vector(compose(self.model, image, text)[0], "target", k, caption_weight, exclude)
        if text is not None:
            return self.by_vector(encode_text(self.model, text)[0], "reference", k, caption_weight, exclude)
        assert image is not None
        return self._by_example(encode_image(self.model, image)[0], k, exclude)

    def by_vector(
        self, vector: Tensor, query_set: str, k: int = 10, caption_weight: float = 1.0, exclude: Iterable[str] = ()
    ) -> list[Hit]:
        """Search with a ready query vector (E,) in the space of a query set."""
        tokens = self._tokens(query_set)
        with exact_fp32(tokens.device):
            image = token_scores(vector[None].float(), tokens)[0]
            caption = self.caption_vectors @ vector.float() if self.caption_vectors is not None else torch.zeros(len(self))
        score = image + caption_weight * caption
        hits = []
        for i in self._best(score, k, exclude):
            with exact_fp32(tokens.device):
                token = int((tokens[i] @ vector.float()).argmax())
            text = self.captions[i] or None
            part = float(caption[i]) if text else None
            hits.append(Hit(self.ids[i], float(score[i]), float(image[i]), token, part, text))
        return hits

    def _by_example(self, query: Tensor, k: int, exclude: Iterable[str]) -> list[Hit]:
        """Each of the example's tokens finds its best match in an image; the score is their mean."""
        tokens = self._tokens("reference")
        with exact_fp32(tokens.device):
            score = token_scores(query, tokens).mean(0)
        return [Hit(self.ids[i], float(score[i]), float(score[i])) for i in self._best(score, k, exclude)]

    def _tokens(self, query_set: str) -> Tensor:
        if query_set not in self.tokens:
            raise RuntimeError(
                f"this gallery was made with {self.query_set} queries and cannot {USES[query_set]}: "
                f"build it with query_set={query_set!r} or 'both'"
            )
        return self.tokens[query_set]

    def _best(self, scores: Tensor, k: int, exclude: Iterable[str]) -> list[int]:
        left_out = set(exclude)
        values = scores.tolist()
        order = sorted(range(len(values)), key=lambda i: (-values[i], self.ids[i]))
        return [i for i in order if self.ids[i] not in left_out][:k]

    def session(self, image: Images | None = None, text: str | None = None, k: int = 10) -> Session:
        """Start a search that is refined step by step."""
        from unifashion_pl.gallery.session import Session

        return Session(self, image=image, text=text, k=k)

    def save(self, folder: str | Path) -> Path:
        """Write ``gallery.safetensors`` and ``gallery.json``; an older gallery there is replaced as a whole.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"tokens.{name}": tokens.contiguous() for name, tokens in self.tokens.items()}
        if self.caption_vectors is not None:
            tensors["captions"] = self.caption_vectors.contiguous()
        description = {
            "format": FORMAT,
            "query_set": self.query_set,
            "model": fingerprint(self.model),
            "ids": self.ids,
            "captions": self.captions,
        }
        save_file(tensors, folder / (TENSORS + ".part"), metadata={"format": "pt"})
        text = json.dumps(description, ensure_ascii=False, indent=1) + "\n"
        (folder / (DESCRIPTION + ".part")).write_text(text, encoding="utf-8")
        for name in (TENSORS, DESCRIPTION):
            os.replace(folder / (name + ".part"), folder / name)
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: UniFashionModule) -> Gallery:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no gallery there.
            ValueError: another format, or a gallery of another model: its vectors would mean nothing to this one.
        """
        folder = Path(folder)
        for name in (DESCRIPTION, TENSORS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}: expected a folder written by Gallery.save")
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ValueError(f"{folder / DESCRIPTION} has format {content.get('format')!r}, this version reads {FORMAT}")
        if content["model"] != fingerprint(model):
            raise ValueError(
                f"the gallery in {folder} was made by another model ({content['model']}, this one is {fingerprint(model)}): "
                "load that model, or build the gallery again"
            )
        gallery = cls(model, content["query_set"])
        tensors = load_file(folder / TENSORS)
        gallery.ids, gallery.captions = content["ids"], content["captions"]
        gallery.tokens = {n.removeprefix("tokens."): t for n, t in tensors.items() if n.startswith("tokens.")}
        gallery.caption_vectors = tensors.get("captions")
        if any(len(t) != len(gallery.ids) for t in tensors.values()):
            raise ValueError(f"{folder / TENSORS} does not belong to {DESCRIPTION}: other numbers of images")
        return gallery


def fingerprint(model: UniFashionModule) -> str:
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
