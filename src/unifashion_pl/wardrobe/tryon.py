"""The VITON-HD tree, with multimodal captions and sketches, filled with the wardrobe."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from unifashion_pl.data.formats import encode_png
from unifashion_pl.person.pose import draw_skeleton
from unifashion_pl.wardrobe.catalogue import WardrobeSpec
from unifashion_pl.wardrobe.drawing import render_flat
from unifashion_pl.wardrobe.layouts import Map, write_files
from unifashion_pl.wardrobe.person import LIP, UPPER, Worn, draw_figure, render_worn
from unifashion_pl.wardrobe.products import PLAIN_WORN, Product, make_product
from unifashion_pl.wardrobe.render import encode_jpeg
from unifashion_pl.wardrobe.texts import SLEEVE_WORDS, colour_phrase


def write_vitonhd(root: Path, spec: WardrobeSpec, seed: int, run: Map) -> dict[str, Any]:
    """Every folder of VITON-HD, both pairs files, ``captions.json`` and ``im_sketch``.

    Returns:
        Name -> attributes of the garment.
    """
    truth: dict[str, Any] = {}
    captions: dict[str, list[str]] = {}
    for split, count, start in (("train", spec.tryon_train, 0), ("test", spec.tryon_test, 50_000)):
        names = [f"{start + i:05d}_00" for i in range(count)]
        jobs = [(root / split, name, split, spec.tryon_size, seed, start + i) for i, name in enumerate(names)]
        truth |= dict(zip(names, run(_write_sample, jobs)))
        unpaired = names[1:] + names[:1] if split == "test" else names
        lines = "".join(f"{a}.jpg {b}.jpg\n" for a, b in zip(names, unpaired))
        (root / f"{split}_pairs.txt").write_text(lines, "utf-8")
        captions |= {name.split("_")[0]: truth[name]["phrases"] for name in names}
    (root / "captions.json").write_text(json.dumps(captions, indent=1, sort_keys=True), "utf-8")
    return truth


def _write_sample(root: Path, name: str, split: str, size: tuple[int, int], seed: int, number: int) -> dict[str, Any]:
    rng, product = person_of(seed, number), product_of(seed, number)
    worn = render_worn(product, *size, draw_figure(rng), rng, fabric_of(seed, number), upper=True)
    cloth, cloth_mask, _ = render_flat(product, *size, rng, fabric_of(seed, number))
    mask = repaint_mask(worn)
    agnostic = np.where(mask[..., None] > 127, 128, np.asarray(worn.image)).astype(np.uint8)
    pose = {"version": 1.3, "people": [{"pose_keypoints_2d": [value for joint in worn.joints for value in joint]}]}
    files = {
        f"image/{name}.jpg": encode_jpeg(worn.image),
        f"cloth/{name}.jpg": encode_jpeg(cloth),
        f"cloth-mask/{name}.jpg": encode_jpeg(picture_of(cloth_mask > 0.5)),
        f"agnostic-v3.2/{name}.jpg": encode_jpeg(Image.fromarray(agnostic)),
        f"agnostic-mask/{name}_mask.png": encode_png(Image.fromarray(mask)),
        f"image-densepose/{name}.jpg": encode_jpeg(Image.fromarray(worn.dense)),
        f"image-parse-v3/{name}.png": encode_png(_label_map(worn.parse)),
        f"image-parse-agnostic-v3.2/{name}.png": encode_png(_label_map(np.where(mask > 127, 0, worn.parse).astype(np.uint8))),
        f"openpose_json/{name}_keypoints.json": json.dumps(pose).encode(),
        f"openpose_img/{name}_rendered.png": encode_png(draw_skeleton(worn.pose)),
        f"im_sketch/{name}.png": encode_png(picture_of(worn.sketch)),
    }
    if split == "train":
        files[f"gt_cloth_warped_mask/{name}.jpg"] = encode_jpeg(picture_of(worn.garment > 0.5))
    write_files(root, files)
    phrases = [colour_phrase(product), f"{product.pattern} {product.category}", SLEEVE_WORDS[product.sleeve]]
    return {**product.attributes(), "phrases": phrases}


def person_of(seed: int, number: int) -> random.Random:
    """What a person is drawn from: figure, frame and backdrop come first, before anything that depends on the garment."""
    return random.Random(f"{seed}/viton/{number}")


def product_of(seed: int, number: int) -> Product:
    """The garment of a pair."""
    return make_product(seed, 2_000_000 + number, UPPER[number % len(UPPER)], PLAIN_WORN)


def fabric_of(seed: int, number: int) -> random.Random:
    """What its pattern is drawn from: the photo of a garment and the person in it show the same item."""
    return random.Random(f"{seed}/viton/{number}/fabric")


def repaint_mask(worn: Worn) -> NDArray[np.uint8]:
    """(H, W) uint8, 255 = repaint: arms and all that any upper garment could cover, widened.

    It must not tell what is worn: with masks around the worn garment a model reads the sleeves off the mask's outline, is right wherever the
    truth is known, and paints the old garment's sleeves when another one is tried on (measured: 92 % of the sleeves right with the garment
    withheld, 38 % with another's garment).
    """
    arms = np.isin(worn.parse, [LIP[k] for k in ("upper", "coat", "dress", "left_arm", "right_arm")])
    upper = arms | (worn.reach > 0)
    radius = max(3, worn.image.width // 24) | 1
    grown = np.array(picture_of(upper).filter(ImageFilter.MaxFilter(radius)))
    grown[np.isin(worn.parse, [LIP["face"], LIP["hair"]])] = 0
    return grown


def picture_of(shares: NDArray[Any]) -> Image.Image:
    """0..1, or bool, as a grey picture."""
    return Image.fromarray((shares * 255).astype(np.uint8))


def _label_map(labels: NDArray[np.uint8]) -> Image.Image:
    """LIP labels 0..19 with a colour each, so that they can be looked at."""
    waves = ((1.7, 0.3), (2.3, 1.1), (3.1, 2.2))
    return paletted(labels, [0, 0, 0, *(int(127 + 120 * np.sin(k * f + p)) for k in range(1, 20) for f, p in waves)])


def paletted(labels: NDArray[np.uint8], palette: list[int]) -> Image.Image:
    """Labels (H, W) as a picture that keeps them; three numbers of the palette for each."""
    picture = Image.fromarray(labels)
    picture.putpalette(palette)
    return picture
