"""Options that several commands share."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

if TYPE_CHECKING:
    from unifashion_pl.gallery.queries import QueryEncoder
    from unifashion_pl.module import UniFashionModule


def count_from_0(text: str) -> int:
    """A number of an option, which may be 0."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def usable(images: Sequence[Path], max_bad: int) -> list[int]:
    """Positions of the images that can be read; the others are named.

    Raises:
        UnreadableImages: they are more than ``max_bad``.
        ValueError: none can be read.
    """
    from unifashion_pl.inference.images import left_out, unreadable

    if bad := unreadable(images, max_bad):
        print(left_out(bad), file=sys.stderr)
    if len(bad) == len(images):
        raise ValueError("none of the images can be used")
    return [i for i in range(len(images)) if i not in bad]


MaxBad = Annotated[int, {"type": count_from_0, "metavar": "N"}]


@dataclass(kw_only=True)
class Model:
    """Which model, and where it works."""

    heads: ClassVar[tuple[str, ...] | None] = None
    model: Annotated[str | None, "tiny (default), a folder, a .ckpt or a hub id"] = None
    trust_remote_code: Annotated[bool, "let the model name classes that are not of this library; they may run any program"] = (
        False
    )
    device: Annotated[str | None, "e.g. cuda or cpu; default: the first GPU if there is one"] = None

    def place(self) -> str:
        """The device, or the first GPU (under torchrun the one of this process), or the CPU."""
        import torch

        gpu = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
        return self.device or (gpu if torch.cuda.is_available() else "cpu")

    def load(self) -> UniFashionModule:
        """The model on its device; from a .yaml an untrained one."""
        from unifashion_pl import UniFashionModule

        whole = UniFashionModule.from_pretrained(
            self.model or "tiny", heads=self.heads, trust_remote_code=self.trust_remote_code
        )
        return whole.to(self.place())


class SearchModel(Model):
    """A model that searches: neither its language model nor what paints is built."""

    heads = ("retrieval",)

    def encoder(self) -> QueryEncoder:
        """What searches ask: the model is loaded when something else than texts is asked."""
        from unifashion_pl.gallery.queries import QueryEncoder
        from unifashion_pl.inference.text_encoder import TextEncoder

        return QueryEncoder(self.load, TextEncoder.of(self.model or "tiny"))
