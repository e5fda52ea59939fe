"""The guard of caption-assisted retrieval, from the caption library to the result records."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unifashion_pl.data.captions import LeakError
from unifashion_pl.data.samples import GalleryBatch, QueryBatch
from unifashion_pl.evaluation import ComposedPart, Context, Outcome, Setting
from unifashion_pl.metrics import leaks
from unifashion_pl.metrics.leaks import Audit, caption_audit, check_audits
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.team import team_of_all

GALLERY, TARGETS = 240, 100
WORDS = ["red", "blue", "long", "short", "lace", "silk", "plain", "striped", "collar", "belt", "pocket", "loose"]
EDITS = ["more", "less", "darker", "longer", "different", "instead"]
BLIND = {
    "captioner": "caption head",
    "weights_hash": "0f",
    "template": "describe the dress",
    "decoding": {"beams": 1},
    "inputs": ["image", "category"],
}


def words(rng: random.Random, pool: list[str], n: int) -> str:
    return " ".join(rng.choice(pool) for _ in range(n))


def vectors(*shape: int) -> Tensor:
    return normalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), dim=-1)


class Tower:
    """Sees nothing."""

    def vision(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 1, 4)


class Head:
    """Embeds everything as noise: the guard looks at texts only."""

    def image_embeddings(self, backbone: Any, images: Tensor, query: str) -> Tensor:
        return vectors(len(images), 2, 4)

    def text_embeddings(self, backbone: Any, texts: list[str]) -> Tensor:
        return vectors(len(texts), 4)

    def compose(self, backbone: Any, images: Tensor, texts: list[str]) -> Tensor:
        return vectors(len(texts), 4)


def queries() -> QueryBatch:
    rng = random.Random(1)
    return QueryBatch(
        keys=[f"q{i:03d}" for i in range(TARGETS)],
        references=torch.zeros(TARGETS, 3, 2, 2, dtype=torch.uint8),
        reference_ids=["g000"] * TARGETS,
        target_ids=[f"g{i:03d}" for i in rng.sample(range(GALLERY), TARGETS)],
        texts=[f"is {words(rng, WORDS, 2)} and {words(rng, EDITS, 2)}" for _ in range(TARGETS)],
        categories=["dress"] * TARGETS,
        pixels=None,
        dataset="fashioniq/val",
    )


def gallery(captions: list[str], provenance: dict[str, Any] | None = BLIND, allow: bool = False) -> GalleryBatch:
    return GalleryBatch(
        keys=[f"g{i:03d}" for i in range(GALLERY)],
        images=torch.zeros(GALLERY, 3, 2, 2, dtype=torch.uint8),
        categories=["dress"] * GALLERY,
        captions=captions,
        in_union=[True] * GALLERY,
        dataset="fashioniq/val",
        provenance=[] if provenance is None else [dict(provenance) for _ in range(GALLERY)],
        allow_unsafe_captions=allow,
    )


def honest() -> list[str]:
    """Captions that know nothing but their picture."""
    rng = random.Random(2)
    return [f"a dress with {words(rng, WORDS, 5)}" for _ in range(GALLERY)]


def planted() -> list[str]:
    """The same, but for every other target the captioner repeats its query's text."""
    asked = queries()
    texts = dict(zip(asked.target_ids[::2], asked.texts[::2]))
    return [f"{text} {texts.get(f'g{i:03d}', '')}" for i, text in enumerate(honest())]


def evaluated(batch: GalleryBatch, full: bool = True) -> Outcome:
    part = ComposedPart((1, 10), ablations=False).of("fashioniq/val", Setting(shown=0, top_k=3))
    model: Any = SimpleNamespace(backbone=Tower(), device=torch.device("cpu"), retrieval_head=Head())
    part.update(model, batch)
    part.update(model, queries())
    return part.finish(Context(team_of_all(), model, full))


def assisted(outcome: Outcome) -> list[ResultRecord]:
    """Records of scores that read captions, the floor among them."""
    return [r for r in outcome.records if "/caption(" in r.protocol or "/both(" in r.protocol]


def aucs(outcome: Outcome) -> dict[str, float | None]:
    return {r.metric: r.value for r in outcome.records if "caption-audit" in r.protocol}


def test_honest_captions_pass_with_their_floor_and_audit_beside_them() -> None:
    outcome = evaluated(gallery(honest()))
    assert {"fashioniq/caption-score/Avg", "fashioniq/both-scores/Avg"} <= set(outcome.values)
    floor = {r.metric for r in assisted(outcome) if "score=bm25" in r.protocol}
    assert floor == {"dress/R@1", "dress/R@10", "mean/R@1", "mean/R@10", "Avg"}
    found = aucs(outcome)
    assert set(found) == {"dress/caption-AUC", "dress/caption-AUC/labels-shuffled"}
    assert all(value == pytest.approx(0.5, abs=0.1) for value in found.values())
    said = [r.protocol + str(r.implementation) for r in outcome.records]
    assert not any(word in text for text in said for word in ("leaked", "suspicious"))


@pytest.mark.parametrize("full", [True, False])
def test_a_planted_leak_is_refused_although_its_provenance_looks_well(full: bool) -> None:
    with pytest.raises(LeakError, match=r"dress AUC 0\.[78].*expected at most 0.6.*allow_unsafe_captions"):
        evaluated(gallery(planted()), full)


