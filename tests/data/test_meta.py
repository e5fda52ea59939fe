"""meta.json of a sample: checked field by field, damage named with the sample and the field."""

from __future__ import annotations

import pytest

from unifashion_pl.data.meta import GalleryMeta, PairMeta, QueryMeta, TripletMeta, meta_of
from unifashion_pl.data.reader import DamagedSample, RawSample

TRIPLET = b'{"target": "B1", "captions": ["is red"], "category": "dress", "position": 3}'


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", PairMeta, "meta.json: .*empty"),
        (b"\xff{", PairMeta, "meta.json"),
        (b"[" * 100_000, PairMeta, "meta.json"),
        (b"[1]", PairMeta, "Expected `object`, got `array`"),
        (b'{"description": 5}', PairMeta, r"Expected `str`, got `int` - at `\$\.description`"),
        (b'{"target": "B1", "category": "dress"}', TripletMeta, "missing required field `captions`"),
        (TRIPLET.replace(b'["is red"]', b'"is red"'), TripletMeta, "Expected `array`, got `str`"),
        (b'{"id": "B1", "category": "dress", "in_union": "yes"}', GalleryMeta, "in_union"),
    ],
)
def test_damage_is_named_with_the_sample_and_the_field(content: bytes, kind: type[PairMeta], message: str) -> None:
    with pytest.raises(DamagedSample, match=f"k1: .*{message}") as caught:
        meta_of(RawSample("k1", {"meta.json": content}), kind)
    assert caught.value.name == "k1"


def test_absence_is_named_with_what_is_there() -> None:
    with pytest.raises(DamagedSample, match="k1: has no meta.json, only image.jpg"):
        meta_of(RawSample("k1", {"image.jpg": b""}), PairMeta)


def test_what_a_kind_needs_is_there_and_what_it_does_not_know_is_left_out() -> None:
    assert meta_of(RawSample("k", {"meta.json": TRIPLET}), TripletMeta) == {
        "target": "B1", "captions": ["is red"], "category": "dress",
    }  # fmt: skip
    query = b'{"reference": "B0", "captions": [], "category": "dress"}'
    assert "target" not in meta_of(RawSample("k", {"meta.json": query}), QueryMeta)
    assert meta_of(RawSample("k", {"meta.json": b'{"product": 7}'}), PairMeta) == {"product": 7}
