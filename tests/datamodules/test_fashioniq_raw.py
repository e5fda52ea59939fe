"""Fashion-IQ's raw layout and its variants."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from data.rawdata import CATEGORIES, jpeg, write_fashioniq
from readers import check, split_of
from unifashion_pl.datamodules import FashionIQDataModule, fashioniq, fashioniq_cap
from unifashion_pl.datamodules.checks_text import report_text
from unifashion_pl.datamodules.fashioniq_raw import PUBLISHED_ENTRIES, RawFashionIQ

from unifashion_pl.data.plan import MissingDataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 training triplets, 15 queries, 39 gallery images; the checks find it complete."""
    return write_fashioniq(tmp_path / "raw")


def module(root: Path, **options: Any) -> FashionIQDataModule:
    return FashionIQDataModule(root, **{"batch_size": 4, "eval_batch_size": 4, "image_size": 16, **options})


def rewrite(path: Path, change: Any) -> None:
    """Replace the content of a JSON file by what ``change`` makes of it."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize("folder", ["captions", "image_splits"])
def test_an_absent_folder_is_named_with_what_is_there(root: Path, folder: str) -> None:
    shutil.rmtree(root / folder)
    report = check("fashioniq", root)
    assert (report.complete, report.splits) == (False, [])
    assert f"no folder {folder} (found: " in str(report.problem)
    assert "images" in str(report.problem)
    assert "Expected captions/, image_splits/ and images/" in report_text(report)
    with pytest.raises(MissingDataError, match=f"no folder {folder}"):
        module(root).prepare_data()


def test_an_absent_root_and_absent_images_are_named(root: Path, tmp_path: Path) -> None:
    assert "the folder does not exist" in str(check("fashioniq", tmp_path / "no").problem)
    shutil.rmtree(root / "images")
    report = check("fashioniq", root)
    assert [(s.expected, s.usable) for s in report.splits] == [(24, 0), (15, 0), (39, 0)]
    assert any(
        note.startswith("images in: no folder of images; 117 ids listed, 116 distinct, 0 files") for note in report.notes
    )
    with pytest.raises(MissingDataError, match="none of the 24 triplets is usable: .*missing"):
        module(root).prepare_data()


CAPTIONS, SPLIT = "captions/cap.dress.val.json", "image_splits/split.dress.val.json"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (CAPTIONS, None, "is missing; it is part of"),
        (SPLIT, None, "is missing; it is part of"),
        (CAPTIONS, "", "is not a list: .*the file is empty; download it again"),
        (CAPTIONS, '[{"candidate": "A",', "is not a list: .*truncated"),
        (CAPTIONS, '\ufeff[{"candidate": 5}]', "entry 0 is not .*captions"),
        (CAPTIONS, '{"0": {}}', "is not a list: Expected `array`, got `object`"),
        (CAPTIONS, '["A"]', r"entry 0 is not \{candidate: id.*found A"),
        (CAPTIONS, '[{"candidate": "../../A", "captions": ["a"], "target": "B"}]', "entry 0: the id '../../A' is no name"),
        (CAPTIONS, '[{"candidate": "A", "captions": ["a"], "target": "/B"}]', "entry 0: the id '/B' is no name of an image"),
        (CAPTIONS, "[" * 100_000, "is not a list: nested too deeply"),
        (CAPTIONS, '[{"candidate": "A", "target": "B"}]', r"entry 0 is not \{candidate: id, captions: \[texts\]"),
        (CAPTIONS, '[{"captions": ["a", "b"], "target": "B"}]', r"entry 0 is not \{candidate: id, captions: \[texts\]"),
        (CAPTIONS, '[{"candidate": null, "captions": ["a", "b"], "target": "B"}]', "entry 0 is not"),
        (CAPTIONS, '[{"candidate": "A", "captions": "is red", "target": "B"}]', "entry 0 is not"),
        (CAPTIONS, '[{"candidate": "A", "captions": ["a", null], "target": "B"}]', "entry 0 is not"),
        (CAPTIONS, '[{"candidate": "A", "captions": ["a", "b"]}]', "entry 0 has no target; only the test split"),
        (SPLIT, "{", "is not a list"),
        (SPLIT, '{"ids": []}', "is not a list: Expected `array`, got `object`"),
        (SPLIT, '["A", 5]', "entry 1 is not an id: .*got `int`.*found 5"),
        (SPLIT, '["A", "B", "A"]', "1 ids are listed twice: A"),
        (SPLIT, '[{"image": "A"}, {"image": "A"}]', "1 ids are listed twice: A"),
    ],
)
def test_wrong_annotations_are_refused_by_name(root: Path, file: str, text: str | None, message: str) -> None:
    if text is None:
        (root / file).unlink()
    else:
        (root / file).write_text(text, encoding="utf-8")
    with pytest.raises(MissingDataError, match=rf"{file}.*{message}"):
        list(fashioniq.plans(root))
    report = check("fashioniq", root)
    assert file in str(report.problem)
    assert not report.complete


def test_annotations_in_another_encoding_are_refused_by_name(root: Path) -> None:
    (root / CAPTIONS).write_bytes('[{"candidate": "A", "captions": ["é", "b"], "target": "B"}]'.encode("latin-1"))
    assert f"{CAPTIONS}:1: not UTF-8 text" in str(check("fashioniq", root).problem)


def test_lists_without_entries_are_not_complete(root: Path) -> None:
    for category in CATEGORIES:
        (root / f"captions/cap.{category}.val.json").write_text("[]")
    report = check("fashioniq", root)
    assert split_of(report, "fashioniq/val", "queries").expected == 0
    assert not report.complete
    assert "dress val: 0 entries, published are 2,017" in report_text(report)


def test_an_id_that_fits_no_file_name_is_refused(root: Path) -> None:
    rewrite(root / SPLIT, lambda ids: [*ids, "../B00"])
    with pytest.raises(MissingDataError, match=r"split.dress.val.json: entry \d+: the id '../B00' is no name of an image"):
        list(fashioniq.plans(root))


@pytest.mark.parametrize("folder", ["dress", "image_data/dress", "resized_images", "images/dress"])
def test_other_folders_of_images_are_found(root: Path, folder: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "images/DVA00003.jpg").rename(root / folder / "DVA00003.JPG")
    report = check("fashioniq", root)
    assert report.complete
    assert folder in report.notes[0]


def test_objects_in_split_files_and_padding_in_caption_files_are_understood(root: Path) -> None:
    before = [[item.spec for item in plan.items] for plan in fashioniq.plans(root)]
    rewrite(root / SPLIT, lambda ids: [{"image": id, "caption": "x"} for id in ids])
    rewrite(root / CAPTIONS, lambda entries: [*entries, {"fake_data": True}])
    assert [[item.spec for item in plan.items] for plan in fashioniq.plans(root)] == before


def test_what_belongs_together_wrongly_is_noted(root: Path) -> None:
    (root / "images/STRANGER.jpg").write_bytes(jpeg(1))
    (root / "images/DVA00003.png").write_bytes(jpeg(2))
    rewrite(root / SPLIT, lambda ids: ids[:1] + ids[2:])
    text = report_text(check("fashioniq", root))
    assert "2 image files belong to no listed id: DVA00001, STRANGER" in text
    assert "1 ids have several image files, the first is used: DVA00003" in text
    assert "dress val: 1 references or targets are not in the image split: DVA00001" in text
    assert "1 training triplets touch an image that also stands in a validation split" in text


@pytest.fixture(scope="module")
def annotations() -> Path:
    """Fashion-IQ's captions and image splits as published, without images."""
    named = os.environ.get("UNIFASHION_SHARED_DATA")
    if not named:
        pytest.skip("UNIFASHION_SHARED_DATA names no folder with fashion-iq/captions and fashion-iq/image_splits")
    root = Path(named) / "fashion-iq"
    if absent := [name for name in ("captions", "image_splits") if not (root / name).is_dir()]:
        pytest.skip(f"UNIFASHION_SHARED_DATA: no folder {' or '.join(absent)} in {root}")
    return root


