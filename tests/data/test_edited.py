"""Samples of pairs in other roles, without any picture being looked at."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from unifashion_pl.data.edited import EditSource, RecastSource, in_role, questions, shelves
from unifashion_pl.data.edits import EditItem, Edits
from unifashion_pl.data.reader import RawSample, SampleSource
from unifashion_pl.data.texts import Draw


class Shop(SampleSource):
    """Six items in three colours; a sample's picture is its number."""

    dataset, split, kind, hash = "shop/val", "val", "pairs", "0"
    fields, blocks, subsets, features = ("image", "meta"), (6,), {}, "tower"

    def __init__(self) -> None:
        self.keys = [f"k{i}" for i in range(6)]

    def read(self, number: int) -> RawSample:
        kept = {"image": torch.full((1, 2), number), "latents/image": torch.zeros(1)}
        return RawSample(self.keys[number], {"image.png": bytes([number]), "meta.json": b"{}"}, kept)


def edits() -> Edits:
    colours = ("red", "blue", "green")
    return Edits([EditItem(f"k{i}", f"id{i}", "hat", {"colour": colours[i % 3]}) for i in range(6)], ["colour"])


def test_a_picture_changes_its_role_with_all_that_was_made_of_it() -> None:
    fields, features = in_role(Shop().read(3), "target")
    assert fields == {"target.png": b"\x03"}
    assert features.keys() == {"target", "latents/target"}


def test_a_gallery_holds_every_picture_and_a_query_names_all_that_is_right() -> None:
    gallery, asked = shelves(Shop(), edits(), "shop-edits"), questions(Shop(), edits(), "shop-edits", 0)
    assert (gallery.dataset, gallery.split, gallery.features, gallery.planned) == (
        "shop-edits/val",
        "val",
        "tower",
        {"colour": 6},
    )
    assert [json.loads(gallery.read(i).fields["meta.json"])["id"] for i in range(6)] == [f"id{i}" for i in range(6)]
    for number in range(6):
        raw = asked.read(number)
        said = json.loads(raw.fields["meta.json"])
        place = int(said["reference"].removeprefix("id"))
        assert raw.fields["reference.png"] == bytes([place])
        wanted = ("red", "blue", "green").index(said["captions"][0].removeprefix("in "))
        assert said["right"] == [f"id{i}" for i in range(6) if i % 3 == wanted]
        assert wanted != place % 3
    again = questions(Shop(), edits(), "shop-edits", 0)
    assert pickle.loads(pickle.dumps(asked)).hash == again.hash != questions(Shop(), edits(), "shop-edits", 1).hash
    assert isinstance(asked, RecastSource)


def test_references_are_the_sources_own_and_edits_of_others_are_refused() -> None:
    source = EditSource(Shop(), edits(), "shop-edits")
    assert source.read(2).fields["image.png"] == b"\x02"
    assert source.lone == []
    assert source.drawn("k2", Draw(0, 1)) == source.drawn("k2", Draw(0, 1))
    assert {source.drawn("k2", Draw(0, epoch))[0].target % 3 for epoch in range(20)} == {0, 1}
    others = Edits(edits().items[:5], ["colour"])
    with pytest.raises(ValueError, match="shop/val has 6 samples, and the edits are among 5 others"):
        EditSource(Shop(), others, "shop-edits")
