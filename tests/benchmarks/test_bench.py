"""The table of goals: which scripts are found, what a row says, and which rows a README keeps."""

from __future__ import annotations

import re
from pathlib import Path

import bench
import pytest
from sidebyside import Goal

ONE = """
from sidebyside import Goal

def goals():
    print("to stderr")
    return [Goal("step >= 2 x", "1 s", "eager 3 s", 3.0, 2.0, "loss 1e-8", "python benchmarks/one.py"),
            Goal("bytes | of a step", "2", "eager 3", 1.5, 1.6, "", "python benchmarks/one.py")]
"""


def folder(place: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (place / f"{name}.py").write_text(text)
    return place


def test_every_script_with_goals_is_found_and_no_other() -> None:
    paths = bench.HERE.glob("*.py")
    assert bench.scripts() == sorted(path.stem for path in paths if re.search(r"(?m)^def goals\(", path.read_text("utf-8")))
    assert {"index", "generation"} <= {*bench.scripts()}
    assert not {"bench", "sidebyside", "house"} & {*bench.scripts()}


def test_scripts_run_one_after_another_and_what_went_wrong_has_a_row(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = folder(
        tmp_path,
        one=ONE,
        absent="import some_peer_that_is_nowhere\n\ndef goals():\n    return []\n",
        broken="def goals():\n    raise RuntimeError('no')\n",
        helper="def other():\n    pass\n",
        ours="def goals():\n    import unifashion_pl.nothing_of_the_kind\n",
    )
    assert bench.scripts(place) == ["absent", "broken", "one", "ours"]
    assert bench.main(["--folder", str(place)]) == 1
    out, err = capfd.readouterr()
    lines = [line.split(" | ") for line in out.splitlines()[2:]]
    assert [line[0].removeprefix("| ") for line in lines] == [
        "absent: not measured: some_peer_that_is_nowhere, its peer, is not installed",
        "broken: not measured: the script failed (exit 1)",
        "step >= 2 x",
        "bytes \\| of a step",
        "ours: not measured: the script failed (exit 1)",
    ]
    assert [line[4] for line in lines[2:4]] == ["3.00 × (wanted 2)", "**1.50 ×, not met: wanted 1.6**"]
    assert "to stderr" in err
    assert "1 goals met, 1 not met" in err
    assert bench.main(["--folder", str(place), "one"]) == 0
    with pytest.raises(SystemExit):
        bench.main(["--folder", str(place), "two"])


def test_a_script_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    place = folder(tmp_path, slow="import time\n\ndef goals():\n    time.sleep(60)\n")
    found = bench.measured("slow", place, limit=3)
    assert found.failed
    assert found.reason == "not measured: stopped after 3 s"


def test_a_renewed_table_keeps_the_rows_of_scripts_that_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def goal(name: str, script: str) -> Goal:
        return Goal(name, "1 s", "peer 2 s", 2.0, None, "same", f"python benchmarks/{script}.py --goals")

    monkeypatch.setattr(bench, "scripts", lambda *_: ["one", "two"])
    text = f"before\n{bench.BEGIN}\n| a | b |\n| --- | --- |\n{bench.END}\nbehind\n"
    text = bench.renewed(text, [bench.Found("two", [goal("b", "two")]), bench.Found("gone", [goal("g", "gone")])], "2026-01-01")
    text = bench.renewed(text, [bench.Found("one", [goal("a", "one")])], "2026-01-02")
    assert [line.split(" | ")[0] for line in bench.table_of(text)] == ["| a", "| b"]
    assert "2026-01-01" in bench.table_of(text)[1]
    again = bench.renewed(text, [bench.Found("two", reason="not measured: x, its peer, is not installed")], "2026-01-03")
    assert bench.table_of(again)[1].startswith("| two: not measured: x")
    odd = bench.renewed(text, [bench.Found("one", [goal("a", "other")])], "2026-01-03")
    assert "| `python benchmarks/bench.py one` |" in odd
    assert text.startswith("before\n")
    assert text.endswith("behind\n")
    with pytest.raises(ValueError, match="no lines"):
        bench.table_of("no table")


def test_the_readme_has_a_row_of_every_script() -> None:
    """After a new script: ``make bench WRITE=1``, or ``python benchmarks/bench.py NAME --write``."""
    named = {name for line in bench.table_of(bench.README.read_text("utf-8")) for name in bench.scripts_of(line)}
    assert {*bench.scripts()} <= named
