"""Pictures that a browser sends: which are taken, and what is said of the others."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from unifashion_pl.demo import uploads
from unifashion_pl.demo.uploads import Refused, from_address, read_picture


def data_of(picture: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def test_a_photo_comes_upright_in_rgb_without_metadata_and_not_larger_than_the_page_needs() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "somebody's phone"
    picture = read_picture(data_of(Image.new("RGB", (2000, 1000), (9, 99, 199)), "JPEG", exif=exif))
    assert picture.mode == "RGB"
    assert picture.size == (uploads.SIDE // 2, uploads.SIDE)
    assert not picture.info.get("exif")
    assert np.abs(np.asarray(picture).astype(int) - (9, 99, 199)).max() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_cameras_write_is_taken(kind: str) -> None:
    assert read_picture(data_of(Image.new("RGB", (30, 40), "red"), kind)).size == (30, 40)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty file"),
        (b"%PDF-1.7 and more", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "no picture"),
        (data_of(Image.new("RGB", (8, 8)), "TIFF"), "TIFF, which the page does not take"),
        (data_of(Image.effect_noise((64, 64), 90).convert("RGB"))[:900], "truncated"),
    ],
)
def test_anything_else_is_refused_with_what_it_is_what_is_taken_and_how_to_mend_it(data: bytes, found: str) -> None:
    with pytest.raises(Refused) as refused:
        read_picture(data)
    assert found in str(refused.value)
    assert refused.value.status == 415
    told = refused.value.told()
    assert "JPEG" in told["expected"]
    assert "12.0 MB" in told["expected"]
    assert "save this one as JPEG" in told["cure"]


def test_more_bytes_than_are_allowed_are_refused_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 2 << 20)
    with pytest.raises(Refused, match=r"has 3\.0 MB") as refused:
        read_picture(bytes(3 << 20))
    assert refused.value.status == 413
    assert refused.value.expected == "at most 2.0 MB"
    with pytest.raises(Refused, match="MB"):
        from_address("data:image/png;base64," + "A" * (4 << 20))


def test_an_address_is_the_picture_that_it_holds() -> None:
    data = data_of(Image.new("RGB", (5, 7), "blue"))
    picture = from_address("data:image/png;base64," + base64.b64encode(data).decode())
    assert picture.size == (5, 7)
    assert picture.getpixel((2, 3)) == (0, 0, 255)


@pytest.mark.parametrize(
    "address",
    ["", "http://a.b/c.png", "/etc/passwd", "data:text/html;base64,AAAA", "data:image/png;base64,?", "data:image/png;base64,é"],
)
def test_other_addresses_are_never_followed(address: str) -> None:
    with pytest.raises(Refused) as refused:
        from_address(address)
    assert refused.value.status == 400
    assert refused.value.cure == "Send the file again"
