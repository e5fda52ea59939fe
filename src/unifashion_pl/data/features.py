"""Outputs of a frozen vision tower, made once and kept beside the shards, so that training need not run the tower.

A folder of features holds one safetensors file per shard and an ``index.json`` that says of which tower, weights, transform and shards
they are. Every distinct image is kept once, in the file of the first shard that has it; samples know their images by number. Exact
because the encoder's transform draws nothing at random.

Letters: P tokens of an image, W width of a token.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from unifashion_pl.data.assemble import image_of
from unifashion_pl.data.files import replacing, writing
from unifashion_pl.data.index import NAME, Shard
from unifashion_pl.data.plan import TRAIN, compact_json
from unifashion_pl.data.reader import DamagedSample, RawSample, ShardSource
from unifashion_pl.data.shards import locked
from unifashion_pl.data.transforms import EncoderTransform

FORMAT = 1
FOLDER = "features"
#: Kind of shards -> their image fields that a vision tower reads.
TOWER_FIELDS = {"pairs": ("image",), "triplets": ("reference", "target"), "tryon": ("garment",)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
#: Largest relative difference between kept features of an image and the tower's output today: rounding, and arithmetic of other devices.
TOLERANCE = {"bf16": 0.05, "fp32": 0.01}
MAKE = "`unifashion data features --shards FOLDER --model MODEL`"

Dtype = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Identity:
    """Of what the features are; equal identities give equal features.

    Attributes:
        tower: architecture.
        weights: SHA-256 over the tower's parameters and buffers.
        transform: what was done to the pixels before.
        image_size: side of the tower's input in pixels.
        tokens, width: P and W.
        dtype: ``bf16`` or ``fp32``.
    """

    tower: str
    weights: str
    transform: str
    image_size: int
    tokens: int
    width: int
    dtype: str

    @property
    def hash(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(compact_json(asdict(self))).hexdigest()

    @classmethod
    def of(cls, tower: nn.Module, encoder: EncoderTransform, dtype: str, shape: tuple[int, int] | None = None) -> Identity:
        """Of a tower and the transform of a DataModule.

        Args:
            shape: (P, W); None = found out by running the tower.
        """
        blank = torch.zeros(1, 3, encoder.size, encoder.size, dtype=torch.uint8)
        tokens, width = shape or run_tower(tower, blank).shape[1:]
        settings = ", ".join(f"{name}={value}" for name, value in sorted(vars(encoder).items()))
        return cls(
            tower=_architecture(tower),
            weights=weights_hash(tower),
            transform=f"{type(encoder).__name__}({settings})",
            image_size=encoder.size,
            tokens=tokens,
            width=width,
            dtype=dtype,
        )


def _architecture(tower: nn.Module) -> str:
    model = getattr(tower, "model", tower)
    return str((getattr(model, "default_cfg", None) or {}).get("architecture") or type(model).__name__)


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers; of a sharded module, every rank has to ask."""
    digest = hashlib.sha256()
    for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@torch.no_grad()
def run_tower(tower: nn.Module, images: Tensor) -> Tensor:
    """uint8 images (B, 3, S, S) -> (B, P, W) on the tower's device, the tower in eval mode."""
    device = next(tower.parameters()).device
    was = tower.training
    tower.eval()
    try:
        output: Tensor = tower(images.to(device))
    finally:
        tower.train(was)
    return output


@dataclass(frozen=True)
class FeatureFile:
    """A safetensors file: features of the images that its shard is the first to hold, numbers of the images of its samples."""

    name: str
    bytes: int
    samples: int
    images: int


