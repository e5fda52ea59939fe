"""What an index needs no model for imports none: searching by a text, and taking images out, are commands of a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from galleries import pictures
from PIL import Image

from unifashion_pl.module import UniFashionModule

HEAVY = {"torch", "torchvision", "lightning", "transformers", "timm", "diffusers", "peft"}


def loaded_by(code: str) -> tuple[str, set[str]]:
    """What a program in a process of its own prints, and the modules that it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    *said, modules = done.stdout.splitlines()
    return "\n".join(said), set(modules.split())


def test_an_index_is_read_and_changed_without_torch() -> None:
    _, loaded = loaded_by("from unifashion_pl.gallery import store, ranking; from unifashion_pl.commands import index")
    assert HEAVY & loaded == set()
    assert "unifashion_pl.gallery.store" in loaded


def test_a_search_by_text_needs_no_torch_and_finds_what_the_model_finds(tmp_path: Path) -> None:
    for i, picture in enumerate(pictures(6)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    model = UniFashionModule.from_pretrained("tiny")
    captions = ["a red dress", "", "a blue shirt", "", "", "black"]
    gallery = model.gallery([tmp_path / f"{i}.png" for i in range(6)], captions=captions)
    gallery.save(tmp_path / "index")
    arguments = ["index", "search", str(tmp_path / "index"), "--text", "a long red dress", "--json"]
    said, loaded = loaded_by(f"from unifashion_pl.cli import main; main({arguments})")
    assert HEAVY & loaded == set()
    hits, expected = json.loads(said)["hits"], gallery.search("a long red dress")
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)
