"""Many pictures of which some cannot be read: all are found first and named together, or left out by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import images, small_backbone

from unifashion_pl.inference.images import UnreadableImages, image_list, open_image, unreadable
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Six pictures: 1 is cut, 3 is empty, 4 is not there."""
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        Image.fromarray(images(1, 2, seed=i)[0].permute(1, 2, 0).numpy()).resize((40, 40)).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    paths[3].write_bytes(b"")
    paths[4].unlink()
    return paths


def test_all_are_named_in_one_error(files: list[Path]) -> None:
    with pytest.raises(UnreadableImages, match="3 of 6 images cannot be used, allowed are 2") as caught:
        unreadable(files, 2)
    assert isinstance(caught.value, ValueError)
    assert sorted(caught.value.bad) == [1, 3, 4]
    for number, reason in ((1, "truncated"), (3, "empty file"), (4, "not found")):
        assert str(files[number]) in caught.value.bad[number]
        assert reason in str(caught.value)
    assert "--max-bad 3" in str(caught.value)


def test_headers_alone_do_not_tell_what_is_cut(files: list[Path]) -> None:
    assert sorted(unreadable(files, 3, headers=True)) == [3, 4]
    with pytest.raises(UnreadableImages, match="2 of 6 images cannot be used, allowed are 1: .*empty file, .*not found"):
        unreadable(files, 1, headers=True)


def test_as_many_as_are_allowed_are_returned_by_position(files: list[Path]) -> None:
    assert sorted(unreadable(files, 3)) == [1, 3, 4]
    pixels = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), Image.open(files[0])]
    assert unreadable(pixels, 1)[1].startswith("image 1: pixels have shape (4, 4)")


def test_a_gallery_leaves_them_out_by_name_and_is_that_of_the_others(files: list[Path]) -> None:
    torch.manual_seed(0)
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8)).eval()
    with pytest.raises(UnreadableImages):
        model.gallery(files)
    texts = [f"text {i}" for i in range(6)]
    with pytest.warns(UserWarning, match=r"3 images are left out: .*1\.png.*3\.png.*4\.png"):
        gallery = model.gallery(files, captions=texts, max_bad=3)
    good = [files[0], files[2], files[5]]
    expected = model.gallery(good, captions=[texts[0], texts[2], texts[5]])
    assert gallery.ids == expected.ids == [str(path) for path in good]
    assert gallery.captions == expected.captions
    assert all(torch.equal(tokens, expected.tokens[name]) for name, tokens in gallery.tokens.items())
    with pytest.warns(UserWarning, match="left out"):
        assert model.gallery(files, ids=list("abcdef"), max_bad=3).ids == ["a", "c", "f"]


def test_pictures_are_turned_upright_and_laid_over_white(tmp_path: Path) -> None:
    tall = Image.new("RGB", (10, 20), (200, 0, 0))
    exif = tall.getexif()
    exif[0x0112] = 6
    tall.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (20, 10)
    assert open_image(Image.new("RGBA", (2, 2), (9, 9, 9, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_image_lists() -> None:
    assert len(image_list(images(3))) == 3
    assert len(image_list(images(1)[0])) == 1
    assert image_list("a.jpg") == ["a.jpg"]
