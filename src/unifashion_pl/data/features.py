"""Outputs of a frozen vision tower, kept beside the shards, so that nothing need run the tower: what they are of, and reading them.

A folder of features holds one safetensors file per shard and an ``index.json`` that says of which tower, weights, transform and shards
they are. Every distinct image is kept once, in the file of the first shard that has it; samples know their images by number. Exact
because the encoder's transform draws nothing at random. :mod:`unifashion_pl.data.make_features` makes them.

Letters: P tokens of an image, W width of a token.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unifashion_pl.data.index import NAME, size_fault
from unifashion_pl.data.painted import Transform, painted_of
from unifashion_pl.data.plan import compact_json
from unifashion_pl.data.reader import MIRRORED, DamagedSample, RawSample, SampleSource, ShardSource
from unifashion_pl.provenance import tensor_bytes, weights_hash
from unifashion_pl.reading import FormatError, converted, is_inside, read_json

FORMAT = 2
FOLDER = "features"
#: Kind of shards -> their image fields that a vision tower reads.
TOWER_FIELDS = {
    "pairs": ("image",),
    "triplets": ("reference", "target"),
    "queries": ("reference",),
    "gallery": ("image",),
    "tryon": ("garment",),
}
#: The same where training mirrors pictures at random: of both there are features.
MIRRORED_FIELDS = {**TOWER_FIELDS, "pairs": ("image", f"image{MIRRORED}")}
#: Kinds that are evaluated on features. Of try-on, evaluation has sketches pass the tower too, as they are seen at generation size.
EVALUATED = ("pairs", "queries", "gallery")
#: In ``rows``: the image of a sample that was damaged.
NONE = -1
#: In ``rows``: of a sample that has no such image.
ABSENT = -2
#: Largest relative difference between kept features of an image and the tower's output today: rounding, and arithmetic of other devices.
TOLERANCE = {"bf16": 0.05, "fp32": 0.01}
MAKE = "`unifashion data features --shards FOLDER --model MODEL`"


@dataclass(frozen=True)
class Identity:
    """Of what the features are; equal identities give equal features.

    Attributes:
        tower: architecture.
        weights: SHA-256 over the tower's parameters and buffers.
        transform: what was done to the pixels before.
        image_size: height of the tower's input in pixels.
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
    def of(cls, tower: nn.Module, encoder: Transform, dtype: str, shape: tuple[int, int] | None = None) -> Identity:
        """Of a tower and the transform of a DataModule.

        Args:
            shape: (P, W); None = found out by running the tower.
        """
        height, across = encoder.size if isinstance(encoder.size, tuple) else (encoder.size, encoder.size)
        blank = torch.zeros(1, 3, height, across, dtype=torch.uint8)
        tokens, width = shape or run_tower(tower, blank).shape[1:]
        settings = ", ".join(f"{name}={value}" for name, value in sorted(vars(encoder).items()))
        model = getattr(tower, "model", tower)
        return cls(
            tower=str((getattr(model, "default_cfg", None) or {}).get("architecture") or type(model).__name__),
            weights=weights_hash(tower, digits=64),
            transform=f"{type(encoder).__name__}({settings})",
            image_size=height,
            tokens=tokens,
            width=width,
            dtype=dtype,
        )


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
    def load(cls, folder: Path, what: str = "vision features", make: str = MAKE) -> FeatureIndex:
        """Read it.

        Args:
            what, make: how messages call it, and the command that makes it.

        Raises:
            FileNotFoundError: no index there, with the command that makes one.
            ValueError: not an index of features, or of another format.
        """
        path = folder / NAME
        if not path.is_file():
            raise FileNotFoundError(f"no {what} in {folder}: make them with {make}, or leave {what.split()[-1]}=... away")
        content = read_json(path, dict[str, Any], f"an index of {what}")
        if content.get("format") != FORMAT:
            raise FormatError(
                f"{path} has format {content.get('format')!r}, this version reads {FORMAT}; make them again with {make}"
            )
        index = converted(content, cls, str(path), f"an index of {what}")
        wrong: list[Any] = [file for file in index.files if Path(file.name).name != file.name or not is_inside(file.name)]
        wrong += [file for file in index.files if min(file.bytes, file.samples, file.images) < 0]
        if not index.fields or index.identity.dtype not in TOLERANCE:
            known = f"(known are {', '.join(TOLERANCE)})"
            wrong.append(f"fields {index.fields}, dtype {index.identity.dtype!r} {known}")
        if wrong:
            raise FormatError(f"{path} is not an index of {what}: {wrong[0]}; make them again with {make}")
        return cast(FeatureIndex, index)


