"""Pictures that are made of image fields: those that training's batches hold, known by the bytes they are made of."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from data.rawdata import jpeg
from PIL import Image

from unifashion_pl.data.assemble import TryOnAssembler
from unifashion_pl.data.painted import digest_of, painted_of, sources
from unifashion_pl.data.reader import DamagedSample, RawSample
from unifashion_pl.data.texts import Draw
from unifashion_pl.data.transforms import GREYED, EncoderTransform, PixelTransform
from unifashion_pl.tasks.editing import edit_batch, encodable

SIZE = (32, 24)


def mask(top: int = 12) -> bytes:
    shown = np.zeros((48, 40), np.uint8)
    shown[top:30, 10:30] = 255
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "PNG")
    return file.getvalue()


def sample(**changes: bytes | None) -> RawSample:
    fields = {"person.jpg": jpeg(1), "garment.jpg": jpeg(2), "mask.png": mask(), "meta.json": b"{}"}
    fields |= {"densepose.jpg": jpeg(3), "sketch.jpg": jpeg(4)}
    named: dict[str, Any] = {name.replace("_", "."): value for name, value in changes.items()}
    return RawSample("a", {name: value for name, value in {**fields, **named}.items() if value is not None})


def test_pictures_are_those_that_are_encoded_in_training() -> None:
    raw, transform = sample(), PixelTransform(SIZE)
    batch = TryOnAssembler(EncoderTransform(16), SIZE, paired=True).sample(raw, Draw(0, 0), "vitonhd/train")
    rows = edit_batch(batch, ["tryon"])
    shown = [encodable(rows, "person"), encodable(rows, "greyed"), encodable(rows, "pose"), encodable(rows, "garment")]
    made = [painted_of(raw, name, transform)[None] for name in ("person", GREYED, "densepose", "garment")]
    assert all(torch.equal(a, b) for a, b in zip(shown, made, strict=True))
    drawn = encodable(edit_batch(batch, ["design"]), "garment")
    assert torch.equal(drawn, painted_of(raw, "sketch", transform)[None])
    assert not torch.equal(shown[0], shown[1])


def test_towers_see_fields_as_they_are() -> None:
    """Bars and grey belong to what is painted."""
    encoder = EncoderTransform(16)
    assert torch.equal(painted_of(sample(sketch_jpg=jpeg(1)), "sketch", encoder), painted_of(sample(), "person", encoder))


def test_digests_are_equal_for_equal_pictures_alone() -> None:
    names = ("person", GREYED, "densepose", "garment", "sketch")
    assert [digest_of(sample(), name) for name in names] == [digest_of(sample(), name) for name in names]
    alike = sample(**{f"{name}_jpg": jpeg(1) for name in ("densepose", "garment", "sketch")})
    digests = [digest_of(alike, name) for name in names]
    assert digests[0] == digests[3]  # the same bars
    assert len(set(digests)) == 4
    for change in ({"mask_png": mask(13)}, {"person_jpg": jpeg(5)}):
        assert digest_of(sample(**change), GREYED) != digest_of(sample(), GREYED)
    assert digest_of(sample(mask_png=mask(13)), "person") == digest_of(sample(), "person")


def test_poses_and_sketches_may_be_absent_and_nothing_else() -> None:
    bare = sample(sketch_jpg=None, mask_png=None)
    assert digest_of(bare, "sketch") is None
    assert sources(bare, "sketch") == ()
    assert sources(bare, GREYED) == ("person", "mask")
    with pytest.raises(DamagedSample, match="has no mask.jpg or mask.png"):
        digest_of(bare, GREYED)
