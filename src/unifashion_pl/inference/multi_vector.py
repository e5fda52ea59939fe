"""The model under the names of sentence-transformers' ``MultiVectorEncoder``: its evaluators, and index back ends that know it, take it as it is.

Letters: q and d vectors of a query and of a document, E width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion_pl.arguments import ArgumentError, OneImage, choice
from unifashion_pl.inference.encode import compose, encode_image, encode_text
from unifashion_pl.inference.requests import head_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.metrics.recall import token_scores

#: A text, an image, or ``{"text": ..., "image": ...}``.
Input: TypeAlias = "OneImage | Mapping[str, Any]"
Vectors = Tensor | NDArray[Any] | Sequence[Tensor] | Sequence[NDArray[Any]]
Similarity = Literal["meanmaxsim", "maxsim"]
#: A text that ends like this names a picture; what only looks so is given as ``{"text": ...}``.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2")


class MultiVectorEncoder:
    """Queries and documents as lists of vectors, scored by MaxSim: the interface of ``sentence_transformers.MultiVectorEncoder`` 6.

    Queries: texts and composed queries have one vector, images all of their query tokens. Documents: images have all of their tokens, texts
    one vector. A text that ends like a picture's file, a path, a PIL image, an array (H, W, 3) and a tensor (3, H, W) are images; a mapping
    has ``text``, ``image``, or both, which is a composed query. All vectors have length 1. An image that looks for texts is scored by all of its
    tokens here; the protocols of FashionGen take its best one alone.

    Args:
        model: with a retrieval head.
        query_set: ``reference``: texts and images look for images and texts; ``target``: composed queries look for images.
        similarity_fn_name: ``meanmaxsim``, the score of :class:`~unifashion_pl.gallery.Gallery`, the mean over a query's vectors of the largest
            product with a document's; or ``maxsim``, their sum. They differ for images as queries, and rank alike.

    Attributes:
        prompts: texts by their names, put before the texts of a request that names one; empty.
    """

    def __init__(
        self, model: FashionModel, query_set: str = "reference", similarity_fn_name: Similarity = "meanmaxsim"
    ) -> None:
        self.model = model
        self.query_set = choice(query_set, "query set", ("reference", "target"))
        self.similarity_fn_name = choice(similarity_fn_name, "similarity", ("meanmaxsim", "maxsim"))
        self.prompts: dict[str, str] = {}
        self.metrics: dict[str, float] = {}
        #: What evaluators tell their results to; they are kept in ``metrics``.
        self.model_card_data = SimpleNamespace(
            set_evaluation_metrics=lambda evaluator, metrics, *_, **__: self.metrics.update(metrics)
        )

    def __repr__(self) -> str:
        return f"MultiVectorEncoder(query_set={self.query_set!r}, similarity_fn_name={self.similarity_fn_name!r})"

    @property
    def device(self) -> torch.device:
        """Where the model works; vectors lie on the CPU."""
        return self.model.device

    def get_embedding_dimension(self) -> int:
        """E."""
        return int(head_of(self.model, "retrieval").text_proj.out_features)

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode_query(self, inputs: Input | Sequence[Input], **options: Any) -> Any:
        """Vectors of queries: a list of (q, E), of a single input that alone; see :meth:`encode`."""
        return self.encode(inputs, task="query", **options)

    def encode_document(self, inputs: Input | Sequence[Input], **options: Any) -> Any:
        """Vectors of documents: a list of (d, E), of a single input that alone; see :meth:`encode`."""
        return self.encode(inputs, task="document", **options)

    def encode(
        self,
        inputs: Input | Sequence[Input],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "token_embeddings",
        convert_to_numpy: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        token_pooling: Any = None,
        task: str | None = "document",
    ) -> Any:
        """Vectors of inputs, in their order.

        Args:
            prompt: put before texts. prompt_name: one of :attr:`prompts`.
            show_progress_bar, normalize_embeddings: are taken and change nothing: many batches show a bar, all vectors have length 1.
            convert_to_numpy: arrays instead of tensors.
            device: the model's own; another is refused, move the model.
            token_pooling: one of sentence-transformers'.
            task: ``query`` or ``document``.

        Raises:
            ArgumentError: an input that the query set cannot ask with or has no documents of, or another value of an option.
            RuntimeError: the model has not learned what is asked.
        """
        choice(output_value, "output_value", ("token_embeddings",))
        task = choice(task, "task", ("query", "document"))
        if device is not None and torch.device(device).type != self.device.type:
            raise ArgumentError(
                f"the model is on {self.device}, and {device} was asked for: move it, model.to({str(device)!r})"
            )
        if prompt is None and prompt_name is not None:
            prompt = self.prompts[choice(prompt_name, "prompt", self.prompts)]
        single = not isinstance(inputs, list | tuple) and not (isinstance(inputs, Tensor | np.ndarray) and inputs.ndim == 4)
        items: list[Any] = [inputs] if single else list(cast(Sequence[Any], inputs))
        found = self._vectors([_parts(item) for item in items], task, prompt or "", batch_size)
        if token_pooling is not None:
            found = token_pooling.pool(found, task=task)
        out = [one.numpy() for one in found] if convert_to_numpy else found
        return out[0] if single else out

    def _vectors(self, items: Sequence[Mapping[str, Any]], task: str, prompt: str, batch_size: int) -> list[Tensor]:
        """Inputs of one kind go through the model together."""
        members: dict[tuple[str, ...], list[int]] = {}
        for i, item in enumerate(items):
            members.setdefault(tuple(sorted(item)), []).append(i)
        out: dict[int, Tensor] = {}
        for kind, places in members.items():
            encode = self._encoding(kind, task)
            texts = [prompt + items[i]["text"] for i in places if "text" in kind]
            vectors = encode([items[i].get("image") for i in places], texts, batch_size)
            out |= zip(places, vectors if vectors.ndim == 3 else vectors[:, None])
        return [out[i] for i in range(len(items))]

    def _encoding(self, kind: tuple[str, ...], task: str) -> Callable[[list[Any], list[str], int], Tensor]:
        """What makes vectors of inputs of a kind."""
        model, name = self.model, self.query_set
        composed = kind == ("image", "text")
        if (task == "query" and composed != (name == "target")) or (
            task == "document" and (composed or (name == "target" and "text" in kind))
        ):
            raise ArgumentError(
                f"an encoder of {name} queries was given {' + '.join(kind)} as {task}: texts and images ask, and are found, by "
                'query_set="reference", image + text asks for images by query_set="target"'
            )
        if composed:
            return lambda images, texts, size: compose(model, images, texts, batch_size=size)
        if kind == ("text",):
            return lambda images, texts, size: encode_text(model, texts, batch_size=size)
        return lambda images, texts, size: encode_image(model, images, name, batch_size=size)

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Scores (N, M) of N queries, each (q, E), against M documents, each (d, E); see ``similarity_fn_name``.

        Both may be lists, padded tensors (rows of zeros are padding), or one query's or document's vectors alone.
        """
        queries, documents = _listed(embeddings1), _listed(embeddings2)
        if not queries or not documents:
            return torch.zeros(len(queries), len(documents))
        # a document's own first vector as padding never changes its largest product
        longest = max(map(len, documents))
        tokens = torch.stack([torch.cat([one, one[:1].expand(longest - len(one), -1)]) for one in documents])
        parts = token_scores(torch.cat(queries), tokens).split([len(one) for one in queries])
        return torch.stack([self._reduced(part) for part in parts])

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Scores (N,) of N queries, each against its own document; arguments as of :meth:`similarity`.

        Raises:
            ArgumentError: other numbers of queries than of documents.
        """
        queries, documents = _listed(embeddings1), _listed(embeddings2)
        if len(queries) != len(documents):
            raise ArgumentError(f"{len(queries)} queries and {len(documents)} documents are no pairs")
        return torch.stack([self._reduced((one @ two.T).amax(1)) for one, two in zip(queries, documents)])

    def _reduced(self, scores: Tensor) -> Tensor:
        return scores.mean(0) if self.similarity_fn_name == "meanmaxsim" else scores.sum(0)


def _parts(item: Input) -> dict[str, Any]:
    """Text and image of an input."""
    if isinstance(item, Mapping):
        if not item or {*item} - {"text", "image"}:
            raise ArgumentError(f"an input has {', '.join(map(str, item)) or 'nothing'}, expected text, image, or both")
        return dict(item)
    return {"text": item} if isinstance(item, str) and not item.lower().endswith(PICTURES) else {"image": item}


def _listed(given: Vectors) -> list[Tensor]:
    """Vectors (n, E) of each query or document, in fp32, without padding."""
    rows = [given] if isinstance(given, Tensor | np.ndarray) and given.ndim == 2 else list(given)
    tensors = [torch.as_tensor(one).float().cpu() for one in rows]
    return [one[one.any(1)] if bool(one.any()) else one[:1] for one in tensors]


def encoder(
    model: FashionModel, query_set: str = "reference", similarity_fn_name: Similarity = "meanmaxsim"
) -> MultiVectorEncoder:
    """The model as a :class:`MultiVectorEncoder`: ``encode_query``, ``encode_document``, ``similarity``; arguments are that class's.

    >>> from PIL import Image
    >>> from unifashion_pl import UniFashionModule
    >>> encoder = UniFashionModule.from_pretrained("tiny", heads=["retrieval"]).encoder()
    >>> images = encoder.encode_document([Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")])
    >>> encoder.similarity(encoder.encode_query(["a red dress"]), images).shape
    torch.Size([1, 2])
    """
    return MultiVectorEncoder(model, query_set, similarity_fn_name)
