"""Filling a model from an imported folder, whose report says what it holds and what it cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from unifashion_pl.weights.blip2 import part_name
from unifashion_pl.weights.files import load_tensors
from unifashion_pl.weights.plan import FORMAT, REPORT, Report

TENSORS = "model.safetensors"
Q_R, Q_T = "backbone.query_tokens", "backbone.target_query_tokens"


def is_imported(folder: str | Path) -> bool:
    """Whether a folder was written by ``unifashion weights import``."""
    path = Path(folder) / REPORT
    return path.is_file() and FORMAT in path.read_bytes()[:200].decode("utf-8", "replace")


def load_imported(model: nn.Module, folder: str | Path) -> Report:
    """Load the parts that an imported folder holds; all others keep what they have.

    A part is the second level of a name, e.g. ``backbone.qformer`` or ``retrieval_head.itm_head``. What the folder holds of a part has to
    be all of it. Parts that this model was built without are left out. Target queries that the folder lacks become a copy of its
    reference queries.

    Args:
        model: a UniFashionModule, or any module with names like it.
        folder: of ``unifashion weights import``.

    Returns:
        The folder's report; ``absent`` also names the parts that this model could have and the folder does not, and ``notes`` those that
        were left out.

    Raises:
        FileNotFoundError: no such folder, or no tensors for a model in it.
        ValueError: a part that does not fit the model, with names and shapes.
    """
    folder = Path(folder)
    report = Report.read(folder)
    if "." in report.folders or not (folder / TENSORS).is_file():
        raise FileNotFoundError(f"{folder} holds no tensors in our names ({report.kind}). {report.use}")
    state, own = load_tensors(folder / TENSORS), model.state_dict()
    built = {part_name(name) for name in own}
    unbuilt = sorted({part_name(name) for name in state} - built)
    state = {name: tensor for name, tensor in state.items() if part_name(name) in built}
    if not state:
        raise ValueError(f"{folder} holds {', '.join(unbuilt)}, and this model was built without all of them: nothing to load")
    if Q_T in own and Q_T not in state and Q_R in state:
        state[Q_T] = state[Q_R]
    _check_fit(state, own, str(folder))
    model.load_state_dict(state, strict=False)
    held = {part_name(name) for name in state}
    report.absent = {p: report.absent.get(p, "not in the folder: keeps what it has") for p in sorted(built - held)}
    if unbuilt:
        report.notes.append(f"not built here, left out: {', '.join(unbuilt)}")
    return report


def _check_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], folder: str) -> None:
    held = {part_name(name) for name in state}
    missing = sorted(name for name in own.keys() - state.keys() if part_name(name) in held)
    unused = sorted(state.keys() - own.keys())
    shapes = sorted(
        f"{name}: folder {tuple(tensor.shape)}, model {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    )
    if missing or unused or shapes:
        raise ValueError(
            f"{folder} does not fit this model: {len(shapes)} tensors of another shape {shapes[:3]}, {len(missing)} missing {missing[:3]}, "
            f"{len(unused)} unused {unused[:3]}. Build the model with the sizes of the imported checkpoint; nothing was loaded"
        )
