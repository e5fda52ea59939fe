"""Rows of anybody's own as samples: every form of a picture, and what rows lack."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion_pl.data.assemble import PairAssembler, TripletAssembler
from unifashion_pl.data.formats import encode_png
from unifashion_pl.data.reader import DamagedSample
from unifashion_pl.data.stream import Rank, TrainLoader
from unifashion_pl.data.table import TableSource
from unifashion_pl.data.texts import EVALUATION
from unifashion_pl.data.transforms import EncoderTransform

PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
PNG = encode_png(Image.fromarray(PIXELS))


def test_a_picture_is_the_same_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    forms: list[Any] = [
        Image.fromarray(PIXELS), PNG, "a.png", tmp_path / "a.png", PIXELS, torch.from_numpy(PIXELS).permute(2, 0, 1),
        PIXELS / 255, {"bytes": PNG, "path": None}, {"bytes": None, "path": "a.png"}, Image.open(BytesIO(PNG)),
    ]  # fmt: skip
    source = TableSource([{"image": form, "text": "a dress"} for form in forms], "pairs", root=tmp_path)
    assembler = PairAssembler(EncoderTransform(8, pad_ratio=None), text="name")
    batches = [assembler.sample(source.read(n), EVALUATION, source.dataset) for n in range(len(forms))]
    assert {bytes(batch.images.numpy().tobytes()) for batch in batches} == {PIXELS.transpose(2, 0, 1).tobytes()}
    assert [batch.texts + batch.captions + batch.keys for batch in batches[:1]] == [["a dress", "a dress", "00000000"]]


def test_columns_and_ids_are_the_rows_own() -> None:
    rows = [{"photo": PIXELS, "says": "red", "long": "A red dress.", "sku": 7, "kind": "dress"}]
    columns = {"image": "photo", "text": "says", "caption": "long", "id": "sku", "category": "kind"}
    source = TableSource(rows, "pairs", columns)
    batch = PairAssembler(EncoderTransform(8), text="name").sample(source.read(0), EVALUATION, "x")
    assert (batch.keys, batch.texts, batch.captions, batch.subcategories) == (["7"], ["red"], ["A red dress."], ["dress"])
    row = {"reference": PIXELS, "target": PNG, "text": ["is red", "is long"], "caption": "A dress."}
    made = TripletAssembler(EncoderTransform(8)).sample(TableSource([row], "triplets").read(0), EVALUATION, "x")
    assert (made.texts, made.captions) == (["Is red and is long"], ["A dress."])


class Slow:
    """A torch dataset that knows nothing of this library; its third row cannot be read."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == 2:
            raise OSError("a bad sector")
        return {"image": PIXELS, "text": f"number {number}"}


def test_order_resume_and_damage_are_as_with_shards() -> None:
    source = pickle.loads(pickle.dumps(TableSource(Slow(), "pairs")))

    def loader() -> TrainLoader[Any]:
        return TrainLoader(source, PairAssembler(EncoderTransform(8), text="name"), batch_size=2, rank=Rank(), max_bad=1)

    whole = loader()
    with pytest.warns(UserWarning, match="table/train row 2: OSError a bad sector"):
        first = [batch.texts for _ in range(2) for batch in whole]
    again = loader()
    again.load_state_dict({**whole.state_dict(), "epoch": 1, "batches": 0, "bad": whole.bad})
    assert [batch.texts for batch in again] == first[3:]
    with pytest.raises(DamagedSample, match="row 2"):
        source.read(2)


@pytest.mark.parametrize(
    ("rows", "columns", "error", "message"),
    [
        (iter([]), {}, TypeError, "expected rows by number"),
        ([], {}, ValueError, "has no rows"),
        ([(PNG, "red")], {}, TypeError, "row 0 of table/train is a tuple, expected a mapping like"),
        ([{"jpg": PNG, "text": "red"}], {}, ValueError, r"have no 'image', only jpg, text: say which column"),
        ([{"image": PNG, "text": "red"}], {"images": "jpg"}, ValueError, "columns of pairs are image, text"),
    ],
)
def test_rows_are_told_what_they_lack(rows: Any, columns: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TableSource(rows, "pairs", columns)


@pytest.mark.parametrize("value", [None, 3, "nowhere.jpg", b"no picture", torch.zeros(4, 4), PIXELS / 1.0])
def test_what_is_no_picture_is_a_damaged_sample(value: Any) -> None:
    source = TableSource([{"image": value, "text": "red"}], "pairs")
    with pytest.raises(DamagedSample, match="table/train row 0: image: "):
        source.read(0)
