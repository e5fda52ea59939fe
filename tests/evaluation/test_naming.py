"""Naming and precision of a real model beside the same numbers counted from its embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation.batches import make_model, pairs, split

from unifashion_pl.evaluation import Evaluator, NamingPart
from unifashion_pl.evaluation.naming import similarity
from unifashion_pl.metrics.categories import precision_at
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import read_records

CATEGORIES = ["dress", "shirt", "hat"]


def evaluated(tmp_path: Path, part: NamingPart, categories: list[str]) -> dict[str, float]:
    batch = replace(pairs(), categories=categories)
    evaluator = Evaluator([part])
    evaluator.start("test")
    for some in split(batch, 5):
        evaluator.update(make_model(), some)
    return evaluator.finish(tmp_path)


def test_it_measures_what_the_embeddings_say(tmp_path: Path) -> None:
    own = [CATEGORIES[i % 3] for i in range(12)]
    prompts = ("a photo of a {}", "{}")
    values = evaluated(tmp_path, NamingPart(prompts, cut=4), own)
    model = make_model()
    head = model.retrieval_head
    assert head is not None
    with torch.no_grad():
        tokens = head.image_embeddings(model.backbone, pairs().images)
        names = sorted(CATEGORIES)
        score = sum(
            torch.einsum("ce,nqe->cnq", head.text_embeddings(model.backbone, [p.replace("{}", n) for n in names]), tokens).amax(
                2
            )
            for p in prompts
        )
    truth = torch.tensor([names.index(one) for one in own])
    assert values["fashiongen/naming/accuracy"] == pytest.approx(100 * float((score.argmax(0) == truth).float().mean()))
    top = score.topk(4, 1).indices
    pure = torch.stack([(truth[top[c]] == c).float().mean() for c in range(3)]).mean()
    assert values["fashiongen/t2i/P@4"] == pytest.approx(100 * float(pure))
    alike = torch.stack([torch.stack([(a @ b.T).amax(1).mean() for b in tokens]) for a in tokens])
    found = similarity(tokens)  # an untrained model's are so much alike that their order is rounding
    torch.testing.assert_close(found, alike, atol=1e-5, rtol=0)
    near = precision_at(found, truth[:, None] == truth, 4, itself=True)
    assert values["fashiongen/i2i/P@4"] == pytest.approx(100 * near.mean())


def test_records_carry_chance_and_lines_the_place_of_the_right_name(tmp_path: Path) -> None:
    values = evaluated(tmp_path, NamingPart(cut=4), ["dress"] * 9 + ["hat"] * 3)
    records = {(r.metric, r.under.chance): r for r in read_records(tmp_path / "results.json")}
    assert records["naming/accuracy", True].value == pytest.approx(75.0)
    assert records["i2i/P@4", True].value == pytest.approx(100 * (9 * 8 + 3 * 2) / (12 * 11))
    assert records["naming/accuracy", False].under.detail("categories") == "2"
    lines = read_lines(tmp_path / "predictions" / "retrieval.jsonl")
    assert len(lines) == 12
    assert values["fashiongen/naming/accuracy"] == pytest.approx(100 * sum(line["rank"] == 1 for line in lines) / 12)


def test_a_prior_is_added_to_what_the_temperature_makes_of_scores(tmp_path: Path) -> None:
    own = [CATEGORIES[i % 3] for i in range(12)]
    counts = {"dress": 40, "hat": 5}  # no shirt: half a row
    values = evaluated(tmp_path, NamingPart(cut=4, prior=counts), own)
    model = make_model()
    head = model.retrieval_head
    assert head is not None
    with torch.no_grad():
        tokens = head.image_embeddings(model.backbone, pairs().images)
        names = sorted(CATEGORIES)
        vectors = head.text_embeddings(model.backbone, [f"a photo of a {name}" for name in names])
        logits = torch.einsum("ce,nqe->cnq", vectors, tokens).amax(2) / head.temperature
    posterior = logits.softmax(0) * torch.tensor([40, 5, 0.5])[:, None]
    right = posterior.argmax(0) == torch.tensor([names.index(one) for one in own])
    assert values["fashiongen/naming_prior/accuracy"] == pytest.approx(100 * float(right.float().mean()))
    plain = evaluated(tmp_path / "plain", NamingPart(cut=4), own)
    assert plain == {name: value for name, value in values.items() if "prior" not in name}
    lines = read_lines(tmp_path / "predictions" / "retrieval.jsonl")
    known = [line for line in lines if "prior=learned" in line["protocol"]]
    assert [line["rank"] == 1 for line in known] == right[[pairs().keys.index(line["query"]) for line in known]].tolist()
    with pytest.raises(ValueError, match="expected numbers of rows"):
        NamingPart(prior={"dress": -1})


@pytest.mark.parametrize("categories", [["dress"] * 12, [""] * 12, ["dress", "hat"] + [""] * 10])
def test_without_categories_to_tell_apart_nothing_is_measured(tmp_path: Path, categories: list[str]) -> None:
    assert evaluated(tmp_path, NamingPart(cut=4), categories) == {}


@pytest.mark.parametrize("prompts", [(), ("a photo",), ("{} and {}",)])
def test_a_prompt_names_one_category(prompts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected texts with one {} each"):
        NamingPart(prompts)
