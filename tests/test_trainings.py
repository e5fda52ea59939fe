"""Recipes of the ablations: what their configs build and where they write; stages that go on: ``test_ablations.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from unifashion_pl.ablations import TABLES
from unifashion_pl.configs import read_config
from unifashion_pl.module import UniFashionModule
from unifashion_pl.trainings import CAPTIONED, STATE, _state

RECIPES = ("base", "llm", "full")


def test_recipes_of_rows_that_read_gallery_captions_write_them() -> None:
    rows = [row for table in TABLES.values() for row in table.rows]
    assert {row.recipe for row in rows} == set(RECIPES)
    assert {row.recipe for row in rows if row.score != "image"} == set(CAPTIONED)


@pytest.mark.parametrize("recipe", RECIPES)
def test_configs_write_where_the_command_looks(recipe: str) -> None:
    for phase in ("phase1", "phase2"):
        config = read_config(f"ablations/{recipe}-{phase}.yaml")
        place = config["trainer"]["logger"]["init_args"]
        assert f"{place['save_dir']}/{place['name']}" == f"runs/{recipe}/{phase}"
        assert config["trainer"]["callbacks"][0]["init_args"]["dirpath"] == f"runs/{recipe}/{phase}/checkpoints"
        assert config["model"].get("init_from") == (f"runs/{recipe}/phase1" if phase == "phase2" else None)


@pytest.mark.parametrize(("recipe", "heads"), [("base", (False, False)), ("llm", (True, False))])
def test_recipes_build_the_heads_of_their_rows(recipe: str, heads: tuple[bool, bool]) -> None:
    for phase, start in (("phase1", {}), ("phase2", {"init_from": "tiny"})):
        model = UniFashionModule.from_config(f"ablations/{recipe}-{phase}.yaml", start)
        assert (model.caption_head is not None, model.diffusion_head is not None) == heads


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "malformed|truncated"),
        ('{"settings": 5, "done": []}', r"at `\$.settings`"),
        ('{"settings": {}, "done": [1]}', r"`\$.done\[0\]`"),
    ],
)
def test_a_damaged_state_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / STATE).write_text(text)
    with pytest.raises(ValueError, match=rf"{STATE} is not the state of an ablation: .*({message})"):
        _state(tmp_path, {})
