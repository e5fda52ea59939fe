"""Small raw datasets in the real layouts, written without the wardrobe, so that readers and drawings cannot share a mistake."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.features import FeatureSource
from unifashion_pl.data.make_features import write_features
from unifashion_pl.data.reader import ShardSource

CATEGORIES = ("dress", "shirt", "toptee")


def picture(seed: int, width: int = 40, height: int = 48) -> Image.Image:
    """A smooth picture that differs for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(seed: int, width: int = 40, height: int = 48) -> bytes:
    buffer = BytesIO()
    picture(seed, width, height).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_fashiongen(root: Path, products: int = 12, views: int = 3, side: int = 32) -> Path:
    """Both HDF5 files; product 1 has a Latin-1 text, product 2 a UTF-8 one."""
    root.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(("train", "validation")):
        rows = [(p, v) for p in range(products) for v in range(views)]
        texts = [f"Long sleeves. Number {p}." + (" Café" if p in (1, 2) else "") for p, _ in rows]
        raw = [t.encode("utf-8" if p == 2 else "latin-1") for t, (p, _) in zip(texts, rows)]
        with h5py.File(root / f"fashiongen_256_256_{split}.h5", "w") as file:
            images = [np.asarray(picture(1000 * number + 10 * p + v, side, side)) for p, v in rows]
            file["input_image"] = np.stack(images)
            file["input_productID"] = np.array([[100 * number + p] for p, _ in rows])
            file["input_description"] = np.array([[t] for t in raw])
            file["input_name"] = np.array([[f"Dress {p}".encode()] for p, _ in rows])
            file["input_category"] = np.array([[b"DRESSES" if p % 2 else b"TOPS"] for p, _ in rows])
            file["input_subcategory"] = np.array([[b"SHORT DRESSES" if p % 2 else b"BLOUSES"] for p, _ in rows])
    return root


