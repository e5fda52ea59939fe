"""What all HTML of this library shares: templates whose values are escaped, pictures that lie inside, and the previews that notebooks show."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from PIL import Image

#: Tiles of a preview, the side of their pictures in pixels, and characters of a line.
MOST, SIDE, LINE = 12, 144, 160


def environment(package: str, escaped: bool | Callable[[str | None], bool] = True) -> Environment:
    """The templates of a package. What they are given is escaped, wherever it comes from; a name that is not there is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def address(data: bytes, kind: str) -> str:
    """Bytes of a picture as a data URI.

    >>> address(b"abc", "png")
    'data:image/png;base64,YWJj'
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def small(picture: Image.Image, side: int) -> Image.Image:
    """A picture in RGB, its longer side at most ``side`` pixels."""
    made = picture.convert("RGB")
    made.thumbnail((side, side))
    return made


def inside(picture: Image.Image, kind: str = "JPEG") -> str:
    """A picture as a data URI of a file of that kind."""
    data = BytesIO()
    picture.save(data, kind)
    return address(data.getvalue(), kind.lower())


@dataclass(frozen=True)
class Tile:
    """One thing of a preview.

    Attributes:
        lines: what is said of it, its name first.
        picture: of any size, or None.
        absent: what stands in the picture's place; "" = nothing.
    """

    lines: tuple[str, ...]
    picture: Image.Image | None = None
    absent: str = "no picture"

    @property
    def address(self) -> str | None:
        """The picture, made small, as a data URI."""
        return None if self.picture is None else inside(small(self.picture, SIDE))


def preview(title: str, tiles: Sequence[Tile], more: int = 0) -> str:
    """A fragment of HTML for a notebook: at most :data:`MOST` tiles, texts cut and escaped, no script, nothing that is loaded.

    Args:
        more: things that have no tile.
    """
    shown = [Tile(tuple(map(_cut, tile.lines)), tile.picture, tile.absent) for tile in tiles[:MOST]]
    template = environment("unifashion_pl").get_template("preview.html.j2")
    return template.render(title=_cut(title), tiles=shown, side=SIDE, more=more + len(tiles) - len(shown))


def _cut(line: str) -> str:
    text = " ".join(line.split())
    return text if len(text) <= LINE else text[: LINE - 1].rstrip() + "…"
