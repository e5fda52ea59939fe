"""What trec_eval (pytrec_eval) makes of a test's run files is what the test reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from evaluation.batches import SMALL, evaluate, everything, gallery, queries

from unifashion_pl.metrics.records import ResultRecord, read_records

pytrec_eval = pytest.importorskip("pytrec_eval", reason="the independent reading of run files; it is in the extra test")


def judged(run: Path, *measures: str) -> dict[str, float]:
    """Means over queries in percent; a query whose right answers are not in its list counts as 0."""
    with open(run.with_suffix(".qrels")) as right, open(run) as found:
        asked = pytrec_eval.parse_qrel(right)
        every = pytrec_eval.RelevanceEvaluator(asked, {*measures}).evaluate(pytrec_eval.parse_run(found))
    assert every.keys() == asked.keys()
    return {name: 100 * mean(row[name] for row in every.values()) for name in next(iter(every.values()))}


def reported(records: list[ResultRecord], metric: str, **under: str) -> float:
    (found,) = [
        r.value
        for r in records
        if r.metric == metric
        and not (r.under.chance or r.under.further)
        and all(getattr(r.under, name) == value for name, value in under.items() if name != "half")
        and r.under.half == under.get("half", "itc")
    ]
    assert found is not None
    return found


def test_every_reported_recall_is_that_of_its_run(tested: tuple[Path, dict[str, float]]) -> None:
    folder, records = tested[0] / "trec", read_records(tested[0] / "results.json")
    names = {path.stem for path in folder.glob("*.run")}
    checked = 0
    for name in names:
        dataset, _, said = name.partition("--")
        found = judged(folder / f"{name}.run", "recall.1,2", "success.1,2,5", "map", "ndcg_cut.5", "recip_rank")
        if dataset == "fashioniq-val":
            category, gallery_, reference, score, *half = said.split(".")
            under = {"gallery": gallery_, "reference": reference, "score": score, "half": half[0] if half else "itc"}
            for k in (1, 2):
                assert found[f"recall_{k}"] == pytest.approx(reported(records, f"{category}/R@{k}", **under))
        else:
            family, direction = said.split(".")
            for k in (1, 5):
                assert found[f"success_{k}"] == pytest.approx(reported(records, f"{direction}/R@{k}", family=family))
        assert 0 < found["recip_rank"] <= 100
        checked += 1
    assert checked == 2 * 3 * 2 * (1 + 4) + 2 * 2  # categories, galleries, reference rules, halves; protocols, directions


def test_candidates_are_those_of_the_protocol(tested: tuple[Path, dict[str, float]]) -> None:
    asked = dict(zip(queries().keys, queries().reference_ids))

    def documents(name: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in (tested[0] / f"trec/fashioniq-val--{name}.run").read_text().splitlines():
            query, _, document, *_ = line.split()
            found.setdefault(query, set()).add(document)
        return found

    shelf = gallery()
    for query, found in documents("shirt.original.ref-kept.image").items():
        assert found == {key for key, category in zip(shelf.keys, shelf.categories) if category == "shirt"}
        assert documents("shirt.original.ref-removed.image")[query] == found - {asked[query]}
    assert {d for found in documents("shirt.targets.ref-kept.image").values() for d in found} == {"g4", "g6"}


def test_robustness_has_runs_too_and_without_the_option_there_are_none(tmp_path: Path) -> None:
    asked = replace(queries(), texts=["is red and long"] * 4)
    evaluate([*everything()[:2], asked], tmp_path / "some", robustness=True)
    found = {path.name for path in (tmp_path / "some/trec").iterdir()}
    assert "fashiongen-validation--fashiongen_full.t2i.product-level.run" in found
    assert "fashioniq-val--shirt.original.ref-kept.image.rewritten.qrels" in found
    records = read_records(tmp_path / "some/results.json")
    product = judged(tmp_path / "some/trec/fashiongen-validation--fashiongen_full.t2i.product-level.run", "recall.5")
    (value,) = [r.value for r in records if r.metric == "t2i/R@5" and r.under.robustness == "product-level"]
    assert product["recall_5"] == pytest.approx(value)
    evaluate([gallery(), queries()], tmp_path / "some", trec=0, settings={"composed_ks": (1, 2), "pair_ks": (1, 5)})
    assert list((tmp_path / "some/trec").iterdir()) == []


def test_every_reported_measure_is_that_of_its_run(tmp_path: Path) -> None:
    """Also where a query has several right answers (views of a product); lists of a run stay as long as they were asked for."""
    names = {"nDCG@5": "ndcg_cut_5", "MAP@10": "map_cut_10", "MRR": "recip_rank"}
    values = evaluate(everything(), tmp_path, measures=[*names])
    records = read_records(tmp_path / "results.json")
    for run in (tmp_path / "trec").glob("*.run"):
        dataset, _, said = run.stem.partition("--")
        if dataset == "fashioniq-val" and len(said.split(".")) == 4:
            stratum, gallery_, reference, score = said.split(".")
            under = {"gallery": gallery_, "reference": reference, "score": score}
        elif dataset == "fashiongen-validation":
            family, stratum = said.split(".")
            under = {"family": family}
        else:
            continue
        found = judged(run, "ndcg_cut.5", "map_cut.10", "recip_rank")
        for name, theirs in names.items():
            assert reported(records, f"{stratum}/{name}", **under) == pytest.approx(found[theirs]), (run.name, name)
    assert values["fashioniq/mean/nDCG@5"] == reported(
        records, "mean/nDCG@5", gallery="original", reference="ref-kept", score="image"
    )
    measured = [r for r in records if r.metric.endswith(tuple(names))]
    assert all(r.interval and r.n and r.dataset and r.protocol and r.unit == "percent" for r in measured)
    evaluate(everything(), tmp_path / "short", settings={**SMALL, "trec": 3}, measures=[*names])
    again = {(r.protocol, r.metric): r.value for r in read_records(tmp_path / "short/results.json")}
    assert all(again[r.protocol, r.metric] == r.value for r in measured)
    lengths = [line.split()[3] for run in (tmp_path / "short/trec").glob("*.run") for line in run.read_text().splitlines()]
    assert max(map(int, lengths)) == 3
