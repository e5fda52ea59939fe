"""Counting of hits, on scores and rows made by hand; what is held out; the picture."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import real_composed
import torch
from PIL import Image
from real_data import COLUMNS
from small import small_backbone

from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """40 photos by 20 senders: two classes, two colours."""
    (tmp_path / "photos").mkdir()
    with (tmp_path / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(40):
            category, colour = ("hat", "shirt")[i % 2], ("red", "blue")[i // 2 % 2]
            Image.new("RGB", (20, 30), colour).save(tmp_path / f"photos/{i}.png")
            title, text = f"a photo of a {category}", f"a photo of a {colour} {category}"
            writer.writerow([f"{i}.png", title, text, i, category, colour, f"s{i // 2}", "test" if i < 24 else ""])
    return tmp_path


@pytest.fixture
def model() -> UniFashionModule:
    torch.manual_seed(0)
    return UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8)).eval()


def test_every_photo_is_asked_for_in_the_other_colour_and_hits_are_counted(work: Path, model: UniFashionModule) -> None:
    gallery = real_composed.Photos(model, work, real_composed.rows_of(work / "items.csv", ["test"]))
    asked = real_composed.queries(gallery, gallery, 5)
    assert asked == [(i, ("blue", "red")[i // 2 % 2]) for i in range(24)]
    assert real_composed.queries(gallery, gallery, 7) == []
    found = real_composed.scores(model, gallery, gallery, asked, "in {}")
    assert {way: table.shape for way, table in found.items()} == dict.fromkeys(real_composed.WAYS, (24, 24))
    by_hand = torch.zeros(24, 24)
    for row, (i, colour) in enumerate(asked):
        for j in range(24):
            by_hand[row, j] = (j % 2 == i % 2) + 2 * (("red", "blue")[j // 2 % 2] == colour)
    results = real_composed.judged({**found, "composed": by_hand, "words alone": -by_hand}, gallery, gallery, asked)
    assert np.allclose(results["composed"]["right"], 0.6)
    assert np.allclose(results["composed"]["colour"], 1)
    assert np.allclose(results["words alone"]["right"], 0)
    assert np.allclose(results["composed"]["shared"], 1)


def test_a_composed_query_is_that_of_the_model(work: Path, model: UniFashionModule) -> None:
    gallery = real_composed.Photos(model, work, real_composed.rows_of(work / "items.csv", ["test"]))
    found = real_composed.scores(model, gallery, gallery, [(3, "blue")], "in {}")["composed"][0]
    vectors = model.compose([work / "photos/3.png"], ["in blue"])
    tokens = torch.cat([model.retrieval_head.image_embeddings(model.backbone, t[None], "target") for t in gallery.tokens])
    assert torch.allclose(found, torch.einsum("e,gqe->gq", torch.as_tensor(vectors[0]), tokens).amax(1), atol=1e-5)


def test_senders_are_held_out_whole(work: Path) -> None:
    rows = real_composed.rows_of(real_composed.hold_out(work), ["train", "val"])
    assert len(rows) == 16
    of = defaultdict(set)
    for row in rows:
        of[row["sender"]].add(row["split"])
    assert all(len(splits) == 1 for splits in of.values())


def test_the_tables_and_the_picture(
    work: Path, model: UniFashionModule, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_composed, "load", lambda source: model)
    line = f"real_composed.py measure --work {work} --least 5 --ckpt a b --before c --picture {work / 'sheet.png'}"
    monkeypatch.setattr("sys.argv", line.split())
    real_composed.main()
    said = capsys.readouterr().out
    assert "24 queries of 24 photos, 4 pairs of class and colour, 24 photos in the gallery, 2 seeds" in said
    assert "chance 25.0 %, of a random photo of the class 50.0 %" in said
    assert "class and colour: R@10, 4 texts" in said
    assert Image.open(work / "sheet.png").size == (770, 1100)
    monkeypatch.setattr("sys.argv", line.replace("--least 5", "--least 9").split())
    with pytest.raises(SystemExit, match="no colour has 9 photos of one class among 24"):
        real_composed.main()
