"""MGD's two parts filled with the wardrobe: multimodal VITON-HD (worn and warped sketches) and Dress Code Multimodal."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.data.formats import encode_png
from unifashion_pl.person.pose import draw_skeleton
from unifashion_pl.wardrobe.catalogue import WardrobeSpec
from unifashion_pl.wardrobe.drawing import render_flat
from unifashion_pl.wardrobe.layouts import Map, write_files
from unifashion_pl.wardrobe.person import LIP, PART_COLOURS, UPPER, Worn, draw_figure, render_worn
from unifashion_pl.wardrobe.products import PLAIN_WORN, Product, make_product
from unifashion_pl.wardrobe.render import encode_jpeg
from unifashion_pl.wardrobe.texts import colour_phrase
from unifashion_pl.wardrobe.tryon import fabric_of, paletted, person_of, picture_of, product_of, write_vitonhd

#: Dress Code's category -> the wardrobe's.
CATEGORIES = {"dresses": ("dress",), "upper_body": UPPER, "lower_body": ("skirt", "trousers")}
#: A garment's number says its category and split; the products of a category begin at FIRST and twice its first number.
FIRST, PER_CATEGORY, PER_SPLIT = 5_000_000, 100_000, 50_000
#: LIP labels of the drawn persons -> ATR's, as Dress Code has them (the neck is skin like the face).
ATR = {"hair": 2, "upper": 4, "coat": 4, "dress": 7, "skirt": 5, "trousers": 6, "face": 11, "neck": 11, "left_leg": 12}
ATR |= {"right_leg": 13, "left_arm": 14, "right_arm": 15, "left_shoe": 9, "right_shoe": 10}
#: Frame (w, h) of the joints' coordinates, whatever the pictures' size.
JOINTS = (384, 512)
#: Share of the height that is cut off above, where the head is.
HEADLESS = 0.14


def write_mgd(root: Path, spec: WardrobeSpec, seed: int, run: Map) -> dict[str, Any]:
    """``vitonhd/`` (with ``im_sketch_unpaired``) and ``dresscode/`` with three categories.

    Returns:
        Dress Code's garment number -> attributes.
    """
    write_vitonhd(root / "vitonhd", spec, seed, run)
    pairs = [line.split() for line in (root / "vitonhd/test_pairs.txt").read_text("utf-8").splitlines()]
    jobs = [(root / "vitonhd/test", _wearing, Path(p).stem, Path(g).stem, spec.tryon_size, seed) for p, g in pairs]
    list(run(_write_warped, jobs))
    return _write_dresscode(root / "dresscode", spec, seed, run)


def _write_warped(root: Path, draw: Callable[..., Worn], person: str, garment: str, size: tuple[int, int], seed: int) -> None:
    """The garment's strokes on another person: the same figure and frame, another product."""
    worn = draw(seed, int(person.split("_")[0]), int(garment.split("_")[0]), size)
    write_files(root, {f"im_sketch_unpaired/{person}_{garment}.png": encode_png(picture_of(worn.sketch))})


def _wearing(seed: int, person: int, garment: int, size: tuple[int, int]) -> Worn:
    """A person of VITON-HD in the garment of a pair."""
    rng = person_of(seed, person)
    return render_worn(product_of(seed, garment), *size, draw_figure(rng), rng, fabric_of(seed, garment), upper=True)


