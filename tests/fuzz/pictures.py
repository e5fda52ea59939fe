"""Pictures of every format, damaged where decoders trust them most: in their metadata."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.engine import Target
from fuzz.mutate import STRINGS, Change, damaged_bytes
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from unifashion_pl.datamodules import CatalogueDataModule

from unifashion_pl.data.decode import BadInput, decode_picture, to_store
from unifashion_pl.inference.images import open_image

PHOTO = "photo.jpg"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(/tmp/x) (w) file closefile\nshowpage\n%%EOF\n"


def base(mode: str = "RGB", size: tuple[int, int] = (24, 32)) -> Image.Image:
    """Coarse noise."""
    coarse = np.random.default_rng(len(mode)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size).convert("L" if mode == "I;16" else mode).convert(mode)


def exif() -> bytes:
    """A block with orientation, texts, ratios and a second directory."""
    made = Image.Exif()
    made[0x0112], made[0x010F], made[0x011A], made[0x8298] = 6, "maker", 72.0, "x"
    made.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    return made.tobytes()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encoded bytes."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seeds() -> list[bytes]:
    """Valid pictures of all formats that Pillow writes here, and files that are none."""
    Image.init()
    note = PngInfo()
    note.add_text("Description", "x" * 50)
    note.add_itxt("XML:com.adobe.xmp", XMP.decode())
    frames = {"save_all": True, "append_images": [base("L"), base()], "duration": 5}
    made = [
        saved(base(), "JPEG"),
        saved(base(), "JPEG", exif=exif(), xmp=XMP, icc_profile=bytes(range(200)), comment=b"c", dpi=(72, 72)),
        saved(base(), "JPEG", progressive=True, exif=exif()),
        saved(base("CMYK"), "JPEG"),
        saved(base("L"), "JPEG", exif=exif()),
        saved(base(), "PNG", pnginfo=note, exif=exif(), icc_profile=bytes(100)),
        saved(base("RGBA"), "PNG"),
        saved(base("P"), "PNG", transparency=3),
        saved(base("I;16"), "PNG"),
        saved(base("1"), "PNG"),
        saved(base(), "GIF", **frames),
        saved(base(), "BMP"),
        saved(base(), "TIFF", compression="tiff_lzw", dpi=(72, 72)),
        saved(base("F"), "TIFF"),
        saved(base("RGBA"), "TIFF"),
        saved(base(), "PPM"),
        saved(base(), "ICO"),
        saved(base(), "TGA"),
        EPS,
    ]
    for kind, options in (
        ("WEBP", {"exif": exif(), "xmp": XMP}),
        ("WEBP", frames),
        ("AVIF", {"exif": exif()}),
        ("JPEG2000", {}),
    ):
        if kind in Image.SAVE:
            made.append(saved(base("RGBA" if options is frames else "RGB"), kind, **options))
    return [
        *made,
        huge(),
        *(start + bytes(60) for start in (b"\x00\x00\x00\x18ftypheic", b"8BPS\x00\x01", b"<svg>", b"<!doctype html>")),
    ]


def huge() -> bytes:
    """A PNG that declares 60,000 × 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9000))) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of PNG with its check sum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@st.composite
def directory(draw: DrawFn) -> bytes:
    """A block of EXIF whose entries have wrong types, counts and places."""
    order = draw(st.sampled_from("<>"))
    tags = st.sampled_from(
        (0x0112, 0x0112, 0x8769, 0x8825, 0x010E, 0x011A, 0x0128, 0x9286, 0x927C, 0xA005, 0x014A, 0x0103, 0x02BC)
    )
    counts, places = (
        st.sampled_from((0, 1, 1, 2, 5, 300, 2**31, 2**32 - 1)),
        st.sampled_from((0, 1, 6, 8, 26, 50, 4000, 2**32 - 1)),
    )
    entries = [
        struct.pack(f"{order}HHII", draw(tags), draw(st.integers(0, 18)), draw(counts), draw(places))
        for _ in range(draw(st.integers(1, 4)))
    ]
    stated = draw(st.sampled_from((len(entries), len(entries), len(entries), 0, 9, 0xFFFF)))
    start = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}I", draw(st.sampled_from((8, 8, 8, 0, 7, 200))))
    head = b"Exif\x00\x00" * draw(st.sampled_from((1, 1, 1, 1, 2, 0)))
    return head + start + struct.pack(f"{order}H", stated) + b"".join(entries) + bytes(4) + draw(st.binary(max_size=30))


