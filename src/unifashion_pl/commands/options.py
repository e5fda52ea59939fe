"""Options that several commands share."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

if TYPE_CHECKING:
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
    device: Annotated[str | None, "e.g. cuda, mps or cpu; default: the first GPU if there is one"] = None

    def place(self) -> str:
        """The device, or the first GPU (under torchrun the one of this process; Apple's too), or the CPU."""
        from unifashion_pl.devices import default_device

        return self.device or default_device()

    def load(self) -> UniFashionModule:
        """The model on its device; from a .yaml an untrained one.

        Raises:
            ValueError: an export, which is no whole model.
        """
        from unifashion_pl import UniFashionModule
        from unifashion_pl.inference.exported import is_export

        if is_export(self.model):
            raise ValueError(
                f"{self.model} is an export, which `index search` asks; here the model is needed that it was made from"
            )

        whole = UniFashionModule.from_pretrained(
            self.model or "tiny", heads=self.heads, trust_remote_code=self.trust_remote_code
        )
        return whole.to(self.place())


NOT_NEEDED = "not needed: no model is loaded"


@dataclass(kw_only=True)
class NoModel:
    """What a command takes that once loaded a model."""

    model: Annotated[str | None, NOT_NEEDED] = None
    trust_remote_code: Annotated[bool, NOT_NEEDED] = False
    device: Annotated[str | None, NOT_NEEDED] = None


class SearchModel(Model):
    """A model that searches: neither its language model nor what paints is built."""

    heads = ("retrieval",)


def _columns(text: str) -> dict[str, str]:
    """``image=photo,text=title`` as a mapping."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    if wrong := [pair[0] for pair in pairs if not all(part.strip() for part in pair)]:
        raise ArgumentTypeError(f"{wrong[0]!r} names no column: expected OURS=YOURS, e.g. image=photo,text=title,id=sku")
    named = [ours.strip() for ours, _, _ in pairs]
    if twice := [name for name in named if named.count(name) > 1]:
        raise ArgumentTypeError(f"{twice[0]!r} is named {named.count(twice[0])} times, expected one column for each")
    return dict(zip(named, (yours.strip() for _, _, yours in pairs)))


Columns = Annotated[
    dict[str, str] | None,
    {
        "type": _columns,
        "metavar": "OURS=YOURS,…",
        "help": "where the CSV has names of its own, e.g. image=photo,text=title,id=sku,product=parent",
    },
]


@dataclass(kw_only=True)
class CatalogueFiles:
    """A CSV and its images."""

    csv: Annotated[
        Path,
        "a row an image: a column image, perhaps text, id and product, which hits and --where have as caption, id and product; all other "
        "columns come back in hits, --where and --facets",
    ]
    root: Annotated[Path, "folder of the images"]
    columns: Columns = None
    max_bad: Annotated[MaxBad, "leave out up to N images that cannot be read; each is named"] = 0
    texts: Annotated[bool, "the CSV's texts count in searches by text, beside the images"] = False


@dataclass(kw_only=True)
class Kept:
    """For which searches vectors are, and how they are kept."""

    queries: Annotated[Literal["reference", "target", "both"], "reference: text or image; target: composed"] = "both"
    storage: Annotated[
        Literal["fp32", "fp16", "int8"],
        "how vectors are kept; int8 takes a fifth of fp32's place, see benchmarks/RESULTS.md for what is lost",
    ] = "fp32"
    pool: Annotated[int | None, {"metavar": "N", "help": "keep N tokens of each image, near ones as their mean"}] = None
    coarse: Annotated[
        int | None,
        {"metavar": "N", "help": "for some 200,000 images and more: a search reads N tokens of each first; 1 = their mean"},
    ] = None


@dataclass(kw_only=True)
class Work:
    """How images are embedded."""

    workers: Annotated[
        int, {"type": count_from_0, "metavar": "N", "help": "processes that decode images; 0 = none beside this one"}
    ] = 0
    anew: Annotated[bool, "throw away what an interrupted run has embedded, instead of going on from there"] = False