def _write_dresscode(root: Path, spec: WardrobeSpec, seed: int, run: Map) -> dict[str, Any]:
    truth: dict[str, Any] = {}
    fine: dict[str, list[str]] = {}
    coarse: dict[str, list[str]] = {}
    for c, category in enumerate(CATEGORIES):
        for split, total, start in (("train", spec.tryon_train, 0), ("test", spec.tryon_test, PER_SPLIT)):
            count = max(2, -(-total // len(CATEGORIES)))
            numbers = [f"{c * PER_CATEGORY + start + i:06d}" for i in range(count)]
            truth |= dict(zip(numbers, run(_write_sample, [(root, split, int(n), spec.tryon_size, seed) for n in numbers])))
            others = numbers[1:] + numbers[:1]
            files = (
                {"train_pairs": numbers} if split == "train" else {"test_pairs_paired": numbers, "test_pairs_unpaired": others}
            )
            for name, garments in files.items():
                lines = "".join(f"{p}_0.jpg\t{g}_1.jpg\n" for p, g in zip(numbers, garments))
                (root / category / f"{name}.txt").write_text(lines, "utf-8")
            if split == "test":
                names = [(f"{p}_0", f"{g}_1") for p, g in zip(numbers, others)]
                list(run(_write_warped, [(root / category, _worn, *pair, spec.tryon_size, seed) for pair in names]))
            for i, number in enumerate(numbers):
                (coarse if i % 2 else fine)[number] = truth[number]["phrases"]
    for name, captions in (("fine_captions.json", fine), ("coarse_captions.json", coarse)):
        (root / name).write_text(json.dumps(captions, indent=1, sort_keys=True), "utf-8")
    return truth


def _product(seed: int, number: int) -> Product:
    category = number // PER_CATEGORY
    kinds = list(CATEGORIES.values())[category]
    return make_product(seed, FIRST + category * PER_CATEGORY + number, kinds[number % PER_SPLIT % len(kinds)], PLAIN_WORN)


def _fabric(seed: int, garment: int) -> random.Random:
    return random.Random(f"{seed}/dresscode/{garment:06d}/fabric")


def _worn(seed: int, person: int, garment: int, size: tuple[int, int]) -> Worn:
    """A person, whose head is cut off (drawn taller, then cut), in a garment."""
    rng = random.Random(f"{seed}/dresscode/{list(CATEGORIES)[person // PER_CATEGORY]}/{person:06d}")
    width, height = size
    cut = round(HEADLESS * height)
    worn = render_worn(_product(seed, garment), width, height + cut, draw_figure(rng), rng, _fabric(seed, garment))
    joints = [(x, y - cut, c) if c else (x, y, c) for x, y, c in worn.joints]
    cropped = worn.image.crop((0, cut, width, height + cut))
    cut_off = {name: getattr(worn, name)[cut:] for name in ("parse", "garment", "dense", "reach", "sketch")}
    return Worn(image=cropped, joints=joints, **cut_off)


def _write_sample(root: Path, split: str, garment: int, size: tuple[int, int], seed: int) -> dict[str, Any]:
    number, category = f"{garment:06d}", list(CATEGORIES)[garment // PER_CATEGORY]
    product, worn = _product(seed, garment), _worn(seed, garment, garment, size)
    shop, _, _ = render_flat(product, *size, random.Random(f"{seed}/dresscode/shop/{number}"), _fabric(seed, garment))
    files = {
        f"{category}/images/{number}_0.jpg": encode_jpeg(worn.image),
        f"{category}/images/{number}_1.jpg": encode_jpeg(shop),
        f"{category}/label_maps/{number}_4.png": encode_png(_label_map(worn.parse)),
        f"{category}/keypoints/{number}_2.json": json.dumps({"keypoints": _keypoints(worn, size)}).encode(),
        f"{category}/skeletons/{number}_5.jpg": encode_jpeg(draw_skeleton(worn.pose)),
        f"{category}/dense/{number}_5.png": encode_png(_dense_labels(worn.dense)),
        f"{category}/im_sketch/{number}_1.png": encode_png(picture_of(worn.sketch)),
    }
    if split == "test":
        stitch = Image.fromarray((np.isin(worn.parse, [LIP["face"], LIP["hair"]]) * 13).astype(np.uint8))
        files[f"test_stitchmap/{number}_0.png"] = encode_png(stitch.resize(JOINTS, Image.Resampling.NEAREST))
    write_files(root, files)
    phrases = [colour_phrase(product), f"{product.pattern} {product.category}", product.category]
    return {**product.attributes(), "phrases": phrases}


def _label_map(parse: NDArray[np.uint8]) -> Image.Image:
    table = np.zeros(256, np.uint8)
    for name, label in ATR.items():
        table[LIP[name]] = label
    return paletted(table[parse], [(37 * k * (c + 3)) % 256 if k else 0 for k in range(18) for c in range(3)])


def _dense_labels(dense: NDArray[np.uint8]) -> Image.Image:
    """Colours of body parts -> labels 1…24, of which the drawing has nine."""
    labels = np.zeros(dense.shape[:2], np.uint8)
    for number, colour in enumerate(PART_COLOURS.values(), 1):
        labels[(dense == colour).all(-1)] = 2 * number
    return Image.fromarray(labels)


def _keypoints(worn: Worn, size: tuple[int, int]) -> list[list[float]]:
    """COCO-18 as [x, y, confidence, index] in 384 × 512: cut-off joints at y = 0, those that are not in the picture at -1."""
    points = []
    for number, (x, y, c) in enumerate([*worn.joints[:8], *worn.joints[9:19]]):
        if not c or y > size[1]:
            points.append([-1.0, -1.0, 0.0, -1.0])
        else:
            sx, sy = JOINTS[0] / size[0], JOINTS[1] / size[1]
            points.append([round(x * sx, 2), round(max(0.0, y * sy), 2), c if y > 0 else 0.5, float(number)])
    return points
