"""What bytes are, told before any decoder sees them."""

from __future__ import annotations

import pytest
from PIL import Image, features

from unifashion_pl.data.formats import BadInput, orientation, sniff


def media(major: bytes, *others: bytes) -> bytes:
    """The start of an ISO media file of some brands."""
    body = b"ftyp" + major + bytes(4) + b"".join(others)
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(200)


@pytest.mark.parametrize("brands", [(b"heic", b"mif1"), (b"mif1", b"heic"), (b"msf1",), (b"hevc",), (b"heix",)])
def test_heic_is_named_with_its_cure(brands: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="HEIC, which Pillow cannot read: convert it to JPEG, or pip install pillow-heif"):
        sniff(media(*brands))
    monkeypatch.setitem(Image.OPEN, "HEIF", (Image.Image, None))  # what pillow_heif.register_heif_opener() does
    assert sniff(media(*brands)) == "heic"


def test_avif_is_read_where_pillow_can_and_named_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "get_supported", lambda: ["avif"])
    assert sniff(media(b"avif")) == sniff(media(b"mif1", b"miaf", b"avif")) == "avif"
    monkeypatch.setattr(features, "get_supported", list)
    monkeypatch.setitem(features.modules, "avif", ("PIL._avif", None, None))
    with pytest.raises(BadInput, match="AVIF, which this Pillow .* cannot read: pip install -U pillow"):
        sniff(media(b"avif"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (media(b"isom", b"mp42"), "a video or another media file .isom."),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript, a program"),
        (b"\xc5\xd0\xd3\xc6" + bytes(40), "PostScript .EPS., a program"),
        (b"%PDF-1.7", "PDF, not a picture"),
        (b"\xd7\xcd\xc6\x9a" + bytes(40), "a Windows metafile"),
        (b"8BPS\0\x01", "a Photoshop file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"#define x_width 3", "unknown format .starts with 23 64"),
        (b"/* XPM */", "unknown format"),
        (bytes(60), "unknown format"),
    ],
)
def test_other_files_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        sniff(data)


def test_orientation_is_read_in_both_byte_orders_and_as_both_types() -> None:
    little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0"
    big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x03"
    assert [orientation(little), orientation(b"Exif\0\0" + big), orientation(b""), orientation(big[:8] + bytes(2))] == [
        8,
        3,
        1,
        1,
    ]
    with pytest.raises(ValueError, match="cut off"):
        orientation(big[:-1])