@dataclass(frozen=True)
class FeatureIndex:
    """``index.json`` of a folder of features.

    Attributes:
        dataset: ``dataset/split``.
        shards: hash of the shards' index.
        fields: image fields, in the order of the columns of ``rows``.
        identity: what made them.
        files: one per shard, in order.
    """

    dataset: str
    shards: str
    fields: list[str]
    identity: Identity
    files: list[FeatureFile]
    format: int = FORMAT

    @classmethod
    def load(cls, folder: Path) -> FeatureIndex:
        """Read it.

        Raises:
            FileNotFoundError: no index there, with the command that makes one.
            ValueError: not an index of features, or of another format.
        """
        path = folder / NAME
        if not path.is_file():
            raise FileNotFoundError(f"no vision features in {folder}: make them with {MAKE}, or train without features=...")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.pop("format", None)
            if found == FORMAT:
                files = [FeatureFile(**file) for file in content.pop("files")]
                return cls(**{**content, "identity": Identity(**content["identity"]), "files": files})
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not an index of vision features ({error}); make them again with {MAKE}") from error
        raise ValueError(f"{path} has format {found!r}, this version reads {FORMAT}; make the features again with {MAKE}")


def write_features(
    folder: str | Path,
    tower: nn.Module,
    *,
    encoder: EncoderTransform | None = None,
    dtype: Dtype = "bf16",
    out: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 2,
    progress: bool = True,
) -> Path:
    """Run a vision tower over the images of a folder of training shards and keep its outputs; returns the path of their index.

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

    Raises:
        ValueError: not training shards, or of a kind that no tower reads.
        DamagedSample: an image cannot be read.
        WriteError: the disk is full, or ``out`` cannot be written.
        RuntimeError: another process is making the same features.
    """
    source = ShardSource(folder)
    if source.split != TRAIN or source.kind not in TOWER_FIELDS:
        raise ValueError(
            f"{source.folder} holds {source.kind} of the split {source.split}: features are made for training shards of "
            f"{', '.join(TOWER_FIELDS)}; evaluation reads pixels"
        )
    out = Path(out) if out is not None else source.folder / FOLDER
    encoder = encoder or EncoderTransform(_size(tower))
    identity = Identity.of(tower, encoder, dtype)
    maker = _Maker(source, tower, encoder, identity, batch_size)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(source.keys), desc=f"features {source.dataset}", unit="sample", disable=not progress)
    with locked(out), ThreadPoolExecutor(max(1, workers)) as pool, bar:
        for leftover in out.glob("*.part"):
            leftover.unlink()
        (out / NAME).unlink(missing_ok=True)
        files = []
        for number, shard in enumerate(source.index.shards):
            files.append(maker.file(number, out / f"{Path(shard.name).stem}.safetensors", pool))
            bar.update(shard.samples)
        for stranger in {path.name for path in out.glob("*.safetensors")} - {file.name for file in files}:
            (out / stranger).unlink()
        index = FeatureIndex(source.dataset, source.hash, list(TOWER_FIELDS[source.kind]), identity, files)
        with replacing(out / NAME) as file:
            file.write(compact_json(asdict(index)) + b"\n")
    return out / NAME


def _size(tower: nn.Module) -> int:
    size = getattr(tower, "image_size", None)
    if not isinstance(size, int):
        raise ValueError(f"{type(tower).__name__} has no image_size: expected a VisionTower, or name the encoder's transform")
    return size


