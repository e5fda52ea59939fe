"""Pages in docs/: every file and every symbol they name is there, and values of the page on the paper are those of code and configs.

In ``docs/paper.md`` a symbol is a link in code (`[`losses.itc_loss`][losses]`), and a value of ours a code span with `` = ``:
``2 composed: trainer.max_epochs = 15`` is what a training of the stage would print as its config, ``optim.PRESETS.llm.lr = 2e-5`` what the
code says.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from unifashion_pl.cli import main
from unifashion_pl.parameters import STAGES

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src/unifashion_pl"
PAPER, ARCHITECTURE = (ROOT / f"docs/{name}.md" for name in ("paper", "architecture"))
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\[]+)\](?:\[(?P<label>[^\]]+)\]|\((?P<target>[^)\s]+)\))")
LABEL = re.compile(r"^\[([^\]]+)\]: (\S+)$", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
#: A word that is nowhere else.
GONE = "not" + "where"
#: Endings of what runs write.
OF_RUNS = (".csv", ".ckpt", ".jsonl")
#: Where a name may stand without its folders.
BASES = (ROOT, SOURCES, ROOT / "docs")


@cache
def names_of(path: Path) -> frozenset[str]:
    """``name`` and ``Class.name`` of whatever a Python file, or a file of a package, defines: functions, classes, values, attributes."""
    if path.is_dir():
        return frozenset().union(*map(names_of, path.glob("*.py")))
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        found |= names_in(node)
        if isinstance(node, ast.ClassDef):
            inside = set().union(*(names_in(inner) for inner in ast.walk(node)))
            inside |= {
                a.arg for n in ast.walk(node) if isinstance(n, ast.FunctionDef) for a in (*n.args.args, *n.args.kwonlyargs)
            }
            found |= {f"{node.name}.{name}" for name in inside}
        elif isinstance(node, ast.FunctionDef):
            found |= {f"{node.name}.{a.arg}" for a in (*node.args.args, *node.args.kwonlyargs)}
    return frozenset(found)


def names_in(node: ast.AST) -> set[str]:
    """Names that a node itself gives: a definition's, an assignment's, an import's, an attribute's."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.ImportFrom | ast.Import):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    flat = [inner for target in targets for inner in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {t.id for t in flat if isinstance(t, ast.Name)} | {t.attr for t in flat if isinstance(t, ast.Attribute)}


def holds(path: Path, symbol: str) -> bool:
    """Whether a file defines a dotted name, whose first parts may be the file's folders and its own name."""
    parts = symbol.split(".") if symbol else []
    while parts and parts[0] in (*path.with_suffix("").parts, "unifashion_pl"):
        parts = parts[1:]
    return not parts or (len(parts) <= 2 and ".".join(parts) in names_of(path))


def exists(name: str) -> bool:
    """Whether a name as pages write it (``data/reader.ShardSource.read``, ``data/decode``, ``metrics/lines.py``, ``tasks.base``) is there."""
    name = name.removesuffix("/")
    *folders, last = name.split("/")
    parts = [*folders, *last.split(".")]
    for base in BASES:
        if (base / name).exists():
            return True
        for n in range(len(parts), len(folders), -1):
            for place in (base.joinpath(*parts[:n]), base.joinpath(*parts[: n - 1], f"{parts[n - 1]}.py")):
                if place.exists() and (place.is_dir() or place.suffix == ".py") and holds(place, ".".join(parts[n:])):
                    return True
    return False


@cache
def words() -> frozenset[str]:
    """Every word of code, configs and tests."""
    places = [
        path for folder in ("src", "datamodules", "benchmarks", "checkpoints", "tests") for path in (ROOT / folder).rglob("*")
    ]
    files = [
        p for p in (*places, ROOT / "setup.cfg", ROOT / "Makefile") if p.suffix in (".py", ".yaml", ".cfg", "") and p.is_file()
    ]
    return frozenset(word for path in files for word in re.findall(r"[A-Za-z_]\w+", path.read_text("utf-8", errors="ignore")))


def own(name: str) -> bool:
    """Whether a name begins with a room or a file of this project, so that it has to be found there."""
    head = re.split(r"[/.]", name)[0]
    return head != "" and any((base / head).exists() or (base / f"{head}.py").exists() for base in (SOURCES, ROOT))


def missing_of(span: str) -> list[str]:
    """What a code span names and this project does not have: a file or a symbol by its place, else words that stand nowhere in it."""
    name = span.removeprefix("python ")
    if re.fullmatch(r"[\w.-]+[/.][\w./-]*", name) and own(name) and not name.endswith(OF_RUNS):
        return [] if exists(name) else [span]
    return [f"{span}: {word}" for word in re.findall(r"[A-Za-z_]\w{2,}", span) if word not in words()]


