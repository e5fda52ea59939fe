from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from data.rawdata import jpeg, picture
from PIL import Image

from unifashion_pl.data.decode import BadInput, open_image, passable, read_bytes, sniff, to_rgb


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>not found</html>", "text/html, not an image"),
        (b"  <html>", "text/html, not an image"),
        (b'{"error": 404}', "JSON, not an image"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer, not an image"),
        (b"\x00\x01\x02\x03rest", "unknown format (starts with 00 01 02 03 72 65 73 74)"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        passable(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_cut_jpeg_is_truncated_although_its_header_is_fine(cut: float) -> None:
    data = jpeg(0, 200, 200)
    half = data[: int(len(data) * cut)]
    Image.open(BytesIO(half)).verify()
    with pytest.raises(BadInput, match="truncated"):
        open_image(half)


def test_a_cut_png_is_bad() -> None:
    data = encoded(picture(0), "PNG")
    with pytest.raises(BadInput):
        open_image(data[: len(data) // 2])


def test_a_broken_header_is_bad() -> None:
    with pytest.raises(BadInput, match="jpg"):
        open_image(b"\xff\xd8\xff" + bytes(50))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="missing"):
        read_bytes(tmp_path / "no.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(BadInput, match="empty file"):
        read_bytes(tmp_path / "empty.jpg")


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unifashion_pl.data.decode.MAX_PIXELS", 1000)
    with pytest.raises(BadInput, match="40 × 48 px"):
        open_image(jpeg(0))


@pytest.mark.parametrize(
    ("kind", "name"), [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tiff"), ("WEBP", "webp")]
)
def test_formats_by_content_and_what_passes_through(kind: str, name: str) -> None:
    data = encoded(picture(3), kind)
    assert sniff(data) == name
    field, stored, image = passable(data)
    assert (field, stored == data) == ((name, True) if name in ("jpg", "png") else ("png", False))
    assert image.size == (40, 48)


def test_alpha_is_laid_over_white() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    rgb = np.asarray(to_rgb(image))
    assert rgb[0, 0].tolist() == [10, 20, 30]
    assert rgb[1, 1].tolist() == [255, 255, 255]
    grey = Image.new("LA", (2, 2), (0, 128))
    assert np.asarray(to_rgb(grey))[0, 0].tolist() == [127, 127, 127]


def test_a_palette_becomes_its_colours_also_with_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert np.asarray(to_rgb(image))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    clear = Image.open(BytesIO(encoded(image, "PNG", transparency=1)))
    assert np.asarray(to_rgb(clear))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_sixteen_bits_keep_their_range() -> None:
    wide = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    assert wide.mode == "I;16"
    assert np.asarray(to_rgb(wide))[0, :, 0].tolist() == [0, 1, 255]


def test_cmyk_and_one_bit() -> None:
    assert np.asarray(to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0))))[0, 0].tolist() == [255, 0, 0]
    assert np.asarray(to_rgb(Image.new("1", (1, 1), 1)))[0, 0].tolist() == [255, 255, 255]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = open_image(encoded(picture(0, 40, 20), "JPEG", exif=exif))
    assert turned.size == (20, 40)
    assert to_rgb(turned).size == (20, 40)
    assert to_rgb(Image.open(BytesIO(encoded(picture(0, 40, 20), "JPEG", exif=exif)))).size == (20, 40)