def test_an_allowed_leak_is_called_suspicious_wherever_captions_were_read() -> None:
    outcome = evaluated(gallery(planted(), allow=True))
    records = assisted(outcome)
    assert all("captions=suspicious)" in r.protocol and "suspicious: words" in str(r.implementation) for r in records)
    assert any("score=bm25" in r.protocol for r in records)
    assert aucs(outcome)["dress/caption-AUC"] > 0.7  # type: ignore[operator]
    assert "fashioniq/both-scores-suspicious/Avg" in outcome.values
    assert not any("both-scores/" in name or "caption-score/" in name for name in outcome.values)
    others = [r for r in outcome.records if r not in records]
    assert not any("suspicious" in r.protocol + str(r.implementation) for r in others)
    assert "fashioniq/mean/R@1" in outcome.values


@pytest.mark.parametrize(
    ("provenance", "reason"),
    [
        (None, "no captioner"),
        ({"inputs": ["image"]}, "no weights_hash"),
        ({**BLIND, "inputs": ["image", "query"]}, "made from query"),
        ({**BLIND, "inputs": ["image", "keywords"], "keywords_split": "val"}, "keywords of split 'val'"),
        ({**BLIND, "text_guidance": "is red"}, "text_guidance is not empty"),
    ],
)
def test_captions_that_do_not_prove_to_be_blind_are_refused_or_called_leaked(
    provenance: dict[str, Any] | None, reason: str
) -> None:
    with pytest.raises(LeakError, match=rf"{reason} \(240, e.g. g000\).*every caption needs captioner"):
        evaluated(gallery(honest(), provenance))
    outcome = evaluated(gallery(honest(), provenance, allow=True))
    for record in assisted(outcome):
        assert "captions=leaked)" in record.protocol
        assert "leaked: gallery captions are not known to be query-blind" in str(record.implementation)
        assert reason in str(record.implementation)
    assert "fashioniq/caption-score-leaked/Avg" in outcome.values


def test_without_captions_there_is_nothing_to_guard() -> None:
    outcome = evaluated(gallery([""] * GALLERY, None))
    assert assisted(outcome) == []
    assert aucs(outcome) == {}
    assert not any("caption" in name for name in outcome.values)


def test_luck_in_a_small_gallery_is_not_called_a_leak() -> None:
    few = caption_audit(["a red dress", "a red dress", "a blue dress", "a blue dress"] * 2, [1, 1, 0, 0] * 2)
    assert few.error == pytest.approx(0.217, abs=1e-3)
    assert (few.verdict, few.finding) == ("refuse", "ok")
    assert check_audits({"dress": few}) is None
    large = caption_audit(["a"] * 3817, [1] * 2017 + [0] * 1800)
    assert large.error < 0.01
    assert "AUC 0.560" in str(check_audits({"dress": Audit(0.56, 0.5, "warn", large.error)}))
    with pytest.raises(LeakError, match="shirt AUC 0.610"):
        check_audits({"dress": Audit(0.5, 0.5, "ok", 0.01), "shirt": Audit(0.61, 0.5, "refuse", 0.01)})
    assert check_audits({"shirt": Audit(0.61, 0.5, "refuse", 0.04)}) is None


class TestLeaks:
    def test_bm25(self, examples):
        case = examples["bm25"]
        assert leaks.bm25_scores(case["docs"], case["queries"]).tolist() == [
            pytest.approx(row, abs=1e-6) for row in case["scores"]
        ]
        assert leaks.bm25_scores(["", ""], ["red"]).tolist() == [[0.0, 0.0]]

    def test_floor(self):
        captions = {"dress": {"a": "a red dress", "b": "a blue dress", "c": "a blue coat"}}
        queries = [leaks.TextQuery("dress", "a", "is red"), leaks.TextQuery("dress", "b", "is blue")]
        values = leaks.text_only_floor(queries, captions, ks=(1, 2))
        assert values["dress/R@1"] == 50.0
        assert values["dress/R@2"] == values["mean/R@2"] == 100.0
        with pytest.raises(ValueError, match="targets without a caption: z"):
            leaks.text_only_floor([leaks.TextQuery("dress", "z", "red")], captions)

    def test_audit(self, examples):
        case = examples["audit"]
        found = leaks.caption_audit(case["captions"], case["is_target"])
        assert found.auc == pytest.approx(case["auc"], abs=1e-6)
        assert found.verdict == "refuse"
        ties = examples["auc_ties"]
        assert leaks.auc(ties["scores"], ties["labels"]) == pytest.approx(ties["auc"], abs=1e-6)
        with pytest.raises(ValueError, match="both classes"):
            leaks.auc([1.0, 2.0], [1, 1])

    def test_audit_of_blind_captions_is_quiet(self):
        generator = np.random.default_rng(0)
        words = ["red", "blue", "long", "short", "dress", "coat", "lace", "silk", "plain", "striped"]
        captions = [" ".join(generator.choice(words, 5)) for _ in range(600)]
        found = leaks.caption_audit(captions, (generator.uniform(size=600) < 0.4).tolist())
        assert (found.verdict, found.control) == ("ok", pytest.approx(0.5, abs=0.04))
