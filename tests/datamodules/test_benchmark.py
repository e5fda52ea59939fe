"""The paper's datasets below one folder, here the wardrobe's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from unifashion_pl.datamodules import BenchmarkDataModule, WardrobeDataModule
from unifashion_pl.datamodules.benchmark import folders_of

pytestmark = pytest.mark.filterwarnings("ignore:fashioniq-cap. 2 of 26 training images have no caption")
ALL: dict[str, Any] = {"pairs": True, "triplets": True, "tryon": True}


def module(cache: Path, **options: Any) -> WardrobeDataModule:
    settings = {"batch_size": 6, "eval_batch_size": 5, "tryon_batch_size": 2, "image_size": 16, "pixel_size": (24, 20)}
    return WardrobeDataModule(cache, "tiny", **{**settings, "prepare_workers": 1, **options})


@pytest.fixture(scope="module")
def cache(wardrobe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the tiny wardrobe and its shards; not to be changed."""
    cache = tmp_path_factory.mktemp("cache")
    shutil.copytree(wardrobe, module(cache).folder / "raw")
    module(cache, **ALL).prepare_data()
    return cache


def test_batches_too_small_to_mix_concern_pairs_only(cache: Path) -> None:
    with pytest.raises(ValueError, match="batch_size is 2, but a batch mixes 3 datasets .*: at least 3"):
        module(cache, batch_size=2)
    data = module(cache, batch_size=2, pairs=False, tryon=True)
    assert len(data.train_dataloader().iterables["tryon"]) == 2


def test_an_epoch_may_be_one_of_a_dataset_of_the_mix(cache: Path) -> None:
    """The others go on where they were, each in its own order."""
    alone = {part.train_loader().dataset_name: part.train_loader() for part in module(cache).parts["pairs"].parts}
    lengths = {name: len(loader) for name, loader in alone.items()}
    assert list(lengths) == ["fashiongen", "fashioniq_cap", "fashion200k"]
    assert len(set(lengths.values())) == len(lengths) - 1  # two of 24 steps
    for name in (None, "pairs", *lengths):
        combined = module(cache, triplets=True, epoch_of=name).train_dataloader()
        length = lengths.get(name, 24)
        batches = [step["pairs"] for _ in range(2) for step, _, _ in combined]
        assert (combined.pacer, len(combined), len(batches)) == ("pairs", length, 2 * length)
        loader = combined.streams["pairs"]
        for style, (dataset, own) in zip(("fashiongen", "fashioniq", "fashion200k"), alone.items()):
            own.set_epoch(0)
            expected = [key for _ in range(4) for batch in own for key in batch.keys][: 2 * length * own.batch_size]
            assert [key for b in batches for key, found in zip(b.keys, b.styles) if found == style] == expected, dataset
        states = [(state["epoch"], state["batches"]) for state in loader.state_dict()["parts"]]
        assert states == [divmod(2 * length, steps) for steps in lengths.values()]
    assert len(list(module(cache, triplets=True, epoch_of="triplets").train_dataloader())) == 4


def test_an_unknown_epoch_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for streams, known in (
        ({}, "pairs, fashiongen, fashioniq_cap, fashion200k"),
        ({"pairs": False, "triplets": True, "tryon": True}, "triplets, tryon, fashioniq, vitonhd"),
        ({"pair_shares": {"fashiongen": 1}, "triplets": True}, "pairs, triplets, fashiongen, fashioniq"),
    ):
        with pytest.raises(ValueError, match=f"unknown epoch_of 'epochs'; known are {known}$"):
            module(tmp_path, epoch_of="epochs", **streams)


def test_table_6_says_which_pairs_are_of_which_phase(tmp_path: Path) -> None:
    def sizes(**options: Any) -> dict[str, int]:
        parts = BenchmarkDataModule(tmp_path, batch_size=128, **options).parts["pairs"].parts
        return {type(part).__name__: part.batch_size for part in parts}

    assert sizes() == {"FashionGenDataModule": 65, "FashionIQCapDataModule": 42, "ShortCaptionDataModule": 21}
    assert sizes(triplets=True) == {"FashionGenDataModule": 128}
    assert sizes(triplets=True, pair_shares={"fashion200k": 1}) == {"ShortCaptionDataModule": 128}
    assert len(module(tmp_path, triplets=True).parts["pairs"].parts) == 3  # the toy forgets no style


def test_of_several_names_the_first_that_is_trained_on_counts(cache: Path) -> None:
    names = ["triplets", "fashiongen"]
    assert module(cache, triplets=True, epoch_of=names).train_dataloader().pacer == "triplets"
    assert len(list(module(cache, epoch_of=names).train_dataloader())) == 24
    with pytest.raises(ValueError, match="unknown epoch_of 'triplets, fashiongen'; known are tryon, vitonhd$"):
        module(cache, pairs=False, tryon=True, epoch_of=names)


@pytest.mark.parametrize(
    "settings", [{}, {"triplets": True}, {"pair_shares": {"fashion200k": 1}}, {"pairs": False, "tryon": True}]
)
def test_the_folders_that_settings_read_are_those_of_its_parts(tmp_path: Path, settings: dict[str, Any]) -> None:
    parts = BenchmarkDataModule(tmp_path, **settings, batch_size=8, prepare_workers=1).parts
    read = [Path(inner.root).name for part in parts.values() for inner in getattr(part, "parts", [part])]
    assert folders_of(**settings, batch_size=8) == list(dict.fromkeys(read))
