"""Making the folders of :mod:`unifashion_pl.data.features`: a frozen vision tower runs once over the images of shards."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from unifashion_pl.data.assemble import image_of
from unifashion_pl.data.features import (
    ABSENT,
    EVALUATED,
    FOLDER,
    NONE,
    TOWER_FIELDS,
    FeatureFile,
    FeatureIndex,
    Identity,
    run_tower,
)
from unifashion_pl.data.index import NAME, Shard, ShardIndex
from unifashion_pl.data.latents import FOLDER as LATENTS
from unifashion_pl.data.painted import Transform, digest_of, painted_of, sources
from unifashion_pl.data.plan import TRAIN, compact_json
from unifashion_pl.data.reader import MIRRORED, DamagedSample, RawSample, ShardSource
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.files import exclusive, replacing
from unifashion_pl.provenance import tensor_bytes

#: As of :data:`~unifashion_pl.data.features.TOWER_FIELDS`.
Fields = Mapping[str, tuple[str, ...]]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

Dtype = Literal["bf16", "fp32"]


def shard_folders(root: Path, fields: Fields = TOWER_FIELDS, evaluated: Sequence[str] = EVALUATED) -> list[Path]:
    """Folders of shards whose images' features somebody reads, one dataset's beside each other; others are named.

    Args:
        fields, evaluated: as in :func:`write_features`.

    Raises:
        FileNotFoundError: no such shards below ``root``.
    """
    below = sorted(path.parent for path in root.rglob(NAME) if path.parent.name not in (FOLDER, LATENTS))
    folders = []
    for folder in [root] if (root / NAME).is_file() else below:
        index = ShardIndex.load(folder)
        if index.kind in (fields if index.split == TRAIN else evaluated):
            folders.append(folder)
        else:
            print(f"{folder}: {index.name} ({index.kind}) is left out, because it is read as pixels")
    if not folders:
        raise FileNotFoundError(
            f"no shards in {root} whose features are read: expected a folder with {NAME}, or one that holds such folders. "
            "Shards are made by `unifashion data shards DATASET --root RAW --out SHARDS`"
        )
    return folders


def write_features(
    folder: str | Path,
    tower: nn.Module,
    *,
    encoder: Transform | None = None,
    dtype: Dtype = "bf16",
    out: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 2,
    max_bad: int = 0,
    progress: bool = True,
    known: Sequence[Path] = (),
    fields: Fields = TOWER_FIELDS,
    evaluated: Sequence[str] = EVALUATED,
) -> Path:
    """Run a vision tower over the images of a folder of shards and keep its outputs; returns the path of their index.

    Finished files are kept by the next run. On a GPU, bf16 features are computed under autocast, as training with ``bf16-mixed`` would,
    else in the tower's own precision. Memory: about three times the features of one shard.

    Args:
        folder: shards with their ``index.json``.
        tower: :class:`unifashion_pl.backbone.VisionTower`, on the device that it is to run on.
        encoder: transform of the DataModule; default that of the DataModules for the tower's image size.
        dtype: ``bf16``, half the size, or ``fp32``, the very numbers that the tower gives.
        out: folder to write to; default ``folder/features``.
        batch_size: images that the tower sees at once.
        workers: threads that decode.
        max_bad: damaged samples that get no features, each with a warning; training then counts them as damaged, too, and evaluation
            refuses them.
        known: folders of features of other shards: images that are there do not pass the tower again.
        fields: kind of shards -> pictures that it reads; mirrored ones of training alone.
        evaluated: kinds whose features evaluation reads too.

    Raises:
        ValueError: shards of which nobody reads features.
        DamagedSample: images of more than ``max_bad`` samples cannot be read.
        WriteError: the disk is full, or ``out`` cannot be written.
        RuntimeError: another process is making the same features.
    """
    source = _useful(folder, fields, evaluated)
    out = Path(out) if out is not None else source.folder / FOLDER
    encoder = encoder or _usual(tower)
    identity = Identity.of(tower, encoder, dtype)
    names = tuple(name for name in fields[source.kind] if source.split == TRAIN or not name.endswith(MIRRORED))
    maker = _Maker(source, tower, encoder, identity, names, batch_size, max_bad, _elsewhere(known, identity))
    bar = tqdm(total=len(source.keys), desc=f"features {source.dataset}", unit="sample", disable=not progress)
    with exclusive(out, wait=0), ThreadPoolExecutor(max(1, workers)) as pool, bar:
        (out / NAME).unlink(missing_ok=True)
        files = []
        for number, shard in enumerate(source.index.shards):
            files.append(maker.file(number, out / f"{Path(shard.name).stem}.safetensors", pool))
            bar.update(shard.samples)
        for stranger in {path.name for path in out.glob("*.safetensors")} - {file.name for file in files}:
            (out / stranger).unlink()
        index = FeatureIndex(source.dataset, source.hash, list(names), identity, files)
        with replacing(out / NAME) as file:
            file.write(compact_json(asdict(index)) + b"\n")
    return out / NAME


def _usual(tower: nn.Module) -> EncoderTransform:
    """What DataModules do to pixels for a tower."""
    size: Any = getattr(tower, "image_size", None)
    if not isinstance(size, int):
        raise ValueError(f"{type(tower).__name__} has no image_size: expected a VisionTower, or name the encoder's transform")
    return EncoderTransform(size)


def _useful(folder: str | Path, fields: Fields, evaluated: Sequence[str]) -> ShardSource:
    """Shards whose features somebody reads."""
    source = ShardSource(folder)
    if source.kind not in (fields if source.split == TRAIN else evaluated):
        also = f", and for {', '.join(evaluated)} that are evaluated" if evaluated else ""
        raise ValueError(
            f"{source.folder} holds {source.kind} of the split {source.split}: features are made for training shards of "
            f"{', '.join(fields)}{also}"
        )
    return source


@dataclass
class _Maker:
    """Makes the files one after the other and knows which images earlier ones hold."""

    source: ShardSource
    tower: nn.Module
    encoder: Transform
    identity: Identity
    fields: tuple[str, ...]
    batch_size: int
    max_bad: int
    elsewhere: dict[bytes, tuple[Path, int]] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    numbers: dict[bytes, int] = field(default_factory=dict)

    def file(self, number: int, path: Path, pool: Executor) -> FeatureFile:
        """The features of one shard: kept from an earlier run, or made."""
        shard = self.source.index.shards[number]
        made_of: dict[str, Any] = {"identity": self.identity.hash, "shard": shard.sha256, "first": len(self.numbers)}
        if any(name.endswith(MIRRORED) for name in self.fields):
            made_of["fields"] = self.fields
        metadata = {"made_of": compact_json(made_of).decode()}  # one entry: safetensors writes several in any order
        if (digests := _digests(path, metadata)) is None:
            digests = self._make(number, shard, path, metadata, pool)
        self.numbers |= {digest: n for n, digest in enumerate(digests, len(self.numbers))}
        return FeatureFile(path.name, path.stat().st_size, shard.samples, len(digests))

    def _make(self, number: int, shard: Shard, path: Path, metadata: dict[str, str], pool: Executor) -> list[bytes]:
        new: dict[bytes, tuple[RawSample, str]] = {}
        numbers: dict[bytes, int] = {}
        rows = torch.full((shard.samples, len(self.fields)), NONE, dtype=torch.int64)
        start = self.source.index.starts()[number]
        for i in range(shard.samples):
            raw = self._good(start + i)
            if raw is None:
                continue
            for column, name in enumerate(self.fields):
                if (digest := digest_of(raw, name)) is None:
                    rows[i, column] = ABSENT
                    continue
                if digest not in self.numbers and digest not in numbers:
                    numbers[digest], new[digest] = len(self.numbers) + len(new), (raw, name)
                rows[i, column] = self.numbers[digest] if digest in self.numbers else numbers[digest]
        features = self._features(new, pool)
        tensors = {
            "features": features,
            "rows": rows,
            "crc32": torch.tensor([zlib.crc32(tensor_bytes(row)) for row in features], dtype=torch.int64),
            "sha256": torch.tensor(list(b"".join(new)), dtype=torch.uint8).view(len(new), 32),
        }
        with replacing(path) as file:
            file.write(save(tensors, metadata))
        return list(new)

    def _good(self, number: int) -> RawSample | None:
        """A sample; None if it is one of the few damaged ones.

        Raises:
            DamagedSample: it is one too many.
        """
        try:
            raw = self.source.read(number)
            if self.max_bad:  # decoded now: a picture that is found to be damaged later has its place in the file already
                for part in dict.fromkeys(part for name in self.fields for part in sources(raw, name)):
                    image_of(raw, part)
        except DamagedSample as error:
            self.bad.add(error.name)
            if len(self.bad) > self.max_bad:
                raise
            warnings.warn(f"damaged sample {len(self.bad)} of at most {self.max_bad}: {error}", stacklevel=2)
            return None
        return raw

    def _features(self, images: dict[bytes, tuple[RawSample, str]], pool: Executor) -> Tensor:
        """Features of images by digest (N, P, W): those that lie elsewhere copied, the others made."""
        places = {row: self.elsewhere[digest] for row, digest in enumerate(images) if digest in self.elsewhere}
        if not places:
            return self._run(list(images.values()), pool)
        rest = [row for row in range(len(images)) if row not in places]
        made = self._run([image for row, image in enumerate(images.values()) if row not in places], pool)
        whole = made.new_empty(len(images), *made.shape[1:])
        whole[rest] = made
        for path in {path for path, _ in places.values()}:
            with safe_open(path, framework="pt") as file:
                kept = file.get_slice("features")
                for row in (row for row, place in places.items() if place[0] == path):
                    whole[row] = kept[places[row][1]]
        return whole

    def _run(self, images: Sequence[tuple[RawSample, str]], pool: Executor) -> Tensor:
        """Features of images (N, P, W) on the CPU; the next batch is decoded while the tower works on one."""
        shape = (self.identity.tokens, self.identity.width)
        made, done = torch.empty(len(images), *shape, dtype=DTYPES[self.identity.dtype]), 0
        cuda = next(self.tower.parameters()).is_cuda
        starts = range(0, len(images), self.batch_size)
        ahead: Any = None
        for start in (*starts, len(images)):
            following = images[start : start + self.batch_size]
            here, ahead = ahead, pool.map(lambda image: painted_of(image[0], image[1], self.encoder), following)
            if here is not None:
                batch = list(here)
                with torch.autocast("cuda", torch.bfloat16, enabled=cuda and self.identity.dtype == "bf16"):
                    made[done : done + len(batch)] = run_tower(self.tower, torch.stack(batch)).cpu()
                done += len(batch)
        return made


def _elsewhere(folders: Sequence[Path], identity: Identity) -> dict[bytes, tuple[Path, int]]:
    """Digest of an image -> file and row of its features, of folders of the same identity."""
    found: dict[bytes, tuple[Path, int]] = {}
    for folder in folders:
        index = FeatureIndex.load(folder)
        for name in (file.name for file in index.files if index.identity == identity):
            with safe_open(folder / name, framework="pt") as file:
                rows = file.get_tensor("sha256")
            found |= {bytes(digest.tolist()): (folder / name, row) for row, digest in enumerate(rows)}
    return found


def _digests(path: Path, metadata: dict[str, str]) -> list[bytes] | None:
    """Hashes of the images of a finished file, None if there is none that was made in just this way."""
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata() != metadata:
                return None
            if bool((file.get_tensor("rows") == NONE).any()):  # what was damaged may be mended by now
                return None
            return [bytes(row.tolist()) for row in file.get_tensor("sha256")]
    except (FileNotFoundError, SafetensorError):
        return None
