"""The site: symbols lead to the lines that define them, broken links are found, commands and configs are all there; built strictly where slow."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_docs import LABEL, LINK

from unifashion_pl.cli import main
from unifashion_pl.cli.main import TRAINER_COMMANDS, spelled
from unifashion_pl.commands import parser
from unifashion_pl.parameters import TRAININGS

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "src/unifashion_pl/configs"
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """What builds the site, as MkDocs loads it."""
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_symbol_of_the_paper_s_page_leads_to_the_line_that_defines_it(hooks: ModuleType) -> None:
    found = 0
    for text, path in hooks.linked(ROOT / "docs/paper.md"):
        if path.suffix != ".py" or not re.fullmatch(r"`[\w.]+`", text):
            continue
        line = hooks.line_of(path, text)
        parts = text.strip("`").split(".")
        if parts[-1] == path.stem or path.stem == "__init__":
            continue  # a file's own name
        assert line is not None, (text, path)
        assert re.search(rf"\b{parts[-1]}\b", path.read_text("utf-8").splitlines()[line - 1]), (text, path, line)
        found += 1
    assert found > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_links_between_pages_and_files_lead_somewhere_on_a_disk_too(page: Path) -> None:
    """As pages are read beside the code, without the site."""
    text = page.read_text("utf-8")
    targets = dict(LABEL.findall(text))
    made = ("reference/commands.md", "reference/configs.md")
    wrong = []
    for match in LINK.finditer(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        target = match["target"] or targets.get(match["label"], "")
        place = (page.parent / target.split("#")[0]).resolve()
        if target and not target.startswith(("http", "#")) and not place.exists() and not place.as_posix().endswith(made):
            wrong.append(target)
    assert wrong == []


def test_links_that_lead_nowhere_are_found(hooks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a id="here"><a href="b.html#there"><a href="#here"><img src="c.png"><a href="https://x.org/y">'
    )
    (tmp_path / "b.html").write_text('<a name="elsewhere"><a href="a.html#here"><a href="gone.html">')
    assert hooks.broken_links(tmp_path) == (
        ["a.html: b.html#there", "a.html: c.png", "b.html: gone.html"],
        {"https://x.org/y"},
    )


def test_commands_and_configs_are_those_of_the_program(hooks: ModuleType) -> None:
    page = hooks.commands_page()
    for words in ("data shards", "index search", "tryon", "weights import", "doctor"):
        assert f"usage: unifashion {words}" in page
    assert "--where" in page
    configs = {path.name for path in (ROOT / "src/unifashion_pl/configs").glob("*.yaml")}
    assert {name for name in configs if f"[`{name}`]" not in hooks.configs_page()} == set()


def test_the_page_on_memory_has_the_figures_of_all_trainings() -> None:
    page = (ROOT / "docs/howto/memory.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert rows == [(" ".join(f"`{name}`" for name in one.configs), f"{one.gib}") for one in TRAININGS]


def blocks(page: Path) -> str:
    """The Python of a page."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def commands(page: Path) -> list[list[str]]:
    """Commands of this program in a page's indented blocks, as words; lines that end with a backslash go on."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    found = re.findall(r"^    .*?\bunifashion +((?!is\b)[^#\n;)]+)", text, re.MULTILINE)
    return [shlex.split(line) for line in found if re.match(r"[a-z]", line)]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_page_are_understood(page: Path) -> None:
    """Their words and options; what they need is not there."""
    for words in commands(page):
        if words[0] in TRAINER_COMMANDS:
            named = {words[i + 1] for i, word in enumerate(words) if word == "--config"}
            own = set(re.findall(r"^# (\S+\.yaml)$", page.read_text("utf-8"), re.MULTILINE))
            assert {name for name in named if not (CONFIGS / name).is_file()} <= own | {"NAME.yaml", "shoes.yaml"}, words
        else:
            argv = spelled(words, "-")
            _, left = parser(argv).parse_known_args(argv)
            assert left == [], words


@pytest.mark.slow
def test_the_first_minutes_are_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs/tutorials/first-minutes.md"
    exec(compile(blocks(page), str(page), "exec"), {"__name__": "of the page"})
    commands = re.findall(r"^    unifashion ((?:generate|caption) .*)$", page.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        main(shlex.split(command))


@pytest.mark.slow
def test_the_lines_of_the_readme_run_and_find_the_blue_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(ROOT / "README.md"), "README.md", "exec"), {"__name__": "of the README"})
    told = capsys.readouterr().out
    assert "in red" in told
    assert told.index("blue.png") < told.index("dress.png")


@pytest.mark.slow
def test_the_site_is_built_strictly(hooks: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    assert "http" in (tmp_path / "site/outside.txt").read_text()
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', (tmp_path / "site/index.html").read_text())
    assert [address for address in loaded if "canonical" not in address] == []