@st.composite
def metadata(draw: DrawFn) -> bytes:
    """A damaged block of metadata."""
    way = draw(st.integers(0, 9))
    if way < 4:
        return draw(directory())
    if way < 6:
        return draw(damaged_bytes(exif()))
    if way < 8:
        return draw(damaged_bytes(b"http://ns.adobe.com/xap/1.0/\x00" + XMP))
    return draw(st.binary(max_size=40)) + draw(st.sampled_from(STRINGS)).encode("utf-8", "replace")[:3000]


@st.composite
def with_metadata(draw: DrawFn) -> bytes:
    """A whole picture whose metadata alone is damaged; sums and lengths around it are right."""
    block = draw(metadata())
    way = draw(st.sampled_from(("jpeg", "jpeg", "jpeg", "png", "webp")))
    if way == "jpeg":
        plain = saved(base(), "JPEG")
        name = draw(st.sampled_from((b"\xff\xe1", b"\xff\xe1", b"\xff\xe2", b"\xff\xed", b"\xff\xee", b"\xff\xfe")))
        return plain[:2] + name + struct.pack(">H", (len(block) + 2) & 0xFFFF) + block + plain[2:]
    if way == "png":
        plain = saved(base(), "PNG")
        name = draw(st.sampled_from((b"eXIf", b"iTXt", b"tEXt", b"zTXt", b"iCCP", b"tRNS", b"gAMA", b"pHYs", b"acTL", b"PLTE")))
        return plain[:33] + chunk(name, block.removeprefix(b"Exif\x00\x00")) + plain[33:]
    return saved(base(), "WEBP", exif=block)


def changes(folder: Path) -> st.SearchStrategy[Change]:
    """Damaged, cut, hostile pictures, or such with damaged metadata."""
    known = seeds()
    damaged = st.sampled_from(known).flatmap(lambda data: st.one_of(st.just(data), damaged_bytes(data), damaged_bytes(data)))
    return st.one_of(damaged, with_metadata()).map(lambda data: {PHOTO: data})


def make(folder: Path) -> None:
    """A catalogue of four pictures."""
    for n, name in enumerate((PHOTO, "b.jpg", "c.jpg", "d.jpg")):
        base(size=(24 + n, 32)).save(folder / name)
    rows = "".join(f"{name},a dress\n" for name in (PHOTO, "b.jpg", "c.jpg", "d.jpg"))
    (folder / "items.csv").write_text("image,text\n" + rows)


def searched(folder: Path) -> object:
    """As search, captions and try-on open it."""
    return open_image(folder / PHOTO).tobytes()


def stored(folder: Path) -> object:
    """As shards store it."""
    data = (folder / PHOTO).read_bytes()
    return to_store(data, decode_picture(data))[1]


def trained(folder: Path) -> object:
    """Training goes on beside it, or with it."""
    data = CatalogueDataModule(folder / "items.csv", folder, batch_size=2, max_bad=1, val_fraction=0.0, image_size=32)
    loader = iter(data.train_loader())
    return [next(loader) for _ in range(2)]


TARGETS = (
    Target("pictures-searched", 1500, make, changes, searched),
    Target("pictures-stored", 1000, make, changes, stored, refusals=(BadInput,), named=False),
    Target("pictures-trained", 1000, make, changes, trained, refusals=()),
)
