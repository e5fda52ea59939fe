"""Fitting the small profile to an own catalogue: photos -> shards -> frozen features -> fit -> what it knows now beside what it knew before.

In the folder of a run: ``adapt.yaml`` (all of the settings, readable by ``unifashion fit``), ``shards/`` with their features,
``checkpoints/best.ckpt``, ``before/``, ``test/`` and ``compared/`` with result records, ``report.html``, ``model/``, which is what one searches
with (``best.ckpt`` and the appearance that was chosen for it), and ``adapt.json``, which says what is done. The same command goes on where an earlier one was stopped.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unifashion_pl import UniFashionModule, __version__
from unifashion_pl.cli.training import train
from unifashion_pl.configs import merged
from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.features import FOLDER, MIRRORED_FIELDS, FeatureSource
from unifashion_pl.data.make_features import write_features
from unifashion_pl.data.plan import Item, MissingDataError
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.texts import EVALUATION
from unifashion_pl.datamodules import CatalogueDataModule
from unifashion_pl.devices import default_device
from unifashion_pl.evaluation.naming import FAMILY, PRIOR, Judged, NamingPart, naming_records
from unifashion_pl.files import check_writable, write_text
from unifashion_pl.inference.appearance import choose_appearance
from unifashion_pl.metrics.categories import linear_probe, precision_at
from unifashion_pl.metrics.intervals import compare_paired
from unifashion_pl.metrics.lines import RetrievalLine, read_predictions
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.records import ResultRecord, read_records, write_records
from unifashion_pl.reading import read_json
from unifashion_pl.report import build_report

BASE = "small.yaml"
STATE = "adapt.json"
MODEL, CHOSEN = "model", "appearance.txt"
CUT = 10
#: Steps of a fit, less of which leave a small catalogue far from what its photos can teach (benchmarks/RESULTS.md).
LEAST = 560
#: Of the frozen features: what stands in a protocol's details.
OF = (("of", "tower"),)


@dataclass(frozen=True)
class Choices:
    """What a user says of a run; None = as :data:`BASE` and the configs over it say.

    Attributes:
        columns: own names of the CSV's columns.
        group: column whose equal cells are held out together.
        val_fraction: share that is held out where the CSV has no split.
        allow_missing: go on without images that are not there.
        tower, bert: files of the published encoders; the tokenizer is the BERT's.
        epochs, seed: of the fit.
        configs: laid over :data:`BASE`.
    """

    columns: Mapping[str, str] | None = None
    group: str | None = None
    val_fraction: float | None = None
    allow_missing: bool = False
    tower: Path | None = None
    bert: Path | None = None
    epochs: int | None = None
    seed: int | None = None
    configs: tuple[str, ...] = ()

    def has_length(self) -> bool:
        """Whether the user says how long the fit is, here or in a config of their own."""
        trainer = merged(self.configs).get("trainer") or {}
        return self.epochs is not None or bool({"max_epochs", "max_steps", "check_val_every_n_epoch"} & set(trainer))

    def settings(self, csv: Path, root: Path, out: Path) -> dict[str, Any]:
        """The whole configuration of a run."""
        data: dict[str, Any] = {"csv": str(csv), "root": str(root), "shards": str(out / "shards"), "features": True}
        data |= {"columns": dict(self.columns)} if self.columns else {}
        data |= {"allow_missing": True} if self.allow_missing else {}
        said = {"group": self.group, "val_fraction": self.val_fraction}
        data |= {name: value for name, value in said.items() if value is not None}
        words = {} if self.bert is None else {"bert": str(self.bert), "tokenizer": str(self.bert)}
        vision = {} if self.tower is None else {"vision": {"init_args": {"weights": str(self.tower)}}}
        over: dict[str, Any] = {"data": {"init_args": data}, "model": {"backbone": {"init_args": {**words, **vision}}}}
        over["trainer"] = {} if self.epochs is None else {"max_epochs": self.epochs}
        over |= {} if self.seed is None else {"seed_everything": self.seed}
        found = merged([BASE, *self.configs, json.dumps(over)])
        found["trainer"]["logger"]["init_args"] |= {"save_dir": str(out.parent), "name": out.name, "version": ""}
        for callback in found["trainer"]["callbacks"]:
            if "dirpath" in callback.get("init_args", {}):
                callback["init_args"]["dirpath"] = str(out / "checkpoints")
        return found


def adapt(csv: Path, root: Path, out: Path, choices: Choices | None = None) -> str:
    """Fit a model to a catalogue, or go on with it, and return the table of what it knows.

    Raises:
        MissingDataError: no rows for training or for validation, nothing said of any, or images are not there.
        ValueError: the folder has a run with other settings.
        WriteError: the folder cannot be written.
    """
    out, chosen = check_writable(out, folder=True), choices or Choices()
    settings = chosen.settings(csv, root, out)
    state = _begun(out, {"settings": settings, "epochs": chosen.epochs})
    data = CatalogueDataModule(**settings["data"]["init_args"])
    learned = _check_splits(data)
    if state is None:
        length = {} if chosen.has_length() else _lengthened(settings["trainer"], len(learned), data.batch_size)
        state = {"settings": settings, "epochs": chosen.epochs, "length": length, "done": []}
    done: list[str] = state["done"]

    def keep() -> None:
        write_text(out / STATE, json.dumps(state, ensure_ascii=False) + "\n")

    config = out / "adapt.yaml"
    if "fit" not in done or not config.is_file():
        run = _with_prior(settings, _counts(learned))
        run["trainer"] |= state.get("length", {})  # of a run that an earlier version began, its own
        write_text(config, _as_yaml(run))
    keep()
    print("adapt 1/5: shards and frozen features", flush=True)
    data.prepare_data()
    _features(data, config)
    judged = "test" if "test" in data.splits() else "val"
    guessed = _before(data, judged, out)

    if "fit" not in done:
        print("adapt 2/5: fit", flush=True)
        train(["fit", "--config", str(config), "--resume", "auto"])
        done.append("fit")
        keep()
    if "test" not in done:
        print(f"adapt 3/5: what it knows of the {judged} split", flush=True)
        train(["test", "--config", str(config), "--ckpt_path", str(out / "checkpoints" / "best.ckpt")])
        done.append("test")
        keep()
    if "appearance" not in done:
        print("adapt 4/5: by what a photo is known again", flush=True)
        _appearance(out, data)
        done.append("appearance")
        keep()
    print("adapt 5/5: report", flush=True)
    _compare(out, guessed)
    page = build_report([out], out / "report.html")
    return table(out) + f"\n{page}\nthe model: {out / MODEL}"


def _as_yaml(config: Mapping[str, Any]) -> str:
    """JSON that YAML reads too: JSON lets stand what YAML takes for the end of a line or for no character."""
    text = json.dumps(config, indent=1, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def _counts(learned: Sequence[Item]) -> dict[str, int]:
    """Category -> how many rows are learned from."""
    return dict(sorted(Counter(item.spec.meta["category"] for item in learned if item.spec.meta["category"]).items()))


def _with_prior(settings: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """The settings, in which naming knows how often each category occurs in training, as the probe that it is compared with does."""
    told = deepcopy(dict(settings))
    evaluator = told["model"].get("evaluator") or {}
    for part in (evaluator.get("init_args") or {}).get("also") or []:
        if isinstance(part, dict) and str(part.get("class_path")).rpartition(".")[2] == NamingPart.__name__:
            # pairs, because a name may be no key of YAML; not a file, because a model that is moved takes its config along and nothing else
            part["init_args"] = {"prior": [*map(list, counts.items())], **(part.get("init_args") or {})}
    return told


def _lengthened(trainer: Mapping[str, Any], rows: int, batch: int) -> dict[str, int]:
    """Of a catalogue so small that its epochs are fewer than :data:`LEAST` steps: more epochs, judged about as many times, the last one too."""
    epochs, waited = trainer["max_epochs"], trainer.get("accumulate_grad_batches", 1)
    devices = trainer["devices"] if isinstance(trainer.get("devices"), int) else 1
    steps = rows // (batch * max(1, devices) * waited)
    if not steps or epochs * steps >= LEAST:
        return {}
    every = math.ceil(math.ceil(LEAST / steps) / epochs)
    more = every * math.ceil(LEAST / steps / every)
    print(
        f"{epochs} epochs of {rows:,} rows would be {epochs * steps} steps: at most {more} epochs instead, {more * steps} steps (--epochs decides)",
        flush=True,
    )
    return {"max_epochs": more, "check_val_every_n_epoch": every}


def _begun(out: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is known of the run that a folder has; ``done`` are its stages.

    Raises:
        ValueError: with other settings.
    """
    path = out / STATE
    if not path.is_file():
        return None
    state = read_json(path, dict[str, Any], "the state of a run of adapt")
    if any(
        state[name] != value for name, value in json.loads(json.dumps(asked)).items() if name in state or name == "settings"
    ):
        raise ValueError(
            f"{out} holds a run with other settings (see {out / 'adapt.yaml'}): repeat its command to go on with it, name another --out, or "
            "remove that folder"
        )
    return {**state, "done": list(state.get("done", []))}


