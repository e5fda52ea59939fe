"""What the tests of all datasets share: bad image files, pictures in modes other than RGB, reports of a check, ranks."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import lightning as L
from data.rawdata import jpeg
from PIL import Image
from unifashion_pl.datamodules.checks import CheckReport, SplitReport, check_dataset

Damage = tuple[Callable[[Path], object], str]
Colour = tuple[int, int, int]
M = TypeVar("M", bound=L.LightningDataModule)

DAMAGES: dict[str, Damage] = {
    # name: (what is done to the file, the reason that has to be reported)
    "missing": (Path.unlink, "missing"),
    "zero bytes": (lambda path: path.write_bytes(b""), "empty file"),
    "truncated": (lambda path: path.write_bytes(jpeg(1, 200, 200)[:900]), "truncated"),
    "broken header": (lambda path: path.write_bytes(jpeg(1)[:20] + bytes(500)), "damaged jpg header"),
    "web page": (lambda path: path.write_bytes(b"<!DOCTYPE html><html>404</html>"), "text/html, not an image"),
    "noise": (lambda path: path.write_bytes(b"\x01\x02\x03 noise"), "unknown format (starts with 01 02 03 20 6e 6f 69 73)"),
}
RED: Colour = (200, 40, 60)


def odd_pictures(size: tuple[int, int]) -> dict[str, tuple[bytes, Colour]]:
    """Mode -> (file content, its one colour as RGB): palette, grey, CMYK, transparent and 16-bit pictures."""
    red = Image.new("RGB", size, RED)
    grey = Image.new("L", size, 90)
    veiled = Image.new("RGBA", size, (*RED, 128))
    see_through = Image.new("P", size, 0)
    see_through.putpalette([0, 0, 0, *RED])
    over_white: Colour = (227, 147, 157)
    return {
        "palette": (content(red.quantize(4), "PNG"), RED),
        "transparent palette": (content(see_through, "PNG", transparency=0), (255, 255, 255)),
        "grey": (content(grey, "JPEG"), (90, 90, 90)),
        "grey and alpha": (content(Image.merge("LA", (grey, Image.new("L", size, 0))), "PNG"), (255, 255, 255)),
        "CMYK": (content(red.convert("CMYK"), "JPEG"), RED),
        "RGBA": (content(veiled, "PNG"), over_white),
        "16 bits": (content(Image.new("I;16", size, 40_000), "PNG"), (155, 155, 155)),
        "black and white": (content(Image.new("1", size, 1), "PNG"), (255, 255, 255)),
    }


def content(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def check(dataset: str, root: Path) -> CheckReport:
    return check_dataset(dataset, root, progress=False)


def split_of(report: CheckReport, name: str, kind: str = "") -> SplitReport:
    """The only split of that name (and kind)."""
    (found,) = [split for split in report.splits if split.name == name and kind in ("", split.kind)]
    return found


def lost(split: SplitReport) -> set[tuple[str, str, str, int]]:
    """(id, role, reason, samples that go with it) of every unusable file."""
    return {(bad.id, bad.role, bad.reason, bad.samples) for bad in split.unusable}


def on_rank(module: M, rank: int, world: int) -> M:
    """The DataModule as a trainer with several devices would set it up."""
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
    module.setup("fit")
    return module


def keys(loader: Any) -> list[str]:
    """Keys of one pass over a loader."""
    return [key for batch in loader for key in batch.keys]
