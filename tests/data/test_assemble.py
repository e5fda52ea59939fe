"""Try-on samples -> batches: which pictures go where, and what may be absent."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.rawdata import features_of as made
from PIL import Image

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.assemble import (
    PairAssembler,
    TripletAssembler,
    TryOnAssembler,
)
from unifashion_pl.data.reader import DamagedSample, RawSample, ShardSource
from unifashion_pl.data.samples import PairBatch, TryOnBatch
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.texts import Draw
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform


def png(value: int | tuple[int, int, int], white: slice | None = None) -> bytes:
    image = Image.new("L" if isinstance(value, int) else "RGB", (12, 16), value)
    if white is not None:
        array = np.asarray(image).copy()
        array[white] = 255
        image = Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_training_sample_says_where_the_garment_is_worn() -> None:
    fields = {
        "person.png": png((200, 0, 0)),
        "garment.png": png((0, 0, 200)),
        "mask.png": png(0, slice(4, 12)),
        "warped_mask.png": png(0, slice(6, 10)),
        "garment_mask.png": png(0, slice(3, 13)),
        "meta.json": json.dumps({"phrases": ["red top"]}).encode(),
    }
    assembler = TryOnAssembler(EncoderTransform(8), (16, 12), paired=True)
    row = assembler.sample(RawSample("a", fields), Draw(0, 0), "vitonhd/train")
    batch = TryOnBatch.cat([row, row])
    assert batch.worn is not None
    assert batch.worn.shape == (2, 1, 16, 12)
    assert batch.worn[0, 0, :, 0].nonzero().flatten().tolist() == [6, 7, 8, 9]
    assert batch.shapes is not None
    assert batch.shapes[1, 0, :, 0].nonzero().flatten().tolist() == list(range(3, 13))
    assert batch.masks[0, 0, :, 0].nonzero().flatten().tolist() == list(range(4, 12))
    assert (batch.pose, batch.sketches) == (None, None)
    del fields["warped_mask.png"]
    bare = assembler.sample(RawSample("b", fields), Draw(0, 0), "vitonhd/train")
    assert TryOnBatch.cat([row, bare]).worn is None
    assert bare.shapes is None  # the garment's outline is for training alone


def test_what_no_model_reads_is_not_decoded() -> None:
    """Shards hold agnostic pictures, masks of persons' labels and worn sketches; damage in them costs no sample."""
    fields = {f"{name}.png": png((200, 0, 0)) for name in ("person", "garment")} | {"mask.png": png(0, slice(4, 12))}
    fields |= {f"{name}.jpg": b"no picture" for name in ("agnostic", "parse", "warped_sketch", "garment_mask")}
    batch = TryOnAssembler(EncoderTransform(8), (16, 12), paired=True).sample(
        RawSample("a", {**fields, "meta.json": b"{}"}), Draw(0, 0), "vitonhd/train"
    )
    assert (batch.worn, batch.shapes, batch.sketches) == (None, None, None)


PAIRS = PairAssembler(EncoderTransform(16), PixelTransform((16, 12)))


def train(folder: Path, batch_size: int = 5, **options: Any) -> TrainLoader[PairBatch]:
    return TrainLoader(ShardSource(folder / "pairs-train"), PAIRS, batch_size=batch_size, **options)


def test_pair_batches_are_complete(pair_shards: Path) -> None:
    batch = next(iter(train(pair_shards, batch_size=6)))
    assert batch.images.shape == (6, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.pixels is not None
    assert batch.pixels.shape == (6, 3, 16, 12)
    assert batch.texts == [f"Dress {int(p)}. {c}" for p, c in zip(batch.products, batch.captions)]
    assert batch.dataset == "fashiongen/train"
    assert set(batch.categories) <= {"DRESSES", "TOPS"}
    assert len(set(batch.keys)) == 6


def test_triplet_batches_change_their_texts_between_epochs(triplet_shards: Path) -> None:
    source = ShardSource(triplet_shards / "triplets-train")
    assembler = TripletAssembler(EncoderTransform(8), captions={"DTR00001": "a red dress"})
    loader = TrainLoader(source, assembler, batch_size=4)
    epochs = [{k: (t, c) for b in loader for k, t, c in zip(b.keys, b.texts, b.captions)} for _ in range(2)]
    assert epochs[0].keys() == epochs[1].keys()
    assert epochs[0] != epochs[1]
    assert epochs[0]["dress-train-00000"][1] == "a red dress"
    assert epochs[0]["dress-train-00001"][1] == ""
    assert next(iter(loader)).pixels is None


SIZE = 32


def test_images_are_not_decoded_when_nobody_looks_at_them(repeated: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    cached = made(repeated, frozen, tmp_path)
    raw = cached.read(3)
    blind = type(raw)(raw.key, {"meta.json": raw.fields["meta.json"]}, raw.features)
    from unifashion_pl.data.texts import EVALUATION

    row = TripletAssembler(EncoderTransform(SIZE)).sample(blind, EVALUATION, "fashioniq/train")
    assert torch.equal(row.targets[0], raw.features["target"])
    with pytest.raises(DamagedSample, match=r"has no target\.jpg"):
        TripletAssembler(EncoderTransform(SIZE), PixelTransform((16, 12))).sample(blind, EVALUATION, "fashioniq/train")