def _check_splits(data: CatalogueDataModule) -> list[Item]:
    """What is learned from: the training rows of which something is said."""
    found = {split: len(plan.items) for split, plan in data.splits().items()}
    told = ", ".join(f"{split} {count:,}" for split, count in found.items())
    for split, why in (("train", "to learn from"), ("val", "that the fit is stopped by")):
        if split not in found:
            raise MissingDataError(
                f"{data.csv} has no rows {why} ({split}); its splits are {told}. Rows without a split are divided: leave the cell empty, or "
                f"raise the share that is held out (now {data.val_fraction}); groups stay together, so that there have to be several"
            )
    print(f"rows: {told}", flush=True)
    mute = set(data.untold())
    return [item for item in data.splits()["train"].items if item.key not in mute]


def _features(data: CatalogueDataModule, config: Path) -> None:
    """The frozen tower runs once over every image and, of training, over the mirrored one."""
    assert data.shards is not None
    tower = UniFashionModule.from_config(config).backbone.vision.eval().to(default_device())
    made: list[Path] = []
    for plan in data.splits().values():
        index = write_features(data.shards / plan.folder, tower, fields=MIRRORED_FIELDS, known=made, encoder=data.encoder)
        made.append(index.parent)


def _rows(data: CatalogueDataModule, split: str) -> tuple[Judged, Tensor]:
    """Images of a split that have a category, and their mean-pooled features (N, W)."""
    assert data.shards is not None
    folder = data.shards / data.splits()[split].folder
    source, assembler = FeatureSource(ShardSource(folder), folder / FOLDER), data.assembler()
    assert isinstance(assembler, PairAssembler)
    found: dict[str, tuple[str, Tensor]] = {}
    for number in range(len(source.keys)):
        raw = source.read(number)
        said = assembler.describe(raw, EVALUATION)
        if said.category:
            found[said.key] = (said.category, raw.features["image"].float().mean(0))
    keys = sorted(found)
    pooled = torch.stack([found[key][1] for key in keys]) if keys else torch.zeros(0, 1)
    return Judged(keys, [found[key][0] for key in keys]), pooled


