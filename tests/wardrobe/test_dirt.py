"""What the wardrobe breaks on request is exactly what the checks of the datasets find."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from unifashion_pl.datamodules import fashion200k, fashiongen, fashioniq, vitonhd
from unifashion_pl.datamodules.checks import CheckReport, check_dataset
from unifashion_pl.datamodules.checks_text import report_text

from unifashion_pl.commands import run
from unifashion_pl.data.decode import to_rgb
from unifashion_pl.wardrobe import WardrobeSpec, write_wardrobe
from unifashion_pl.wardrobe.dirt import DAMAGES, KINDS, MODES, UNICODE, soil

SPEC = WardrobeSpec(
    products_train=4,
    products_val=3,
    views=2,
    image_size=32,
    fiq_train=16,
    fiq_val=10,
    fiq_gallery=20,
    tryon_train=24,
    tryon_test=24,
    tryon_size=(48, 64),
    short_train=14,
    short_test=14,
)
SMALL = WardrobeSpec(
    products_train=2,
    products_val=2,
    views=1,
    image_size=32,
    fiq_train=4,
    fiq_val=4,
    fiq_gallery=8,
    tryon_train=2,
    tryon_test=2,
    tryon_size=(48, 64),
    short_train=6,
    short_test=6,
)
#: Dataset of the check -> folder of the wardrobe.
FOLDERS = {"fashion200k": "fashion200k", "fashioniq": "fashion-iq", "vitonhd": "viton-hd", "mgd": "mgd/dresscode"}
ODDITIES = {"grey": "grey", "cmyk": "CMYK", "palette": "palette", "exif": "turned by EXIF"}
Stains = list[dict[str, Any]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wardrobe(tmp_path_factory.mktemp("w") / "clean", spec=SPEC, workers=1, progress=False, layouts=["all"])


def soiled(clean: Path, out: Path) -> Path:
    """What ``write_wardrobe(dirt=["all"])`` does after drawing."""
    shutil.copytree(clean, out)
    soil(out, KINDS, 0)
    return out


@pytest.fixture(scope="module")
def dirty(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soiled(clean, tmp_path_factory.mktemp("w") / "dirty")


@pytest.fixture(scope="module")
def stains(dirty: Path) -> Stains:
    found: Stains = json.loads((dirty / "dirt.json").read_text("utf-8"))
    return found


def hashes(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name not in ("wardrobe.json", "dirt.json")
    }


def reported(report: CheckReport) -> set[tuple[str, str]]:
    return {(bad.id, bad.reason) for split in report.splits for bad in split.unusable}


@pytest.mark.parametrize("dataset", FOLDERS)
def test_the_check_finds_exactly_what_was_done(dirty: Path, stains: Stains, dataset: str) -> None:
    own = [s for s in stains if s["dataset"] == FOLDERS[dataset]]
    report = check_dataset(dataset, dirty / FOLDERS[dataset], progress=False)
    assert not report.complete
    damaged = {(s["id"], s["reason"]) for s in own if s["kind"] in DAMAGES}
    assert len(damaged) == 2 * len(DAMAGES)
    assert reported(report) == damaged
    doubled = {frozenset((s["id"], s["other"])) for s in own if s["kind"] == "duplicate"}
    assert len(doubled) == 3
    assert {frozenset(id.removeprefix("person ") for id in group.ids) for group in report.duplicates} == doubled
    assert sum(group.across for group in report.duplicates) == 1
    odd = {(name, id.removeprefix("person ")) for split in report.splits for name, ids in split.oddities.items() for id in ids}
    assert odd == {(ODDITIES[s["kind"]], s["id"]) for s in own if s["kind"] in MODES}
    text = report_text(report)
    assert all(f"{id}: {reason}" in text for id, reason in damaged)
    assert "effect: " in text
    assert "3 groups of ids, 1 of them in training and evaluation" in text


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("fashiongen", "fashiongen"), ("fashiongen", "fame-vil"), ("fashiongen", "fashion-sap"), ("fashion200k", "fashion200k"),
        ("fashioniq", "fashion-iq"), ("fashioniq", "fashion-iq-by-category"), ("fashioniq_cap", "fashion-iq-by-category"),
        ("vitonhd", "viton-hd"), ("vitonhd", "viton-hd-older"), ("mgd", "mgd"), ("mgd", "viton-hd"),
    ],
)  # fmt: skip
def test_a_clean_copy_of_every_layout_is_complete_and_named(clean: Path, dataset: str, folder: str) -> None:
    report = check_dataset(dataset, clean / folder, progress=False)
    assert report.complete, report_text(report)
    assert report.duplicates == []
    assert all(not split.oddities and not split.effects for split in report.splits)
    assert all(split.size.startswith("a part: ") for split in report.splits)
    words = {
        "fame-vil": "FAME-ViL", "fashion-sap": "FashionSAP", "viton-hd-older": "in zalando-hd-resized/; older names cloth_mask",
        "fashion-iq-by-category": "resized_images/dress", "mgd": "vitonhd in vitonhd/ and dresscode in dresscode/",
    }  # fmt: skip
    assert words.get(folder, "") in report.variant
    assert report.licence


def test_every_kind_was_done_to_both_splits(stains: Stains) -> None:
    wanted = {(kind, split) for kind in (*DAMAGES, "duplicate", *MODES) for split in ("train", "evaluation")}
    for dataset in FOLDERS.values():
        assert {(s["kind"], s["split"]) for s in stains if s["dataset"] == dataset} >= wanted, dataset
    assert {s["kind"] for s in stains} == set(KINDS)


def test_nothing_else_was_touched(clean: Path, dirty: Path, stains: Stains) -> None:
    before, after = hashes(clean), hashes(dirty)
    assert {name for name in before if before[name] != after.get(name)} == {stain["file"] for stain in stains}
    assert set(after) <= set(before)


def test_odd_pictures_show_what_they_showed(clean: Path, dirty: Path, stains: Stains) -> None:
    odd = [stain for stain in stains if stain["kind"] in MODES]
    assert len(odd) == 4 * 2 * len(FOLDERS)
    for stain in odd:
        old, new = (to_rgb(Image.open(root / stain["file"])) for root in (clean, dirty))
        assert old.size == new.size, stain
        grey = [image.convert("L").resize((8, 8)).tobytes() for image in (old, new)]
        assert max(abs(a - b) for a, b in zip(*grey)) < 24, stain


def test_texts_are_read_as_they_stand(dirty: Path, stains: Stains) -> None:
    rooms = {"fashiongen": fashiongen, "fashion200k": fashion200k, "fashion-iq": fashioniq, "viton-hd": vitonhd}
    plans = {dataset: list(room.plans(dirty / dataset)) for dataset, room in rooms.items()}
    for dataset, made in plans.items():
        own = [s for s in stains if s["dataset"] == dataset and s["split"] == "train"]
        texts = {s["kind"]: s["id"] for s in own if s["kind"] in ("unicode", "empty-text")}
        train = [plan for plan in made if plan.split == "train"]
        found = {item.key: str(item.spec) for plan in train for item in plan.items}
        if dataset == "fashion200k":
            found = {item.spec.meta["id"]: str(item.spec) for plan in train for item in plan.items}
        if dataset == "viton-hd":
            found = {garment: str(phrases) for garment, phrases in train[0].recipe.phrases.items()}
            assert found[texts["empty-text"]] == "[]"
        assert UNICODE in found[texts["unicode"]], dataset
    notes = [note for made in plans.values() for plan in made for note in plan.notes]
    for said in ("1 rows have no description", "1 images have no description", "1 garments have no phrases"):
        assert any(said in note for note in notes), said
    assert any(note.startswith("shirt train: ") and "have an empty caption" in note for note in notes)


def test_equal_rows_of_an_hdf5_file_are_found(dirty: Path) -> None:
    report = check_dataset("fashiongen", dirty / "fashiongen", progress=False)
    assert report.complete
    pairs = [["train r0000000", "train r0000007"], ["validation r0000000", "validation r0000005"]]
    assert [group.ids for group in report.duplicates] == pairs


def test_the_same_dirt_again(clean: Path, dirty: Path, tmp_path: Path) -> None:
    again = soiled(clean, tmp_path / "again")
    assert (again / "dirt.json").read_bytes() == (dirty / "dirt.json").read_bytes()
    assert hashes(again) == hashes(dirty)


def test_some_dirt_only_and_unknown_names(tmp_path: Path) -> None:
    root = write_wardrobe(tmp_path / "some", spec=SMALL, workers=1, progress=False, dirt=["html", "missing"])
    bare = write_wardrobe(tmp_path / "bare", spec=SMALL, workers=1, progress=False)
    stains = soil(bare, ("missing", "html"), 0)
    assert {stain.kind for stain in stains} == {"html", "missing"}
    assert (root / "dirt.json").read_bytes() == (bare / "dirt.json").read_bytes()
    assert hashes(root) == hashes(bare)
    assert json.loads((root / "wardrobe.json").read_text())["dirt"] == ["missing", "html"]
    with pytest.raises(ValueError, match="other layouts or dirt"):
        write_wardrobe(root, spec=SMALL, progress=False)
    with pytest.raises(ValueError, match="unknown dirt mud; known are missing, truncated"):
        write_wardrobe(tmp_path / "x", spec=SMALL, dirt=["mud"])
    with pytest.raises(ValueError, match="unknown layouts coco; known are mgd, fame-vil"):
        write_wardrobe(tmp_path / "x", spec=SMALL, layouts=["coco"])


def test_the_command_line_writes_dirt_and_its_check_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["data", "wardrobe", "--out", str(tmp_path / "raw"), "--size", "tiny", "--workers", "1", "--dirt", "missing,html"])
    with pytest.raises(SystemExit) as caught:
        run(["data", "check", "fashion200k", "--root", str(tmp_path / "raw/fashion200k"), "--json", str(tmp_path / "r.json")])
    assert caught.value.code == 1
    content = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert content["complete"] is False
    assert {bad["reason"] for split in content["splits"] for bad in split["unusable"]} == {"missing", "text/html, not an image"}
    assert content["splits"][1]["effects"]
    assert content["splits"][0]["published"] == 172_049
    printed = capsys.readouterr().out
    assert "  train  pairs        24      22  a part: 24 of 172,049 published (0.014 %)" in printed
    assert "  train, pairs: 2 of 24 are lost" in printed
