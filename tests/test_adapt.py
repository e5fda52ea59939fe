"""Fitting the small profile to a shop of drawings, with the shipped tiny model's parts: all stages, going on, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from drawings import TINY, shop
from unifashion_pl.datamodules import CatalogueDataModule

from unifashion_pl import adapt as adapting
from unifashion_pl.adapt import STATE, Choices, adapt
from unifashion_pl.data.features import FOLDER, FeatureIndex
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.evaluation import NamingPart
from unifashion_pl.gallery import Gallery
from unifashion_pl.metrics.records import read_records
from unifashion_pl.module import UniFashionModule

FEW = json.dumps(TINY)


def choices(**said: Any) -> Choices:
    return Choices(**{"group": "photographer", "val_fraction": 0.3, "epochs": 1, "configs": (FEW,), **said})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a shop with its run, and what the run said."""
    root = tmp_path_factory.mktemp("shop") / "one"
    csv = shop(root)
    return root, adapt(csv, root / "photos", root / "run", choices())


def test_a_run_says_what_was_known_before_and_what_is_known_now(fitted: tuple[Path, str]) -> None:
    root, told = fitted
    for place, metrics in (
        ("before", {"probe/accuracy", "i2i/P@10"}),
        ("test", {"naming/accuracy", "naming_prior/accuracy", "t2i/P@10", "i2i/P@10", "t2i/R@1", "mean"}),
        ("compared", {"naming_prior - probe"}),
    ):
        records = read_records(root / "run" / place / "results.json")
        assert metrics <= {record.metric for record in records}
        assert {record.dataset for record in records} == {"catalogue/test"}
    assert "frozen features  probe/accuracy" in told
    assert "exact McNemar p =" in told
    page = (root / "run" / "report.html").read_text()
    assert "probe/accuracy" in page
    assert "naming/accuracy" in page


def test_naming_knows_how_often_a_category_occurs_in_training(fitted: tuple[Path, str]) -> None:
    run = fitted[0] / "run"
    settings = json.loads((run / "adapt.yaml").read_text("utf-8"))
    (part,) = settings["model"]["evaluator"]["init_args"]["also"]
    rows = CatalogueDataModule(**settings["data"]["init_args"]).rows("train").values()
    counts = dict(part["init_args"]["prior"])
    assert counts == dict(sorted(Counter(row.category for row in rows).items()))
    named = {record.metric: record for record in read_records(run / "test" / "results.json") if not record.under.chance}
    (compared,) = read_records(run / "compared" / "results.json")
    (probe,) = (r for r in read_records(run / "before" / "results.json") if r.metric == "probe/accuracy" and not r.under.chance)
    assert compared.value == pytest.approx(named["naming_prior/accuracy"].value - probe.value)


def test_a_model_that_was_moved_needs_nothing_of_its_run(fitted: tuple[Path, str], tmp_path: Path) -> None:
    run = fitted[0] / "run"
    shutil.copytree(run / "model", tmp_path / "model")
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path)
    fitted[0].rename(away := fitted[0].with_name("away"))
    try:
        for place in ("model", "best.ckpt"):
            assert UniFashionModule.from_pretrained(tmp_path / place).retrieval_head is not None
    finally:
        away.rename(fitted[0])


def test_training_features_hold_mirrored_pictures_and_others_do_not(fitted: tuple[Path, str]) -> None:
    shards = fitted[0] / "run" / "shards"
    fields = {folder.name: FeatureIndex.load(folder / FOLDER).fields for folder in shards.iterdir() if folder.is_dir()}
    assert fields == {"pairs-train": ["image", "image/mirrored"], "pairs-val": ["image"], "pairs-test": ["image"]}


def test_the_model_searches(fitted: tuple[Path, str]) -> None:
    root, told = fitted
    assert "\nappearance: " in told
    assert told.endswith(str(root / "run" / "model"))
    model = UniFashionModule.from_pretrained(root / "run" / "model")
    fit = UniFashionModule.from_pretrained(root / "run" / "checkpoints" / "best.ckpt").state_dict()
    own = model.state_dict()
    assert {name: tensor for name, tensor in own.items() if "appearance" not in name}.keys() == fit.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in fit.items())
    assert ("appearance: weight" in told) == (model.backbone.appearance is not None)
    pictures = sorted((root / "photos").glob("*.png"))[:5]
    found: Gallery = model.gallery([*map(str, pictures)])
    assert len(found.search(text="a red dress", k=3)) == 3