def _before(data: CatalogueDataModule, judged: str, out: Path) -> dict[str, str]:
    """What the frozen features know without any fit, as records in ``before/``; the probe's guesses by image."""
    here, asked = _rows(data, judged)
    if len(here.names) < 2 or len(here.keys) <= CUT:
        print(
            f"no categories are judged: the {judged} split has {len(here.names)} of them in {len(here.keys)} images", flush=True
        )
        return {}
    known, features = _rows(data, "train")
    rows = [row for row, category in enumerate(known.categories) if category in here.names]  # prompts name no others either
    guesses = linear_probe(features[rows], [known.categories[row] for row in rows], asked) if rows else [""] * len(here.keys)
    unit = F.normalize(asked - features.mean(0), dim=1)
    alike = precision_at(unit @ unit.T, here.right(here.categories), CUT, itself=True)
    hits = [guess == own for guess, own in zip(guesses, here.categories)]
    under = Protocol(FAMILY, details=(("categories", str(len(here.names))), *OF))
    records = naming_records(here, ("probe", hits), {"i2i": alike.tolist()}, under, CUT)
    _write(out / "before", [record.with_context(dataset=f"{data.name}/{judged}") for record in records])
    return dict(zip(here.keys, guesses))


def _appearance(out: Path, data: CatalogueDataModule) -> None:
    """Choose how much a search by photo asks for the very same photo, on the part that the fit was stopped by; ``model/`` has it."""
    model = UniFashionModule.from_pretrained(out / "checkpoints" / "best.ckpt").to(default_device())
    learned, kept = ({str(row.image): row.category for row in data.rows(split).values()} for split in ("train", "val"))
    if min(len(learned), len(kept)) < 2:
        told = "appearance: none, it is chosen on two photos or more that are held out"
    else:
        told = str(choose_appearance(model, [*learned], [*kept], [*kept.values()]))
    model.save_pretrained(out / MODEL)
    write_text(out / CHOSEN, told + "\n")


