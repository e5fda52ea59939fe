"""The paper's datasets (Table 6) in one DataModule: pairs of several datasets mixed, triplets, try-on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unifashion_pl.datamodules.base import FashionDataModule, portions
from unifashion_pl.datamodules.fashion200k import Fashion200KDataModule
from unifashion_pl.datamodules.fashiongen import FashionGenDataModule
from unifashion_pl.datamodules.fashioniq import FashionIQDataModule
from unifashion_pl.datamodules.fashioniq_cap import FashionIQCapDataModule
from unifashion_pl.datamodules.mixed import MixedPairsDataModule
from unifashion_pl.datamodules.multitask import MultiTaskDataModule
from unifashion_pl.datamodules.vitonhd import VitonHDDataModule

from unifashion_pl.arguments import choice
from unifashion_pl.data.mixing import chosen_epoch

#: Dataset -> its folder below a common root.
FOLDERS = {
    "fashiongen": "fashiongen",
    "fashion200k": "fashion200k",
    "fashioniq": "fashion-iq",
    "fashioniq_cap": "fashion-iq",
    "vitonhd": "viton-hd",
}
#: Where Fashion-IQ-Cap's captions of training images are expected (``unifashion data annotate`` writes such files).
CAPTIONS = "captions.train.jsonl"
PAIRS: dict[str, int] = {"fashiongen": 3, "fashioniq_cap": 2, "fashion200k": 1}
#: Table 6 leaves the others to stage 1.
PAIRS_OF_PHASE_2: dict[str, int] = {"fashiongen": 1}


class BenchmarkDataModule(MultiTaskDataModule):
    """FashionGen, Fashion200K, Fashion-IQ(-Cap) and VITON-HD below one folder, each in its authors' layout.

    Pairs train on a mix of datasets and are evaluated on FashionGen; triplets are Fashion-IQ's, try-on VITON-HD's.

    Args:
        root: folder with ``fashiongen/ fashion200k/ fashion-iq/ viton-hd/``; only those that a stream reads have to be there.
        shards: folder of the shards, one folder per dataset; default ``root/shards``.
        pairs, triplets, tryon: which streams to train and evaluate on.
        pair_shares: dataset of pairs -> its share of a batch; None = as Table 6: :data:`PAIRS` in phase 1, beside triplets
            :data:`PAIRS_OF_PHASE_2`. Leave out what you do not have.
        batch_size, eval_batch_size, num_workers, seed, image_size, pixel_size, max_bad, prepare_workers, start_method, features, latents: as in
            :class:`~unifashion_pl.datamodules.base.FashionDataModule`, for all streams.
        triplet_batch_size, tryon_batch_size: None = ``batch_size``.
        tryon_pixel_size: None = ``pixel_size``, or 512 x 384 without one.
        epoch_of: stream or dataset, one pass over which is an epoch, as in :class:`~unifashion_pl.datamodules.MultiTaskDataModule`:
            ``pairs``, ``triplets``, ``tryon``, or one of ``pair_shares``, ``fashioniq``, ``vitonhd``.
        captions: library of captions of Fashion-IQ's training images; None = ``captions.train.jsonl`` in its folder, if it is there.
        val_overlap, gallery_captions: as in :class:`~unifashion_pl.datamodules.FashionIQDataModule`.

    Raises:
        ValueError: an unknown dataset of pairs, a batch too small for the mix, or an ``epoch_of`` that is not trained on.
    """

    def __init__(
        self,
        root: str | Path = "data",
        shards: str | Path | None = None,
        pairs: bool = True,
        triplets: bool = False,
        tryon: bool = False,
        *,
        pair_shares: dict[str, int] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 64,
        triplet_batch_size: int | None = None,
        tryon_batch_size: int | None = None,
        num_workers: int = 8,
        seed: int = 0,
        image_size: int = 224,
        pixel_size: tuple[int, int] | None = (512, 384),
        tryon_pixel_size: tuple[int, int] | None = None,
        epoch_of: str | list[str] | None = None,
        captions: str | Path | None = None,
        val_overlap: Literal["exclude", "keep"] = "exclude",
        gallery_captions: str | Path | None = None,
        max_bad: int = 0,
        prepare_workers: int = 4,
        start_method: str | None = None,
        features: bool | str | Path = False,
        latents: bool | str | Path = False,
    ) -> None:
        common: dict[str, Any] = {
            "eval_batch_size": eval_batch_size,
            "num_workers": num_workers,
            "seed": seed,
            "image_size": image_size,
            "max_bad": max_bad,
            "prepare_workers": prepare_workers,
            "start_method": start_method,
            **{"features": features, "latents": latents},
        }
        root = Path(root)
        place = _Places(root, Path(shards) if shards is not None else root / "shards", common)
        library = Path(captions) if captions is not None else root / FOLDERS["fashioniq"] / CAPTIONS
        sizes = portions(batch_size, _shares(pair_shares, triplets)) if pairs else {}
        _check_epoch(epoch_of, {"pairs": list(sizes), "triplets": ["fashioniq"] * triplets, "tryon": ["vitonhd"] * tryon})
        mixed = composed = worn = None
        if pairs:
            share = partial(_pairs, place=place, library=library, val_overlap=val_overlap, pixel_size=pixel_size)
            mixed = MixedPairsDataModule([share(name, batch_size=n) for name, n in sizes.items()])
        if triplets:
            composed = FashionIQDataModule(
                **place("fashioniq"),
                batch_size=triplet_batch_size or batch_size,
                pixel_size=pixel_size,
                captions=library if captions is not None or library.is_file() else None,
                gallery_captions=gallery_captions,
                val_overlap=val_overlap,
            )
        if tryon:
            size = tryon_pixel_size or pixel_size or (512, 384)
            worn = VitonHDDataModule(**place("vitonhd"), batch_size=tryon_batch_size or batch_size, pixel_size=size)
        super().__init__(mixed, composed, worn, epoch_of)


def _shares(given: dict[str, int] | None, triplets: bool) -> dict[str, int]:
    return (PAIRS_OF_PHASE_2 if triplets else PAIRS) if given is None else given


def folders_of(
    pairs: bool = True, triplets: bool = False, tryon: bool = False, pair_shares: dict[str, int] | None = None, **others: Any
) -> list[str]:
    """Folders below ``root`` that these settings of :class:`BenchmarkDataModule` read; other settings change nothing."""
    datasets = [*(_shares(pair_shares, triplets) if pairs else ()), *["fashioniq"] * triplets, *["vitonhd"] * tryon]
    return list(dict.fromkeys(FOLDERS.get(name, name) for name in datasets))


def _check_epoch(epoch_of: str | list[str] | None, streams: dict[str, list[str]]) -> None:
    """Refuse names that :func:`~unifashion_pl.data.mixing.pacing` would refuse after all shards have been made."""
    known = [name for name, datasets in streams.items() if datasets] + [name for found in streams.values() for name in found]
    if epoch_of is not None:
        chosen_epoch(epoch_of, known)


@dataclass(frozen=True)
class _Places:
    """Where raw data and shards of a dataset are, and the settings of all DataModules."""

    root: Path
    shards: Path
    common: dict[str, Any]

    def __call__(self, name: str) -> dict[str, Any]:
        return {"root": self.root / FOLDERS[name], "shards": self.shards / name, **self.common}


def _pairs(name: str, place: _Places, library: Path, val_overlap: Any, **sizes: Any) -> FashionDataModule:
    """The DataModule of a dataset of pairs.

    Raises:
        ValueError: no such dataset.
    """
    settings = {**place(choice(name, "dataset of pairs", PAIRS)), **sizes}
    if name == "fashiongen":
        return FashionGenDataModule(**settings)
    if name == "fashion200k":
        return ShortCaptionDataModule(**settings)
    return FashionIQCapDataModule(library, val_overlap=val_overlap, **settings)


class ShortCaptionDataModule(Fashion200KDataModule):
    """Fashion200K to train on, beside datasets whose evaluation stands for all pairs."""

    eval_folders = ()
