"""JPEG pixels beside Pillow's: the same values, the same refusals, the same limits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from data.rawdata import jpeg, picture
from PIL import Image, ImageOps

from unifashion_pl.data import decode, jpegs
from unifashion_pl.data.decode import BadInput, decode_picture
from unifashion_pl.data.jpegs import jpeg_pixels, plain_header

needs_simplejpeg = pytest.mark.skipif(jpegs.simplejpeg is None, reason="no wheel of simplejpeg here")


def grainy(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.blend(picture(3, width, height).convert("RGB"), Image.fromarray(values), 0.2)


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def varied() -> Iterator[bytes]:
    """All subsamplings that Pillow writes, greys, progressive files, odd sizes, qualities, restarts, colours that are stored as RGB."""
    for width, height in ((1, 1), (7, 33), (16, 16), (61, 90)):
        image = grainy(width, height)
        for progressive in (False, True):
            for subsampling in (0, 1, 2):
                for quality in (1, 75, 100):
                    yield saved(image, subsampling=subsampling, quality=quality, progressive=progressive)
            yield saved(image.convert("L"), progressive=progressive)
        yield saved(image, restart_marker_blocks=2)
        yield saved(image, keep_rgb=True)
        yield saved(image, icc_profile=bytes(300), xmp=b"<x/>", dpi=(72, 72))


@needs_simplejpeg
def test_pixels_are_pillows() -> None:
    for data in varied():
        theirs = Image.open(BytesIO(data))
        ours = jpeg_pixels(data, theirs.mode, *theirs.size)
        assert ours is not None
        assert np.array_equal(ours, np.asarray(theirs))
        assert plain_header(data) == (theirs.mode, *theirs.size)
        found = decode_picture(data)
        assert np.array_equal(found.rgb(), np.asarray(theirs.convert("RGB")))
        assert found.image.mode == theirs.mode
        assert found.image.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_are_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(grainy(20, 33), exif=exif)
    assert plain_header(data) is None
    found = decode_picture(data)
    assert found.turned == (orientation > 1)
    assert np.array_equal(found.rgb(), np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data)))))


def test_what_is_not_ordinary_is_left_to_pillow() -> None:
    whole = jpeg(0, 64, 64)
    assert jpeg_pixels(saved(Image.new("CMYK", (8, 8))), "CMYK", 8, 8) is None
    assert jpeg_pixels(whole[: len(whole) // 2], "RGB", 64, 64) is None
    assert jpeg_pixels(whole, "RGB", 64, 63) is None
    assert jpeg_pixels(whole, "RGB", 65, 64) is None
    assert plain_header(whole[:30]) is None
    assert plain_header(saved(Image.new("CMYK", (8, 8)))) is None


def test_without_the_library_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(1, 64, 48)
    with_it = decode_picture(data).rgb()
    monkeypatch.setattr(jpegs, "simplejpeg", None)
    assert np.array_equal(decode_picture(data).rgb(), with_it)


def test_limits_come_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "jpeg_pixels", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr(decode, "MAX_SIDE", 50)
    with pytest.raises(BadInput, match="64 × 48 px, allowed are 50 pixels a side"):
        decode_picture(jpeg(1, 64, 48))


@needs_simplejpeg
def test_damage_ends_as_it_does_with_pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are cut, changed or lengthened: the same pixels, or the same sentence."""
    rng = random.Random(0)
    seeds = [
        saved(grainy(24, 40), **options)
        for options in ({}, {"progressive": True}, {"subsampling": 0}, {"icc_profile": bytes(60)})
    ]
    seeds.append(saved(grainy(24, 40).convert("L")))

    def outcome(data: bytes) -> object:
        try:
            found = decode_picture(data)
        except BadInput as error:
            return error.reason
        return found.image.mode, found.image.size, found.image.tobytes(), found.flaw

    cases = []
    for _ in range(1500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4))):
            place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 700))
            data[place : place + rng.choice((1, 1, 2, 30))] = rng.choice(
                (b"\0", b"\xff", b"\xff\xda", b"\xff\xd9", rng.randbytes(2), b"")
            )
        cases.append(bytes(data))
    ours = [outcome(data) for data in cases]
    monkeypatch.setattr(decode, "plain_header", lambda _: None)
    monkeypatch.setattr(decode, "jpeg_pixels", lambda *_: None)
    theirs = [outcome(data) for data in cases]
    assert sum(isinstance(found, str) for found in theirs) > 100
    assert sum(not isinstance(found, str) for found in theirs) > 100
    assert [number for number, (a, b) in enumerate(zip(ours, theirs)) if a != b] == []
