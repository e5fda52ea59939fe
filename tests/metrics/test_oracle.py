"""Our caption scores against pycocoevalcap itself, run as it is (Java for its tokeniser and METEOR), on several hundred sentences.

Real Fashion-IQ sentences where UNIFASHION_SHARED_DATA names the folder with them, else captions of the wardrobe.
"""

from __future__ import annotations

import importlib
import json
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unifashion_pl.metrics.caption_scores import CaptionTable, score_captions, tokenize_captions
from unifashion_pl.metrics.coco.captions import bleu, cider_d, rouge_l
from unifashion_pl.metrics.coco.java import JavaTools, one_line
from unifashion_pl.wardrobe.products import make_product
from unifashion_pl.wardrobe.texts import describe

pytestmark = pytest.mark.slow

COUNT = 600
Groups = dict[str, list[str]]


@pytest.fixture(scope="module")
def tools() -> Iterator[JavaTools]:
    """Java and upstream's jars; upstream calls plain ``java`` and reads text in the platform's encoding."""
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed (pip install --no-deps pycocoevalcap)")
    found = JavaTools.find()
    if (reason := found.missing(found.ptb_jar)) is not None:
        pytest.skip(f"the oracle {reason}")
    assert found.java is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(found.java.parent), prepend=os.pathsep)
        patch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=UTF-8")
        yield found


def fashion_iq(folder: str) -> list[list[str]] | None:
    """Texts of validation queries: each query's two and the first one of its successor."""
    found = sorted(Path(folder).rglob("cap.*.val.json"))
    if not found:
        return None
    texts = [query["captions"] for path in found for query in json.loads(path.read_text("utf-8"))[: COUNT // len(found) + 2]]
    groups = [[*own, following[0]] for own, following in pairwise(texts)]
    return [group for group in groups if all(text.strip(" .,?") for text in group)][:COUNT]


def wardrobe() -> list[list[str]]:
    """Three captions of each product, from a few words to a stylist's sentences."""
    rng = random.Random(0)
    styles = ("fashioniq", "fashiongen", "fashion200k")
    return [[describe(make_product(0, i), style, rng) for style in styles] for i in range(COUNT)]


@pytest.fixture(scope="module")
def pairs() -> tuple[Groups, Groups]:
    """Hypotheses and references by id; every other item has two references."""
    folder = os.environ.get("UNIFASHION_SHARED_DATA")
    groups = (fashion_iq(folder) if folder else None) or wardrobe()
    lines = {f"{i:04d}": [one_line(text) for text in group] for i, group in enumerate(groups)}
    return {i: g[:1] for i, g in lines.items()}, {i: g[1 : 2 + n % 2] for n, (i, g) in enumerate(lines.items())}


def upstream(name: str) -> Any:
    """E.g. the class ``Bleu`` of ``pycocoevalcap.bleu.bleu``."""
    return getattr(importlib.import_module(f"pycocoevalcap.{name.lower()}.{name.lower()}"), name)


@pytest.fixture(scope="module")
def tokenised(tools: JavaTools, pairs: tuple[Groups, Groups]) -> tuple[Groups, Groups]:
    """The same as upstream's tokeniser prints them."""
    tokenizer = importlib.import_module("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    results, truths = ({i: [{"caption": text} for text in group] for i, group in part.items()} for part in pairs)
    return tokenizer.tokenize(results), tokenizer.tokenize(truths)


@pytest.fixture(scope="module")
def table(tools: JavaTools, pairs: tuple[Groups, Groups]) -> CaptionTable:
    """Our scores from the raw sentences."""
    return score_captions({i: group[0] for i, group in pairs[0].items()}, dict(pairs[1]), tokenizer="ptb-java", tools=tools)


def test_tokens(table: CaptionTable, pairs: tuple[Groups, Groups], tokenised: tuple[Groups, Groups]) -> None:
    assert table.ids == sorted(tokenised[0])
    assert table.hypotheses == [tokenised[0][i][0] for i in table.ids]
    assert table.references == [tokenised[1][i] for i in table.ids]
    raw, expected = ([text for part in both for group in part.values() for text in group] for both in (pairs, tokenised))
    differing = sum(a != b for a, b in zip(tokenize_captions(raw, "ptb-py"), expected))
    assert differing <= 0.0005 * len(raw), f"the port of the tokeniser differs from Java in {differing} of {len(raw)} sentences"


@pytest.mark.parametrize("name", ["Bleu", "Rouge", "Cider", "Meteor"])
def test_scores(table: CaptionTable, tools: JavaTools, tokenised: tuple[Groups, Groups], name: str) -> None:
    if name == "Meteor" and (reason := tools.missing(tools.meteor_jar)) is not None:
        pytest.skip(f"METEOR {reason}")
    hypotheses, references = tokenised
    corpus, segments = upstream(name)().compute_score(references, hypotheses)
    scores = table.scores()
    ordered = [hypotheses[i][0] for i in hypotheses], [references[i] for i in hypotheses]
    if name == "Bleu":
        assert [scores[f"BLEU-{n}"] for n in range(1, 5)] == pytest.approx(corpus, rel=1e-9)
        assert bleu(*ordered) == pytest.approx(corpus, rel=1e-9)
        alone = [bleu([h], [r])[3] for h, r in zip(*ordered)]
        assert alone == pytest.approx(segments[3], rel=1e-6)
        return
    label, own = {
        "Rouge": ("ROUGE-L", rouge_l(*ordered)),
        "Cider": ("CIDEr", cider_d(*ordered)),
        "Meteor": ("METEOR", table.meteor),
    }[name]
    assert scores[label] == pytest.approx(corpus, rel=1e-9)
    assert own == pytest.approx(np.asarray(segments).tolist(), rel=1e-9)
