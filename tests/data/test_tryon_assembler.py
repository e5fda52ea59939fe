"""Try-on samples -> batches: which pictures go where, and what may be absent."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from unifashion_pl.data.assemble import TryOnAssembler
from unifashion_pl.data.reader import RawSample
from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.data.texts import Draw
from unifashion_pl.data.transforms import EncoderTransform


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