def links(page: Path) -> list[tuple[str, str]]:
    """(text, target) of every link, with the targets of labels filled in."""
    text = page.read_text("utf-8")
    targets = dict(LABEL.findall(text))
    return [(m["text"], m["target"] or targets.get(m["label"], "no such label")) for m in LINK.finditer(text)]


@pytest.mark.parametrize(
    "page",
    [PAPER, ARCHITECTURE, ROOT / "README.md", ROOT / "docs/extending.md", ROOT / "docs/predictions.md"],
    ids=lambda page: page.name,
)
def test_every_link_leads_somewhere_and_a_symbol_to_the_file_that_has_it(page: Path) -> None:
    wrong = []
    for text, target in links(page):
        place = (page.parent / target.split("#")[0]).resolve()
        if target.startswith(("http", "#")):
            continue
        symbol = SPAN.fullmatch(text)
        if not place.exists() or (symbol and place.suffix == ".py" and not holds(place, symbol[1])):
            wrong.append((text, target))
    assert wrong == []
    labels = [label for label, _ in LABEL.findall(page.read_text("utf-8"))]
    assert sorted(labels) == sorted({m["label"] for m in LINK.finditer(page.read_text("utf-8")) if m["label"]})


@pytest.mark.parametrize("page", [PAPER, ARCHITECTURE], ids=lambda page: page.name)
def test_every_file_and_symbol_that_a_page_names_exists(page: Path) -> None:
    text = LINK.sub("", page.read_text("utf-8"))
    spans = [span for span in SPAN.findall(text) if " = " not in span]
    assert [missing for span in spans for missing in missing_of(span)] == []


def test_every_room_and_file_of_the_library_stands_in_the_house_s_table() -> None:
    table = "".join(line for line in ARCHITECTURE.read_text("utf-8").splitlines() if line.startswith("| `"))
    rooms = [f"{path.parent.name}/" for path in SOURCES.glob("*/__init__.py")] + [
        path.name for path in SOURCES.glob("[!_]*.py")
    ]
    assert len(rooms) > 30
    assert [room for room in rooms if f"`{room}`" not in table] == []


def test_what_is_not_there_is_found() -> None:
    assert exists("data/reader.ShardSource.read")
    assert exists("losses.py")
    assert exists("tasks/retrieval.RetrievalModule.losses")
    for gone in ("data/reader.ShardSource.nothing", "backbone/nothing.py", "module.UniFashionModule.nothing", "losses.nothing"):
        assert missing_of(gone) == [gone]
    assert missing_of(f"leave_out {GONE}") == [f"leave_out {GONE}: {GONE}"]


def settings() -> list[tuple[str, list[str]]]:
    """(row, values of ours) of the tables under the heading Settings."""
    section = PAPER.read_text("utf-8").split("\n## Settings")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not re.match(r"\| (setting|-)", line)]
    return [(row, [span for span in SPAN.findall(row) if " = " in span]) for row in rows]


@cache
def settings_of(stage: str) -> dict[str, Any]:
    """What a training of a stage prints as its whole config, defaults included."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        main(["fit", *(word for name in STAGES[stage] for word in ("--config", name)), "--print_config"])
    found: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return found


def value_in_configs(stage: str, path: str) -> Any:
    """A value of a stage's whole config."""
    value: Any = settings_of(stage)
    for part in path.split("."):
        value = value.get("init_args", value)[part]
    return value


def value_in_code(path: str) -> Any:
    """A value of the code: attributes and keys of a module of the library, or ``Class(argument)``: a default."""
    parts = path.split(".")
    stem = next(n for n in range(len(parts), 0, -1) if exists("/".join(parts[:n])) or exists("/".join(parts[:n]) + ".py"))
    value: Any = importlib.import_module(".".join(["unifashion_pl", *parts[:stem]]))
    for part in parts[stem:]:
        name, _, argument = part.removesuffix(")").partition("(")
        value = value[name] if isinstance(value, dict) else getattr(value, name)
        value = inspect.signature(value).parameters[argument].default if argument else value
    return value


def plain(value: Any) -> Any:
    """Numbers as floats and tuples as lists, so that 2e-5 of a page equals 2.0e-5 of a config."""
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, bool) or value is None:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def test_every_setting_of_the_paper_s_page_is_that_of_code_and_configs() -> None:
    rows = settings()
    assert len(rows) > 40
    assert [row for row, values in rows if not values and "| none |" not in row] == [], "each row names a value of ours"
    wrong = []
    for _, values in rows:
        for span in values:
            where, _, said = span.partition(" = ")
            stages, _, path = where.rpartition(": ")
            found = [value_in_configs(s, path) for s in stages.split(", ")] if stages else [value_in_code(path)]
            wrong += [(span, value) for value in found if plain(value) != plain(yaml.safe_load(said))]
    assert wrong == []