class FeatureSource(SampleSource):
    """Shards whose samples carry the outputs of a vision tower beside their fields; picklable.

    Args:
        source: the shards.
        folder: their features.

    Attributes:
        features: hash of the features' identity.
        what, make, part: how messages call them, the command that makes them, and what they are outputs of.

    Raises:
        FileNotFoundError: no features there, or files of them are missing.
        ValueError: features of other shards.
    """

    what, make, part = "vision features", MAKE, "vision tower"

    def __init__(self, source: ShardSource | FeatureSource, folder: str | Path) -> None:
        self.source, self.folder = source, Path(folder)
        self.found = FeatureIndex.load(self.folder, self.what, self.make)
        if self.found.shards != source.hash:
            raise ValueError(
                f"{self.folder} holds {self.what} of other shards: of {self.found.dataset} {self.found.shards[:12]}, but "
                f"{source.folder} is {source.dataset} {source.hash[:12]}. Make them again with {self.make}"
            )
        for file in self.found.files:
            if fault := size_fault(self.folder / file.name, file.bytes):
                again = f"run the same {self.make} again, it makes only what is not there"
                raise FileNotFoundError(f"{self.folder / file.name} {fault}: {again}")
        self.dataset, self.split, self.kind, self.hash = source.dataset, source.split, source.kind, source.hash
        self.fields, self.subsets, self.keys, self.blocks = source.fields, source.subsets, source.keys, source.blocks
        self.planned = source.planned
        self.features = self.found.identity.hash
        self._first = [0, *accumulate(file.images for file in self.found.files)]
        self._open: dict[int, Any] = {}
        self._numbers = torch.cat([self._rows(place) for place in range(len(self.found.files))]).numpy()
        if len(self._numbers) != len(self.keys):
            raise FormatError(
                f"{self.folder} has {self.what} of {len(self._numbers):,} samples, the shards hold {len(self.keys):,}: "
                f"make them again with {self.make}"
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def read(self, number: int) -> RawSample:
        raw = self.source.read(number)
        images = zip(self.found.fields, self._numbers[number])
        found = {self.keep(name): self._feature(int(image), raw.key) for name, image in images if image != ABSENT}
        return replace(raw, features={**raw.features, **found})

    def keep(self, name: str) -> str:
        """Under which name a sample carries what is kept of an image field."""
        return name

    def check(self, tower: nn.Module, encoder: Transform, fitting: bool = True) -> None:
        """Compare with the tower that is to be spared and the transform of the DataModule, and one image's features with its output.

        Args:
            fitting: whether what may train will: by `validate` and `test` no tower changes.

        Raises:
            ValueError: the tower trains, or tower, weights, transform or outputs differ, with both values.
        """
        if fitting and any(parameter.requires_grad for parameter in tower.parameters()):
            raise ValueError(
                f"the {self.part} is to be trained, but its cached features would stay as they are: train without features=..., or "
                "leave `vision` out of also_train"
            )
        old = self.found.identity
        # FSDP2 lets a part run only after the whole has run once: of a sharded tower only the weights are compared
        sharded = any(isinstance(parameter, DTensor) for parameter in tower.parameters())
        new = Identity.of(tower, encoder, old.dtype, (old.tokens, old.width) if sharded else None)
        if old != new:
            pairs = [(name, str(was), str(getattr(new, name))) for name, was in asdict(old).items()]
            digits = {"weights": 12}
            listed = "; ".join(f"{n} was {a[: digits.get(n)]}, now it is {b[: digits.get(n)]}" for n, a, b in pairs if a != b)
            raise ValueError(
                f"{self.folder} holds the {self.what.split()[-1]} of another {self.part} or transform: {listed}. Make them with {self.make}"
            )
        if not sharded:
            self._probe(tower, encoder)

    def check_mirrored(self, wanted: bool) -> None:
        """Compare with whether training mirrors pictures at random.

        Raises:
            ValueError: it does, and there are no features of mirrored pictures.
        """
        if wanted and not {name + MIRRORED for name in TOWER_FIELDS[self.kind]} <= {*self.found.fields}:
            raise ValueError(
                f"flip mirrors images at random, and {self.folder} has no features of mirrored ones: make them with --mirrored "
                "(`unifashion data features`), set flip=0, or train without features=..."
            )

    def _probe(self, tower: nn.Module, encoder: Transform) -> None:
        raw, name = self.read(int((self._numbers != NONE).all(1).argmax())), self.found.fields[0]
        now = run_tower(tower, painted_of(raw, name, encoder)[None])[0].float().cpu()
        kept = raw.features[self.keep(name)].float()
        error = float((now - kept).norm() / now.norm().clamp_min(1e-12))
        if not error <= TOLERANCE[self.found.identity.dtype]:
            raise ValueError(
                f"{self.folder}: the {self.what.split()[-1]} of {raw.key} differ by {error:.1%} from what the {self.part} gives today, although its "
                f"weights are the same: was it built with other settings, or has a library changed? Make them again with {self.make}"
            )

    def _feature(self, image: int, key: str) -> Tensor:
        if image == NONE:
            raise DamagedSample(key, "it was damaged when the features were made, and has none")
        place = bisect_right(self._first, image) - 1
        row = image - self._first[place]
        name = f"{key} (image {row} of {self.folder / self.found.files[place].name})"
        try:
            file = self._file(place)
            feature: Tensor = file.get_slice("features")[row]
            crc = int(file.get_slice("crc32")[row])
        except (OSError, SafetensorError, IndexError) as error:
            raise DamagedSample(name, f"its features cannot be read: {error}") from error
        if zlib.crc32(tensor_bytes(feature)) != crc:
            raise DamagedSample(name, "its features changed since they were written (CRC-32 differs)")
        return feature

    def _rows(self, place: int) -> Tensor:
        """Numbers of the images of a file's samples, (samples, fields)."""
        file = self.found.files[place]
        try:
            rows: Tensor = self._file(place).get_tensor("rows")
        except (OSError, SafetensorError) as error:
            raise FormatError(f"{self.folder / file.name}: {error}; make the features again with {self.make}") from error
        expected = (file.samples, len(self.found.fields))
        fits = rows.dtype == torch.int64 and rows.shape == expected
        if not fits or (len(rows) and not ABSENT <= rows.min() <= rows.max() < self._first[-1]):
            raise FormatError(
                f"{self.folder / file.name}: rows is {rows.dtype} {tuple(rows.shape)}, expected int64 {expected} with numbers of "
                f"{self._first[-1]:,} images; make the features again with {self.make}"
            )
        return rows

    def _file(self, place: int) -> Any:
        """Memory-mapped, so that processes share the pages and a fork does no harm."""
        if place not in self._open:
            self._open[place] = safe_open(self.folder / self.found.files[place].name, framework="pt")
        return self._open[place]
