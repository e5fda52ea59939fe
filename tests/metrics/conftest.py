"""Worked examples and Java, for the metric tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unifashion_pl.metrics.coco.java import JavaTools

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def examples() -> dict[str, Any]:
    return json.loads((DATA / "worked_examples.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def java_tokens() -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads((DATA / "java_tokens.json").read_text("utf-8"))]


@pytest.fixture(scope="session")
def java() -> JavaTools:
    tools = JavaTools.find()
    for jar in (tools.ptb_jar, tools.meteor_jar):
        if (reason := tools.missing(jar)) is not None:
            pytest.skip(reason)
    return tools
