"""The raw layouts of the datasets, filled with the wardrobe: each writer is a plan of (file, drawing job) pairs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from unifashion_pl.wardrobe.catalogue import FIQ_SPLITS, VIEWS, FiqPart, WardrobeSpec, fiq_distractors, fiq_parts, pair_products
from unifashion_pl.wardrobe.products import Product
from unifashion_pl.wardrobe.render import encode_jpeg, render_product
from unifashion_pl.wardrobe.texts import describe, name_of

Map = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterable[Any]]


def _pixels(product: Product, view: str, size: int, key: str) -> np.ndarray[Any, Any]:
    return np.asarray(render_product(product, view, size, key))


def _jpeg(product: Product, view: str, size: int, key: str) -> bytes:
    return encode_jpeg(render_product(product, view, size, key))


def _write_pictures(root: Path, jobs: Mapping[str, tuple[Product, str, int, str]], run: Map) -> None:
    """Path below ``root`` -> what is drawn there."""
    write_files(root, dict(zip(jobs, run(_jpeg, jobs.values()))))


@contextmanager
def hdf5(path: Path, mode: Literal["w", "r+"], **settings: Any) -> Iterator[h5py.File]:
    """An HDF5 file that is made or changed in memory and then written: on a full disk HDF5 itself may crash the process."""
    memory = BytesIO(path.read_bytes() if mode == "r+" else b"")
    with h5py.File(memory, mode, **settings) as file:
        yield file
    path.write_bytes(memory.getbuffer())


def write_fashiongen(root: Path, spec: WardrobeSpec, seed: int, run: Map) -> dict[str, Any]:
    """Both HDF5 files with their 16 datasets; rows of one product are consecutive, texts are Latin-1 bytes."""
    root.mkdir(parents=True)
    truth = {}
    for split, count in (("train", spec.products_train), ("validation", spec.products_val)):
        products = pair_products(seed, split, count)
        rows = [(i, view) for i in range(count) for view in VIEWS[: spec.views]]
        jobs = [(products[i], view, spec.image_size, f"{seed}/fashiongen/{split}/{i}") for i, view in rows]
        images = np.stack(list(run(_pixels, jobs)))
        with hdf5(root / f"fashiongen_256_256_{split}.h5", "w", track_order=True) as file:
            _fashiongen_columns(file, products, rows, seed, split)
            file.create_dataset("input_image", data=images, chunks=(1, *images.shape[1:]))
        truth[split] = [p.attributes() for p in products]
    return truth


def _fashiongen_columns(file: h5py.File, products: list[Product], rows: list[tuple[int, str]], seed: int, split: str) -> None:
    texts = [describe(p, "fashiongen", random.Random(f"{seed}/text/{split}/{i}")) for i, p in enumerate(products)]
    if len(products) > 1:
        texts[1] += " Café style."
    names = [name_of(p) for p in products]
    columns: dict[str, list[str]] = {
        "input_brand": ["Wardrobe"] * len(rows),
        "input_category": [products[i].category.upper() for i, _ in rows],
        "input_composition": ["100% pixels"] * len(rows),
        "input_concat_description": [f"{names[i]} {texts[i]}" for i, _ in rows],
        "input_department": ["CLOTHING"] * len(rows),
        "input_description": [texts[i] for i, _ in rows],
        "input_gender": ["Women" if i % 2 else "Men" for i, _ in rows],
        "input_name": [names[i] for i, _ in rows],
        "input_pose": [f"id_gridfs_{VIEWS.index(view) + 1}" for _, view in rows],
        "input_season": ["SS2026"] * len(rows),
        "input_subcategory": [f"{products[i].category.upper()}S" for i, _ in rows],
    }
    for name, values in columns.items():
        file.create_dataset(name, data=np.array([[v.encode("latin-1")] for v in values]))
    first = 0 if split == "train" else 1_000_000
    file.create_dataset("input_productID", data=np.array([[first + i] for i, _ in rows], np.int64))
    file.create_dataset("input_msrpUSD", data=np.array([[20.0 + i % 180] for i, _ in rows]))
    file.create_dataset("index", data=np.arange(len(rows))[:, None])
    file.create_dataset("index_2", data=np.arange(len(rows)))


def write_fashion200k(root: Path, spec: WardrobeSpec, seed: int, run: Map) -> None:
    """Label files, the image tree and ``test_queries.txt``; front and worn views of each product."""
    for split, total in (("train", spec.short_train), ("test", spec.short_test)):
        lines: dict[str, list[str]] = {c: [] for c in ("dress", "jacket", "pants", "skirt", "top")}
        jobs = {}
        for i, product in enumerate(pair_products(seed, f"short-{split}", total)):
            category = {"trousers": "pants", "shirt": "top"}.get(product.category, product.category)
            folder = {"dress": "dresses", "pants": "pants"}.get(category, f"{category}s")
            number = 10_000_000 + i + (0 if split == "train" else 1_000_000)
            for view in VIEWS[:2]:
                path = f"women/{folder}/{product.category}s/{number}/{number}_{VIEWS.index(view)}.jpeg"
                jobs[path] = (product, view, spec.image_size, f"{seed}/fashion200k/{split}/{i}")
                text = describe(product, "fashion200k", random.Random(f"{seed}/200k/{i}"))
                lines[category].append(f"{path}\t{-0.1 * (i % 9) - 0.2:.6f}\t{text}")
        _write_pictures(root, jobs, run)
        (root / "labels").mkdir(exist_ok=True)
        for category, content in lines.items():
            (root / "labels" / f"{category}_{split}_detect_all.txt").write_text("".join(f"{x}\n" for x in content), "utf-8")
        if split == "test":
            names = [line.split("\t")[0] for content in lines.values() for line in content]
            (root / "test_queries.txt").write_text("".join(f"{a}\t{b}\n" for a, b in itertools.pairwise(names)), "utf-8")


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Path below ``root`` -> content."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def write_fashioniq(root: Path, spec: WardrobeSpec, seed: int, run: Map) -> dict[str, Any]:
    """Captions, image splits and pictures by id; a caption library of *train* images; shirt and toptee share two distractors."""
    for folder in ("captions", "image_splits", "images"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    truth: dict[str, Any] = {}
    library: list[dict[str, Any]] = []
    shared = {split: fiq_distractors(seed, split) for split in FIQ_SPLITS}
    for part in fiq_parts(spec, seed):
        named = list(zip(part.ids, part.products))
        views = [random.Random(f"{seed}/fiq-view/{i}").choice(VIEWS[:3]) for i in part.ids]
        jobs = [(p, view, spec.image_size, f"{seed}/fiq/{i}") for (i, p), view in zip(named, views)]
        _write_pictures(root, dict(zip([f"images/{i}.jpg" for i in part.ids], jobs)), run)
        _write_fiq_json(root, part, [*part.ids, *(shared[part.split] if part.category != "dress" else ())])
        truth |= {i: {**p.attributes(), "split": part.split, "category_file": part.category} for i, p in named}
        if part.split == "train":
            # captions of training images with their provenance: made from the drawing's truth, without any query
            source = {"captioner": "wardrobe truth", "inputs": ["image", "category"], "split": "train"}
            texts = [describe(p, "fashioniq", random.Random(f"{seed}/fiq-caption/{i}")) for i, p in named]
            library += [{"image": i, "caption": text, **source} for (i, _), text in zip(named, texts)]
    for split, distractors in shared.items():
        jobs = [(p, "front", spec.image_size, f"{seed}/shared/{split}/{k}") for k, p in enumerate(distractors.values())]
        _write_pictures(root, dict(zip([f"images/{name}.jpg" for name in distractors], jobs)), run)
    lines = [json.dumps(line, sort_keys=True, ensure_ascii=False) for line in sorted(library, key=lambda x: str(x["image"]))]
    (root / "captions.train.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return truth


def _write_fiq_json(root: Path, part: FiqPart, gallery: list[str]) -> None:
    entries = []
    for t in part.triplets:
        entry: dict[str, Any] = {"candidate": gallery[t.reference], "captions": list(t.texts)}
        entries.append(entry if part.split == "test" else {**entry, "target": gallery[t.target]})
    name = f"{part.category}.{part.split}.json"
    (root / "captions" / f"cap.{name}").write_text(json.dumps(entries, ensure_ascii=False, indent=1), "utf-8")
    (root / "image_splits" / f"split.{name}").write_text(json.dumps(sorted(gallery)), "utf-8")
