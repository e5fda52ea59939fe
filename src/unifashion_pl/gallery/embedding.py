"""Images into vectors as an index keeps them: some in memory, or a catalogue batch by batch, with processes that decode.

Letters: Q query tokens, E embedding width.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from unifashion_pl.arguments import OneImage, asked_at
from unifashion_pl.backbone.words import readable
from unifashion_pl.data.stream import Workers, end_workers
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.files import remove_parts
from unifashion_pl.gallery import staging
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.segments import Floats, Segment, numbered, require_finite, segment_from
from unifashion_pl.gallery.staging import BYTES, CHANGED, WHOLE, Shard
from unifashion_pl.gallery.stored import IndexSettings, Note
from unifashion_pl.inference.encode import appearance_fingerprint, encode_image_sets, encode_text
from unifashion_pl.inference.images import UnreadableImages, left_out, open_image, unreadable
from unifashion_pl.interface import FashionModel
from unifashion_pl.names import quoted

QUERY_SETS = {"reference": ("reference",), "target": ("target",), "both": ("reference", "target")}
#: Images that the model sees at once, and images of one commit.
BATCH, COMMIT = 32, 128


def embedded(
    model: FashionModel,
    images: Sequence[OneImage],
    items: Sequence[IndexItem],
    settings: IndexSettings,
    batch_size: int = BATCH,
) -> tuple[list[int], Segment]:
    """Rows among the captions' vectors (-1 without one), and all vectors as they are kept.

    A caption of which the model can read nothing counts as none, and a warning names it.

    Raises:
        ValueError: vectors that are NaN or infinite, with the ids.
    """
    _require_appearance(model, settings)
    new = _encoded(model, images, settings, batch_size)
    heard(model, [item.caption for item in items])
    return _kept(model, {name: tokens.numpy() for name, tokens in new.items()}, items, settings)


def _require_appearance(model: FashionModel, settings: IndexSettings) -> None:
    """Refuse to put appearance vectors beside those of another projection.

    Raises:
        ValueError: the model's is another one.
    """
    own = appearance_fingerprint(model)
    if settings.appearance not in (None, own):
        raise ValueError(
            f"appearance vectors were made by another projection ({settings.appearance}, this model's is {own}): load the model as it was, "
            "or build the index again"
        )


def _encoded(model: FashionModel, images: Any, settings: IndexSettings, batch_size: int) -> dict[str, Tensor]:
    """The sets of vectors that an index keeps of images."""
    more = {"appearance": True} if settings.appearance is not None else {}
    return encode_image_sets(model, images, QUERY_SETS[settings.query_set], batch_size=batch_size, **more)


def _kept(
    model: FashionModel, sets: Mapping[str, Floats], items: Sequence[IndexItem], settings: IndexSettings
) -> tuple[list[int], Segment]:
    """Vectors of images with those of their captions; as :func:`embedded`."""
    captions, captioned = _captions(model, [item.caption for item in items])
    vectors = {**sets, "captions": captions[:, None].numpy()}
    for name, tokens in vectors.items():
        require_finite(tokens, [item.id for item, row in zip(items, captioned) if name != "captions" or row >= 0])
    return captioned, segment_from(vectors, settings.storage, settings.pool, settings.coarse)


def heard(model: FashionModel, texts: Sequence[str]) -> None:
    """Warn of captions that the model cannot read, wholly or in part."""
    says = {text: model.backbone.reading_of(text).says for text in dict.fromkeys(texts) if text.strip()}
    if silent := [text for text in texts if not says.get(text, True)]:
        names = ", ".join(quoted(text, 40) for text in silent[:3])
        warnings.warn(
            f"this model's tokenizer can read nothing of {len(silent)} captions, which count as none: {names}",
            stacklevel=asked_at(),
        )
    if present := [text for text, said in says.items() if said]:
        model.backbone.warn_if_cut(readable(present, model.backbone))


def _captions(model: FashionModel, texts: Sequence[str]) -> tuple[Tensor, list[int]]:
    """(n, E) of the captions that the model can read, and for each text its row there, -1 without one."""
    there = [bool(text.strip()) and model.backbone.reading_of(text).says for text in texts]
    present = [text for text, said in zip(texts, there) if said]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # :func:`heard` has said it of all
        vectors = encode_text(model, present) if present else torch.zeros(0, 1)
    return vectors, numbered(there)


@dataclass(frozen=True)
class Outcome:
    """What a run of embedding did.

    Attributes:
        rows: of the catalogue, or of its shard. there: embedded before. made: embedded now.
        bad: id -> what is wrong with its picture; these are left out.
        seconds: that decoding and embedding took.
    """

    rows: int
    there: int
    made: int
    bad: Mapping[str, str]
    seconds: float


def embed(
    folder: Path,
    model: FashionModel,
    items: Sequence[IndexItem],
    root: Path,
    settings: IndexSettings,
    *,
    shard: Shard = WHOLE,
    max_bad: int = 0,
    workers: int = 0,
    anew: bool = False,
) -> Outcome:
    """Embed a catalogue into a folder, :data:`COMMIT` images a commit; what an earlier run of the same kind committed is kept and not embedded again.

    All files are looked at before any is embedded. Damage behind a good header is found when its turn comes, and all others are embedded
    nevertheless, so that allowing for it is one more short run. Batches are cut by places in the catalogue, so that an interrupted run makes
    the very numbers of an undisturbed one.

    Args:
        folder: that this process holds (:func:`unifashion_pl.files.exclusive`), or one inside of it; see :mod:`unifashion_pl.gallery.staging`.
        items: rows whose ``image`` is a path below ``root``.
        settings: whose vectors, and how they are kept.
        shard: the rows that are embedded here.
        max_bad: pictures that cannot be read and are left out.
        workers: processes that decode; 0 = none beside this one.
        anew: throw away what is there.

    Raises:
        UnreadableImages: more than ``max_bad``; what was embedded is kept.
        ValueError: see :func:`~unifashion_pl.gallery.staging.rows_in`; or none of the images can be used.
        WriteError: the folder cannot be written.
    """
    _require_appearance(model, settings)
    own = [item for item in items if shard.has(item.id)]
    rows = [_named(item, root) for item in own]
    remove_parts(folder)
    earlier = None if anew else staging.rows_in(folder, settings, shard)
    there = earlier or {}
    todo = [i for i, row in enumerate(rows) if there.get(row.id) != row]
    run = _Run(folder, model, [Path(item.image or "") for item in own], rows, settings, max_bad)
    run.look(todo)
    if earlier is None:
        staging.begin(folder, settings, shard)
    staging.put_note(folder, Note(shard.index, shard.of))
    staging.drop(folder, [rows[i].id for i in todo if rows[i].id in there])
    heard(model, [rows[i].caption for i in todo])
    since = time.monotonic()
    with run.told(len(rows) - len(todo)) as bar:
        run.work([i for i in todo if i not in run.bad], workers, bar)
    seconds = time.monotonic() - since
    staging.compact(folder)
    run.require_few()
    bad = {rows[i].id: fault for i, fault in run.bad.items()}
    staging.put_note(folder, Note(shard.index, shard.of, True, bad))
    return Outcome(len(rows), len(rows) - len(todo), len(todo) - len(bad), bad, seconds)


def _named(item: IndexItem, root: Path) -> IndexItem:
    """A row as it is staged."""
    path = Path(item.image or "")
    try:
        found = path.stat()
        size, changed = found.st_size, str(found.st_mtime_ns)
    except (OSError, ValueError):  # found by who looks at it
        size, changed = -1, ""
    return IndexItem(item.id, item.caption, path.relative_to(root).as_posix(), None, {BYTES: size, CHANGED: changed})


@dataclass
class _Run:
    """Images that are decoded, embedded and committed: ``paths`` and staged ``rows`` of each."""

    folder: Path
    model: FashionModel
    paths: Sequence[Path]
    rows: Sequence[IndexItem]
    settings: IndexSettings
    max_bad: int
    bad: dict[int, str] = field(default_factory=dict)
    done: int = 0

    def look(self, todo: Sequence[int]) -> None:
        found = unreadable([self.paths[i] for i in todo], len(todo), headers=True)
        self.bad = {todo[place]: fault for place, fault in found.items()}
        self.require_few()

    def require_few(self) -> None:
        if self.bad and len(self.bad) == len(self.rows) <= self.max_bad:
            raise ValueError(f"none of the images can be used: {left_out(self.bad)}")
        if len(self.bad) > self.max_bad:
            raise UnreadableImages(dict(sorted(self.bad.items())), len(self.rows), self.max_bad)

    @contextmanager
    def told(self, before: int) -> Iterator[Any]:
        """A bar, and a line where it ended if that was too early."""
        few = len(self.rows) - before < 2 * COMMIT
        self.done = before
        try:
            with tqdm(total=len(self.rows), initial=before, desc="embedding", unit="image", disable=few, leave=False) as bar:
                yield bar
        except BaseException:
            line = f"{self.done:,} of {len(self.rows):,} images are embedded and kept: the same command goes on from there"
            print(f"{self.folder}: {line}", file=sys.stderr, flush=True)
            raise

    def work(self, todo: Sequence[int], workers: int, bar: Any) -> None:
        requests = [list(group) for _, group in groupby(todo, lambda i: i // BATCH)]
        pictures = _Pictures(self.paths, EncoderTransform(self.model.backbone.vision.image_size))
        answers = iter(Workers(min(workers, len(requests))).loader(pictures, requests, persistent=False))
        try:
            for _, group in groupby(answers, lambda answer: answer[0][0] // COMMIT):
                good, vectors = [], []
                for asked, pixels, faults in group:
                    self.bad |= faults
                    if pixels is not None:
                        good += [i for i in asked if i not in faults]
                        vectors.append(_encoded(self.model, pixels, self.settings, len(pixels)))
                    bar.update(len(asked))
                if good:
                    self._commit(good, vectors)
        finally:
            end_workers(answers)

    def _commit(self, good: Sequence[int], vectors: Sequence[Mapping[str, Tensor]]) -> None:
        items = [self.rows[i] for i in good]
        sets = {name: np.concatenate([part[name].numpy() for part in vectors]) for name in vectors[0]}
        captioned, segment = _kept(self.model, sets, items, self.settings)
        staging.append(self.folder, self.settings, items, captioned, segment)
        self.done += len(good)


class _Pictures(Dataset[Any]):
    """Places of a batch -> places, pixels (n, 3, S, S) or None, and what is wrong with the others; lives in the workers."""

    def __init__(self, paths: Sequence[Path], transform: EncoderTransform) -> None:
        self.paths, self.transform = paths, transform

    def __getitem__(self, places: list[int]) -> tuple[list[int], Tensor | None, dict[int, str]]:
        pixels, faults = [], {}
        for place in places:
            try:
                pixels.append(self.transform(open_image(self.paths[place])))
            except (ValueError, OSError) as error:
                faults[place] = str(error)
        return places, torch.stack(pixels) if pixels else None, faults