class _Maker:
    """Makes the files one after the other and knows which images earlier ones hold."""

    def __init__(
        self, source: ShardSource, tower: nn.Module, encoder: EncoderTransform, identity: Identity, batch_size: int
    ) -> None:
        self.source, self.tower, self.encoder, self.identity, self.batch_size = source, tower, encoder, identity, batch_size
        self.fields = TOWER_FIELDS[source.kind]
        self.starts = source.index.starts()
        self.numbers: dict[bytes, int] = {}

    def file(self, number: int, path: Path, pool: Executor) -> FeatureFile:
        """The features of one shard: kept from an earlier run, or made."""
        shard = self.source.index.shards[number]
        made_of = {"identity": self.identity.hash, "shard": shard.sha256, "first": len(self.numbers)}
        metadata = {"made_of": compact_json(made_of).decode()}  # one entry: safetensors writes several in any order
        digests = _digests(path, metadata)
        if digests is None:
            digests = self._make(number, shard, path, metadata, pool)
        for digest in digests:
            self.numbers[digest] = len(self.numbers)
        return FeatureFile(path.name, path.stat().st_size, shard.samples, len(digests))

    def _make(self, number: int, shard: Shard, path: Path, metadata: dict[str, str], pool: Executor) -> list[bytes]:
        new: dict[bytes, tuple[RawSample, str]] = {}
        numbers: dict[bytes, int] = {}
        rows = torch.empty(shard.samples, len(self.fields), dtype=torch.int64)
        for i in range(shard.samples):
            raw = self.source.read(self.starts[number] + i)
            for column, name in enumerate(self.fields):
                digest = hashlib.sha256(_content(raw, name)).digest()
                if digest not in self.numbers and digest not in numbers:
                    numbers[digest], new[digest] = len(self.numbers) + len(new), (raw, name)
                rows[i, column] = self.numbers[digest] if digest in self.numbers else numbers[digest]
        features = self._run(list(new.values()), pool)
        tensors = {
            "features": features,
            "rows": rows,
            "crc32": torch.tensor([zlib.crc32(_bytes(row)) for row in features], dtype=torch.int64),
            "sha256": torch.tensor(list(b"".join(new)), dtype=torch.uint8).view(-1, 32),
        }
        with replacing(path) as file:
            file.write(save(tensors, metadata))
        return list(new)

    def _run(self, images: Sequence[tuple[RawSample, str]], pool: Executor) -> Tensor:
        """Features of images (N, P, W) on the CPU; the next batch is decoded while the tower works on one."""
        shape = (self.identity.tokens, self.identity.width)
        made = torch.empty(len(images), *shape, dtype=DTYPES[self.identity.dtype])
        starts = range(0, len(images), self.batch_size)
        cuda = next(self.tower.parameters()).is_cuda
        for start, batch in zip(starts, _ahead(pool, self._decode, images, self.batch_size)):
            with torch.autocast("cuda", torch.bfloat16, enabled=cuda and self.identity.dtype == "bf16"):
                made[start : start + len(batch)] = run_tower(self.tower, torch.stack(batch)).cpu()
        return made

    def _decode(self, image: tuple[RawSample, str]) -> Tensor:
        return self.encoder(image_of(*image))


def _ahead(pool: Executor, work: Callable[[Any], Tensor], items: Sequence[Any], size: int) -> Iterator[list[Tensor]]:
    """Results in batches of ``size``, one batch ahead of who takes them."""
    waiting = []
    for start in range(0, len(items), size):
        waiting.append(pool.map(work, items[start : start + size]))
        if len(waiting) > 1:
            yield list(waiting.pop(0))
    yield from (list(batch) for batch in waiting)


def _content(raw: RawSample, name: str) -> bytes:
    data = raw.fields.get(f"{name}.jpg") or raw.fields.get(f"{name}.png")
    if data is None:
        raise DamagedSample(raw.key, f"has no {name}.jpg or {name}.png")
    return data


def _digests(path: Path, metadata: dict[str, str]) -> list[bytes] | None:
    """Hashes of the images of a finished file, None if there is none that was made in just this way."""
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata() != metadata:
                return None
            return [bytes(row.tolist()) for row in file.get_tensor("sha256")]
    except (FileNotFoundError, SafetensorError):
        return None