def write_fashioniq(root: Path, train: int = 8, val: int = 5, distractors: int = 3) -> Path:
    """Annotations and images of three categories; one shirt val target also stands in toptee train, where a triplet uses it."""
    for folder in ("captions", "image_splits", "images"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shared = "SHIRTVALT0"
    for c, category in enumerate(CATEGORIES):
        for split, count in (("train", train), ("val", val), ("test", 2)):
            ids = [f"{category[:1].upper()}{split[:2].upper()}{i:05d}" for i in range(2 * count + distractors)]
            if (category, split) == ("shirt", "val"):
                ids[1] = shared
            if (category, split) == ("toptee", "train"):
                ids[3] = shared
            entries = []
            for i in range(count):
                entry = {"candidate": ids[2 * i], "captions": [f"is red {i}.", f" has sleeves {i}"], "target": ids[2 * i + 1]}
                entries.append({k: v for k, v in entry.items() if k != "target" or split != "test"})
            if split == "val":
                entries[0]["captions"] = ["", "is shorter"]
            (root / f"captions/cap.{category}.{split}.json").write_text(json.dumps(entries))
            (root / f"image_splits/split.{category}.{split}.json").write_text(json.dumps(ids))
            for i, id in enumerate(ids):
                (root / f"images/{id}.jpg").write_bytes(jpeg(10_000 * c + 100 * len(split) + i))
    return root


def write_vitonhd(root: Path, train: int = 5, test: int = 4, size: tuple[int, int] = (48, 64)) -> Path:
    """Pairs files and the folders image, cloth, agnostic-v3.2, agnostic-mask, image-densepose, openpose_json."""
    width, height = size
    for split, count in (("train", train), ("test", test)):
        names = [f"{i + (0 if split == 'train' else 500):05d}_00" for i in range(count)]
        for i, name in enumerate(names):
            person = picture(7000 + i, width, height)
            mask = np.zeros((height, width), np.uint8)
            mask[height // 4 : height // 2, width // 4 : width // 2] = 255
            agnostic = np.where(mask[..., None] > 0, 128, np.asarray(person)).astype(np.uint8)
            points = [float(v) for k in range(25) for v in (k, k, 0.5 if k else 0.0)]
            files: dict[str, Image.Image | str] = {
                f"image/{name}.jpg": person,
                f"cloth/{name}.jpg": picture(8000 + i, width, height),
                f"agnostic-v3.2/{name}.jpg": Image.fromarray(agnostic),
                f"agnostic-mask/{name}_mask.png": Image.fromarray(mask),
                f"image-densepose/{name}.jpg": picture(9000 + i, width, height),
                f"openpose_json/{name}_keypoints.json": json.dumps({"people": [{"pose_keypoints_2d": points}]}),
            }
            for path, content in files.items():
                (root / split / path).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, str):
                    (root / split / path).write_text(content)
                else:
                    content.save(root / split / path, quality=95)
        garments = names if split == "train" else names[1:] + names[:1]
        lines = [f"{p}.jpg {g}.jpg\n" for p, g in zip(names, garments)]
        (root / f"{split}_pairs.txt").write_text("".join(lines))
    phrases = {f"{i:05d}": [f"red top {i}", "short sleeves", "round neck"] for i in [*range(train), *range(500, 500 + test)]}
    (root / "captions.json").write_text(json.dumps(phrases))
    return root


def write_catalogue(root: Path, count: int = 20) -> Path:
    """``catalogue.csv`` and a folder of pictures."""
    (root / "photos").mkdir(parents=True, exist_ok=True)
    lines = ["image,text,category,product\n"]
    for i in range(count):
        (root / f"photos/item {i}.jpg").write_bytes(jpeg(i))
        lines.append(f'photos/item {i}.jpg,"A dress, number {i}",dress,p{i // 2}\n')
    (root / "catalogue.csv").write_text("".join(lines), encoding="utf-8")
    return root


def write_dresscode(root: Path, train: int = 3, test: int = 2, size: tuple[int, int] = (48, 64)) -> Path:
    """Three categories with pairs files, photos, label maps (ATR), joints in 384 × 512, body-part labels, sketches; both caption files.

    The worn garment is the middle third of the label map. Garment number 1 of the training dresses has no caption.
    """
    width, height = size
    worn = {"dresses": 7, "upper_body": 4, "lower_body": 5}
    fine: dict[str, list[str]] = {}
    coarse: dict[str, list[str]] = {}
    for c, (category, label) in enumerate(worn.items()):
        parse = np.zeros((height, width), np.uint8)
        parse[4:-4, 12:-12] = 12
        parse[height // 3 : 2 * height // 3, 8:-8] = label
        parse[2 : height // 6, 18:-18] = 11
        joints = [[192.0 + 40 * (k % 3 - 1), 100.0 + 20 * k, 0.9, float(k)] for k in range(18)]
        joints[0], joints[14] = [190.0, 0.0, 0.6, 0.0], [-1.0, -1.0, 0.0, -1.0]
        for split, count in (("train", train), ("test", test)):
            numbers = [f"{100_000 * c + i + (0 if split == 'train' else 500):06d}" for i in range(count)]
            for i, number in enumerate(numbers):
                labels = Image.fromarray(parse)
                labels.putpalette([(53 * k) % 256 for k in range(54)])
                dense = Image.fromarray(np.where(parse == label, 2, 0).astype(np.uint8))
                strokes = Image.new("L", size)
                strokes.paste(255, (10, 10 + i, 30, 11 + i))
                files: dict[str, Image.Image | str] = {
                    f"images/{number}_0.jpg": picture(1000 * c + 10 * i + len(split), width, height),
                    f"images/{number}_1.jpg": picture(1000 * c + 10 * i + 500 + len(split), width, height),
                    f"label_maps/{number}_4.png": labels,
                    f"dense/{number}_5.png": dense,
                    f"keypoints/{number}_2.json": json.dumps({"keypoints": joints}),
                    f"im_sketch/{number}_1.png": strokes,
                    f"im_sketch_unpaired/{number}_0_{numbers[(i + 1) % count]}_1.png": strokes.rotate(180),
                }
                for path, content in files.items():
                    (root / category / path).parent.mkdir(parents=True, exist_ok=True)
                    if isinstance(content, str):
                        (root / category / path).write_text(content)
                    else:
                        content.save(root / category / path, quality=95)
                if (category, split, i) != ("dresses", "train", 1):
                    (coarse if i % 2 else fine)[number] = [f"garment {number}", "cotton", "long"]
            others = numbers[1:] + numbers[:1]
            lists = (
                {"train_pairs": numbers} if split == "train" else {"test_pairs_paired": numbers, "test_pairs_unpaired": others}
            )
            for name, garments in lists.items():
                lines = [f"{p}_0.jpg\t{g}_1.jpg\n" for p, g in zip(numbers, garments)]
                (root / category / f"{name}.txt").write_text("".join(lines))
    (root / "fine_captions.json").write_text(json.dumps(fine))
    (root / "coarse_captions.json").write_text(json.dumps(coarse))
    return root


def features_of(folder: Path, backbone: QFormerBackbone, out: Path, **options: Any) -> FeatureSource:
    """Vision features of a folder of shards, written and opened."""
    write_features(folder, backbone.vision, out=out, progress=False, **options)
    return FeatureSource(ShardSource(folder), out)
