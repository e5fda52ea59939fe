"""The measurement on drawn photos in the prepared form: it splits by senders, chooses, asks the gallery and draws; figures by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import real_identity
import torch
from PIL import Image
from real_data import COLUMNS, photos

N = 24


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for n in range(N):
        pixels = draw.integers(0, 256, (4, 3, 3), np.uint8)
        Image.fromarray(pixels).resize((60, 80), Image.Resampling.NEAREST).save(tmp_path / f"photos/{n}.png")
        split = "test" if n % 2 else ""
        rows.append([f"{n}.png", "", "", str(n), "ab"[n // 2 % 2], "", str(n), split])
    with (tmp_path / "items.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return tmp_path


def test_it_splits_chooses_measures_and_draws(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_identity, "KEPT", 40)
    real_identity.split(work)
    with (work / "fit.csv").open(encoding="utf-8") as file:
        splits = {row["id"]: row["split"] for row in csv.DictReader(file)}
    assert {id for id, split in splits.items() if split == "test"} == {str(n) for n in range(1, N, 2)}
    assert {id for id, split in splits.items() if split == real_identity.SPLIT} == {
        row["id"] for row in photos(work, test=False) if real_identity.kept(row)
    }
    real_identity.measure(work, "tiny", all_of_them=True, picture=work / "sheet.png")
    said = capsys.readouterr().out
    assert "tiny: appearance: " in said
    assert said.count("darker finds itself") == 2
    assert said.count("n = 12") == 4
    assert Image.open(work / "sheet.png").width == 112 * 11 + 40


def test_precision_counts_the_ten_nearest_others(work: Path) -> None:
    class Known:
        def search_many(self, images: list[Image.Image], k: int) -> list[list[real_identity.Row]]:
            class Found:
                def __init__(self, id: str) -> None:
                    self.id = id

            return [[Found(row["id"]) for row in rows[:k]] for _ in images]  # type: ignore[misc]

    rows = photos(work, test=True)
    found = real_identity.precision(Known(), [Image.new("RGB", (1, 1))] * len(rows), rows)  # type: ignore[arg-type]
    first = [row["category"] for row in rows[:11]]
    expected = [
        sum(one == row["category"] for i, one in enumerate(first) if rows[i]["id"] != row["id"]) / 10
        if row in rows[:11]
        else sum(one == row["category"] for one in first[:10]) / 10
        for row in rows
    ]
    assert torch.allclose(found, torch.tensor(expected))