class FeatureSource:
    """Shards whose samples carry the outputs of a vision tower beside their fields; picklable.

    Args:
        source: the shards.
        folder: their features.

    Attributes:
        features: hash of the features' identity.

    Raises:
        FileNotFoundError: no features there, or files of them are missing.
        ValueError: features of other shards.
    """

    def __init__(self, source: ShardSource, folder: str | Path) -> None:
        self.source, self.folder = source, Path(folder)
        self.found = FeatureIndex.load(self.folder)
        if self.found.shards != source.hash:
            raise ValueError(
                f"{self.folder} holds vision features of other shards: of {self.found.dataset} {self.found.shards[:12]}, but "
                f"{source.folder} is {source.dataset} {source.hash[:12]}. Make them again with {MAKE}"
            )
        self._check_files()
        self.dataset, self.split, self.kind, self.hash = source.dataset, source.split, source.kind, source.hash
        self.fields, self.subsets, self.keys, self.blocks = source.fields, source.subsets, source.keys, source.blocks
        self.features = self.found.identity.hash
        self._first = [0, *accumulate(file.images for file in self.found.files)]
        self._open: dict[int, Any] = {}
        numbers = [self._file(place).get_tensor("rows") for place in range(len(self.found.files))]
        self._numbers = torch.cat(numbers).numpy()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def read(self, number: int) -> RawSample:
        """See :meth:`unifashion_pl.data.reader.Source.read`.

        Raises:
            DamagedSample: the sample or its features cannot be read.
        """
        raw = self.source.read(number)
        found = {name: self._feature(int(image), raw.key) for name, image in zip(self.found.fields, self._numbers[number])}
        return replace(raw, features=found)

    def check(self, tower: nn.Module, encoder: EncoderTransform) -> None:
        """Compare with the tower that is to be spared and the transform of the DataModule, and one image's features with its output.

        Raises:
            ValueError: the tower trains, or tower, weights, transform or outputs differ, with both values.
        """
        if any(parameter.requires_grad for parameter in tower.parameters()):
            raise ValueError(
                "the vision tower is to be trained, but its cached features would stay as they are: train without features=..., or "
                "leave `vision` out of also_train"
            )
        old = self.found.identity
        # FSDP2 lets a part run only after the whole has run once: of a sharded tower only the weights are compared
        sharded = any(isinstance(parameter, DTensor) for parameter in tower.parameters())
        new = Identity.of(tower, encoder, old.dtype, (old.tokens, old.width) if sharded else None)
        if old != new:
            names = [field.name for field in fields(Identity) if getattr(old, field.name) != getattr(new, field.name)]
            listed = "; ".join(
                f"{name} was {_short(getattr(old, name))}, now it is {_short(getattr(new, name))}" for name in names
            )
            raise ValueError(
                f"{self.folder} holds the features of another vision tower or transform: {listed}. Make them with {MAKE}"
            )
        if not sharded:
            self._probe(tower, encoder)

    def _probe(self, tower: nn.Module, encoder: EncoderTransform) -> None:
        raw, name = self.read(0), self.found.fields[0]
        now = run_tower(tower, encoder(image_of(raw, name))[None])[0].float().cpu()
        kept = raw.features[name].float()
        error = float((now - kept).norm() / now.norm().clamp_min(1e-12))
        if not error <= TOLERANCE[self.found.identity.dtype]:
            raise ValueError(
                f"{self.folder}: the features of {raw.key} differ by {error:.1%} from what the vision tower gives today, although its "
                f"weights are the same: was it built with other settings, or has a library changed? Make them again with {MAKE}"
            )

    def _feature(self, image: int, key: str) -> Tensor:
        place = bisect_right(self._first, image) - 1
        row = image - self._first[place]
        name = f"{key} (image {row} of {self.folder / self.found.files[place].name})"
        try:
            file = self._file(place)
            feature: Tensor = file.get_slice("features")[row]
            crc = int(file.get_slice("crc32")[row])
        except (OSError, SafetensorError) as error:
            raise DamagedSample(name, f"its features cannot be read: {error}") from error
        if zlib.crc32(_bytes(feature)) != crc:
            raise DamagedSample(name, "its features changed since they were written (CRC-32 differs)")
        return feature

    def _file(self, place: int) -> Any:
        """Memory-mapped, so that processes share the pages and a fork does no harm."""
        if place not in self._open:
            self._open[place] = safe_open(self.folder / self.found.files[place].name, framework="pt")
        return self._open[place]

    def _check_files(self) -> None:
        for file in self.found.files:
            path = self.folder / file.name
            size = path.stat().st_size if path.is_file() else None
            if size != file.bytes:
                found = "is missing" if size is None else f"has {size:,} bytes instead of {file.bytes:,}"
                raise FileNotFoundError(f"{path} {found}: run the same {MAKE} again, it makes only what is not there")


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
