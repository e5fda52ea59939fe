from __future__ import annotations

import hashlib
import json
import os
import string
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from data.rawdata import CATEGORIES, jpeg, write_fashioniq
from unifashion_pl.datamodules.annotate import TEMPLATE, CaptionInput, Keywords, Target, annotate, clean_caption, keywords_of
from unifashion_pl.datamodules.fashioniq_cap import FashionIQCapDataModule, caption_targets, training_texts

from unifashion_pl.data.captions import LeakError, read_library
from unifashion_pl.data.plan import MissingDataError

KEYWORDS = Keywords({"dress": [("long", 9), ("red", 4)], "shirt": [("blue", 3)]})
RECORD = {"captioner": "scripted", "weights_hash": "0", "template": TEMPLATE, "decoding": {"greedy": True}}


class Scripted:
    """A captioner that answers by rule and remembers what it was shown."""

    def __init__(self, answers: Sequence[str] = ("a {category} with {words}",), **record: Any) -> None:
        self.answers = answers
        self.seen: list[tuple[int, CaptionInput]] = []
        self.record: Mapping[str, Any] = {**RECORD, "inputs": ["image", "category", "keywords"], **record}

    def __call__(self, subjects: Sequence[CaptionInput], attempt: int) -> list[str]:
        self.seen += [(attempt, subject) for subject in subjects]
        answer = self.answers[min(attempt, len(self.answers) - 1)]
        return [answer.format(category=s.category, words=" ".join(s.keywords)) for s in subjects]


@pytest.fixture
def targets(tmp_path: Path) -> list[Target]:
    (tmp_path / "images").mkdir()
    for i in range(7):
        (tmp_path / f"images/{i}.jpg").write_bytes(jpeg(i))
    return [Target(f"id{i}", "shirt" if i % 2 else "dress", tmp_path / f"images/{i}.jpg") for i in (3, 1, 0, 2, 6, 5, 4)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_one_line_per_image_in_id_order_with_its_whole_provenance(targets: list[Target], tmp_path: Path) -> None:
    captioner = Scripted()
    out = annotate(targets, captioner, KEYWORDS, tmp_path / "c.jsonl", batch_size=3, progress=False)
    written = lines(out)
    assert [line["image"] for line in written] == [f"id{i}" for i in range(7)]
    assert [line["caption"] for line in written[:2]] == ["a dress with long red", "a shirt with blue"]
    for i, line in enumerate(written):
        assert line["sha256"] == hashlib.sha256((tmp_path / f"images/{i}.jpg").read_bytes()).hexdigest()
        assert line["inputs"] == ["image", "category", "keywords"]
        assert (line["keywords_split"], line["keywords_hash"]) == ("train", KEYWORDS.hash)
        assert line["template"] == TEMPLATE
        assert len(line["template_hash"]) == 16
        assert line["library"].startswith("unifashion-pl ")
    assert set(read_library(out, expected=[t.id for t in targets])) == {t.id for t in targets}
    assert {s.image.mode for _, s in captioner.seen} == {"RGB"}


def test_the_captioner_is_shown_image_category_and_keywords_only(targets: list[Target], tmp_path: Path) -> None:
    captioner = Scripted()
    annotate(targets, captioner, KEYWORDS, tmp_path / "c.jsonl", progress=False)
    first = captioner.seen[0][1]
    assert set(vars(first)) == {"image", "category", "keywords"}
    assert first.prompt.startswith("Describe the dress in this picture in detail")
    assert first.prompt.endswith("those of these words that fit: long, red.")
    assert {name for _, name, _, _ in string.Formatter().parse(TEMPLATE) if name} == {"garment", "keywords"}


def test_an_interrupted_run_goes_on_where_it_stopped(targets: list[Target], tmp_path: Path) -> None:
    whole = annotate(targets, Scripted(), KEYWORDS, tmp_path / "whole.jsonl", batch_size=2, progress=False)

    class Stops(Scripted):
        def __call__(self, subjects: Sequence[CaptionInput], attempt: int) -> list[str]:
            if len(self.seen) >= 4:
                raise KeyboardInterrupt
            return super().__call__(subjects, attempt)

    out = tmp_path / "c.jsonl"
    with pytest.raises(KeyboardInterrupt):
        annotate(targets, Stops(), KEYWORDS, out, batch_size=2, progress=False)
    assert len(lines(out)) == 4
    with open(out, "ab") as file:
        file.write(b'{"image": "id9", "capt')
    rest = Scripted()
    annotate(targets, rest, KEYWORDS, out, batch_size=2, progress=False)
    assert len(rest.seen) == 3
    assert out.read_bytes() == whole.read_bytes()
    again = Scripted()
    annotate(targets, again, KEYWORDS, out, progress=False)
    assert again.seen == []


@pytest.mark.parametrize(
    ("changed", "keywords", "message"),
    [
        ({"weights_hash": "1"}, KEYWORDS, "another weights_hash"),
        ({"template": "Describe."}, KEYWORDS, "another template, template_hash"),
        ({}, Keywords({"dress": [("short", 1)]}), "another keywords_hash"),
    ],
)
def test_a_library_has_one_captioner(
    targets: list[Target], tmp_path: Path, changed: dict[str, Any], keywords: Keywords, message: str
) -> None:
    out = annotate(targets, Scripted(), KEYWORDS, tmp_path / "c.jsonl", progress=False)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=rf"c.jsonl:1 was written with {message}:"):
        annotate(targets, Scripted(**changed), keywords, out, progress=False)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("record", "keywords", "message"),
    [
        ({"inputs": ["image", "query"]}, KEYWORDS, "made from query"),
        ({"weights_hash": ""}, KEYWORDS, "no weights_hash"),
        ({}, Keywords({"dress": []}, split="val"), "keywords of split 'val'"),
    ],
)
def test_captioners_that_may_know_queries_are_refused_before_they_write(
    targets: list[Target], tmp_path: Path, record: dict[str, Any], keywords: Keywords, message: str
) -> None:
    with pytest.raises(LeakError, match=message):
        annotate(targets, Scripted(**record), keywords, tmp_path / "c.jsonl", progress=False)
    assert not (tmp_path / "c.jsonl").exists()


