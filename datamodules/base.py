"""What the DataModules share: where shards are, when they are made, transforms, loaders."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import CombinedLoader

from unifashion_pl.data.assemble import Assembler
from unifashion_pl.data.features import EVALUATED, FOLDER, FeatureSource
from unifashion_pl.data.index import NAME, changed_sources
from unifashion_pl.data.latents import FOLDER as LATENTS
from unifashion_pl.data.latents import PAINTED, LatentSource, Posteriors
from unifashion_pl.data.mixing import MixedPairLoader, pacing
from unifashion_pl.data.plan import Plan, shortened
from unifashion_pl.data.reader import SampleSource, ShardSource
from unifashion_pl.data.shards import write_shards
from unifashion_pl.data.stream import EvalLoader, Rank, TrainLoader, Workers
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform
from unifashion_pl.parts.trust import LibraryOnly


class StreamsLoader(CombinedLoader):
    """``{stream: batch}``, an epoch at a time; every stream goes on where it was.

    Args:
        epoch_of: as in :func:`~unifashion_pl.data.mixing.pacing`.

    Attributes:
        pacer: the stream that an epoch is of.

    Raises:
        ValueError: no stream and no dataset has that name.
    """

    def __init__(
        self, streams: Mapping[str, TrainLoader[Any] | MixedPairLoader], epoch_of: str | Sequence[str] | None = None
    ) -> None:
        self.streams = dict(streams)
        self.pacer = pacing(self.streams, epoch_of)
        super().__init__(self.streams, "max_size_cycle")

    def __iter__(self) -> StreamsLoader:
        self._iterator = _Steps(self.flattened, list(self.streams).index(self.pacer), self.limits)  # type: ignore[assignment]
        return self

    def _dataset_length(self) -> int:
        """Where Lightning's batch size finder stops doubling: here, if a stream has too few samples for twice its batch."""
        size = sum(stream.batch_size for stream in self.streams.values())
        return size + 1 if all(stream.may_double for stream in self.streams.values()) else size


class _Steps(Iterator[tuple[list[Any], int, int]]):
    """In place of Lightning's ``max_size_cycle``, which ends with the longest: ends with the pacer, before another stream moves on.

    Args:
        pacer: its place among the loaders.
        limits: of the loaders' batches in an epoch.
    """

    def __init__(self, loaders: Sequence[Any], pacer: int, limits: Sequence[float] | None) -> None:
        self.loaders, self.pacer, self.limits = loaders, pacer, limits
        self.iterators = [iter(loader) for loader in loaders]
        self.done = 0

    def __len__(self) -> int:
        length = len(self.loaders[self.pacer])
        return length if self.limits is None else int(min(length, self.limits[self.pacer]))

    def __next__(self) -> tuple[list[Any], int, int]:
        limited = len(self) < len(self.loaders[self.pacer])  # then Lightning ends an epoch, of which all are equally long
        first = self._next(self.pacer) if limited else next(self.iterators[self.pacer])
        batches = [first if number == self.pacer else self._next(number) for number in range(len(self.loaders))]
        self.done += 1
        return batches, self.done - 1, 0

    def _next(self, number: int) -> Any:
        try:
            return next(self.iterators[number])
        except StopIteration:
            self.iterators[number] = iter(self.loaders[number])
            return next(self.iterators[number])

    def reset(self) -> None:
        self.iterators = []


