"""Which model the page shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from unifashion_pl.demo.models import NEEDED, RUNS, Models, Shown, chosen, found_run

ALL = frozenset(NEEDED.values())


def stub(*learned: str, toy: bool = False) -> Any:
    return SimpleNamespace(learned=frozenset(learned), toy=toy)


def test_a_named_model_does_everything_itself_or_says_what_it_has_not_learned(tmp_path: Path) -> None:
    loaded: list[str] = []
    made = chosen("mine.ckpt", tmp_path, lambda source: loaded.append(source) or stub("retrieval"), lambda what: None)
    assert loaded == ["mine.ckpt"]
    assert made.sentence() == "the model mine.ckpt"
    assert made.missing("search") == ""
    assert made.missing("tryon").startswith("this model has not learned to paint persons in a garment")
    assert made.missing("caption").startswith("this model has not learned to caption")


def test_without_a_name_the_run_of_make_demo_is_shown_and_persons_are_painted_by_the_shipped_model(tmp_path: Path) -> None:
    for place in RUNS:
        run = tmp_path / place
        run.parent.mkdir(parents=True)
        run.touch()
        assert found_run(tmp_path) == run
        told: list[str] = []
        made = chosen(
            None,
            tmp_path,
            lambda source: stub(*ALL, toy=True) if source == "tiny" else stub("retrieval", "caption"),
            told.append,
        )
        assert str(run) in made.sentence()
        assert "Try-on and design are by the toy that comes with the package" in made.sentence()
        assert "knows nothing of photographs" in made.sentence()
        assert made.missing("tryon") == ""
        assert made.missing("composed") != ""
        assert len(told) == 2
        run.unlink()


def test_a_run_that_has_learned_persons_paints_them_itself(tmp_path: Path) -> None:
    (tmp_path / RUNS[0]).parent.mkdir(parents=True)
    (tmp_path / RUNS[0]).touch()
    made = chosen(None, tmp_path, lambda source: stub(*ALL), lambda what: None)
    assert made.persons is made.main


def test_in_an_empty_folder_it_is_the_shipped_model_and_the_page_says_that_it_is_a_toy(tmp_path: Path) -> None:
    loaded: list[str] = []
    made = chosen(None, tmp_path, lambda source: loaded.append(source) or stub(*ALL, toy=True), lambda what: None)
    assert loaded == ["tiny"]
    assert made.sentence() == "the toy that comes with the package: it has learned drawings, and knows nothing of photographs"


def test_who_answers_what() -> None:
    one, other = Shown(stub(), "one"), Shown(stub(), "other")
    assert {what: Models(one, other).of(what).name for what in NEEDED} == {
        **dict.fromkeys(NEEDED, "one"),
        "tryon": "other",
        "design": "other",
    }
