"""Previews for notebooks: pictures lie inside, texts are escaped, their number is bounded."""

from __future__ import annotations

import base64
import re
from io import BytesIO

from PIL import Image

from unifashion_pl.pages import LINE, MOST, SIDE, Tile, preview

EVIL = "<script>alert('x')</script>\""


def test_everything_is_escaped_pictures_are_made_small_and_nothing_is_loaded() -> None:
    made = preview(
        EVIL, [Tile((EVIL, "a  b\n" + "long " * 99), Image.new("RGBA", (900, 600), "red")), Tile(("two",), absent=EVIL)]
    )
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 4  # title, name, alternative text, and what stands for a picture
    assert "a b long" in made
    assert re.findall(r"(?:src|href)=\"(?!data:)", made) == []
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', made)
    assert Image.open(BytesIO(base64.b64decode(data))).size == (SIDE, SIDE * 600 // 900)
    assert max(map(len, re.findall(r">(a b long[^<]*)<", made))) <= LINE


def test_the_number_of_tiles_is_bounded() -> None:
    made = preview("many", [Tile((str(n),)) for n in range(MOST + 5)], more=1000)
    assert made.count("<figure") == MOST
    assert "… and 1,005 more" in made