def _compare(out: Path, guessed: Mapping[str, str]) -> None:
    """Naming by prompts against the probe, image by image, as a record in ``compared/``; both know how often a category occurs."""
    lines = read_predictions(out / "test" / "predictions" / "retrieval.jsonl", "retrieval")
    named = [line for line in lines if isinstance(line, RetrievalLine) and line.protocol.startswith(f"{FAMILY}(")]
    known = [line for line in named if set(PRIOR) <= set(Protocol.parse(line.protocol).details)]
    own = [line for line in known or named if str(line.query) in guessed]
    if not own:
        return
    ours = np.array([line.rank == 1 for line in own])
    probe = np.array([guessed[str(line.query)] == line.product for line in own])
    found = compare_paired(ours, probe)
    told = f"exact McNemar p = {found.p_value:.2g}; only by prompt {found.only_a}, only by the probe {found.only_b}"
    record = ResultRecord(
        *(f"{'naming_prior' if known else 'naming'} - probe", 100 * found.difference, "percent", len(own), f"{FAMILY}(paired)"),
        n_expected=len(own),
        interval=found.interval.scaled(100),
        implementation=told,
        dataset=own[0].dataset,
    )
    _write(out / "compared", [record])


def _write(folder: Path, records: Sequence[ResultRecord]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "results.json", [record.with_context(code_version=__version__) for record in records])


def table(out: Path) -> str:
    """Value, interval and n of what a run knew before and knows now, as lines for people."""
    rows = []
    for place, said in (("before", "frozen features"), ("test", "after the fit"), ("compared", "image by image")):
        path = out / place / "results.json"
        for record in read_records(path) if path.is_file() else ():
            if record.value is None or record.under.chance or record.metric.endswith("sd_over_draws"):
                continue
            ends = "" if record.interval is None else f"[{record.interval.low:.1f}, {record.interval.high:.1f}]"
            note = f"  {record.implementation}" if place == "compared" else ""
            rows.append(f"{said:<16} {record.metric:<22} {record.value:6.1f} %  {ends:<14} n = {record.n:,}{note}")
    chosen = out / CHOSEN
    return "\n".join([*rows, *([chosen.read_text(encoding="utf-8").rstrip()] if chosen.is_file() else [])])
