"""Run files are read by trec_eval (pytrec_eval), which knows nothing of this library."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch

from unifashion_pl.metrics.best import best_lists
from unifashion_pl.metrics.recall import exact_ranks
from unifashion_pl.trec import Best, Listing, trec_id, write_folder, write_trec

pytrec_eval = pytest.importorskip("pytrec_eval", reason="the independent reading of run files; it is in the extra test")


def judged(run: Path, *measures: str) -> dict[str, dict[str, float]]:
    with open(run.with_suffix(".qrels")) as right, open(run) as found:
        return pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(right), {*measures}).evaluate(pytrec_eval.parse_run(found))


@pytest.mark.parametrize("name", ["a b", "100%", "100%25", "tab\there", "line\nend", "nbsp\u00a0x", "\u2028", "é%20 ü", "x"])
def test_names_have_no_blanks_and_come_back(name: str) -> None:
    assert len(trec_id(name).split()) == 1
    assert unquote(trec_id(name)) == name


@pytest.mark.parametrize("levels", [3, 1000])
def test_trec_eval_finds_our_recall_also_where_scores_tie(tmp_path: Path, levels: int) -> None:
    """Few levels of scores: nearly every right answer ties with others, which counts against the query."""
    numbers = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (40, 60), generator=numbers).float() / levels - 0.5
    right = torch.randint(60, (40,), generator=numbers).tolist()
    mask = torch.zeros(40, 60, dtype=torch.bool).scatter(1, torch.tensor(right)[:, None], True)
    names = [f"image {i}" for i in range(60)]
    lists = best_lists(scores, mask, names, 50)
    written = write_trec(tmp_path / "x.run", [Listing(f"q {i}", b, (names[r],)) for i, (b, r) in enumerate(zip(lists, right))])
    assert [path.name for path in written] == ["x.run", "x.qrels"]
    ranks, found = exact_ranks(scores, right), judged(tmp_path / "x.run", "recall.1,10,50", "recip_rank", "map", "ndcg")
    places = (ranks.better + ranks.ties + 1).tolist()
    for i, place in enumerate(places):
        row = found[f"q%20{i}"]
        assert [row[f"recall_{k}"] for k in (1, 10, 50)] == [float(place <= k) for k in (1, 10, 50)]
        reached = 1 / place if place <= 50 else 0.0
        assert row["recip_rank"] == row["map"] == pytest.approx(reached)
        assert row["ndcg"] == pytest.approx(1 / np.log2(place + 1) if place <= 50 else 0.0)


def test_scores_go_down_line_by_line_and_keep_their_value(tmp_path: Path) -> None:
    scores = np.array([0.5, 0.5, 0.5, 0.0, 0.0, -0.25], np.float32)
    write_trec(tmp_path / "x.run", [Listing("q", Best(list("cabfed"), scores))])
    rows = [line.split() for line in (tmp_path / "x.run").read_text().splitlines()]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows[:2]] == [
        ("q", "Q0", "c", "1", "unifashion-pl"),
        ("q", "Q0", "a", "2", "unifashion-pl"),
    ]
    written = np.array([row[4] for row in rows], np.float32)
    assert (np.diff(written) < 0).all()
    assert np.abs(written - scores).max() < 1e-6
    assert not (tmp_path / "x.qrels").exists()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    one = Listing("q", Best(["a"], np.ones(1, np.float32)))
    with pytest.raises(ValueError, match="call it x.run"):
        write_trec(tmp_path / "x.qrels", [one])
    with pytest.raises(ValueError, match="two queries are called 'q'"):
        write_trec(tmp_path / "x.run", [one, one])
    with pytest.raises(ValueError, match="NaN"):
        write_trec(tmp_path / "x.run", [Listing("q", Best(["a"], np.array([np.nan], np.float32)))])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_no_runs_of_an_earlier_test(tmp_path: Path) -> None:
    one = Listing("q", Best(["a"], np.ones(1, np.float32)), ("a",))
    write_folder(tmp_path / "trec", {"shop--old.run": [one]})
    (tmp_path / "trec/mine.run").touch()
    write_folder(tmp_path / "trec", {"shop--new.run": [one]})
    assert sorted(path.name for path in (tmp_path / "trec").iterdir()) == ["mine.run", "shop--new.qrels", "shop--new.run"]
    write_folder(tmp_path / "absent", {})
    assert not (tmp_path / "absent").exists()
