"""Columns of batches: one behind the other, chosen rows, moved; batches of several datasets as one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from small import pair_batch, triplet_batch, tryon_batch
from torch import Tensor

from unifashion_pl.data.samples import Columns, EditBatch, GalleryBatch, PairBatch, QueryBatch, TripletBatch, TryOnBatch
from unifashion_pl.tasks.editing import edit_batch


def test_every_prefix_of_a_joined_batch_holds_all_parts_in_proportion() -> None:
    one, two = pair_batch(4), pair_batch(2, dataset="other/train", keys=["x0", "x1"], captions=["c0", "c1"])
    joined = PairBatch.interleave([one, two])
    assert joined.keys == ["k0", "x0", "k1", "k2", "x1", "k3"]
    assert joined.captions[1] == "c0"
    assert torch.equal(joined.images[[0, 2, 3, 5]], one.images)
    assert joined.pixels is not None
    assert two.pixels is not None
    assert torch.equal(joined.pixels[[1, 4]], two.pixels)
    assert joined.dataset == "fashiongen/train+other/train"


def test_equal_product_numbers_of_two_datasets_are_two_products() -> None:
    joined = PairBatch.interleave([pair_batch(3), pair_batch(3, dataset="other/train")])
    assert len(set(joined.products.tolist())) == 6
    assert (joined.products >= 0).all()


def test_pixels_need_all_parts() -> None:
    assert PairBatch.interleave([pair_batch(2), pair_batch(2, pixels=None)]).pixels is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_parts_in_pinned_memory_are_joined_there(monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format) -> None:
    images = torch.randint(0, 256, (3, 3, 8, 6), dtype=torch.uint8).contiguous(memory_format=layout)
    parts = [pair_batch(3, images=images, pixels=None), pair_batch(3, images=images, pixels=None, dataset="other/train")]
    asked: list[dict[str, Any]] = []
    plain, empty = PairBatch.interleave(parts), torch.empty

    def pinned(*shape: Any, pin_memory: bool = False, **more: Any) -> Tensor:  # there is no such memory without a GPU
        asked.append({"pin_memory": pin_memory, **more})
        return empty(*shape, **more)

    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: tensor.dtype == torch.uint8)
    joined = PairBatch.interleave(parts)
    assert torch.equal(joined.images, plain.images)
    assert joined.images.is_contiguous(memory_format=layout)
    assert asked == [{"pin_memory": True, "dtype": torch.uint8, "memory_format": layout}]


def gallery_batch() -> GalleryBatch:
    return GalleryBatch(
        keys=["a", "b", "c"],
        images=pair_batch(3).images,
        categories=["dress"] * 3,
        captions=["", "x", ""],
        in_union=[True, False, True],
        dataset="x/val",
        planned={"dress": 9},
    )


def equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, Tensor) else bool(a == b)


ALL = [
    pair_batch(),
    triplet_batch(),
    tryon_batch(),
    edit_batch(tryon_batch(), ["tryon", "design", "text", "tryon"]),
    gallery_batch(),
]


@pytest.mark.parametrize("batch", ALL, ids=lambda batch: type(batch).__name__)
def test_samples_one_behind_the_other_are_the_batch(batch: Columns) -> None:
    whole = type(batch).cat([batch[i] for i in range(len(batch))])
    assert all(equal(getattr(whole, f.name), getattr(batch, f.name)) for f in fields(batch))


@pytest.mark.parametrize("batch", ALL, ids=lambda batch: type(batch).__name__)
def test_chosen_rows_are_those_of_every_column(batch: Any) -> None:
    n = len(batch)
    part = batch[[2, 0, 2]]
    assert len(part) == 3
    for f in fields(batch):
        old, new = getattr(batch, f.name), getattr(part, f.name)
        if isinstance(old, Tensor) or (isinstance(old, list) and len(old) == n):
            assert all(equal(new[i], old[row]) for i, row in enumerate((2, 0, 2))), f.name
        else:
            assert new == old, f.name
    assert len(batch[1:]) == n - 1
    assert len(batch[-1:]) == 1
    with pytest.raises(IndexError):
        batch[n]


def test_what_all_samples_share_is_not_a_column() -> None:
    common = {
        kind.__name__: sorted(f.name for f in fields(kind) if "common" in f.metadata)
        for kind in (PairBatch, TripletBatch, GalleryBatch, QueryBatch, TryOnBatch, EditBatch)
    }
    assert common == {
        "PairBatch": ["dataset"],
        "TripletBatch": ["dataset"],
        "GalleryBatch": ["allow_unsafe_captions", "dataset", "planned"],
        "QueryBatch": ["dataset", "joiner", "planned"],
        "TryOnBatch": ["dataset", "paired"],
        "EditBatch": [],
    }


def test_a_column_that_one_part_lacks_all_lack() -> None:
    assert TryOnBatch.cat([tryon_batch(1), tryon_batch(1, pose=None)]).pose is None
    assert GalleryBatch.cat([gallery_batch()] * 2).provenance == []


def test_a_batch_goes_to_a_device_as_a_whole() -> None:
    batch = replace(tryon_batch(2), worn=None)
    moved = batch.to("meta")
    assert {value.device.type for value in moved.columns().values() if isinstance(value, Tensor)} == {"meta"}
    assert (moved.keys, moved.worn, moved.dataset) == (batch.keys, None, batch.dataset)
    assert batch.pixels.device.type == "cpu"


def test_a_batch_is_pinned_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning needs a GPU; here a copy stands for the pinned tensor."""
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: (pinned.append(tensor.clone()), pinned[-1])[1])
    batch = pair_batch(3)
    there = batch.pin_memory()
    tensors = [value for value in there.columns().values() if isinstance(value, Tensor)]
    assert len(pinned) == len(tensors) == 3
    assert all(any(value is one for one in pinned) for value in tensors)
    assert there.keys == batch.keys
    assert torch.equal(there.images, batch.images)


@pytest.mark.parametrize("batch", [pair_batch(3), triplet_batch(3), tryon_batch(3), edit_batch(tryon_batch(2), ["tryon"] * 2)])
def test_a_batch_says_its_shapes_and_shows_its_pictures(batch: Columns) -> None:
    assert len(repr(batch)) < 900
    assert repr(batch).startswith(f"{type(batch).__name__} of {len(batch)}")
    made = batch._repr_html_()
    assert 0 < made.count("data:image/jpeg") <= 12
    assert len(made) < 100_000


def test_texts_of_a_batch_are_escaped_and_a_batch_of_many_is_bounded() -> None:
    many = replace(PairBatch.cat([pair_batch(4)] * 20), texts=["<script>"] * 80)
    assert "<script" not in many._repr_html_()
    assert many._repr_html_().count("<figure") <= 12
