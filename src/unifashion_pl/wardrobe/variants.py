"""Other people's copies of the datasets, made from the wardrobe's own: the same content in the layouts of mirrors and loaders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
from PIL import Image

from unifashion_pl.data.formats import encode_png

SPLITS = {"train": "train", "validation": "val"}


def fame_vil(source: Path, out: Path) -> None:
    """FashionGen as FAME-ViL reads it: ``train_info.json``, ``val_info.json`` and folders of PNG files; one entry a product."""
    for split, short in SPLITS.items():
        (out / short).mkdir(parents=True, exist_ok=True)
        with h5py.File(source / f"fashiongen_256_256_{split}.h5") as file:
            entries: dict[int, dict[str, Any]] = {}
            kinds = {n: sorted({row[0] for row in file[n][:]}) for n in ("input_category", "input_subcategory")}
            for row, product in enumerate(file["input_productID"][:, 0]):
                title, text = (file[f"input_{n}"][row, 0].decode("latin-1") for n in ("name", "description"))
                new: dict[str, Any] = {
                    "id": len(entries),
                    "title": title,
                    "description": text,
                    "images": [],
                    "attributes_id": [],
                }
                new |= {f"{n.removeprefix('input_')}_id": known.index(file[n][row, 0]) for n, known in kinds.items()}
                entry = entries.setdefault(int(product), new)
                name = f"{product}_{len(entry['images'])}.png"
                (out / short / name).write_bytes(encode_png(Image.fromarray(file["input_image"][row])))
                entry["images"].append(name)
        (out / f"{short}_info.json").write_text(json.dumps(list(entries.values()), ensure_ascii=False), "utf-8")


def fashion_sap(source: Path, out: Path) -> None:
    """FashionGen as FashionSAP prepares it: the HDF5 files, and beside them ``info_data.json`` and ``productid_list.json``."""
    for split in SPLITS:
        (out / split).mkdir(parents=True, exist_ok=True)
        name = f"fashiongen_256_256_{split}.h5"
        shutil.copyfile(source / name, out / name)
        with h5py.File(out / name) as file:
            columns = {key: file[key][:] for key in file if key != "input_image"}
        plain = {k: [v.decode("latin-1") if isinstance(v, bytes) else v.item() for v in c.ravel()] for k, c in columns.items()}
        rows = [dict(zip(plain, values)) for values in zip(*plain.values())]
        products: list[tuple[int, list[int]]] = []
        for number, row in enumerate(rows):
            if not products or products[-1][0] != row["input_productID"]:
                products.append((row["input_productID"], []))
            products[-1][1].append(number)
        (out / split / "info_data.json").write_text(json.dumps(rows, ensure_ascii=False, indent=2), "utf-8")
        (out / split / "productid_list.json").write_text(json.dumps(products), "utf-8")


def fashioniq_by_category(source: Path, out: Path) -> None:
    """Fashion-IQ with ``resized_images/<category>/ID.png``, split files of objects and padded caption files."""
    for name in ("captions", "image_splits"):
        shutil.copytree(source / name, out / name)
    for path in sorted((out / "image_splits").glob("split.*.json")):
        ids = json.loads(path.read_text("utf-8"))
        category = path.name.split(".")[1]
        folder = out / "resized_images" / category
        folder.mkdir(parents=True, exist_ok=True)
        for id in ids:
            if not (folder / f"{id}.png").exists():
                Image.open(source / "images" / f"{id}.jpg").save(folder / f"{id}.png")
        path.write_text(json.dumps([{"image": id, "caption": ""} for id in ids]), "utf-8")
    for path in sorted((out / "captions").glob("cap.*.json")):
        entries = json.loads(path.read_text("utf-8"))
        padded = [{**e, "candidate_caption": "", "target_caption": ""} for e in entries] + [{"fake_data": True}] * 2
        path.write_text(json.dumps(padded, ensure_ascii=False), "utf-8")


def vitonhd_older(source: Path, out: Path) -> None:
    """VITON-HD with the older names of folders, one level down, and without ``agnostic-mask``."""
    inner = out / "zalando-hd-resized"
    names = {"cloth-mask": "cloth_mask", "agnostic-v3.2": "agnostic", "image-parse-v3": "image-parse"}
    names |= {"openpose_json": "openpose-json", "image-parse-agnostic-v3.2": "image-parse-agnostic"}
    for split in ("train", "test"):
        for folder in sorted((source / split).iterdir()):
            if folder.name not in ("agnostic-mask", "im_sketch", "gt_cloth_warped_mask"):
                shutil.copytree(folder, inner / split / names.get(folder.name, folder.name))
        shutil.copyfile(source / f"{split}_pairs.txt", inner / f"{split}_pairs.txt")


#: Name -> (what it is made from, how).
VARIANTS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "fame-vil": ("fashiongen", fame_vil),
    "fashion-sap": ("fashiongen", fashion_sap),
    "fashion-iq-by-category": ("fashion-iq", fashioniq_by_category),
    "viton-hd-older": ("viton-hd", vitonhd_older),
}
