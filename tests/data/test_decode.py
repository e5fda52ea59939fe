from __future__ import annotations

import os
import random
import struct
import time
import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from data.rawdata import jpeg, picture
from PIL import Image, TiffImagePlugin, features

from unifashion_pl.data import decode
from unifashion_pl.data.decode import BadInput, decode_picture, open_image, own_image, read_bytes, sniff, to_rgb, to_store


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
        to_store(data, decode_picture(data))
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
    ("kind", "name"),
    [
        *(("JPEG", "jpg"), ("MPO", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tiff"), ("WEBP", "webp")),
        *(("PPM", "ppm"), ("TGA", "tga"), ("JPEG2000", "jp2"), ("AVIF", "avif")),
    ],
)
def test_formats_by_content_and_what_passes_through(kind: str, name: str) -> None:
    if not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}.get(kind, "jpg")):
        pytest.skip(f"Pillow was built without {kind}")
    data = encoded(picture(3), kind)
    assert sniff(data) == name
    field, stored, image = to_store(data, decode_picture(data))
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


def with_app1(data: bytes, body: bytes) -> bytes:
    """A JPEG with another application segment."""
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def exif_of(*entries: tuple[int, int, int, bytes], count: int | None = None) -> bytes:
    """A little-endian EXIF block of (tag, type, number, value) entries."""
    listed = b"".join(struct.pack("<HHI", tag, kind, number) + value.ljust(4, b"\0") for tag, kind, number, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries) if count is None else count) + listed + bytes(4)


TURNED = (0x0112, 3, 1, b"\x06\0")
#: EXIF block -> size of a 40 × 20 picture, and whether anything is said.
BLOCKS = {
    "good": (exif_of(TURNED), (20, 40), False),
    "its own header twice": (b"Exif\0\0" + exif_of(TURNED), (20, 40), False),
    "a ratio by zero beside it": (exif_of(TURNED, (0x011A, 5, 1, b"\x26\0")), (20, 40), False),
    "a text of a wrong type before it": (exif_of((0x010F, 11, 2**31, b"\xff" * 4), TURNED), (20, 40), False),
    "no orientation that there is": (exif_of((0x0112, 3, 1, b"\x4d\0")), (40, 20), True),
    "garbage": (b"Exif\0\0" + bytes(range(40, 80)), (40, 20), True),
    "cut off": (exif_of(TURNED, count=9)[:20], (40, 20), True),
    "a directory far away": (b"Exif\0\0II*\0\xff\xff\xff\x7f", (40, 20), True),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_damaged_exif_never_costs_the_pixels(block: str) -> None:
    exif, size, said = BLOCKS[block]
    plain = encoded(picture(0, 40, 20), "JPEG")
    found = decode_picture(with_app1(plain, exif))
    assert (found.image.size, bool(found.flaw), found.turned) == (size, said, size == (20, 40))
    upright = Image.open(BytesIO(plain)).transpose(Image.Transpose.ROTATE_270) if found.turned else Image.open(BytesIO(plain))
    assert found.image.tobytes() == upright.tobytes()
    assert not found.image.info
    assert not found.image.getexif()


def png_chunk(name: bytes, data: bytes, *, crc: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ crc)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"tEXt", b"a\0b", crc=1),
        png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9)),
        png_chunk(b"iCCP", b"x\0\0garbage"),
        png_chunk(b"pHYs", b"1"),
        png_chunk(b"acTL", b""),
    ],
    ids=["checksum", "bomb", "profile", "short", "animation"],
)
def test_damaged_chunks_of_a_png_never_cost_the_pixels(chunk: bytes) -> None:
    plain = encoded(picture(1), "PNG")
    data = plain[:33] + chunk + plain[33:]
    assert decode_picture(data).image.tobytes() == picture(1).tobytes()
    assert to_store(data, decode_picture(data))[:2] == ("png", data)


def test_damaged_metadata_are_said_once_with_the_name_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_mentioned", set())
    data = with_app1(jpeg(0), b"Exif\0\0garbage!")
    with pytest.warns(UserWarning, match=r"/x/a\.jpg: its EXIF is damaged .*orientation is unknown; its pixels are used"):
        open_image(data, "/x/a.jpg")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        open_image(data, "/x/a.jpg")
        assert not said
        for seed in range(2, 40):
            open_image(with_app1(jpeg(seed), b"Exif\0\0garbage!"), f"{seed}.jpg")
    assert len(said) == decode.NAMED
    assert "further ones are not named" in str(said[-1].message)


def test_an_orientation_of_a_tiff_is_applied_although_its_exif_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_: object) -> None:
        raise struct.error("required argument is not an integer")

    data = encoded(picture(0, 40, 20), "TIFF", tiffinfo={0x0112: 6})
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "getexif", damaged)
    with pytest.raises(struct.error):
        Image.open(BytesIO(data)).load()
    assert open_image(data).size == (20, 40)


@pytest.mark.parametrize(
    "error", [TypeError, RuntimeError, struct.error, MemoryError, ZeroDivisionError, KeyError, OverflowError]
)
def test_whatever_a_decoder_raises_is_one_named_reason(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("oh")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadInput, match="damaged: .*oh"):
        open_image(encoded(picture(0), "PNG"))


