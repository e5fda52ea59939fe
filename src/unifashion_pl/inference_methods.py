"""What a model does with a user's own images and texts, as methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor

from unifashion_pl import inference, inference_edits
from unifashion_pl.arguments import Ids, Seeds
from unifashion_pl.gallery.gallery import Gallery, gallery_of
from unifashion_pl.inference_images import Images, OneImage


class InferenceMethods:
    """The functions of :mod:`unifashion_pl.inference` and :mod:`unifashion_pl.inference_edits` on ``self``, a :class:`unifashion_pl.UniFashionModule`."""

    def encode_image(self: Any, images: Images, query_set: str = "reference") -> Tensor:
        """PIL image, path, tensor or a list of them -> (B, Q, E) unit vectors, one per query token."""
        return inference.encode_image(self, images, query_set)

    def encode_text(self: Any, texts: str | Sequence[str]) -> Tensor:
        """Captions -> (B, E) unit vectors."""
        return inference.encode_text(self, texts)

    def compose(self: Any, images: Images, texts: str | Sequence[str]) -> Tensor:
        """Reference images and modifying texts -> (B, E) unit vectors that search a ``target`` gallery."""
        return inference.compose(self, images, texts)

    def caption(self: Any, images: Images, style: str = "fashiongen", **kwargs: Any) -> list[str]:
        """One caption per image in a style of Table 7: ``fashion200k``, ``fashiongen`` or ``fashioniq``."""
        return inference.caption(self, images, style=style, **kwargs)

    def generate(
        self: Any, prompt: str | Sequence[str], image: Images | None = None, seed: Seeds = 0, **kwargs: Any
    ) -> list[Image]:
        """Images from text, or from an image and a modifying text."""
        return inference.generate(self, prompt, image=image, seed=seed, **kwargs)

    def try_on(
        self: Any, person: OneImage, garment: Images, mask: Any = None, pose: Any = None, seed: Seeds = 0, **kwargs: Any
    ) -> list[Image]:
        """The person wearing each garment; see :func:`unifashion_pl.inference_edits.try_on`."""
        return inference_edits.try_on(self, person, garment, mask=mask, pose=pose, seed=seed, **kwargs)

    def design(
        self: Any,
        person: OneImage,
        text: str | Sequence[str],
        sketch: Any = None,
        pose: Any = None,
        mask: Any = None,
        seed: Seeds = 0,
        **kwargs: Any,
    ) -> list[Image]:
        """The person in what text and sketch describe; see :func:`unifashion_pl.inference_edits.design`."""
        return inference_edits.design(self, person, text, sketch=sketch, pose=pose, mask=mask, seed=seed, **kwargs)

    def gallery(
        self: Any, images: Images, ids: Ids | None = None, captions: str | Sequence[str] | None = None, **kwargs: Any
    ) -> Gallery:
        """A searchable collection of images; see :func:`unifashion_pl.gallery.gallery.gallery_of`."""
        return gallery_of(self, images, ids=ids, captions=captions, **kwargs)
