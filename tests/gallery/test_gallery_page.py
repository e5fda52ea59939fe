"""The page of hits: everything that comes from outside is escaped, pictures lie inside."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import numpy as np
from PIL import Image

from unifashion_pl.gallery.hits import Hit
from unifashion_pl.gallery.page import page

EVIL = "<script>alert('x')</script>\""


def test_a_page_holds_pictures_scores_and_maps_and_escapes_everything() -> None:
    hits = [
        Hit("a", 0.5, 0.5, 3, image="/x/a.png", product="p", columns={EVIL: EVIL}, parts={"image": 0.5}),
        Hit(EVIL, 0.4, 0.4, None, 0.1, EVIL, image=f"/x/{EVIL}", product=EVIL, parts={"image": 0.4, "caption": 0.1}),
    ]
    heat = {"a": np.eye(4, dtype=np.float32)}
    made = page(
        {"text": EVIL, "where": EVIL, "like": [EVIL], "image": None},
        hits,
        {"a": Image.new("RGB", (900, 600), "red")},
        {EVIL: {EVIL: 2}},
        heat,
    )
    assert "<script" not in made
    assert "&lt;script&gt;" in made
    assert "2 hits" in made
    assert "token 3" in made
    small, over = (
        Image.open(BytesIO(base64.b64decode(data))) for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', made)
    )
    assert small.size == over.size == (320, 213)
    assert over.mode == "RGBA"
    clear = np.array(over)[..., 3]  # the tower sees the middle square, 256 pixels of 320, with bars above and below
    assert not clear[:, :31].any()
    assert not clear[:, 290:].any()
    assert clear[5, 40] > 150 > 50 > clear[5, 280]
    assert "no picture" not in made
    assert "cannot be read" in made


def test_a_page_without_hits_is_one() -> None:
    made = page({"text": None, "where": "price < 1"}, [], {}, {}, {}, Image.new("L", (10, 10)))
    assert "0 hits" in made
    assert "Images like this one" in made
    assert "where: price &lt; 1" in made
