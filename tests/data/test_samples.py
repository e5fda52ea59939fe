"""Batches of several datasets as one."""

from __future__ import annotations

import torch
from small import pair_batch

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
