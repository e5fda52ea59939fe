"""Every distinct image passes the vision tower once, whatever is asked of it; what is kept for that, and where."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from data.rawdata import write_fashioniq
from evaluation.batches import SMALL, gallery, make_model, pairs, queries, split
from small import images, tryon_batch
from torch import Tensor
from unifashion_pl.datamodules import FashionIQDataModule

from unifashion_pl.data.samples import Batch
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.evaluation.seen import Seen, distinct
from unifashion_pl.module import UniFashionModule


class Counter:
    """Counts the images that pass a model's tower."""

    def __init__(self, model: UniFashionModule) -> None:
        self.images: list[bytes] = []
        self._forward = model.backbone.vision.forward
        model.backbone.vision.forward = self._counted  # type: ignore[method-assign]

    def _counted(self, pictures: Tensor) -> Tensor:
        self.images += [picture.numpy().tobytes() for picture in pictures]
        return self._forward(pictures)


def passed(model: UniFashionModule, batches: Sequence[Batch], out: Path | None, **settings: Any) -> list[bytes]:
    """Images that pass the tower in a test, or where nothing is written in a validation."""
    counter = Counter(model)
    evaluator = Evaluator(**{**SMALL, "shown": 3, **settings})
    evaluator.start("validation" if out is None else "test")
    for batch in batches:
        evaluator.update(model, batch)
    evaluator.finish(out)
    return counter.images


def asked() -> list[Batch]:
    """Texts that every rewriting changes, so that robustness asks five times more."""
    texts = [f"is {word} and has long sleeves" for word in ("red", "blue", "black", "green")]
    views = replace(pairs(), images=images(12, seed=7))
    return [*split(views, 5), *split(gallery(), 3), *split(replace(queries(), texts=texts), 3)]


@pytest.mark.parametrize("settings", [{}, {"robustness": True}, {"ablations": False}])
def test_each_distinct_image_of_a_test_passes_the_tower_once(tmp_path: Path, settings: dict[str, Any]) -> None:
    """12 views and a gallery of 10, in which all references are; with halves of queries also the one grey picture. Captions in
    all styles, reconstructions and composed pictures are made of the same."""
    batches = asked()
    seen = passed(make_model(), batches, tmp_path, **settings)
    grey = images(1)[0].fill_(128).numpy().tobytes()
    expected = {x.numpy().tobytes() for x in (*images(12, seed=7), *gallery().images)}
    assert len(expected) == 22
    assert sorted(seen) == sorted(expected | ({grey} if settings.get("ablations", True) else set()))


def test_each_distinct_image_of_a_validation_passes_the_tower_once() -> None:
    assert len(passed(make_model(), asked(), None)) == 22
    assert len(passed(make_model(), asked(), None, validation_captions=3, validation_images=2)) == 22


def test_a_person_s_garment_and_sketch_pass_once_though_five_pictures_are_painted(tmp_path: Path) -> None:
    assert len(passed(small.painter(), [tryon_batch(2)], tmp_path, steps=1, max_edits=None)) == 4


def test_a_reference_that_is_in_no_gallery_passes_once(tmp_path: Path) -> None:
    again = replace(queries(), reference_ids=["x", "y", "x", "y"], references=images(4, seed=3)[[0, 1, 0, 1]])
    assert len(passed(make_model(), [*split(gallery(), 3), *split(again, 1)], tmp_path)) == 10 + 2 + 1


def test_values_are_those_of_a_tower_that_runs_each_time() -> None:
    """Kept in memory, in a file, or not at all: the same numbers."""
    model, pictures = make_model(), gallery().images
    with torch.no_grad():
        expected = model.backbone.vision(pictures)
        size = expected[0].numel() * expected.element_size()
        names = [f"g{i}" for i in range(10)]
        rooms = ((2**30, 0, 9), (2 * size, 3 * size, 5), (0, 2**30, 9), (0, 0, 0))
        for memory, file, kept in rooms:
            seen, counter = Seen(memory, file), Counter(model)
            assert torch.equal(seen.features(model, pictures, names, again=[i != 1 for i in range(10)]), expected)
            for rows in ([3, 0, 3], [9, 1], [2, 8, 4]):
                seen.turn()
                got = seen.features(model, pictures[rows], [names[i] for i in rows])
                torch.testing.assert_close(got, expected[rows], rtol=1e-5, atol=1e-5)
            assert len(seen._kept._here) + len(seen._kept._there) == kept
            assert len(counter.images) == 10 + {9: 1, 5: 3, 0: 7}[kept]


def test_what_is_only_guessed_takes_no_file() -> None:
    model, seen = make_model(), Seen(memory=0)
    with torch.no_grad():
        seen.features(model, images(3), "abc", again=True, sure=False)
        assert seen._kept._file is None
        seen.features(model, images(2, seed=1), "de", again=[True, False])
    assert [*seen._kept._there] == ["d"]


def test_a_full_disk_costs_passes_and_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Iterator[bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    model, seen = make_model(), Seen(memory=0)
    with torch.no_grad():
        with pytest.warns(UserWarning, match="No space left on device.*some images pass the vision tower again"):
            first = seen.features(model, images(3), "abc", again=True)
        seen.turn()
        counter = Counter(model)
        torch.testing.assert_close(seen.features(model, images(3), "abc", again=True), first)
    assert len(counter.images) == 3


def test_features_that_were_made_before_come_back_as_they_are() -> None:
    made = torch.randn(2, 16, 5, dtype=torch.bfloat16)
    assert Seen().features(make_model(), made, "ab") is made


def test_distinct_rows() -> None:
    assert distinct(torch.tensor([[1, 2], [3, 4], [1, 2], [3, 4]])) == [0, 1, 0, 1]


def test_fashion_iq_says_which_images_come_again(tmp_path: Path) -> None:
    """References of queries, so that of others nothing is kept; an id that two categories list stands in both galleries."""
    write_fashioniq(tmp_path)
    path = tmp_path / "image_splits/split.shirt.val.json"
    path.write_text(path.read_text().replace("[", '["DVA00001", ', 1))
    data = FashionIQDataModule(tmp_path, image_size=32, eval_batch_size=4)
    data.prepare_data()
    shelves, questions = (list(loader) for loader in data.val_dataloader())
    again = {key for batch in shelves for key, flag in zip(batch.keys, batch.again) if flag}
    assert again == {key for batch in questions for key in batch.reference_ids} | {"DVA00001"}
    pictures = {key: image.numpy().tobytes() for batch in shelves for key, image in zip(batch.keys, batch.images)}
    assert sorted(passed(make_model(), [*shelves, *questions], None)) == sorted(pictures.values())