class Resizable(LibraryOnly, L.LightningDataModule):
    """A DataModule whose batch size may be set, as Lightning's batch size finder does, and whose loaders are asked for by stage."""

    allow_zero_length_dataloader_with_multiple_devices = True

    @property
    def batch_size(self) -> int:
        """Training samples of a step, per rank, over all streams. Set, it holds for what is loaded from then on; a training that has not
        begun loads anew."""
        return self._size()

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._resize(size)
        if self.trainer is None or self.trainer.train_dataloader is None or self.trainer.global_step > 0:
            return
        self.trainer.fit_loop._combined_loader = None  # lightning 2.6 tries its first size on the loader that there was
        self.trainer.fit_loop.setup_data()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(root={str(getattr(self, 'root', None))!r}, batch_size={self.batch_size})"

    __str__ = __repr__  # Lightning's asks loaders for their lengths, and fails on a CombinedLoader

    @abstractmethod
    def _size(self) -> int: ...

    @abstractmethod
    def _resize(self, size: int) -> None: ...

    @abstractmethod
    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """Loaders of ``validation`` or ``test``; of validation where the dataset publishes no labels for its test split."""

    def val_dataloader(self) -> list[EvalLoader[Any]]:
        """Loaders of the validation split."""
        return self.eval_loaders("validation")

    def test_dataloader(self) -> list[EvalLoader[Any]]:
        """Loaders of the test split."""
        return self.eval_loaders("test")

    def predict_dataloader(self) -> list[EvalLoader[Any]]:
        """Those of the test split: what ``unifashion predict`` paints."""
        return self.eval_loaders("test")