def test_the_same_command_goes_on_and_another_is_refused(fitted: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    root, told = fitted
    state = root / "run" / STATE
    monkeypatch.setattr(adapting, "train", lambda args: pytest.fail(f"{args[0]} is done"))
    assert adapt(root / "items.csv", root / "photos", root / "run", choices()) == told
    asked: list[list[str]] = []
    monkeypatch.setattr(adapting, "train", asked.append)
    whole = state.read_text()
    state.write_text(json.dumps({**json.loads(whole), "done": []}))  # killed in the fit
    adapt(root / "items.csv", root / "photos", root / "run", choices())
    state.write_text(whole)
    assert [args[0] for args in asked] == ["fit", "test"]
    assert asked[0][-2:] == ["--resume", "auto"]
    with pytest.raises(ValueError, match="holds a run with other settings"):
        adapt(root / "items.csv", root / "photos", root / "run", choices(seed=1))


def test_a_catalogue_without_rows_to_stop_by_is_refused(tmp_path: Path) -> None:
    csv = shop(tmp_path / "one", each=4)
    with pytest.raises(MissingDataError, match=r"no rows that the fit is stopped by \(val\); its splits are train \d, test \d"):
        adapt(csv, csv.parent / "photos", tmp_path / "run", choices(val_fraction=0.0))


def test_a_catalogue_that_says_nothing_is_refused_before_any_work(tmp_path: Path) -> None:
    csv = shop(tmp_path / "one", each=12)
    csv.write_text(csv.read_text().replace("title,text", "what,colour"))
    with pytest.raises(MissingDataError, match="says nothing of any of its .* training images: fill a column text or title"):
        adapt(csv, csv.parent / "photos", tmp_path / "run", choices())
    assert not (tmp_path / "run" / "shards").exists()


def test_a_run_that_was_stopped_before_its_fit_is_not_taken_over_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv = shop(tmp_path / "one")
    monkeypatch.setattr(adapting, "_features", lambda data, config: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        adapt(csv, csv.parent / "photos", tmp_path / "run", choices())
    with pytest.raises(ValueError, match="holds a run with other settings"):
        adapt(csv, csv.parent / "photos", tmp_path / "run", choices(seed=1))


def test_a_group_that_no_row_has_is_named(tmp_path: Path) -> None:
    csv = shop(tmp_path / "one", each=4)
    with pytest.raises(ValueError, match="group is 'sender', which no row has; the CSV's columns are .*photographer"):
        adapt(csv, csv.parent / "photos", tmp_path / "run", choices(group="sender"))


@pytest.mark.parametrize(
    ("rows", "trainer", "length"),
    [
        (3_059, {}, {}),  # 47 steps an epoch
        (2_000, {}, {"max_epochs": 20, "check_val_every_n_epoch": 2}),  # 31
        (400, {}, {"max_epochs": 96, "check_val_every_n_epoch": 8}),  # 6
        (400, {"accumulate_grad_batches": 2}, {"max_epochs": 192, "check_val_every_n_epoch": 16}),
        (400, {"devices": 2}, {"max_epochs": 192, "check_val_every_n_epoch": 16}),
        (10, {}, {}),  # no batch, which the loader says
    ],
)
def test_small_catalogues_are_seen_more_often(rows: int, trainer: dict[str, int], length: dict[str, int]) -> None:
    assert adapting._lengthened({"max_epochs": 12, "devices": 1, **trainer}, rows, 64) == length


def test_a_user_s_own_length_is_kept() -> None:
    assert not Choices(configs=('{"seed_everything": 3}',)).has_length()
    assert Choices(epochs=12).has_length()
    for said in ({"max_epochs": 12}, {"max_steps": 20}, {"check_val_every_n_epoch": 2}):
        assert Choices(configs=(json.dumps({"trainer": said}),)).has_length()


def test_a_run_goes_on_with_the_length_that_it_began_with(
    fitted: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, run = fitted[0], tmp_path / "run"
    fits: list[dict[str, Any]] = []

    def stopped(args: list[str]) -> None:
        fits.append(json.loads(Path(args[2]).read_text("utf-8"))["trainer"])
        raise KeyboardInterrupt

    def begin(epochs: int | None) -> None:
        with pytest.raises(KeyboardInterrupt):
            adapt(root / "items.csv", root / "photos", run, choices(epochs=epochs))

    monkeypatch.setattr(adapting, "train", stopped)
    begin(None)
    state = json.loads((run / STATE).read_text("utf-8"))
    assert state["length"] == {name: fits[0][name] for name in ("max_epochs", "check_val_every_n_epoch")}
    assert state["length"]["max_epochs"] > 12
    monkeypatch.setattr(adapting, "LEAST", 9_000)
    begin(None)
    assert fits[1] == fits[0]
    with pytest.raises(ValueError, match="holds a run with other settings"):
        adapt(root / "items.csv", root / "photos", run, choices(epochs=12))
    older = {"settings": state["settings"], "done": []}  # as versions before wrote it, which never lengthened a fit
    (run / STATE).write_text(json.dumps(older), "utf-8")
    begin(None)
    assert (fits[2]["max_epochs"], fits[2].get("check_val_every_n_epoch")) == (12, None)


def test_categories_of_any_name_and_configs_of_any_form_are_taken() -> None:
    counts = {"x" * 3000: 1, "a\u2028b\u0085c\x7f": 2, "class_path": 3, "init_args": 4, "__path__": 5, "Hüte 👒": 6}
    part = {"class_path": "unifashion_pl.evaluation.NamingPart", "init_args": None}
    for evaluator in (None, {"init_args": None}, {"init_args": {"also": None}}, {"init_args": {"also": ["NamingPart"]}}):
        assert adapting._with_prior({"model": {"evaluator": evaluator}}, counts) == {"model": {"evaluator": evaluator}}
    told = adapting._with_prior({"model": {"evaluator": {"init_args": {"also": [part]}}}}, counts)
    (said,) = told["model"]["evaluator"]["init_args"]["also"]
    assert NamingPart(prior=said["init_args"]["prior"]).counts == counts
    assert yaml.safe_load(adapting._as_yaml(told)) == told


def test_options_lie_over_the_shipped_recipe(tmp_path: Path) -> None:
    asked = Choices(tower=Path("a.pth"), bert=Path("b"), seed=3, columns={"text": "title"})
    found = asked.settings(Path("c.csv"), Path("photos"), tmp_path / "run")
    parts = found["model"]["backbone"]["init_args"]
    assert (parts["vision"]["init_args"]["weights"], parts["bert"], parts["tokenizer"]) == ("a.pth", "b", "b")
    assert (found["seed_everything"], found["data"]["init_args"]["columns"]) == (3, {"text": "title"})
    places = [one["init_args"]["dirpath"] for one in found["trainer"]["callbacks"] if "dirpath" in one["init_args"]]
    assert places == [str(tmp_path / "run" / "checkpoints")]
    assert "group" not in found["data"]["init_args"]
