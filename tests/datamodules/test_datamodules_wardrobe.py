from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from readers import check, keys, on_rank
from unifashion_pl.datamodules import WardrobeDataModule
from unifashion_pl.datamodules.checks_text import report_text
from unifashion_pl.datamodules.wardrobe import default_cache

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


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of every file but locks."""
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_finished_wardrobe_is_used_again_as_it_is(cache: Path) -> None:
    before = state(cache)
    assert sum(path.name == "index.json" for path in before) == 10
    module(cache, **ALL).prepare_data()
    assert state(cache) == before


def test_only_what_is_absent_is_made_anew(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "cache", copy_function=shutil.copy2)
    data = module(tmp_path / "cache", **ALL)
    whole = state(data.folder)
    shutil.rmtree(data.folder / "shards/fashioniq/gallery-val")
    kept = state(data.folder)
    data.prepare_data()
    after = state(data.folder)
    assert after.keys() == whole.keys()
    assert {path: after[path] for path in kept} == kept


def test_streams_that_are_not_asked_for_get_no_shards(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "cache", ignore=shutil.ignore_patterns("shards"))
    data = module(tmp_path / "cache", pairs=False, tryon=True)
    data.prepare_data()
    assert [p.name for p in (data.folder / "shards").iterdir()] == ["vitonhd"]


def test_sizes_and_seeds_have_folders_of_their_own(tmp_path: Path) -> None:
    folders = {WardrobeDataModule(tmp_path, size, seed).folder for size in ("tiny", "demo") for seed in (0, 1)}
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {tmp_path}
    assert sorted(folder.name.rsplit("-", 1)[0] for folder in folders) == [
        "wardrobe-demo-0",
        "wardrobe-demo-1",
        "wardrobe-tiny-0",
        "wardrobe-tiny-1",
    ]
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="unknown wardrobe size 'huge'; known are tiny, .*demo"):
        WardrobeDataModule(tmp_path, "huge")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path))
    assert WardrobeDataModule(size="tiny").folder.parent == default_cache() == tmp_path
    monkeypatch.delenv("UNIFASHION_CACHE")
    assert default_cache() == Path.home() / ".cache" / "unifashion-pl"


def test_another_seed_draws_other_pictures(cache: Path, tmp_path: Path) -> None:
    other = module(tmp_path, seed=1, pairs=False, tryon=True)
    other.prepare_data()
    a, b = (next(iter(module(c, seed=s, pairs=False, tryon=True).test_dataloader()[1])) for c, s in ((cache, 0), (tmp_path, 1)))
    assert a.keys == b.keys
    assert not torch.equal(a.pixels, b.pixels)


def test_who_comes_second_waits(cache: Path) -> None:
    data = module(cache, **ALL)
    before = state(cache)
    second = threading.Thread(target=data.prepare_data)
    with FileLock(data.folder / ".lock"):
        second.start()
        second.join(0.5)
        assert second.is_alive()
    second.join(30)
    assert not second.is_alive()
    assert state(cache) == before


def prepare(cache: Path) -> None:
    module(cache, pairs=False, tryon=True).prepare_data()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_two_processes_at_once_make_one_wardrobe(cache: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=prepare, args=(tmp_path,)) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0, 0]
    expected = {p.relative_to(cache) for p in state(cache) if p.relative_to(cache).parts[1] == "raw" or "vitonhd" in p.parts}
    assert {p.relative_to(tmp_path) for p in state(tmp_path)} == expected
    for path in ("raw/wardrobe.json", "shards/vitonhd/tryon-train/index.json"):
        assert (module(tmp_path).folder / path).read_bytes() == (module(cache).folder / path).read_bytes()


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    raw = module(tmp_path).folder / "raw"
    raw.mkdir(parents=True)
    (raw / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no wardrobe.json"):
        module(tmp_path).prepare_data()
    (raw / "wardrobe.json").write_text(json.dumps({"format": 1, "seed": 99}))
    with pytest.raises(ValueError, match="holds a wardrobe of another size, seed or version"):
        module(tmp_path).prepare_data()
    assert (raw / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("fashiongen", "fashiongen"),
        ("fashion200k", "fashion200k"),
        ("fashioniq", "fashion-iq"),
        ("fashioniq_cap", "fashion-iq"),
        ("vitonhd", "viton-hd"),
    ],
)
def test_its_raw_layouts_pass_the_checks(wardrobe: Path, dataset: str, folder: str) -> None:
    report = check(dataset, wardrobe / folder)
    assert report.complete, report_text(report)


@pytest.mark.filterwarnings("ignore:fashioniq-cap. 2 of 26 training images have no caption")
def test_training_steps(cache: Path) -> None:
    combined = module(cache, **ALL).train_dataloader()
    steps = [step for step, _, _ in combined]
    assert {name: len(loader) for name, loader in combined.iterables.items()} == {"pairs": 24, "triplets": 4, "tryon": 2}
    assert len(steps) == 24
    for step in steps:
        pairs, triplets, tryon = (step[name] for name in ("pairs", "triplets", "tryon"))
        assert (len(pairs), len(triplets), len(tryon)) == (6, 6, 2)
        for images in (pairs.images, triplets.references, triplets.targets, tryon.garments):
            assert (images.shape[1:], images.dtype) == ((3, 16, 16), torch.uint8)
        for pixels in (pairs.pixels, triplets.pixels, tryon.pixels, tryon.pose, tryon.garment_pixels):
            assert (pixels.shape[1:], pixels.dtype) == ((3, 24, 20), torch.uint8)
        assert sorted(pairs.styles) == ["fashion200k", *["fashiongen"] * 3, *["fashioniq"] * 2]
        assert all(pairs.captions)
        assert all(pairs.texts)
        assert all(triplets.captions)
        assert all(tryon.texts)
        assert tryon.masks.dtype == torch.bool
        assert 0 < tryon.masks.float().mean() < 0.9
    pairs = [step["pairs"] for step in steps]
    assert len({key for part in pairs for key, style in zip(part.keys, part.styles) if style == "fashiongen"}) == 72


@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_delivers_everything_exactly_once(cache: Path, world: int) -> None:
    loaders = zip(*[on_rank(module(cache, **ALL), rank, world).test_dataloader() for rank in range(world)])
    seen = {(ranks[0].source.dataset, ranks[0].source.kind): [k for part in ranks for k in keys(part)] for ranks in loaders}
    assert {name: len(found) for name, found in seen.items()} == {
        ("fashiongen/validation", "pairs"): 72,
        ("fashioniq/val", "gallery"): 40,
        ("fashioniq/val", "queries"): 18,
        ("vitonhd/test-paired", "tryon"): 3,
        ("vitonhd/test-unpaired", "tryon"): 3,
    }
    for (_, kind), found in seen.items():
        assert len(set(found)) == len(found) - 2 * (kind == "gallery")


def test_validation_pictures_are_not_trained_on(cache: Path) -> None:
    data = module(cache, pairs=False, triplets=True, triplet_batch_size=1)
    gallery = {key for batch in data.val_dataloader()[0] for key in batch.keys}
    source = data.parts["triplets"].source("triplets-train")
    metas = [json.loads(source.read(number).fields["meta.json"]) for number in range(24)]
    assert len(gallery) == 38
    assert not gallery & {meta[role] for meta in metas for role in ("reference", "target")}
    assert len(data.train_dataloader().iterables["triplets"]) == 24