@pytest.mark.parametrize("kind", ["EPS", "PDF"])
def test_formats_that_start_programs_are_named_and_never_opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(0), kind)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(BadInput, match="save (it|its page) as PNG or JPEG"):
        to_store(data, decode_picture(data))


def test_pillow_opens_nothing_but_the_format_that_the_bytes_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda data, **options: asked.append(options) or real(data, **options))
    open_image(with_app1(jpeg(0), exif_of(TURNED)))
    assert asked == [{"formats": ["JPEG"]}]


def test_large_sides_and_endless_scans_are_refused() -> None:
    with pytest.raises(BadInput, match="allowed are 16,384 pixels a side"):
        open_image(encoded(Image.new("L", (20_000, 2)), "PNG"))
    header = encoded(Image.new("L", (9000, 8000)), "JPEG", progressive=True)
    scan = header[header.find(b"\xff\xda") :][:12]
    with pytest.raises(BadInput, match="scans over 9000 × 8000 px"):
        open_image(header[:-2] + scan * 100 + header[-2:])


def test_a_large_picture_inside_of_an_icon_is_refused() -> None:
    inner = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    inner = b"\x89PNG\r\n\x1a\n" + inner
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    with pytest.raises(BadInput, match="60000 × 60000 px"):
        open_image(icon)


def test_images_of_a_users_own_go_through_the_same_guard(tmp_path: Path) -> None:
    data = jpeg(0, 200, 200)
    with pytest.raises(BadInput, match="truncated"):
        own_image(Image.open(BytesIO(data[: len(data) // 2])))
    lazy = Image.open(BytesIO(with_app1(data, exif_of(TURNED))))
    assert own_image(lazy).size == (200, 200)
    assert lazy.info["exif"]
    (tmp_path / "x.eps").write_bytes(encoded(picture(0), "EPS"))
    with Image.open(tmp_path / "x.eps") as program, pytest.raises(BadInput, match="EPS, which is not opened here"):
        own_image(program)
    with pytest.raises(BadInput, match="0 × 5 px"):
        own_image(Image.new("RGB", (0, 5)))


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, reason in (
        (tmp_path / "pipe.jpg", "a device or a pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(BadInput, match=reason):
            read_bytes(path)
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(decode.MAX_BYTES + 1)
    with pytest.raises(BadInput, match="bytes, allowed are"):
        read_bytes(tmp_path / "large.jpg")
    with pytest.raises(BadInput):
        read_bytes(tmp_path / "nul\0.jpg")


def test_nothing_but_bad_inputs_comes_out_of_broken_files() -> None:
    rng = random.Random(0)
    kinds = [kind for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TGA", "ICO", "JPEG2000") if kind in Image.SAVE]
    seeds = [encoded(picture(3, 24, 32), kind) for kind in kinds] + [with_app1(jpeg(1), exif_of(TURNED))]
    start, used = time.process_time(), 0
    for _ in range(600):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 2, 4))):
            place = rng.randrange(min(len(data), 300))
            data[place : place + rng.choice((1, 4))] = rng.choice((b"\0", b"\xff", b"\xff\xff\xff\x7f", rng.randbytes(2), b""))
        with suppress(BadInput):
            to_rgb(to_store(bytes(data), decode_picture(bytes(data)))[2])
            used += 1
    assert 50 < used < 600
    assert time.process_time() - start < 30


def test_a_look_at_a_header_refuses_nothing_that_can_be_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """600 damaged pictures, and what is no picture: whatever a look refuses is refused by decoding, and whole pictures are not decoded for it."""
    Image.init()
    rng = random.Random(0)
    kinds = [kind for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TGA", "ICO", "TIFF", "MPO") if kind in Image.SAVE]
    seeds = [encoded(picture(3, 24, 32), kind) for kind in kinds] + [with_app1(jpeg(1), exif_of(TURNED))]
    path, decoded = tmp_path / "picture", []
    usual = decode.decode_picture
    monkeypatch.setattr(decode, "decode_picture", lambda data: decoded.append(data) or usual(data))
    for data in seeds:
        path.write_bytes(data)
        decode.look(path)
    assert [sniff(data) for data in decoded] == ["ico"]
    refused = 0
    for _ in range(600):
        data = bytearray(rng.choice(seeds))
        place = rng.randrange(min(len(data), 300))
        data[place : place + rng.choice((1, 4))] = rng.choice((b"\0", b"\xff", b"\xff\xff\xff\x7f", rng.randbytes(2), b""))
        path.write_bytes(data)
        try:
            decode.look(path)
        except BadInput:
            refused += 1
            with pytest.raises(BadInput):
                usual(bytes(data))
    assert 50 < refused < 500
    os.mkfifo(tmp_path / "pipe.jpg")
    for other, reason in ((tmp_path / "no.jpg", "missing"), (tmp_path / "pipe.jpg", "a pipe"), (tmp_path, "a folder")):
        with pytest.raises(BadInput, match=reason):
            decode.look(other)
    path.write_bytes(encoded(Image.new("L", (20_000, 3)), "PNG"))
    with pytest.raises(BadInput, match="allowed are 16,384 pixels a side"):
        decode.look(path)