def test_refusals_are_asked_again_and_what_stays_empty_says_so(targets: list[Target], tmp_path: Path) -> None:
    twice = Scripted(["I'm sorry, I cannot see it.", "", "a fine {category}"])
    written = lines(annotate(targets, twice, KEYWORDS, tmp_path / "a.jsonl", progress=False))
    assert {line["caption"] for line in written} == {"a fine dress", "a fine shirt"}
    assert {line["attempts"] for line in written} == {3}
    never = Scripted(["As an AI I am unable to describe it."])
    written = lines(annotate(targets, never, KEYWORDS, tmp_path / "b.jsonl", attempts=2, progress=False))
    assert all((line["caption"], line["empty"], line["attempts"]) == (".", True, 2) for line in written)
    assert Counter(attempt for attempt, _ in never.seen) == {0: 7, 1: 7}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n**A** red `dress`.\n\n", "A red dress."),
        ("# Dress\nwith   dots", "Dress with dots"),
        ("I cannot describe this.", ""),
        ("Sorry, there is no image.", ""),
        (" ... ", ""),
        ("A dress one cannot miss", "A dress one cannot miss"),
    ],
)
def test_cleaning(text: str, expected: str) -> None:
    assert clean_caption(text) == expected


def test_unreadable_images_stop_the_run_unless_they_may_be_left_out(targets: list[Target], tmp_path: Path) -> None:
    targets[0].path.write_bytes(b"<html>404</html>")
    targets[1].path.unlink()
    with pytest.raises(MissingDataError, match="2 images cannot be captioned: id1: missing, id3: text/html, not an image"):
        annotate(targets, Scripted(), KEYWORDS, tmp_path / "c.jsonl", progress=False)
    out = annotate(targets, Scripted(), KEYWORDS, tmp_path / "c.jsonl", allow_missing=True, progress=False)
    assert [line["image"] for line in lines(out)] == ["id0", "id2", "id4", "id5", "id6"]
    with pytest.raises(ValueError, match="1 ids occur twice"):
        annotate([*targets, targets[2]], Scripted(), KEYWORDS, tmp_path / "d.jsonl", progress=False)


# keywords


def test_keywords_are_lemmas_of_texts_counted_once_a_text() -> None:
    pytest.importorskip("simplemma")
    texts = {
        "dress": ["Longer sleeves, longer!", "is long with STRIPES", "striped and darker", "the same dress with more dots"]
    }
    assert dict(keywords_of(texts).counts["dress"]) == {"long": 2, "sleeve": 1, "stripe": 2, "dark": 1, "dot": 1}
    assert keywords_of(texts, most=2).of("dress") == ("long", "stripe")
    assert keywords_of(texts).of("shirt") == ()
    assert keywords_of(texts).hash != keywords_of(texts, most=2).hash


def test_without_the_lemmatiser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplemma", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'unifashion-pl\[annotate\]'"):
        keywords_of({"dress": ["red"]})


def test_keywords_come_from_the_training_texts_only(tmp_path: Path) -> None:
    root = write_fashioniq(tmp_path)
    for category in CATEGORIES:
        for split in ("val", "test"):
            path = root / f"captions/cap.{category}.{split}.json"
            path.write_text(json.dumps([{**e, "captions": ["SECRET", "SECRET"]} for e in json.loads(path.read_text())]))
    texts = training_texts(root)
    assert {category: len(found) for category, found in texts.items()} == dict.fromkeys(CATEGORIES, 16)
    assert not any("SECRET" in text for found in texts.values() for text in found)


@pytest.mark.real_data
def test_keywords_of_the_published_texts() -> None:
    pytest.importorskip("simplemma")
    named = os.environ.get("UNIFASHION_SHARED_DATA")
    if not named:
        pytest.skip("UNIFASHION_SHARED_DATA names no folder with fashion-iq/captions")
    texts = training_texts(Path(named) / "fashion-iq")
    assert sum(map(len, texts.values())) == 36_000
    found = keywords_of(texts, 8)
    assert found.of("dress") == ("sleeve", "long", "short", "black", "color", "white", "blue", "dark")
    assert found.of("shirt")[:6] == ("sleeve", "color", "black", "dark", "white", "blue")
    assert found.of("toptee")[:6] == ("sleeve", "color", "black", "long", "white", "short")


# images of Fashion-IQ, captioned and trained on


def test_captions_of_the_training_images_become_pairs(tmp_path: Path) -> None:
    root = write_fashioniq(tmp_path / "raw")
    targets = caption_targets(root, "train")
    listed = [json.loads((root / f"image_splits/split.{c}.train.json").read_text()) for c in CATEGORIES]
    assert {t.id for t in targets} == {id for ids in listed for id in ids}
    assert all(t.path.is_file() for t in targets)
    keywords = Keywords({c: [("red", 1)] for c in CATEGORIES})
    out = annotate(targets, Scripted(), keywords, tmp_path / "c.jsonl", progress=False)
    data = FashionIQCapDataModule(out, root, batch_size=4, image_size=16)
    data.prepare_data()
    texts = {text for batch in data.train_loader() for text in batch.captions}
    assert texts == {"a dress with red", "a shirt with red", "a toptee with red"}
    assert "DVA00000" in {t.id for t in caption_targets(root, "val")}