class FashionDataModule(Resizable):
    """Base of the DataModules of one dataset.

    Training yields ``{stream: batch}``; validation and test yield plain batches from a list of loaders.

    Args:
        root: the dataset as its authors distribute it; needed only while the shards do not exist.
        shards: folder of the shards; default ``root/shards``. What is missing in it is made on first use.
        batch_size, eval_batch_size: per rank.
        num_workers: processes that read and decode, per loader.
        seed: of order and texts.
        image_size: side S of what the vision tower sees, pixels.
        pixel_size: (H, W) of what the diffusion head paints; None leaves it out.
        max_bad: damaged samples that training replaces and reports before it stops.
        prepare_workers: processes that make shards.
        start_method: of worker processes; None = the platform's default.
        features: train and evaluate on the vision tower's cached outputs instead of pixels: True takes those beside the shards, a path
            those in ``path/FOLDER OF THE SHARDS`` or ``path/DATASET/FOLDER OF THE SHARDS``, as ``unifashion data features --out path`` writes
            them (see :mod:`unifashion_pl.data.features`). Test also decodes the pictures that it shows; try-on and design are evaluated
            on pixels.
        latents: train the diffusion head on cached posteriors of its autoencoder, which then encodes no training pictures; named as
            ``features``, made by ``unifashion data latents`` (see :mod:`unifashion_pl.data.latents`).
    """

    stream: ClassVar[str]
    #: Folders of shards: that of training, and those of evaluation.
    train_folder: ClassVar[str]
    eval_folders: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        root: str | Path | None = None,
        shards: str | Path | None = None,
        *,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        image_size: int = 224,
        pixel_size: tuple[int, int] | None = None,
        max_bad: int = 0,
        prepare_workers: int = 1,
        start_method: str | None = None,
        features: bool | str | Path = False,
        latents: bool | str | Path = False,
    ) -> None:
        super().__init__()
        self.features, self.latents = features, latents
        self.root = None if root is None else Path(root)
        self.shards = Path(shards) if shards is not None else None if self.root is None else self.root / "shards"
        self.eval_batch_size, self.seed, self.max_bad = eval_batch_size, seed, max_bad
        self._batch_size = batch_size
        self.workers = Workers(num_workers, start_method=start_method)
        self.prepare_workers = prepare_workers
        self.encoder = EncoderTransform(image_size)
        self.pixels = None if pixel_size is None else PixelTransform(pixel_size)

    def _size(self) -> int:
        return self._batch_size

    def _resize(self, size: int) -> None:
        self._batch_size = size

    @abstractmethod
    def plans(self, root: Path) -> Iterable[Plan]:
        """Plans of the raw dataset; those of :meth:`folders` are used."""

    def folders(self) -> Sequence[str]:
        """Folders of shards that this DataModule reads."""
        return (self.train_folder, *self.eval_folders)

    def assembler(self) -> Assembler[Any]:
        """Makes its batches."""
        raise NotImplementedError

    def train_loader(self) -> TrainLoader[Any]:
        """The training stream."""
        return self.training(self.source(self.train_folder), self.assembler())

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """Of either stage, those of all folders of evaluation."""
        return [self.evaluation(self.source(folder), self.assembler(), stage) for folder in self.eval_folders]

    def prepare_data(self) -> None:
        """Make the shards that do not exist yet, and those whose annotation files or containers have changed since, which is warned about.

        Safe when several processes do so at once. Pictures that were replaced are noticed by ``unifashion data shards`` only, because
        looking at every file would take its time at every start.

        Raises:
            FileNotFoundError: shards are missing and no raw dataset was named.
        """
        absent = [name for name in self.folders() if self.shards is None or not (self.shards / name / NAME).is_file()]
        absent += [name for name in self.folders() if name not in absent and self._is_outdated(name)]
        if not absent:
            return
        if self.root is None or self.shards is None:
            raise FileNotFoundError(
                f"{type(self).__name__}: no shards for {', '.join(absent)} in {self.shards}. Name the folder of the shards (shards=...), "
                "or the raw dataset they are to be made from (root=...)"
            )
        for plan in self.plans(self.root):
            if plan.folder in absent:
                write_shards(plan, self.shards, workers=self.prepare_workers, wait=True)

    def _is_outdated(self, folder: str) -> bool:
        """Whether a source of finished shards has changed, which is said; what is not there any more is not needed."""
        assert self.shards is not None
        if self.root is None:
            return False
        changed = changed_sources(self.shards / folder, self.root)
        if changed:
            warnings.warn(
                f"{self.shards / folder} was made from other files: {shortened(changed)} changed since, so the shards are made again. A run "
                "that was to be resumed on the old ones will be refused",
                stacklevel=3,
            )
        return bool(changed)

    def source(self, folder: str) -> SampleSource:
        """Samples of a folder of shards."""
        assert self.shards is not None
        return ShardSource(self.shards / folder)

    def train_dataloader(self) -> StreamsLoader:
        """``{stream: batch}``."""
        return StreamsLoader({self.stream: self.train_loader()})

    def training(self, source: SampleSource, assembler: Assembler[Any], exclude: Sequence[str] = ()) -> TrainLoader[Any]:
        """A training loader with this DataModule's settings.

        Raises:
            FileNotFoundError, ValueError: features are wanted, and as :meth:`_with_features`; or the assembler mirrors at random.
        """
        flips = bool(getattr(assembler, "flip", 0))
        if flips and self.latents:
            raise ValueError("flip mirrors images, which cached latents cannot: set flip=0, or train without latents=...")
        source = self._with_features(source, flips) if self.features else source
        return TrainLoader(
            self._with_latents(source) if self.latents and self.pixels and source.kind in PAINTED else source,
            assembler,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=Rank.here(self.trainer),
            workers=self.workers,
            max_bad=self.max_bad,
            exclude=exclude,
        )

    def _with_features(self, source: SampleSource, mirrored: bool = False) -> FeatureSource:
        """The vision tower's cached outputs beside the samples, compared with the tower of the trainer's model.

        Raises:
            FileNotFoundError, ValueError: there are none, or they are of another tower, transform or data.
        """
        cached = FeatureSource(*_beside(source, self.features, FOLDER))
        cached.check_mirrored(mirrored)
        model = getattr(self.trainer, "lightning_module", None)
        if (backbone := getattr(model, "backbone", None)) is not None:
            running = getattr(getattr(self.trainer, "state", None), "fn", TrainerFn.FITTING)
            cached.check(backbone.vision, self.encoder, fitting=running == TrainerFn.FITTING)
        return cached

    def _with_latents(self, source: SampleSource) -> LatentSource:
        """The autoencoder's cached posteriors beside the samples, compared with the autoencoder of the trainer's model.

        Raises:
            FileNotFoundError, ValueError: there are none, or they are of another autoencoder, transform or data.
        """
        cached = LatentSource(*_beside(source, self.latents, LATENTS))
        head = getattr(getattr(self.trainer, "lightning_module", None), "diffusion_head", None)
        if head is not None and self.pixels is not None:
            cached.check(Posteriors(head.vae), self.pixels)
        return cached

    def evaluation(self, source: SampleSource, assembler: Assembler[Any], stage: str = "test") -> EvalLoader[Any]:
        """An evaluation loader with this DataModule's settings.

        Args:
            stage: in ``test`` pictures are shown, so that they are decoded beside features.
        """
        if self.features and source.kind in EVALUATED:
            source, assembler = self._with_features(source), replace(assembler, show=stage == "test")  # type: ignore[type-var]
        rank = Rank.here(self.trainer)
        return EvalLoader(source, assembler, batch_size=self.eval_batch_size, rank=rank, workers=self.workers)


