"""Tables 4 and 5 as one command: what is trained and when, what a table says, and gallery captions that saw no query."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unifashion_pl.datamodules import WardrobeDataModule

from unifashion_pl import trainings
from unifashion_pl.ablations import Settings, cell_of, make_table, ordering
from unifashion_pl.cli import main
from unifashion_pl.metrics.records import Interval, ResultRecord, write_records

CIR = "fashioniq/original/ref-kept/{}(score=itc,text=and)"


def composed(score: str, avg: float) -> list[ResultRecord]:
    """A chance level first, so that taking the first record of a metric is found out."""
    protocol = CIR.format(score) if score != "both" else CIR.format(score).replace("(", "(w=1,")
    span = Interval(avg - 2, avg + 2, 0.95, "bootstrap")
    names = [f"{c}/R@{k}" for c in ("dress", "shirt", "toptee", "mean") for k in (10, 50)] + ["Avg"]
    chance = [ResultRecord(name, 5.0, "percent", 360, protocol + "/chance") for name in names]
    return [*chance, *(ResultRecord(name, avg, "percent", 360, protocol, interval=span) for name in names)]


def results(recipe: str) -> list[ResultRecord]:
    strength = {"base": 50.0, "llm": 60.0, "full": 70.0}[recipe]
    records = [*composed("image", strength), ResultRecord("mean", strength, "percent", 3000, "fashiongen_100(n=600)")]
    if recipe != "base":
        records += [*composed("caption", strength - 20), *composed("both", strength + 5)]
        records.append(ResultRecord("Avg", 41.5, "percent", 360, CIR.format("caption").replace("itc", "bm25")))
        records.append(ResultRecord("BLEU-4", 0.25, "raw", 256, "coco(tokenizer=ptb-py)"))
    return records


class Trainer:
    """Stands in for the command line: writes what a run leaves behind, and stops where it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.args: list[list[str]] = []
        self.stop: tuple[str, str] | None = None

    def __call__(self, args: list[str]) -> None:
        command, name = args[0], args[args.index("--config") + 1]
        recipe, phase = name.removeprefix("ablations/").removesuffix(".yaml").split("-")
        self.calls.append((command, f"{recipe}-{phase}"))
        self.args.append(args)
        folder = Path("runs") / recipe / phase
        if command == "test":
            assert Path(args[args.index("--ckpt_path") + 1]).is_file()
            (folder / "test").mkdir()
            write_records(folder / "test" / "results.json", results(recipe))
            return
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "last.ckpt").touch()
        if self.stop == self.calls[-1]:
            raise SystemExit(1)


def captions(run: Path, out: Path) -> None:
    line = {"image": "a", "caption": "red", "captioner": "x", "weights_hash": "0f", "template": "t", "decoding": {}}
    out.write_text(json.dumps({**line, "inputs": ["image"]}) + "\n")


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(trainings, "train", trainer)
    monkeypatch.setattr(trainings, "write_captions", captions)
    return trainer


