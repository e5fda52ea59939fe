"""The house: no circle of imports, no file or function too long, tests that mirror the sources, rooms that lean one way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parents[1]
FILES = house.sources()
#: Rooms from the lowest to the highest; a file may import its own room and those before. Files that lie in no folder are left out here.
ORDER = ("configs", "data", "person", "wardrobe", "parts", "backbone", "generation", "tasks", "metrics", "weights", "inference")
ORDER = (*ORDER, "gallery", "export", "serving", "evaluation", "datamodules", "report", "demo", "commands", "cli")


def test_no_circle_of_imports() -> None:
    assert [sorted(group) for group in house.circles(house.imports(FILES))] == []


def test_circles_are_found_whatever_way_they_are_imported() -> None:
    files = {
        "src/unifashion_pl/a.py": "from unifashion_pl.b import x\n",
        "src/unifashion_pl/b.py": "def f():\n    from unifashion_pl import c\n",
        "src/unifashion_pl/c.py": "if TYPE_CHECKING:\n    import unifashion_pl.a\n",
        "src/unifashion_pl/d.py": "import unifashion_pl.a\n",
    }
    found = house.circles(house.imports(files))
    assert found == [{"unifashion_pl.a", "unifashion_pl.b", "unifashion_pl.c"}]


def test_no_file_and_no_function_is_too_long() -> None:
    assert [path for path, text in FILES.items() if text.count("\n") > 400] == []
    long = [f"{path} {node.name}" for path, node in house.functions(FILES) if node.end_lineno - node.lineno >= 60]
    assert long == []


def test_rooms_lean_one_way() -> None:
    rooms = {house.module_name(path): house.room(path) for path in FILES}
    upward = [
        f"{name} -> {other}"
        for name, others in house.imports(FILES).items()
        for other in others
        if rooms[name] in ORDER and rooms[other] in ORDER and ORDER.index(rooms[other]) > ORDER.index(rooms[name])
    ]
    assert sorted(upward) == []


def mirrored(path: str) -> list[Path]:
    """Where the tests of a source file may be: of the room ``metrics``, ``tests/metrics/test_images.py`` or ``test_metrics_images.py``."""
    inside = path.removeprefix("src/unifashion_pl/")
    *folders, name = inside.removesuffix(".py").split("/")
    names = [f"test_{name}.py", f"test_{'_'.join([*folders, name])}.py", f"test_{'_'.join([*folders[-1:], name])}.py"]
    return [ROOT / "tests" / "/".join(folders) / found for found in names]


@pytest.mark.parametrize("path", [path for path in FILES if not path.endswith(("__init__.py", "__main__.py", "version.py"))])
def test_every_source_has_tests_of_its_name(path: str) -> None:
    assert any(place.is_file() for place in mirrored(path)), mirrored(path)[0]


def test_no_two_files_of_tests_have_one_name() -> None:
    """Folders of tests are no packages, so that the second of a name could not be imported."""
    found = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("conftest.py", "__init__.py"))
    assert [name for name, number in found.items() if number > 1] == []
