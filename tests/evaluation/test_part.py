"""Parts of an evaluation: a measure of one's own, and what the shorthand of the usual ones means."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch
from evaluation.batches import evaluate, everything, make_model, pairs, split
from evaluation.brightness import Brightness
from jsonargparse import ArgumentParser

from unifashion_pl.evaluation import (
    CaptionPart,
    ComposedPart,
    Evaluator,
    ImagePart,
    PersonPart,
    RetrievalPart,
)
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import read_records
from unifashion_pl.parts.trust import UntrustedCode, library_only

NAMED = "evaluation.brightness.Brightness"


def parser() -> ArgumentParser:
    made = ArgumentParser(exit_on_error=False)
    made.add_argument("--evaluator", type=Evaluator | None)
    return made


def built(*words: str) -> Evaluator:
    """As `model.evaluator` on the command line or in a YAML."""
    made = parser()
    evaluator: Evaluator = made.instantiate(made.parse_args(words)).evaluator
    return evaluator


def test_a_class_from_outside_is_named_in_a_yaml_and_measures_beside_the_usual_ones(tmp_path: Path) -> None:
    named = [{"class_path": NAMED, "init_args": {"channel": 1}}]
    evaluator = built("--evaluator.also", json.dumps(named), "--evaluator.max_captions", "0", "--evaluator.max_images", "0")
    evaluator.start("test")
    for batch in split(pairs(), 5):
        evaluator.update(make_model(), batch)
    values = evaluator.finish(tmp_path)
    expected = float(pairs().images[:, 1].float().mean())
    assert values["fashiongen/brightness/mean"] == pytest.approx(expected)
    assert "fashiongen/t2i/R@1" in values
    (record,) = [r for r in read_records(tmp_path / "results.json") if r.protocol.startswith("brightness")]
    assert (record.dataset, record.n, record.n_expected, record.weights) == ("fashiongen/validation", 12, 12, None)
    lines = read_lines(tmp_path / "predictions/brightness.jsonl")
    assert [line["id"] for line in lines] == sorted(pairs().keys)
    assert statistics.fmean(line["value"] for line in lines) == pytest.approx(expected)
    assert all(line["schema"] == 2 for line in lines)


def test_named_parts_are_all_there_is() -> None:
    evaluator = built("--evaluator.parts", json.dumps([{"class_path": "unifashion_pl.evaluation.ComposedPart"}]))
    assert [type(part) for part in evaluator.parts] == [ComposedPart]
    values = evaluate(everything(), None, parts=[RetrievalPart(ks=(1, 5))], settings={})
    assert set(values) == {name for name in values if name.startswith("fashiongen/")}
    assert {"fashiongen/t2i/R@5", "fashiongen/full/mean"} <= set(values)


def test_one_option_of_the_shorthand_sets_up_the_usual_parts() -> None:
    evaluator = built(
        *("--evaluator.robustness", "true", "--evaluator.max_captions", "6", "--evaluator.pair_ks", "[1, 3]"),
        *(
            "--evaluator.max_edits",
            "null",
            "--evaluator.sampler",
            "paper",
            "--evaluator.guidance",
            "2",
            "--evaluator.seed",
            "4",
        ),
    )
    assert evaluator.parts == [
        CaptionPart(most=6),
        ComposedPart(robustness=True),
        PersonPart(most=None, sampler="paper", guidance=2.0),
        ImagePart(sampler="paper", guidance=2.0),
        RetrievalPart(ks=(1, 3), robustness=True),
    ]
    assert evaluator.setting.seed == 4
    assert not hasattr(evaluator, "max_captions")  # kept once, by the part


def test_what_was_saved_builds_the_same_again() -> None:
    """As the config in a checkpoint: all defaults are written out."""
    made = parser()
    for words in (["--evaluator.also", json.dumps([{"class_path": NAMED}])], ["--evaluator.max_images=3"]):
        first = made.parse_args(words)
        again = made.parse_string(made.dump(first))
        assert made.instantiate(again).evaluator.parts == made.instantiate(first).evaluator.parts


def test_parts_and_the_shorthand_for_others_are_refused() -> None:
    with pytest.raises(ValueError, match="arguments of the usual CaptionPart beside them"):
        Evaluator([RetrievalPart()], max_captions=3)


def test_a_checkpoint_may_name_parts_of_the_library_and_no_others() -> None:
    made = parser()
    section = {"class_path": "unifashion_pl.evaluation.Evaluator", "init_args": {}}
    for name, good in (("unifashion_pl.evaluation.RetrievalPart", True), (NAMED, False)):
        section["init_args"] = {"also": [{"class_path": name}]}
        with library_only("some.ckpt", trusted=False):
            if good:
                assert made.parse_object({"evaluator": section}).evaluator.init_args.also[0].class_path == name
        if not good:
            with pytest.raises(UntrustedCode, match=r"some.ckpt names .*Brightness"), library_only("some.ckpt", False):
                made.parse_object({"evaluator": section})


def test_copies_do_not_share_what_they_accumulate() -> None:
    part = Brightness()
    one, two = part.of("a/val", Evaluator().setting), part.of("b/val", Evaluator().setting)
    with torch.no_grad():
        one.update(None, pairs())
    assert len(one.found) == 12
    assert two.found == {}
    assert (one.dataset, two.dataset, part.dataset) == ("a/val", "b/val", "")
