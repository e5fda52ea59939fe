"""Batches of several datasets as one."""

from __future__ import annotations

import pytest
import torch
from small import pair_batch

from unifashion_pl.data.assemble import PairMeta, meta_of
from unifashion_pl.data.reader import DamagedSample, RawSample
from unifashion_pl.data.samples import PairBatch


def test_every_prefix_of_a_joined_batch_holds_all_parts_in_proportion() -> None:
    one, two = pair_batch(4), pair_batch(2, dataset="other/train", keys=["x0", "x1"], captions=["c0", "c1"])
    joined = PairBatch.joined([one, two])
    assert joined.keys == ["k0", "x0", "k1", "k2", "x1", "k3"]
    assert joined.captions[1] == "c0"
    assert torch.equal(joined.images[[0, 2, 3, 5]], one.images)
    assert joined.pixels is not None
    assert two.pixels is not None
    assert torch.equal(joined.pixels[[1, 4]], two.pixels)
    assert joined.dataset == "fashiongen/train+other/train"


def test_equal_product_numbers_of_two_datasets_are_two_products() -> None:
    joined = PairBatch.joined([pair_batch(3), pair_batch(3, dataset="other/train")])
    assert len(set(joined.products.tolist())) == 6
    assert (joined.products >= 0).all()


def test_pixels_need_all_parts() -> None:
    assert PairBatch.joined([pair_batch(2), pair_batch(2, pixels=None)]).pixels is None


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (b"{", "k: meta.json: "),
        (b"[]", "k: meta.json: Expected `object`, got `array`"),
        (b'{"name": 5}', r"k: meta.json: Expected `str`, got `int` - at `\$.name`"),
        (b'{"product": [1]}', r"k: meta.json: .* - at `\$.product`"),
        (b'{"id": "\xff"}', "k: meta.json: "),
        (b'{"id": ' + b"[" * 100_000, "k: meta.json: "),
    ],
)
def test_a_meta_of_another_form_is_one_damaged_sample(meta: bytes, message: str) -> None:
    with pytest.raises(DamagedSample, match=message):
        meta_of(RawSample("k", {"meta.json": meta}), PairMeta)
    with pytest.raises(DamagedSample, match="k: has no meta.json"):
        meta_of(RawSample("k", {}), PairMeta)
