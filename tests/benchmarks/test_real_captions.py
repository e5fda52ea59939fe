"""The measurement of captions of real photos: its texts, its split, what counts as a circle; no model is trained."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import real_captions


def test_texts_of_three_styles_name_garment_and_colour_and_senders_stay_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {
            "image": f"{n}.jpg",
            "id": str(n),
            "category": "pants",
            "colour": "navy",
            "sender": str(n // 4),
            "split": "test" if n > 70 else "",
        }
        for n in range(80)
    ]
    with (tmp_path / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    real_captions.texts(tmp_path, tmp_path)  # items.csv is there, so that no photos are unpacked
    with (tmp_path / "captions.csv").open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [written[0][column] for column in ("short", "professional", "key_points")] == [
        "navy pair of pants",
        "A photo of a navy pair of pants, laid flat or hung.",
        "This is a pair of pants. Its main color is navy.",
    ]
    parts: dict[str, set[str]] = {}
    for row in written:
        if row["split"] != "test":
            parts.setdefault(row["sender"], set()).add(row["split"])
    assert all(len(found) == 1 for found in parts.values())
    assert set.union(*parts.values()) == {"train", "val"}
    assert [row["id"] for row in written if row["split"] == "test"] == [str(n) for n in range(71, 80)]


@pytest.mark.parametrize(
    ("text", "circles"),
    [
        ("a pair of a pair of a pair of pants", True),
        ("red red red", True),
        ("a pair of pants and a pair of shoes and a pair of hats", False),
        ("", False),
    ],
)
def test_circles_are_the_same_words_three_times_behind_each_other(text: str, circles: bool) -> None:
    assert real_captions.turns(text) is circles