def test_table4_is_one_training_and_table5_adds_two(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_table("table4", tmp_path)
    assert trainer.calls == [("fit", "full-phase1"), ("fit", "full-phase2"), ("test", "full-phase2")]
    assert "--data.gallery_captions" in trainer.args[-1]
    trainer.calls.clear()
    make_table("table5", tmp_path)
    assert trainer.calls == [
        (c, f"{r}-{p}") for r in ("base", "llm") for c, p in (("fit", "phase1"), ("fit", "phase2"), ("test", "phase2"))
    ]
    assert not any("--data.gallery_captions" in args for args in trainer.args if "base" in args[2])
    assert "(Base+LLM+diff.): phase1, phase2, captions, test already done, skipped" in capsys.readouterr().out


def test_an_interrupted_stage_starts_anew_and_what_is_done_stays(trainer: Trainer, tmp_path: Path) -> None:
    trainer.stop = ("fit", "full-phase2")
    with pytest.raises(SystemExit):
        make_table("table4", tmp_path)
    (tmp_path / "runs/full/phase2/metrics.csv").write_text("half a line")
    assert not (tmp_path / "table4.md").exists()
    trainer.stop = None
    trainer.calls.clear()
    make_table("table4", tmp_path)
    assert trainer.calls == [("fit", "full-phase2"), ("test", "full-phase2")]
    assert not (tmp_path / "runs/full/phase2/metrics.csv").exists()


def test_a_stage_whose_files_are_gone_takes_the_later_ones_with_it(trainer: Trainer, tmp_path: Path) -> None:
    make_table("table4", tmp_path)
    (tmp_path / "runs/full/gallery-captions.jsonl").unlink()
    trainer.calls.clear()
    make_table("table4", tmp_path)
    assert trainer.calls == [("test", "full-phase2")]


def test_settings_reach_the_trainer_and_do_not_mix(trainer: Trainer, tmp_path: Path) -> None:
    make_table("table4", tmp_path, Settings("tiny", 3, 7, 5))
    phase1, phase2, test = (" ".join(args) for args in trainer.args)
    assert "--trainer.max_epochs 3" in phase1
    assert "--trainer.max_steps 7" in phase2
    assert all("--data.size tiny --seed_everything 5" in args for args in (phase1, phase2, test))
    with pytest.raises(ValueError, match=r"was made with seed 5 \(asked for: 6\): name another --out"):
        make_table("table4", tmp_path, Settings("tiny", 3, 7, 6))
    with pytest.raises(ValueError, match="phase2_steps is 0; expected at least 1"):
        Settings(phase2_steps=0)


def test_a_folder_of_somebody_else_is_left_alone(trainer: Trainer, tmp_path: Path) -> None:
    (tmp_path / "runs/full/phase1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is not empty and has no ablation\.json"):
        make_table("table4", tmp_path)
    assert trainer.calls == []


def test_table4_shows_each_score_beside_its_row(trainer: Trainer, tmp_path: Path) -> None:
    text = make_table("table4", tmp_path)
    assert text == (tmp_path / "table4.md").read_text()
    data = json.loads((tmp_path / "table4.json").read_text())
    found = {row["method"]: next(c for c in row["cells"] if c["metric"] == "Avg") for row in data["rows"]}
    assert {m: (c["ours"], c["paper"]) for m, c in found.items()} == {
        "UniFashion w/o cap": (70.0, 65.04),
        "UniFashion w/o img": (50.0, 48.22),
        "UniFashion": (75.0, 67.93),
    }
    assert found["UniFashion"]["protocol"] == "fashioniq/original/ref-kept/both(w=1,score=itc,text=and)"
    assert f"| UniFashion w/o img | Avg | 50.00 | 48.00–52.00 | 360 | 48.22 | `{CIR.format('caption')}` |" in text
    assert data["ordering"]["matches"] is True
    assert "Words alone (BM25 of query text against these captions): Avg 41.50." in text


def test_table5_takes_its_columns_from_the_other_tables(trainer: Trainer, tmp_path: Path) -> None:
    text = make_table("table5", tmp_path)
    data = json.loads((tmp_path / "table5.json").read_text())
    ours = {row["method"]: {c["metric"]: c["ours"] for c in row["cells"]} for row in data["rows"]}
    assert ours == {
        "Base": {"CMR": 50.0, "CIR": 50.0, "FIC": None, "FIG": None},
        "Base+LLM": {"CMR": 60.0, "CIR": 60.0, "FIC": 25.0, "FIG": None},
        "Base+LLM w/ cap": {"CMR": 60.0, "CIR": 65.0, "FIC": 25.0, "FIG": None},
        "Base+LLM+diff.": {"CMR": 70.0, "CIR": 75.0, "FIC": 25.0, "FIG": None},
    }
    assert data["ordering"]["sentence"].startswith(
        "By CIR our rows stand in the paper's order, Base+LLM+diff. > Base+LLM w/ cap >"
    )
    assert "| Base+LLM+diff. | FIG | – | – | – | 12.43 | not measured |" in text
    assert "| Base | FIC |" not in text


def test_ordering_says_match_mismatch_tie_and_gap() -> None:
    paper: dict[str, float | None] = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert ordering("Avg", {"a": 5.0, "b": 6.0, "c": 7.0}, paper)["matches"] is True
    wrong = ordering("Avg", {"a": 6.0, "b": 5.0, "c": 7.0}, paper)
    assert wrong["matches"] is False
    assert "our order, c > a > b, is not the paper's, c > b > a" in wrong["sentence"]
    assert "c = b > a" in ordering("Avg", {"a": 5.0, "c": 7.0, "b": 7.0}, paper)["sentence"]
    assert ordering("Avg", {"a": 5.0, "b": 7.0, "c": 7.0}, paper)["matches"] is False
    gap = ordering("Avg", {"a": 5.0, "b": None, "c": 7.0}, paper)
    assert gap == {"matches": None, "sentence": "The order by Avg cannot be judged: no value for b."}
    spans = {"a": {"low": 4.0, "high": 6.5}, "b": {"low": 6.0, "high": 6.6}, "c": {"low": 6.7, "high": 8.0}}
    close = ordering("Avg", {"a": 5.0, "b": 6.3, "c": 7.0}, paper, spans)["sentence"]
    assert close.endswith("(of 2 neighbouring pairs of ours, 1 have overlapping intervals).")


def test_other_scores_halves_and_chance_are_not_our_value() -> None:
    records = [*composed("image", 30.0)[:9], *composed("caption", 40.0)]
    records.append(ResultRecord("Avg", 50.0, "percent", 9, CIR.format("image").replace("itc", "text-only")))
    records.append(ResultRecord("Avg", 51.0, "percent", 9, CIR.format("image") + "/no-overlap"))
    assert cell_of("4", "image", "Avg", records, 65.04).ours is None
    assert cell_of("4", "caption", "Avg", records, 48.22).ours == 40.0


def test_the_wardrobe_takes_a_library_of_gallery_captions(tmp_path: Path) -> None:
    data = WardrobeDataModule(tmp_path, "tiny", pairs=False, triplets=True, gallery_captions=tmp_path / "c.jsonl")
    assert data.parts["triplets"].gallery_captions == tmp_path / "c.jsonl"  # type: ignore[union-attr]


@pytest.mark.slow
def test_table5_for_real_on_the_tiny_wardrobe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path / "cache"))
    args = ["--out", str(tmp_path / "out"), "--size", "tiny", "--phase1-epochs", "1", "--phase2-steps", "2"]
    main(["ablations", "table5", *args])
    data = json.loads((tmp_path / "out/table5.json").read_text())
    for row in data["rows"]:
        cells = {c["metric"]: c for c in row["cells"]}
        assert cells["CMR"]["n"] > 0
        assert cells["CIR"]["n"] == 18
        assert (cells["FIC"]["ours"] is None) is (row["method"] == "Base")
    assert [item["n"] > 0 for item in data["captions"]] == [True, True]
    capsys.readouterr()
    main(["ablations", "table4", *args])
    said = capsys.readouterr().out
    assert "phase1, phase2, captions, test already done, skipped; nothing left to do" in said.replace(
        " (UniFashion w/o cap, UniFashion w/o img, UniFashion)", ""
    )
    assert "# Table 4" in said
