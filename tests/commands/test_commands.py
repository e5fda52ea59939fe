"""The tree of commands: names, both spellings of options, what is imported for which."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from inspect import Parameter, signature
from pathlib import Path

import pytest

from unifashion_pl.cli import main
from unifashion_pl.commands import COMMANDS, parser
from unifashion_pl.commands.signature import Command, summary


def all_commands() -> Iterator[tuple[list[str], Command]]:
    for command in COMMANDS:
        name, actions = (command[0], command[2]()) if isinstance(command, tuple) else (None, (command,))
        for action in actions:
            words = [action.__name__.rstrip("_")]
            yield ([name, *words] if name else words), action


@pytest.mark.parametrize(
    ("words", "command"), [*all_commands()], ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_every_command_has_a_help_and_refuses_what_it_does_not_know(
    words: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: unifashion {' '.join(words)} [-h]")
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--no-such-option"])
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words[:-1], "--help"])
    assert summary(command).split()[0] in capsys.readouterr().out
    kinds = {p.name: p.kind for p in signature(command).parameters.values()}
    assert all(kind is not Parameter.VAR_KEYWORD for kind in kinds.values())


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["caption", "a.png", "--max-bad", "3"], "max_bad", 3),
        (["caption", "a.png", "--trust-remote-code"], "trust_remote_code", True),
        (["data", "shards", "mgd", "--root", "r", "--out", "o", "--allow-missing"], "allow_missing", True),
        (["tryon", "p.png", "g.png", "--garment-guidance=2.5"], "garment_guidance", 2.5),
        (["ablations", "table4", "--out", "o", "--phase1-epochs", "1"], "phase1_epochs", 1),
    ],
)
def test_both_spellings_of_an_option_mean_the_same(
    words: list[str], name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr("unifashion_pl.commands.call", lambda _, values: found.append(values[name]))
    option = f"--{name.replace('_', '-')}"
    main(words)
    main([word.replace(option, f"--{name}") for word in words])
    assert found == [value, value]


def test_an_option_that_nobody_knows_is_named_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--max_nothing", "--max-nothing", "--max_nothing=3"):
        with pytest.raises(SystemExit):
            main(["caption", "a.jpg", option])
        assert capsys.readouterr().err.endswith(f"error: unrecognized arguments: {option}\n")


def test_the_help_of_annotate_says_that_model_and_vlm_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "annotate", "--help"])
    assert "--vlm VLM not beside --model, in its place" in " ".join(capsys.readouterr().out.split())


def test_a_help_imports_no_more_than_its_own_command_needs(tmp_path: Path) -> None:
    code = "import sys; from unifashion_pl.cli import main; sys.argv = ['unifashion', *sys.argv[1:]]\ntry: main()\nexcept SystemExit: pass\n"
    code += "print(*[name for name in ('torch', 'numpy', 'h5py', 'lightning', 'jsonargparse', 'transformers') if name in sys.modules])"
    for words in (["--help"], ["data", "--help"], ["tryon", "--help"], ["weights", "import", "--help"], ["doctor", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == "", words


def test_a_command_that_does_not_exist_is_answered_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["dance"], []):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
    assert "invalid choice: 'dance' (choose from 'data', 'index', 'serve', 'caption'" in capsys.readouterr().err
    assert parser([]).prog == "unifashion"


@pytest.mark.parametrize(("words", "listed"), [([], "parameters"), (["index"], "search"), (["weights"], "import")])
def test_without_a_command_those_there_are_stand_on_stderr(
    words: list[str], listed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"usage: {' '.join(['unifashion', *words])} [-h]")
    assert any(line.split()[:1] == [listed] for line in err.splitlines())
