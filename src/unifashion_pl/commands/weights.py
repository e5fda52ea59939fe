"""``weights``: published checkpoints that can be imported, what a downloaded one is, and the import itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from unifashion_pl.commands.signature import FOLDER
from unifashion_pl.weights.manifest import KINDS, load_manifest, table

_KNOWN = "".join(f"\n{kind}: {what}" for kind, what in KINDS.items())
KIND = {"flag": "--as", "metavar": "KIND", "help": f"instead of recognising it, one of the kinds of checkpoints:{_KNOWN}"}


def list_(*, commercial_only: Annotated[bool, "only parts free for commercial use by their publishers' word"] = False) -> None:
    """Published parts with licence, size and hash."""
    print(table([part for part in load_manifest() if part.commercial == "yes" or not commercial_only]))


def check(path: Path) -> int:
    """What a file or folder is, and whether it is complete."""
    from unifashion_pl.weights.check import check_weights

    found = check_weights(path, progress=True)
    print(found.text())
    return 0 if found.complete else 1


def import_(
    path: Annotated[Path, "file or folder as downloaded"],
    *,
    out: Annotated[Path, FOLDER, "folder to be made; it appears only if everything is accounted for"],
    kind: Annotated[str | None, KIND] = None,
    part: Annotated[
        str | None, {"metavar": "NAME"}, "which of `weights list` it is, where its hash does not tell: its licence counts"
    ] = None,
    tower: Annotated[Path | None, "vision tower (eva_vit_g.pth) for BLIP-2 files without it"] = None,
    base: Annotated[Path | None, "language model folder to which a LoRA is added; without it the LoRA is kept apart"] = None,
    commercial_only: Annotated[bool, "refuse what the manifest does not know to be free for it"] = False,
) -> None:
    """Published checkpoint -> safetensors in our names + report.json."""
    from unifashion_pl.weights.importing import import_weights

    options: dict[str, Any] = {"kind": kind, "part": part, "tower": tower, "base": base}
    print(import_weights(path, out, **options, commercial_only=commercial_only, progress=True).text())
    print(f"-> {out}")
