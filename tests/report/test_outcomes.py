"""What every query scored: which protocols are told apart, and that the rows' means are the metrics."""

from __future__ import annotations

import numpy as np
import pytest
from fake_lines import COMPOSED, HUNDRED, evaluation, retrieval

from unifashion_pl.metrics.lines import ComposedLine
from unifashion_pl.report.outcomes import cutoffs, outcomes

QUERY = "fashioniq/val: composed retrieval, gallery original, image score"


def test_halves_and_removed_references_are_no_protocol_of_the_composed_query() -> None:
    found = outcomes(evaluation())
    assert [t for t in found if "composed" in t] == ["fashioniq/val: composed retrieval, gallery original, image score"]
    assert found["fashioniq/val: composed retrieval, gallery original, image score"].protocols == {COMPOSED}


def test_every_kind_of_predictions_has_its_rows_by_dataset() -> None:
    found = outcomes(evaluation())
    assert {title: len(of.rows) for title, of in found.items()} == {
        QUERY: 190, "fashiongen/val: fashiongen_100": 120, "fashiongen/val: caption scores": 50, "fashiongen/val: captions, first colour word": 49,
    }  # fmt: skip
    assert found["fashiongen/val: fashiongen_100"].protocols == {HUNDRED}
    assert found[QUERY].data == {"d"}
    assert found["fashiongen/val: captions, first colour word"].said == "none that its results.json names"


def test_rows_of_a_retrieval_protocol_average_to_its_metrics() -> None:
    lines = retrieval(0, 0.3)
    rows = outcomes(evaluation(0, 0.3))["fashiongen/val: fashiongen_100"].rows.values()
    for direction in ("i2t", "t2i"):
        expected = 100 * np.mean([line.rank + line.ties <= 5 for line in lines if line.direction == direction])
        assert np.mean([row.values[f"{direction}/R@5"] for row in rows if f"{direction}/R@5" in row.values]) == pytest.approx(
            expected
        )


def test_a_tie_counts_against_the_query() -> None:
    one = evaluation()
    line = one.lines(ComposedLine)[0]
    line.ranks["original/ref-kept/image"] = (10, 1)
    row = outcomes(one)[QUERY].rows[line.key]
    assert (row.values["mean/R@10"], row.values["mean/R@50"], row.values["Avg"]) == (0.0, 100.0, 50.0)


def test_cutoffs_are_those_of_the_records() -> None:
    assert cutoffs(evaluation().records) == [1, 5, 10, 50]
    assert COMPOSED in {r.protocol for r in evaluation().records}
