"""Functions as commands: what of a signature becomes which argument, and what the function is called with."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from unifashion_pl.commands.signature import FILE, add_arguments, call, summary

CALLED: dict[str, Any] = {}


@dataclass(kw_only=True)
class Place:
    """A dataclass of options."""

    where: Annotated[Path, "a folder"]
    cut_off: bool = False


def _late() -> dict[str, Any]:
    return {"choices": ("red", "blue"), "metavar": "COLOUR"}


def paint(
    first: str,
    *more: Annotated[Path, {"metavar": "PICTURE"}],
    size: Annotated[int, "in pixels"] = 3,
    style: Literal["a", "b"] = "a",
    word: str | None = None,
    share: float | None = None,
    config: list[str] | None = None,
    k: Annotated[int, {"flag": "-k"}] = 10,
    colour: Annotated[str, _late] = "red",
    out: Annotated[Path | None, FILE] = None,
    place: Place,
) -> int:
    """CSV of pictures -> a painting.

    More of it.
    """
    CALLED.clear()
    CALLED.update(locals())
    return 7


def parsed(*words: str) -> dict[str, Any]:
    parser = ArgumentParser(prog="paint", allow_abbrev=False)
    add_arguments(parser, paint)
    return vars(parser.parse_args(words))


def test_a_function_is_called_with_what_its_command_line_says() -> None:
    words = ["one", "b.png", "c.png", "--where", "x", "--cut-off", "--size", "4", "--style", "b", "--word", "null", "-k", "2"]
    more = ["--config", "p.yaml", "--config", "q.yaml", "--share", "0.5", "--colour", "blue"]
    assert call(paint, parsed(*words, *more)) == 7
    assert CALLED == {
        **{"first": "one", "more": (Path("b.png"), Path("c.png")), "size": 4, "style": "b", "word": "null", "share": 0.5},
        **{
            "config": ["p.yaml", "q.yaml"],
            "k": 2,
            "colour": "blue",
            "out": None,
            "place": Place(where=Path("x"), cut_off=True),
        },
    }
    call(paint, parsed("1", "2", "--where", "x"))
    assert (CALLED["first"], CALLED["more"], CALLED["size"], CALLED["config"]) == ("1", (Path("2"),), 3, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one", "b", "--where", "x", "--size", "big"], "argument --size: invalid int value: 'big'"),
        (["one", "b", "--where", "x", "--style", "c"], "argument --style: invalid choice: 'c' (choose from 'a', 'b')"),
        (["one", "b", "--where", "x", "--colour", "c"], "argument --colour: invalid choice: 'c' (choose from 'red', 'blue')"),
        (["one", "--where", "x"], "the following arguments are required: PICTURE"),
        (["one", "b"], "the following arguments are required: --where"),
        (["one", "b", "--whe", "x"], "the following arguments are required: --where"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed(*words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {said}\n")


def test_help_is_what_stands_beside_the_types(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed("--help")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--size SIZE" in shown
    assert "in pixels" in shown
    assert "--colour COLOUR" in shown
    assert "a folder" in shown
    assert summary(paint) == "CSV of pictures -> a painting"


def test_a_place_that_cannot_be_written_is_found_before_the_call(tmp_path: Path) -> None:
    CALLED.clear()
    with pytest.raises(OSError, match="cannot write"):
        call(paint, parsed("one", "b", "--where", "x", "--out", str(tmp_path)))
    assert CALLED == {}
