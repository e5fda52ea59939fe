"""``index``: search in one's own catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from unifashion_pl.commands.options import MaxBad, Model, usable
from unifashion_pl.commands.signature import FOLDER

if TYPE_CHECKING:
    from unifashion_pl.gallery import Gallery


@dataclass(kw_only=True)
class Catalogue:
    """A CSV and its images."""

    csv: Path
    root: Annotated[Path, "folder of the images"]
    max_bad: Annotated[MaxBad, "leave out up to N images that cannot be read; each is named"] = 0
    texts: Annotated[bool, "the CSV's texts count in searches by text, beside the images"] = False

    def rows(self) -> dict[str, Any]:
        """Images, ids and captions, without the few images that cannot be read; those are named.

        Raises:
            UnreadableImages: they are more than ``max_bad``.
        """
        from unifashion_pl.datamodules.catalogue import read_catalogue

        rows = read_catalogue(self.csv, self.root)
        rows = [rows[i] for i in usable([row.image for row in rows], self.max_bad, f"{self.csv}: ")]
        captions = [row.text for row in rows] if self.texts else None
        if captions is not None and not any(captions):
            raise ValueError(f"{self.csv} has no texts: --texts needs a column text")
        return {"images": [row.image for row in rows], "ids": [row.id for row in rows], "captions": captions}


def build(
    *,
    catalogue: Catalogue,
    out: Annotated[Path, FOLDER],
    queries: Annotated[Literal["reference", "target", "both"], "reference: text or image; target: composed"] = "both",
    model: Model,
) -> None:
    """CSV + folder of images -> index."""
    from unifashion_pl.files import exclusive

    rows, encoder = catalogue.rows(), model.load()
    with exclusive(out):
        print(encoder.gallery(**rows, query_set=queries).save(out))


def add(
    index: Path,
    *,
    catalogue: Catalogue,
    replace: Annotated[bool, "of ids that are there already take the new image"] = False,
    model: Model,
) -> None:
    """Put the images of a CSV into an index."""
    from unifashion_pl.data.plan import shortened

    rows = catalogue.rows()
    with _changing(index, model) as gallery:
        known = sorted(set(rows["ids"]) & set(gallery.ids))
        if known and not replace:
            raise ValueError(f"{index} has {shortened(known)} already: --replace takes the new images instead")
        gallery.remove(known).add(**rows)
    print(f"{len(rows['ids']) - len(known)} added, {len(known)} replaced, {len(gallery)} images in {index}")


def remove(index: Path, *ids: Annotated[str, {"metavar": "ID"}], model: Model) -> None:
    """Take images out of an index."""
    from unifashion_pl.data.plan import shortened

    with _changing(index, model) as gallery:
        if unknown := set(ids) - set(gallery.ids):
            raise ValueError(f"not in {index}, which holds {len(gallery)} images: {shortened(sorted(unknown))}")
        gallery.remove(ids)
    print(f"{len(set(ids))} removed, {len(gallery)} images in {index}")


def search(
    index: Path,
    *,
    text: str | None = None,
    image: Path | None = None,
    k: Annotated[int, {"flag": "-k"}] = 10,
    model: Model,
) -> None:
    """By text, image, or image + modifying text: rank, score, id, what made the score."""
    from unifashion_pl.gallery import Gallery
    from unifashion_pl.gallery.store import description_at

    description_at(index)
    for rank, hit in enumerate(Gallery.load(index, model.load()).search(text=text, image=image, k=k), 1):
        print(f"{rank}\t{hit.score:.4f}\t{hit.id}\t{hit.explanation}")


@contextmanager
def _changing(index: Path, model: Model) -> Iterator[Gallery]:
    """The index, saved when the block ends well; other commands that would change it wait until then."""
    from unifashion_pl.files import exclusive
    from unifashion_pl.gallery import Gallery
    from unifashion_pl.gallery.store import description_at

    description_at(index)
    encoder = model.load()
    with exclusive(index):
        gallery = Gallery.load(index, encoder)
        yield gallery
        gallery.save(index)
