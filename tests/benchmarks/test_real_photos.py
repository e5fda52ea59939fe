"""Who learns from whose photos when all of them are named in parts by sender, and what is counted; fits and features are made by hand."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import real_photos
import torch
from PIL import Image
from real_data import COLUMNS, Row
from torch import Tensor

from unifashion_pl.adapt import Choices

FOLDS, N = 3, 120


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """120 photos of 40 senders; hats and shirts, every tenth of them scarfs, which the test (the last ten) does not have."""
    (tmp_path / "photos").mkdir()
    with (tmp_path / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(N + 10):
            category = "scarf" if i % 10 == 3 and i < N else ("hat", "shirt")[i % 2]
            Image.new("RGB", (4, 4)).save(tmp_path / f"photos/{i}.png")
            writer.writerow([f"{i}.png", category, category, i, category, "red", f"s{i // 3}", "test" if i >= N else ""])
    return tmp_path


def fold_of(i: int) -> int:
    return zlib.crc32(f"s{i // 3}".encode()) % FOLDS


def test_nobody_names_photos_of_senders_that_it_learned_from(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[tuple[set[str], Choices]] = []
    probed: list[tuple[set[int], set[int]]] = []

    def adapt(table: Path, root: Path, out: Path, chosen: Choices) -> str:
        with table.open() as file:
            runs.append(({row["id"] for row in csv.DictReader(file) if row["split"] == "test"}, chosen))
        return "fitted"

    def embed(model: object, out: Path, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor([[float(row["id"])] for row in rows])
        return numbers, numbers[:, None]

    def scored(model: object, texts: Sequence[str], tokens: Tensor) -> Tensor:
        assert texts == ["a photo of a hat", "a photo of a shirt"]
        right = tokens[:, 0, 0] % 2
        right = torch.where(tokens[:, 0, 0] < 6, 1 - right, right)  # 0 to 5 are named wrongly
        return torch.stack([1 - right, right])

    def linear_probe(features: Tensor, labels: Sequence[str], asked: Tensor, decay: float) -> list[str]:
        assert len(labels) == len(features)
        probed.append(({int(x) for x in features[:, 0]}, {int(x) for x in asked[:, 0]}))
        return ["hat"] * len(asked)

    model: Any = SimpleNamespace(retrieval_head=SimpleNamespace(clamped_temperature=torch.tensor(0.01)))
    model.eval = lambda: model
    fake: dict[str, Any] = {"adapt": adapt, "embed": embed, "scored": scored, "linear_probe": linear_probe}
    for name, value in fake.items():
        monkeypatch.setattr(real_photos, name, value)
    monkeypatch.setattr(real_photos, "UniFashionModule", SimpleNamespace(from_pretrained=lambda place: model))

    found = real_photos.crossed(work, FOLDS, None, None, [])

    judged = {i for i in range(N) if i % 10 != 3}
    assert [held for held, _ in runs] == [{str(i) for i in range(N) if fold_of(i) == part} for part in range(FOLDS)]
    assert [(chosen.seed, chosen.group) for _, chosen in runs] == [(part, "sender") for part in range(FOLDS)]
    assert len(probed) == 2 * FOLDS
    for number, (known, asked) in enumerate(probed):
        part = number % FOLDS
        assert asked == {i for i in judged if fold_of(i) == part}
        others = {i for i in judged if fold_of(i) != part}
        assert known == others if number >= FOLDS else known < others  # the fit keeps some senders for stopping
        assert not {i // 3 for i in known} & {i // 3 for i in asked}
    assert found["naming"] == [pytest.approx(1 - 5 / len(judged))]  # of 0 to 5 the third is a scarf
    hats = sum(i % 2 == 0 for i in judged) / len(judged)
    for said in ("the photos that the fit learns from", "all photos of other senders"):
        share, difference, low, high, p = found[f"probe of {said}"]
        assert (share, difference) == pytest.approx((hats, 1 - 5 / len(judged) - hats))
        assert low < difference < high
        assert p < 0.05
    assert f"{len(judged)} photos of 40 senders in 3 folds: naming 95.4 %, without the prior 95.4 %" in capsys.readouterr().out


def test_the_prior_decides_between_scores_that_are_near() -> None:
    model: Any = SimpleNamespace(retrieval_head=SimpleNamespace(clamped_temperature=torch.tensor(0.1)))
    scores = torch.tensor([[0.5, 0.5], [0.7, 0.8]])  # hat, shirt
    found = real_photos.weighed(model, scores, ["hat", "shirt"], ["hat"] * 10 + ["shirt"])
    assert (found[0] - found[1]).tolist() == pytest.approx([np.log(10) / 10 - 0.2, np.log(10) / 10 - 0.3])


def test_seeds_are_combined_by_photo() -> None:
    reference = np.array([True, False, False, True] * 50)
    better = np.array([True, True, False, True] * 50)
    mean, low, high, p = real_photos.beyond([better, reference], reference)
    assert mean == pytest.approx(0.125)
    assert 0 < low < mean < high
    assert p < 0.05
    assert real_photos.beyond([reference], reference) == (0, 0, 0, 1)
