"""Scripts that stand by themselves, at their smallest: they run to the end and say what is so."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import pytest
import restore_garment
import retrieval_scale
from PIL import Image, ImageDraw


@pytest.mark.slow
def test_a_garment_of_another_look_is_painted_into_its_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "clothing.csv").open("w", newline="") as file, tarfile.open(tmp_path / "clothing-00.tar", "w") as archive:
        writer = csv.writer(file)
        writer.writerow(["image", "split"])
        for number in range(6):
            name, content = f"{number}.jpg", io.BytesIO()
            picture = Image.new("RGB", (120, 160), "white")
            ImageDraw.Draw(picture).rectangle((30, 40, 90, 130), (40 * number, 60, 200 - 30 * number))
            picture.save(content, "JPEG")
            writer.writerow([name, "train" if number < 4 else "validation"])
            entry = tarfile.TarInfo(name)
            entry.size = content.tell()
            content.seek(0)
            archive.addfile(entry, content)
    said = ["restore_garment.py", "--clothing", str(tmp_path), "--picture", str(tmp_path / "made.png"), "--photos", "4"]
    monkeypatch.setattr("sys.argv", [*said, "--held-out", "2", "--steps", "2", "--looks", "1", "--batch", "2"])
    restore_garment.main()
    lines = capsys.readouterr().out.splitlines()
    errors = {line[2:20].strip(): float(line.split("error")[1].split()[0]) for line in lines if "mean pixel error" in line}
    assert list(errors) == ["before", "after", "withheld", "another's", "autoencoder alone"]
    assert (
        errors["autoencoder alone"] < errors["before"]
    )  # what is only encoded and decoded is nearer than what was not learned
    with Image.open(tmp_path / "made.png") as sheet:
        assert sheet.size == (2 * 48 * (len(errors) + 3), 2 * 64 * 2)


def test_ranks_of_many_pairs_equal_a_direct_count(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(retrieval_scale, "bare_product", lambda args: (1.0, 1.0))
    monkeypatch.setattr("sys.argv", ["retrieval_scale.py", "--images", "120", "--texts", "80", "--tokens", "4", "--dim", "16"])
    retrieval_scale.main()
    said = capsys.readouterr().out
    assert "features of 120 images and 80 texts" in said
    assert "ranks equal a direct count" in said