@pytest.fixture(scope="module")
def published(annotations: Path) -> RawFashionIQ:
    return RawFashionIQ(annotations)


@pytest.mark.real_data
def test_published_counts(published: RawFashionIQ) -> None:
    entries = {s: [len(published.entries(c, s)) for c in CATEGORIES] for s in ("train", "val", "test")}
    assert entries == {"train": [5985, 5988, 6027], "val": [2017, 2038, 1961], "test": [2024, 2038, 2056]}
    assert entries == {split: [counts[c] for c in CATEGORIES] for split, counts in PUBLISHED_ENTRIES.items()}
    gallery = fashioniq.gallery_plan(published, "val").items
    assert Counter(item.group for item in gallery) == {"dress": 3817, "shirt": 6346, "toptee": 5373}
    assert Counter(item.group for item in gallery if item.spec.in_union) == {"dress": 2628, "shirt": 3089, "toptee": 2902}
    queries = fashioniq.triplet_plan(published, "val").items
    assert len(queries) == 2017 + 2038 + 1961
    assert all(len({item.spec.target for item in queries if item.group == c}) == n for c, n in zip(CATEGORIES, entries["val"]))


@pytest.mark.real_data
def test_published_splits_overlap(published: RawFashionIQ) -> None:
    ids = {(c, s): published.ids(c, s) for c in CATEGORIES for s in ("train", "val", "test")}
    assert sum(map(len, ids.values())) == 77_683
    assert len({id for listed in ids.values() for id in listed}) == 74_381
    train, val = ({id for c in CATEGORIES for id in ids[c, s]} for s in ("train", "val"))
    assert len(train & val) == 811
    plan = fashioniq.triplet_plan(published, "train")
    touching = set(plan.subsets["val_overlap"])
    assert (len(plan.items), len(touching)) == (18_000, 523)
    assert all((bool({item.spec.reference, item.spec.target} & val)) is (item.key in touching) for item in plan.items)
    (images,) = fashioniq_cap.plans(published.root)
    assert (len(images.items), len(images.subsets["val_overlap"])) == (len(train), 811)
    assert len(train - val) == 44_618


@pytest.mark.real_data
def test_published_captions_are_complete_and_empty_ones_are_counted(published: RawFashionIQ) -> None:
    for split, expected in (("train", [0, 0, 12]), ("val", [0, 1, 2]), ("test", [0, 1, 0])):
        texts = [[e.captions for e in published.entries(c, split)] for c in CATEGORIES]
        assert all(len(pair) == 2 and any(pair) for part in texts for pair in part)
        assert [sum("" in pair for pair in part) for part in texts] == expected
    empty = [note for note in published.notes("val") if "empty caption" in note]
    assert empty == [
        "shirt val: 1 entries have an empty caption, which drops out",
        "toptee val: 2 entries have an empty caption, which drops out",
    ]
    assert published.notes("val") == empty
