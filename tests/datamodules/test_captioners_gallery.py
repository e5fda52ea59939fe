"""Gallery captions that saw no query: made by a model of itself, from the image alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small import images, small_backbone
from torch import Tensor, nn
from unifashion_pl.datamodules.captioners import write_gallery_captions

from unifashion_pl.data.captions import read_library
from unifashion_pl.data.samples import GalleryBatch
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule


class Captioner(nn.Module):
    """Says a word that depends on nothing but the image; nothing at all of the one whose queries are the smallest."""

    styles = {"fashioniq": "Describe."}

    def generate(self, queries: Tensor, styles: list[str], **_: object) -> list[str]:
        values = queries.abs().mean((1, 2))
        return [" " if v == values.min() else f"look {v:.6f} " for v in values]


def make_model() -> UniFashionModule:
    torch.manual_seed(0)
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8))
    model.caption_head = Captioner()  # type: ignore[assignment]
    return model.eval()


def gallery(*ids: str, category: str = "dress") -> GalleryBatch:
    return GalleryBatch(
        keys=list(ids),
        images=images(8)[[int(i[1:]) for i in ids]],
        categories=[category] * len(ids),
        captions=[""] * len(ids),
        in_union=[True] * len(ids),
        dataset="fashioniq/val",
    )


def lines_of(path: Path) -> dict[str, dict[str, object]]:
    return {line["image"]: line for line in map(json.loads, path.read_text().splitlines())}


def test_own_captions_pass_the_guard_and_say_how_they_were_made(tmp_path: Path) -> None:
    model = make_model()
    out = write_gallery_captions(
        model, [gallery("g0", "g1", "g2"), gallery("g2", "g3", category="shirt")], tmp_path / "a" / "c.jsonl"
    )
    library = read_library(out, expected={"g0", "g1", "g2", "g3"})
    lines = lines_of(out)
    assert all(
        line["inputs"] == ["image"] and line["weights_hash"] and line["template"] == "Describe." for line in lines.values()
    )
    assert lines["g0"]["decoding"] == {"style": "fashioniq", "num_beams": 1, "max_new_tokens": 64}
    assert all(line["caption"] for line in library.values())
    assert (
        {i for i, line in lines.items() if line.get("empty")}
        == {i for i, line in library.items() if line["caption"] == "."}
        != set()
    )
    assert model.training is False


def test_own_captions_know_nothing_but_the_image(tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []
    batch = gallery("g0", "g1", "g2")
    other = gallery("g0", "g1", "g2", category="toptee")
    other.captions, other.in_union = ["is red with lace"] * 3, [False] * 3
    for name, part in (("a", batch), ("b", other)):
        seen.append(lines_of(write_gallery_captions(make_model(), [part], tmp_path / name)))  # type: ignore[arg-type]
    assert seen[0] == seen[1]
    moved = gallery("g0", "g1", "g2")
    moved.images = moved.images.flip(0)
    assert lines_of(write_gallery_captions(make_model(), [moved], tmp_path / "c")) != seen[0]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda m: setattr(m, "caption_head", None), RuntimeError, "no caption head"),
        (lambda m: None, ValueError, "no gallery image to caption"),
    ],
)
def test_captions_that_cannot_be_made(
    change: Callable[[UniFashionModule], None], error: type[Exception], match: str, tmp_path: Path
) -> None:
    model = make_model()
    change(model)
    with pytest.raises(error, match=match):
        write_gallery_captions(model, [], tmp_path / "c.jsonl")
    assert list(tmp_path.iterdir()) == []
