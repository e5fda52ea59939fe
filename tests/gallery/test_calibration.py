"""A threshold of an index against numpy on all its scores; what it says of a search, and that it travels with the index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from galleries import make_model, pictures

from unifashion_pl.gallery import Gallery, gallery_of
from unifashion_pl.gallery.asking import SearchOptions
from unifashion_pl.gallery.calibration import calibrate, verdict
from unifashion_pl.gallery.questions import FileQuery
from unifashion_pl.metrics.intervals import wilson_interval
from unifashion_pl.module import UniFashionModule

COLOURS, GARMENTS = ("red", "blue", "green", "white", "black"), ("dress", "skirt", "shirt", "top", "coat", "shoe")
TEXTS = [f"a {colour} {garment}" for colour in COLOURS for garment in GARMENTS]


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return make_model()


@pytest.fixture(scope="module")
def gallery(model: UniFashionModule) -> Gallery:
    return gallery_of(model, pictures(20), ids=[f"i{i:02d}" for i in range(20)], query_set="reference")


@pytest.fixture(scope="module")
def scores(model: UniFashionModule, gallery: Gallery) -> np.ndarray:
    """(texts, images), by numpy."""
    tokens = gallery.tokens["reference"].numpy().astype(np.float64)
    return np.einsum("te,mqe->tmq", model.encode_text(TEXTS).numpy().astype(np.float64), tokens).max(2)


def judged(scores: np.ndarray) -> list[FileQuery]:
    """Each text with its two best images as right answers, every third with two others."""
    order = np.argsort(-scores, axis=1)
    return [
        FileQuery(str(i), text, right=tuple(f"i{place:02d}" for place in (order[i, 5:7] if i % 3 == 0 else order[i, :2])))
        for i, text in enumerate(TEXTS)
    ]


def test_rates_are_those_of_numpy(gallery: Gallery, scores: np.ndarray) -> None:
    queries = judged(scores)
    found = calibrate(gallery, queries, [FileQuery("x", "two cups of tea"), FileQuery("y", "a fast car")], reject=0.2)
    best = scores.max(1)
    kept = np.ones(scores.shape, bool)
    for i, query in enumerate(queries):
        kept[i, [int(id[1:]) for id in query.right]] = False
    without = np.where(kept, scores, -1).max(1)
    even, odd = (np.sort(best[start::2])[int(0.2 * len(best[start::2]))] for start in (0, 1))
    cuts = np.where(np.arange(len(best)) % 2 == 0, odd, even)
    assert found.score == pytest.approx(np.sort(best)[6], abs=1e-6)
    wrong = int((best < cuts - 1e-7).sum()), int((without >= cuts - 1e-7).sum())
    assert (found.rejected.share, found.accepted.share) == (wrong[0] / 30, wrong[1] / 30)
    interval = wilson_interval(wrong[1], 30)
    assert (found.accepted.low, found.accepted.high, found.accepted.n) == (interval.low, interval.high, 30)
    assert 0 < found.accepted.share < 1
    assert found.foreign is not None
    assert found.foreign.n == 2


def test_rows_of_one_text_are_one_query(gallery: Gallery, scores: np.ndarray) -> None:
    queries, tea = judged(scores), FileQuery("x", "two cups of tea")
    apart = [FileQuery(f"{query.id}/{id}", f" {query.text}", right=(id,)) for query in queries for id in query.right]
    assert calibrate(gallery, apart, [tea, tea], reject=0.2) == calibrate(gallery, queries, [tea], reject=0.2)


def test_a_verdict_is_of_plain_searches_by_text(gallery: Gallery, scores: np.ndarray, tmp_path: Path) -> None:
    hits, plain = gallery.search(text=TEXTS[0], k=3), SearchOptions(k=3)
    assert verdict(gallery, hits, plain, TEXTS[0], None) is None
    found = calibrate(gallery, judged(scores))
    held = gallery._stored
    low, high = (
        replace(held, settings=replace(held.settings, threshold=replace(found, score=hits[0].score + by)))
        for by in (-1e-3, 1e-3)
    )
    try:
        gallery._stored = low
        said = verdict(gallery, hits, plain, TEXTS[0], None)
        assert said is not None
        assert said.matches
        gallery._stored = high
        said = verdict(gallery, hits, plain, TEXTS[0], None)
        assert said is not None
        assert not said.matches
        assert said.text.startswith("nothing here seems to match: the best score is")
        assert said.as_json()["rejected"]["n"] == 30
        for asked in (SearchOptions(k=3, words=1.0), SearchOptions(k=3, caption_weight=0.5), SearchOptions(k=3, rerank=5)):
            assert verdict(gallery, hits, asked, TEXTS[0], None) is None
        assert verdict(gallery, hits, plain, TEXTS[0], pictures(1)[0]) is None
        gallery.save(tmp_path / "index")
        again = Gallery.load(tmp_path / "index", gallery.model)
        assert again.threshold == gallery.threshold
        again.add(pictures(40)[20:], ids=[f"j{i}" for i in range(20)])
        late = verdict(again, hits, plain, TEXTS[0], None)
        assert late is not None
        assert "calibrated with 20 images, now there are 40: calibrate anew" in late.text
    finally:
        gallery._stored = held


def test_queries_that_cannot_calibrate(gallery: Gallery, scores: np.ndarray) -> None:
    queries = judged(scores)
    with pytest.raises(ValueError, match="2 of 2 queries have a text alone and right answers"):
        calibrate(gallery, queries[:2])
    with pytest.raises(ValueError, match="right answers are not in the index, e.g. gone"):
        calibrate(gallery, [replace(queries[0], right=("gone",)), *queries[1:]])
    with pytest.raises(ValueError, match="reject is 1.5"):
        calibrate(gallery, queries, reject=1.5)
    with pytest.raises(ValueError, match="foreign queries have a text alone"):
        calibrate(gallery, queries, [replace(queries[0], image=Path("a.png"))])
