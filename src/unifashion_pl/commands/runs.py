"""What stands around trainings: the report of runs, the paper's ablations, parameters of configs, what can run here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from unifashion_pl.commands.options import Columns
from unifashion_pl.commands.signature import FILE, FOLDER


def adapt(
    csv: Annotated[Path, "a row an image: columns image, text and/or title, perhaps id, product, category, split"],
    *,
    root: Annotated[Path, "folder of the images"],
    out: Annotated[Path, FOLDER, "folder of the run; the same command goes on in it after a stop"] = Path("runs/adapt"),
    columns: Columns = None,
    group: Annotated[
        str | None,
        {"metavar": "COLUMN", "help": "hold out whole groups of equal cells, e.g. of a photographer; default: products"},
    ] = None,
    val_fraction: Annotated[
        float | None, {"metavar": "SHARE", "help": "held out where the CSV has no split; default 0.1"}
    ] = None,
    allow_missing: Annotated[bool, "go on without images that are not there"] = False,
    tower: Annotated[Path | None, "weights of the vision tower; default: small.yaml's, from timm's hub"] = None,
    bert: Annotated[
        Path | None, "folder of the BERT that the Q-Former starts from; default: small.yaml's, from the hub"
    ] = None,
    epochs: Annotated[int | None, "at most; default: small.yaml's, or as many as make 560 steps"] = None,
    seed: Annotated[int | None, "of the fit"] = None,
    config: Annotated[list[str] | None, "laid over small.yaml, may be repeated"] = None,
) -> None:
    """Fit the small profile to your own catalogue: a held-out part, early stopping, and a report of before and after."""
    from unifashion_pl.adapt import Choices, adapt

    said = {"columns": columns, "group": group, "val_fraction": val_fraction, "allow_missing": allow_missing, "tower": tower}
    print(adapt(csv, root, out, Choices(**said, bert=bert, epochs=epochs, seed=seed, configs=tuple(config or ()))))  # type: ignore[arg-type]


def report(*runs: Annotated[Path, {"metavar": "RUN"}], out: Annotated[Path, FILE] = Path("report.html")) -> None:
    """Run folders -> one HTML page."""
    from unifashion_pl.report import build_report

    print(build_report(runs, out))


def ablations(
    table: Literal["table4", "table5"],
    *,
    out: Annotated[Path, FOLDER, "folder of the runs and the table; what is done in it is not done again"],
    phase1_epochs: Annotated[int | None, "instead of phase1.yaml's"] = None,
    phase2_steps: Annotated[int | None, "instead of phase2.yaml's"] = None,
    seed: Annotated[int, "of training; the wardrobe stays the same"] = 0,
    size: Annotated[Literal["tiny", "demo"], "of the wardrobe"] = "demo",
) -> None:
    """The paper's Table 4 or 5 on the toy wardrobe: train, test, print."""
    from unifashion_pl.ablations import Settings, make_table

    print(make_table(table, out, Settings(size, phase1_epochs, phase2_steps, seed)))


def parameters(
    *, config: Annotated[list[str] | None, "as for fit, may be repeated; default: the paper's size, stage by stage"] = None
) -> None:
    """Trainable and frozen parameters of configs, counted without weights or memory."""
    from unifashion_pl.parameters import shapes_only, stage_table

    print(shapes_only(config).describe_parameters() if config else stage_table())


def doctor(
    *,
    config: Annotated[list[str] | None, "also say what a training with these configs needs, e.g. paper.yaml"] = None,
    commercial_only: Annotated[bool, "with --config: refuse parts that are not known to be free for commercial use"] = False,
) -> None:
    """Versions, device, and what can run here."""
    from unifashion_pl.doctor import examine, examine_overlay

    if commercial_only and not config:
        raise ValueError("--commercial-only looks at a training's parts: name its --config too, e.g. commercial.yaml")
    print(examine(trainings=not config), flush=True)
    if config:
        print(examine_overlay(config, commercial_only))
