"""How large the house is, and how its files lean on each other: lines, files, circles of imports, constructors' arguments.

``python benchmarks/house.py`` prints it for the working tree; ``--at COMMIT`` for a commit, ``--circles`` lists the files in a circle.
Imports inside functions and under ``TYPE_CHECKING`` count.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: Folder -> package that it is imported as.
PACKAGES = {"src/unifashion_pl/": "unifashion_pl.", "datamodules/": "unifashion_pl.datamodules."}
JUDGING = ("evaluation", "metrics", "report", "ablations")
MODEL = ("backbone", "losses", "similarity", "tasks", "generation")

#: Concept -> what its places look like.
CONCEPTS = {
    "protocols cut or changed as text": r"[Pp]rotocol\)?\.(partition|replace|split|startswith|endswith|removeprefix|removesuffix)\(|(CIR|UNSAFE|SHORTENED)\.",
    "openings of pictures": r"\bImage\.open\(",
    "comparisons of tensors' shapes with a file's": r"\.shape != \w+(\[|\.shape)",
    "texts and bytes written to a path": r"\.write_(text|bytes)\(",
    "batches cut by hand": r"\btaken\(|\bon_cpu\(",
    "imports inside functions": r"(?m)^ {4,}(from unifashion_pl\S* import|import unifashion_pl)",
    "blocks of TYPE_CHECKING": r"(?m)^if TYPE_CHECKING",
    "HTML in Python": r"f?[\"']<(p|b|td|tr|th|table|span|div|figure|h\d|small|details)\b",
}

Graph = dict[str, set[str]]


def sources(root: Path = ROOT) -> dict[str, str]:
    """Path -> content of all Python files of library and DataModules."""
    paths = [path for folder in PACKAGES for path in sorted((root / folder).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in paths}


def sources_at(commit: str) -> dict[str, str]:
    """As :func:`sources`, of a commit."""
    folders = [folder.rstrip("/") for folder in PACKAGES]
    packed = subprocess.run(["git", "archive", commit, *folders], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [m for m in archive.getmembers() if m.isfile() and m.name.endswith(".py")]
        return {m.name: archive.extractfile(m).read().decode() for m in members}  # type: ignore[union-attr]


def module_name(path: str) -> str:
    """
    >>> module_name("src/unifashion_pl/tasks/__init__.py"), module_name("datamodules/mgd.py")
    ('unifashion_pl.tasks', 'unifashion_pl.datamodules.mgd')
    """
    folder = next(folder for folder in PACKAGES if path.startswith(folder))
    name = PACKAGES[folder] + path.removeprefix(folder).removesuffix(".py").replace("/", ".")
    return name.removesuffix("__init__").rstrip(".")


def imports(files: Mapping[str, str]) -> Graph:
    """Module -> modules of the library that it imports, wherever in the file."""
    names = {module_name(path): path for path in files}
    graph: Graph = {}
    for name, path in names.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(files[path])):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in names else node.module for a in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = {other for other in found if other in names and other != name}
    return graph


def circles(graph: Graph) -> list[set[str]]:
    """Groups of modules that import each other, in a circle of any length."""
    reached = {name: _reached(graph, name) for name in graph}
    groups: list[set[str]] = []
    for name in sorted(graph):
        if name in reached[name] and not any(name in group for group in groups):
            groups.append({other for other in reached[name] if name in reached[other]})
    return groups


def _reached(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    pending = [start]
    while pending:
        new = graph[pending.pop()] - seen
        seen |= new
        pending += new
    return seen


def room(path: str) -> str:
    """The folder below the library, or the file that lies in none."""
    if path.startswith("datamodules/"):
        return "datamodules"
    return path.removeprefix("src/unifashion_pl/").split("/")[0].removesuffix(".py")


def lines_of(files: Mapping[str, str]) -> dict[str, int]:
    """Room -> lines, the largest first."""
    found: dict[str, int] = {}
    for path, text in files.items():
        found[room(path)] = found.get(room(path), 0) + text.count("\n")
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def functions(files: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """(path, definition) of every function."""
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def constructor(files: Mapping[str, str], cls: str) -> int | None:
    """Arguments that a class's ``__init__`` names; None where there is no such class."""
    for text in files.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name == cls:
                for body in node.body:
                    if isinstance(body, ast.FunctionDef) and body.name == "__init__":
                        return len(body.args.args) + len(body.args.kwonlyargs) - 1
    return None


def places(files: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Concept -> how often it stands in the code, and in how many files."""
    found = {}
    for concept, pattern in CONCEPTS.items():
        counts = [len(re.findall(pattern, text)) for text in files.values()]
        found[concept] = (sum(counts), sum(count > 0 for count in counts))
    return found


def summary(files: Mapping[str, str]) -> str:
    """Everything that is counted, one fact a line."""
    lines = lines_of(files)
    judging, model = (sum(lines.get(name, 0) for name in names) for names in (JUDGING, MODEL))
    graph = imports(files)
    knots = circles(graph)
    longest = max(files, key=lambda path: files[path].count("\n"))
    length, place = max((node.end_lineno - node.lineno + 1, f"{path} {node.name}") for path, node in functions(files))
    classes = [node.name for text in files.values() for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    public = [name for name in classes if not name.startswith("_")]
    facts = {
        "files": len(files),
        "lines": sum(lines.values()),
        "judging / model": f"{judging} / {model} = {judging / model:.2f}",
        "circles of imports": f"{len(knots)}, of {sum(map(len, knots))} files",
        "imports between files": sum(map(len, graph.values())),
        "longest file": f"{files[longest].count(chr(10))} {longest}",
        "longest function": f"{length} {place}",
        "class names that two files have": sum(public.count(name) > 1 for name in set(public)),
        "signatures of an evaluation's finish": len(set(re.findall(r"def finish\(self, [^)]*\)", "".join(files.values())))),
        "arguments of UniFashionModule, Evaluator": ", ".join(
            str(constructor(files, c)) for c in ("UniFashionModule", "Evaluator")
        ),
    }
    rooms = [f"  {count:6,} {name}" for name, count in lines.items()]
    concepts = [f"  {name:<46}{count} in {number} files" for name, (count, number) in places(files).items()]
    head = [f"{name:<42}{value}" for name, value in facts.items()]
    return "\n".join([*head, "places of a concept", *concepts, "lines by room", *rooms])


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--at", metavar="COMMIT")
    asked.add_argument("--circles", action="store_true")
    chosen = asked.parse_args()
    found = sources_at(chosen.at) if chosen.at else sources()
    print(summary(found))
    if chosen.circles:
        for group in circles(imports(found)):
            print("circle:", *sorted(group), sep="\n  ")
