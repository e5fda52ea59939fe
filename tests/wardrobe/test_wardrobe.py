"""The procedural wardrobe: attributes are visible in pixels, texts are true, layouts are the real ones, bytes are deterministic."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.wardrobe import (
    Product,
    WardrobeSpec,
    describe,
    make_product,
    modifying_texts,
    render_product,
    write_wardrobe,
)
from unifashion_pl.wardrobe.catalogue import SIZES, fiq_split
from unifashion_pl.wardrobe.drawing import Frame, draw_garment
from unifashion_pl.wardrobe.person import UPPER, draw_figure, render_worn
from unifashion_pl.wardrobe.products import CATEGORIES, COLOURS, differences, is_valid
from unifashion_pl.wardrobe.tryon import fabric_of, repaint_mask

SIZE = 64


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB 0..255 -> CIE Lab (D65), from the definition."""
    c = rgb / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def garment_mask(image: Image.Image) -> NDArray[np.bool_]:
    """Pixels that differ from the backdrop, whose colour is interpolated between the picture's left and right edge."""
    pixels = lab(np.asarray(image, float))
    edge = np.median(pixels[:, [0, 1, -2, -1]].reshape(-1, 3), axis=0)
    return np.linalg.norm(pixels - edge, axis=-1) > 16


def front(product: Product, key: str = "t") -> Image.Image:
    return render_product(product, "front", SIZE, key)


def plain(category: str, **changes: object) -> Product:
    values = {"sleeve": "none", "length": "short", "neckline": "round", "buttons": 0, **changes}
    if category == "jacket":
        values |= {"sleeve": changes.get("sleeve", "long"), "neckline": "collar", "buttons": 3}
    return Product(
        category, str(changes.pop("colour", "red")), "plain", "", **{k: v for k, v in values.items() if k != "colour"}
    )  # type: ignore[arg-type]


def test_colours_are_far_apart_and_recoverable_from_a_front_view() -> None:
    names = list(COLOURS)
    centres = lab(np.array([COLOURS[n] for n in names], float))
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e3 * np.eye(len(names))
    assert distances.min() > 18
    right = total = 0
    for category in ("dress", "shirt", "skirt", "trousers"):
        for colour in names:
            product = plain(category, colour=colour, neckline="collar" if category == "shirt" else "round")
            image = front(product, f"{category}{colour}")
            pixels = lab(np.asarray(image, float))[24:44, 20:44].reshape(-1, 3)
            found = names[int(np.linalg.norm(centres - np.median(pixels, axis=0), axis=1).argmin())]
            right, total = right + (found == colour), total + 1
    assert right / total >= 0.95


