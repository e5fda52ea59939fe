"""Captions and pictures in the loggers of Lightning; those whose packages are not here are asked by what Lightning's own classes offer."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger
from PIL import Image

from unifashion_pl.data.formats import encode_png
from unifashion_pl.evaluation.loggers import show_captions, show_picture
from unifashion_pl.metrics.lines import CaptionLine

PNG = encode_png(Image.new("RGB", (3, 2), "red"))
LINES = [SimpleNamespace(id="a", hypothesis="red | dress", reference="a dress")]
TABLE = "| id | hypothesis | reference |\n| --- | --- | --- |\n| a | red / dress | a dress |"


def shown(logger: Any) -> None:
    assert {"id", "hypothesis", "reference"} <= set(CaptionLine.__struct_fields__)
    show_captions(logger, "shop/val/captions", LINES, 7)  # type: ignore[arg-type]
    show_picture(logger, "shop/val/one.png", PNG, 7)


def test_a_csv_logger_gets_files_beside_its_curves(tmp_path: Path) -> None:
    shown(CSVLogger(tmp_path, name="run", version=""))
    folder = tmp_path / "run/samples/step-000007"
    assert (folder / "shop-val--captions.md").read_text() == TABLE + "\n"
    assert (folder / "shop-val--one.png").read_bytes() == PNG


def test_mlflow_gets_them_as_artifacts_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []
    client = SimpleNamespace(log_text=lambda *a: told.append(a), log_image=lambda *a: told.append(a))
    logger = MLFlowLogger.__new__(MLFlowLogger)
    monkeypatch.setattr(MLFlowLogger, "experiment", client)
    monkeypatch.setattr(MLFlowLogger, "run_id", "r")
    shown(logger)
    assert told[0] == ("r", TABLE, "shop/val/captions/step-000007.md")
    assert (told[1][0], told[1][1].size, told[1][2]) == ("r", (3, 2), "shop/val/one/step-000007.png")


def test_w_and_b_gets_a_table_and_loggers_that_show_nothing_are_passed_over() -> None:
    told: list[tuple[Any, ...]] = []
    wandb = SimpleNamespace(
        log_text=lambda tag, columns, data, step: told.append((tag, columns, data, step)),
        log_image=lambda tag, images, step: told.append((tag, [image.size for image in images], step)),
    )
    shown(wandb)
    assert told == [
        ("shop/val/captions", ["id", "hypothesis", "reference"], [["a", "red | dress", "a dress"]], 7),
        ("shop/val/one.png", [(3, 2)], 7),
    ]
    shown(None)
    shown(SimpleNamespace(experiment=None))
    assert Image.open(BytesIO(PNG)).size == (3, 2)
