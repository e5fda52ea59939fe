"""Captions and pictures of an evaluation in whatever Lightning's loggers can show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger

from unifashion_pl.data.decode import open_image, to_rgb
from unifashion_pl.files import replacing, write_text
from unifashion_pl.metrics.lines import CaptionLine, file_name

COLUMNS = ("id", "hypothesis", "reference")
#: Beside the curves of a CSV logger, where its pictures lie, by step.
FOLDER = "samples"


def show_captions(logger: Any, tag: str, lines: Sequence[CaptionLine], step: int) -> None:
    """A table of captions; loggers that cannot show text are passed over.

    Args:
        logger: a Lightning logger. W&B gets a table, MLflow, TensorBoard and CSV folders a Markdown one.
        tag: its name.
        step: optimiser step.
    """
    rows = [[getattr(line, name) for name in COLUMNS] for line in lines]
    cells = [[str(cell).replace("|", "/") for cell in row] for row in (COLUMNS, ["---"] * 3, *rows)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    if isinstance(logger, CSVLogger):
        write_text(_place(logger, tag, step, ".md"), table + "\n")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_text(logger.run_id, table, f"{tag}/step-{step:06d}.md")
    elif hasattr(logger, "log_text"):
        logger.log_text(tag, columns=list(COLUMNS), data=rows, step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_text"):
        logger.experiment.add_text(tag, table, step)


def show_picture(logger: Any, tag: str, data: bytes, step: int) -> None:
    """A picture; loggers that cannot show one are passed over.

    Args:
        logger, tag, step: as for :func:`show_captions`.
        data: a PNG file.
    """
    if isinstance(logger, CSVLogger):
        with replacing(_place(logger, tag.removesuffix(".png"), step, ".png")) as file:
            file.write(data)
        return
    picture = to_rgb(open_image(data))
    if isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, picture, f"{tag.removesuffix('.png')}/step-{step:06d}.png")
    elif hasattr(logger, "log_image"):
        logger.log_image(tag, [picture], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(tag, np.asarray(picture), step, dataformats="HWC")


def _place(logger: CSVLogger, tag: str, step: int, ending: str) -> Path:
    folder = Path(logger.log_dir) / FOLDER / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    *names, last = tag.split("/")
    return folder / file_name("-".join(names), last, ending)