def test_sleeve_and_length_are_recoverable_from_extents() -> None:
    wide: dict[str, list[float]] = {}
    for sleeve in ("none", "short", "long"):
        for k in range(6):
            mask = garment_mask(front(plain("shirt", sleeve=sleeve), f"s{k}"))
            rows = mask.any(1).nonzero()[0]
            upper, lower = mask[rows[0] : rows[0] + len(rows) // 2], mask[rows[0] + int(len(rows) * 0.7) : rows[-1]]
            hem = np.median(lower.sum(1))
            wide.setdefault(sleeve, []).append(float(mask.any(0).sum() / max(1, np.median(upper[-4:].sum(1)))) if hem else 0.0)
    assert max(wide["none"]) < min(wide["long"])
    ratio: dict[str, list[float]] = {}
    for length in ("short", "knee", "long"):
        for k in range(6):
            mask = garment_mask(front(plain("skirt", length=length), f"l{k}"))
            ratio.setdefault(length, []).append(float(mask.any(1).sum() / mask.any(0).sum()))
    assert max(ratio["short"]) < min(ratio["knee"])
    assert max(ratio["knee"]) < min(ratio["long"])


@pytest.mark.parametrize(("pattern", "axis"), [("striped", 0), ("pinstriped", 1)])
def test_stripes_run_where_the_name_says(pattern: str, axis: int) -> None:
    for k in range(8):
        product = Product("dress", "white", pattern, "blue", "none", "long", "round", 0)
        grey = np.asarray(front(product, f"p{k}").convert("L"), float)[26:50, 24:40]
        along = np.abs(np.diff(grey, axis=axis)).mean()
        across = np.abs(np.diff(grey, axis=1 - axis)).mean()
        assert along > 2 * across, (pattern, k)


def test_mean_colour_does_not_solve_retrieval() -> None:
    products = [make_product(3, i) for i in range(60)]
    first = np.stack([np.asarray(render_product(p, "front", 32, f"a{i}"), float) for i, p in enumerate(products)])
    second = np.stack([np.asarray(render_product(p, "worn", 32, f"b{i}"), float) for i, p in enumerate(products)])
    for a, b in ((first.mean((1, 2)), second.mean((1, 2))), (first.reshape(60, -1), second.reshape(60, -1))):
        nearest = np.linalg.norm(a[:, None] - b[None], axis=-1).argmin(1)
        assert (nearest == np.arange(60)).mean() < 0.35


def test_products_depend_on_seed_and_index_alone_and_are_valid() -> None:
    assert make_product(0, 7) == make_product(0, 7)
    drawn = [make_product(0, i) for i in range(300)]
    assert all(is_valid(p) for p in drawn)
    assert {p.category for p in drawn} == set(CATEGORIES)
    assert drawn != [make_product(1, i) for i in range(300)]


def test_captions_name_colour_category_and_pattern() -> None:
    for i in range(200):
        product = make_product(0, i)
        for style in ("fashion200k", "fashiongen", "fashioniq"):
            text = describe(product, style, random.Random(i)).lower()
            assert product.colour in text
            assert product.category in text
            assert (product.second in text) or style == "fashion200k"
            others = {c for c in CATEGORIES if c != product.category and c not in ("shirt",)}
            assert not any(f" {c} " in f" {text} " for c in others)
        words = len(describe(product, "fashion200k", random.Random(i)).split())
        assert 3 <= words <= 6
    with pytest.raises(ValueError, match="known are fashion200k"):
        describe(make_product(0, 0), "haiku", random.Random(0))


def test_triplets_target_once_differ_in_one_to_three_attributes_and_are_unambiguous() -> None:
    taken: set[Product] = set()
    train = fiq_split(0, "train", "shirt", 80, 0, taken)
    val = fiq_split(0, "val", "shirt", 40, 60, taken)
    assert not set(train.products) & set(val.products)
    for part in (train, val):
        assert len(set(part.products)) == len(part.products)
        assert max(Counter(t.target for t in part.triplets).values()) == 1
        for t in part.triplets:
            changed = differences(part.products[t.reference], part.products[t.target])
            assert 1 <= len(changed) <= 3
            if "colour" in changed:
                assert part.products[t.target].colour in " ".join(t.texts)


def test_modifying_texts_refuse_what_cannot_be_said() -> None:
    a = make_product(0, 0, "dress")
    with pytest.raises(ValueError, match="same attributes"):
        modifying_texts(a, a, random.Random(0))
    with pytest.raises(ValueError, match="inside a category"):
        modifying_texts(a, make_product(0, 1, "shirt"), random.Random(0))


SMALL = WardrobeSpec(
    products_train=6,
    products_val=4,
    views=2,
    image_size=32,
    fiq_train=4,
    fiq_val=4,
    fiq_gallery=8,
    tryon_train=2,
    tryon_test=2,
    tryon_size=(48, 64),
)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wardrobe(tmp_path_factory.mktemp("w") / "one", spec=SMALL, workers=1, progress=False)


def test_same_bytes_for_one_and_two_processes(small: Path, tmp_path: Path) -> None:
    two = write_wardrobe(tmp_path / "two", spec=SMALL, workers=2, progress=False)
    assert digest(small) == digest(two)


def test_a_finished_wardrobe_is_reused_and_another_one_refused(small: Path, tmp_path: Path) -> None:
    before = (small / "wardrobe.json").stat().st_mtime_ns
    assert write_wardrobe(small, spec=SMALL, progress=False) == small
    assert (small / "wardrobe.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another size, seed or version"):
        write_wardrobe(small, spec=SMALL, seed=1, progress=False)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        write_wardrobe(tmp_path, spec=SMALL, progress=False)
    with pytest.raises(ValueError, match="known are tiny, .*demo"):
        write_wardrobe(tmp_path / "x", spec="huge")


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unifashion_pl.wardrobe.write.write_vitonhd", stop)
    with pytest.raises(KeyboardInterrupt):
        write_wardrobe(tmp_path / "w", spec=SMALL, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_raw_layouts_are_those_of_the_datasets(small: Path) -> None:
    with h5py.File(small / "fashiongen/fashiongen_256_256_train.h5") as file:
        assert len(file) == 16
        assert file["input_image"].shape == (12, 32, 32, 3)
        assert file["input_image"].dtype == np.uint8
        assert file["input_description"].shape == (12, 1)
        assert any(b"\xe9" in row[0] for row in file["input_description"][:])
        assert (np.diff(file["input_productID"][:, 0]) >= 0).all()
    for category in ("dress", "shirt", "toptee"):
        for split in ("train", "val", "test"):
            entries = json.loads((small / f"fashion-iq/captions/cap.{category}.{split}.json").read_text("utf-8"))
            gallery = json.loads((small / f"fashion-iq/image_splits/split.{category}.{split}.json").read_text())
            for entry in entries:
                assert len(entry["captions"]) == 2
                assert ("target" in entry) is (split != "test")
                assert {entry["candidate"], entry.get("target", entry["candidate"])} <= set(gallery)
            assert all((small / f"fashion-iq/images/{i}.jpg").is_file() for i in gallery)
    lines = (small / "fashion-iq/captions.train.jsonl").read_text("utf-8").splitlines()
    assert all(json.loads(line)["inputs"] == ["image", "category"] for line in lines)
    labels = (small / "fashion200k/labels/dress_train_detect_all.txt").read_text("utf-8").splitlines()
    path, score, _ = labels[0].split("\t")
    assert (small / "fashion200k" / path).is_file()
    assert float(score) < 0


def test_tryon_maps_fit_each_other(small: Path) -> None:
    root = small / "viton-hd" / "train"
    for name in ("00000_00", "00001_00"):
        mask = np.asarray(Image.open(root / f"agnostic-mask/{name}_mask.png"))
        parse = Image.open(root / f"image-parse-v3/{name}.png")
        assert parse.mode == "P"
        worn = np.isin(np.asarray(parse), [5, 7])
        assert worn.mean() > 0.05
        assert (mask[worn] == 255).mean() > 0.99
        agnostic = np.asarray(Image.open(root / f"agnostic-v3.2/{name}.jpg"), int)
        assert np.abs(agnostic[mask == 255] - 128).mean() < 8
        pose = json.loads((root / f"openpose_json/{name}_keypoints.json").read_text())
        assert len(pose["people"][0]["pose_keypoints_2d"]) == 75
    captions = json.loads((small / "viton-hd/captions.json").read_text())
    assert set(captions) == {"00000", "00001", "50000", "50001"}
    assert UPPER == ("shirt", "top", "jacket")
    unpaired = (small / "viton-hd/test_pairs.txt").read_text().split()
    assert unpaired[0] != unpaired[1]


def test_masks_do_not_tell_what_is_worn() -> None:
    plain = make_product(0, 1, "top")
    masks = []
    for category in UPPER:
        for sleeve in ("none", "short", "long"):
            product = replace(plain, category=category, sleeve=sleeve, neckline="round", buttons=0)
            worn = render_worn(product, 96, 128, draw_figure(random.Random(1)), random.Random(2), random.Random(3), upper=True)
            masks.append(repaint_mask(worn))
            assert (masks[-1][worn.garment > 0.5] == 255).all()
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_photos_of_one_item_show_the_same_fabric(small: Path) -> None:
    """The word on a chest and where stripes lie belong to the item, folds and light to the photo."""
    lettered = replace(plain("top", colour="white"), pattern="lettered", second="black")
    frame = Frame(128, 128, 110.0, 0.0, 64.0, 40.0)

    def printed(item: int, photo: int) -> NDArray[np.bool_]:
        garment = draw_garment(lettered, frame, random.Random(photo), random.Random(item))
        return (garment.rgb.mean(-1) < 120) & (garment.mask > 0.5)

    assert np.array_equal(printed(1, 1), printed(1, 2))
    assert len({printed(item, 1).tobytes() for item in range(20)}) > 3
    assert fabric_of(0, 3).random() == fabric_of(0, 3).random() != fabric_of(0, 4).random()


def test_sizes_name_what_they_promise() -> None:
    assert SIZES["tiny"].fiq_gallery == 12
    assert SIZES["demo"].products_val // len(CATEGORIES) >= 100