def _beside(source: SampleSource, named: bool | str | Path, folder: str) -> tuple[ShardSource | FeatureSource, Path]:
    """The samples, and where what was made of their shards lies: beside them, or below a folder as the commands write there.

    Raises:
        ValueError: the samples are no shards.
    """
    shards = source.source if isinstance(source, FeatureSource) else source
    if not isinstance(source, ShardSource | FeatureSource) or not isinstance(shards, ShardSource):
        raise ValueError(f"{source.dataset} is read from raw files, and {folder} lie beside shards: name a folder (shards=...)")
    if named is True:
        return source, shards.folder / folder
    below = Path(str(named)) / shards.folder.parent.name / shards.folder.name
    return source, below if below.is_dir() else Path(str(named)) / shards.folder.name


def portions(batch_size: int, shares: Mapping[str, int]) -> dict[str, int]:
    """How many samples of a batch come from each dataset; what does not divide goes to the first.

    Raises:
        ValueError: no datasets, shares below 1, or a batch with less than one sample for each.

    >>> portions(48, {"fashiongen": 3, "fashioniq_cap": 2, "fashion200k": 1})
    {'fashiongen': 24, 'fashioniq_cap': 16, 'fashion200k': 8}
    """
    if not shares or min(shares.values()) < 1:
        raise ValueError(f"shares of datasets are {dict(shares)}; expected at least one dataset and whole numbers from 1 on")
    if batch_size < len(shares):
        raise ValueError(
            f"batch_size is {batch_size}, but a batch mixes {len(shares)} datasets ({', '.join(shares)}): at least {len(shares)}"
        )
    first, *others = shares
    total = sum(shares.values())
    sizes = {name: max(1, batch_size * shares[name] // total) for name in others}
    while sum(sizes.values()) >= batch_size:  # small shares were rounded up
        sizes[max(sizes, key=lambda name: sizes[name])] -= 1
    return {first: batch_size - sum(sizes.values()), **sizes}


class JoinedDataModule(Resizable):
    """Base of DataModules that are made of others, their :attr:`members`. Set, ``batch_size`` is divided as it was when they were built."""

    _shares: dict[str, int] | None = None

    @property
    @abstractmethod
    def members(self) -> Sequence[FashionDataModule | JoinedDataModule]:
        """The DataModules it is made of."""

    def _size(self) -> int:
        return sum(member.batch_size for member in self.members)

    def _resize(self, size: int) -> None:
        if self._shares is None:
            self._shares = {f"{type(member).__name__} {n}": member.batch_size for n, member in enumerate(self.members)}
        for member, part in zip(self.members, portions(size, self._shares).values()):
            member.batch_size = part

    def prepare_data(self) -> None:
        """Make shards that do not exist yet."""
        for member in self.members:
            member.prepare_data()

    def setup(self, stage: str) -> None:
        """Hand the trainer on, from which the members know ranks."""
        for member in self.members:
            member.trainer = self.trainer
            member.setup(stage)

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """Loaders of ``validation`` or ``test`` of all members."""
        return [loader for member in self.members for loader in member.eval_loaders(stage)]
