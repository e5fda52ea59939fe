"""Folders of shards and of cached vision features, and FashionGen's HDF5 files."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from data import rawdata
from fuzz.annotations import REFUSALS, planned
from fuzz.engine import Target
from fuzz.mutate import OUTSIDE, STRINGS, Change, damaged_bytes, damaged_json, damaged_safetensors, of_files
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from PIL import Image
from small import small_backbone
from unifashion_pl.datamodules import fashiongen

from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.features import FeatureSource
from unifashion_pl.data.make_features import write_features
from unifashion_pl.data.plan import Made
from unifashion_pl.data.reader import DamagedSample, ShardSource
from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.shards import tar_member, write_shards
from unifashion_pl.data.texts import EVALUATION
from unifashion_pl.data.transforms import EncoderTransform

FOLDER = "pairs-train"


def make_shards(folder: Path) -> None:
    """Six pairs in two shards, with features of a small tower."""
    raw = rawdata.write_fashiongen(folder.with_name(folder.name + "-raw"), products=3, views=2, side=24)
    plan = next(iter(fashiongen.plans(raw, shard_size=3)))
    write_shards(plan, folder, progress=False)
    write_features(folder / FOLDER, small_backbone().vision, out=folder / "features", progress=False)


@st.composite
def consistent(draw: DrawFn, folder: Path) -> Change:
    """A shard with another content whose index agrees with it: check sums do not help against who writes both."""
    index = json.loads((folder / FOLDER / "index.json").read_bytes())
    entry = index["shards"][0]
    with tarfile.open(folder / FOLDER / entry["name"]) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    at = draw(st.integers(0, len(members) - 1))
    name, data = members[at]
    way = draw(st.integers(0, 9))
    if way == 0:
        members[at] = (
            f"{name.split('.')[0]}.{draw(st.sampled_from(('x.jpg', 'image.pyd', 'meta.pkl', 'image.npy', 'meta.pth')))}",
            data,
        )
    else:
        members[at] = (name, draw(damaged_json(data) if name.endswith(".json") else damaged_bytes(data)))
    samples: dict[str, bytes] = {}
    for name, data in members:
        key = name.split(".")[0]
        samples[key] = samples.get(key, b"") + tar_member(name, data)
    offsets = [0]
    for block in samples.values():
        offsets.append(offsets[-1] + len(block))
    content = b"".join(samples.values()) + bytes(1024)
    entry |= {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "offsets": offsets,
        "crc32": [zlib.crc32(b) for b in samples.values()],
    }
    index["hash"] = hashlib.sha256("\n".join(shard["sha256"] for shard in index["shards"]).encode()).hexdigest()
    return {f"{FOLDER}/index.json": json.dumps(index).encode(), f"{FOLDER}/{entry['name']}": content}


def shard_changes(folder: Path) -> st.SearchStrategy[Change]:
    """A damaged index or tar file, or both changed together."""
    tar = next((folder / FOLDER).glob("*.tar")).name
    index = (folder / FOLDER / "index.json").read_bytes()
    single = of_files(
        {f"{FOLDER}/index.json": damaged_json(index), f"{FOLDER}/{tar}": damaged_bytes((folder / FOLDER / tar).read_bytes())}
    )
    return st.one_of(single, consistent(folder))


def read_shards(folder: Path) -> object:
    """As training and evaluation read them: bad samples are named, one by one."""
    source = ShardSource(folder / FOLDER)
    assembler = PairAssembler(EncoderTransform(32), None)
    rows = []
    for number in range(min(len(source.keys), 20)):
        try:
            rows.append(assembler.sample(source.read(number), EVALUATION, source.dataset))
        except DamagedSample as error:
            if source.keys[number] not in str(error):
                raise KeyError(f"{source.keys[number]} is not named: {error}") from error
    return None if not rows else PairBatch.cat(rows)


def feature_changes(folder: Path) -> st.SearchStrategy[Change]:
    """A damaged index, or a damaged file of features."""
    index = folder / "features/index.json"
    tensors = next((folder / "features").glob("*.safetensors"))
    return of_files(
        {
            "features/index.json": damaged_json(index.read_bytes()),
            f"features/{tensors.name}": damaged_safetensors(tensors.read_bytes()),
        }
    )


def read_features(folder: Path) -> object:
    """All features, as training reads them."""
    source = FeatureSource(ShardSource(folder / FOLDER), folder / "features")
    return [source.read(number) for number in range(len(source.keys))]


def hdf5(**edits: Callable[[h5py.File], None]) -> bytes:
    """FashionGen's training file, edited."""
    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        rows = 4
        file["input_image"] = np.stack([np.asarray(rawdata.picture(n, 16, 16)) for n in range(rows)])
        file["input_productID"] = np.array([[n // 2] for n in range(rows)])
        for name in ("name", "description", "category", "subcategory"):
            file[f"input_{name}"] = np.array([[f"{name} {n}".encode()] for n in range(rows)])
        for edit in edits.values():
            edit(file)
    return buffer.getvalue()


def make_hdf5(folder: Path) -> None:
    """Both files."""
    for split in ("train", "validation"):
        (folder / f"fashiongen_256_256_{split}.h5").write_bytes(hdf5())


@st.composite
def edited_hdf5(draw: DrawFn) -> bytes:
    """A dataset of another type, shape or size, one that lies in another file, a link elsewhere."""
    name = f"input_{draw(st.sampled_from(('image', 'image', 'productID', 'name', 'description', 'category')))}"
    way = draw(
        st.sampled_from(("type", "shape", "huge", "external", "link", "soft", "group", "bomb", "text", "null", "virtual"))
    )
    dtype = draw(st.sampled_from(("u1", "i8", "f8", "S5", "c16", "?", "f2", "u8")))
    shape = draw(st.sampled_from(((4, 16, 16, 3), (4, 1), (4,), (3, 1), (0,), (4, 0, 16, 3), (4, 16, 16, 4), ())))
    word = draw(st.sampled_from(STRINGS))
    outside = f"{OUTSIDE}/secret.txt".encode()

    def edit(file: h5py.File) -> None:
        del file[name]
        if way == "type":
            file.create_dataset(name, (4, 16, 16, 3) if name == "input_image" else (4, 1), dtype)
        elif way == "shape":
            file.create_dataset(name, shape, "u1" if name == "input_image" else "i8")
        elif way == "huge":
            file.create_dataset(name, (4, 60_000, 60_000, 3), "u1", chunks=(1, 100, 100, 3))
        elif way == "bomb":
            file.create_dataset(name, (4, 3000, 4000, 3), "u1", chunks=(4, 3000, 4000, 3), compression="gzip", fillvalue=7)
        elif way == "external":
            shapes = (4, 16, 16, 3) if name == "input_image" else (4, 1)
            file.create_dataset(
                name, shapes, "u1" if name == "input_image" else "S40", external=[(outside, 0, h5py.h5f.UNLIMITED)]
            )
        elif way == "link":
            file[name] = h5py.ExternalLink(outside.decode(), "/input_image")
        elif way == "soft":
            file[name] = h5py.SoftLink(draw(st.sampled_from((f"/{name}", "/input_image", "/nowhere"))))
        elif way == "virtual":
            layout = h5py.VirtualLayout((4, 16, 16, 3), "u1")
            layout[:] = h5py.VirtualSource(outside.decode(), "input_image", (4, 16, 16, 3))
            file.create_virtual_dataset(name, layout)
        elif way == "text":
            file[name] = [[word.replace("\x00", "").encode("utf-8", "replace").decode()]] * 4
        elif way == "null":
            file[name] = h5py.Empty("f4")
        else:
            file.create_group(name)

    return hdf5(edit=edit)


def hdf5_changes(folder: Path) -> st.SearchStrategy[Change]:
    """A file that was made to do harm, or a damaged one."""
    name = "fashiongen_256_256_train.h5"
    return st.one_of(edited_hdf5(), damaged_bytes((folder / name).read_bytes())).map(lambda data: {name: data})


def read_hdf5(folder: Path) -> Any:
    """As ``data check`` and ``data shards --lossless`` read it, all pixels included."""
    plans = list(fashiongen.plans(folder, lossless=True))
    made = [sample for plan in plans for _, sample in plan.recipe.make(plan.items) if isinstance(sample, Made)]
    pixels = (Image.open(BytesIO(sample.fields["image.png"])).tobytes() for sample in made)
    return planned(plans).encode() + b"".join(pixels)


TARGETS = (
    Target("shards", 1500, make_shards, shard_changes, read_shards),
    Target("features", 600, make_shards, feature_changes, read_features, (ValueError, FileNotFoundError, DamagedSample)),
    Target("hdf5", 700, make_hdf5, hdf5_changes, read_hdf5, REFUSALS),
)
