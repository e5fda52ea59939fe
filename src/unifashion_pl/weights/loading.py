"""Weights into a model that is there already, before it trains (``init_from``): from our own files, or from imported folders part by part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unifashion_pl import learned
from unifashion_pl.backbone import QFormerBackbone, VisionTower
from unifashion_pl.backbone.pretrained import TOWER, UNREAD, fit_tower
from unifashion_pl.freezing import PARTS, POLICIES, left_out, part_of
from unifashion_pl.parts.fit import load_exactly, require_fit
from unifashion_pl.parts.mapped import taken
from unifashion_pl.parts.tensors import CONFIG, TENSORS, load_tensors, read_content, state_of
from unifashion_pl.reading import read_json
from unifashion_pl.weights.blip2 import part_name
from unifashion_pl.weights.ledger import Report, is_imported
from unifashion_pl.weights.lora import SCALE
from unifashion_pl.weights.manifest import shipped_file

#: What a model knows the same photo by, see :mod:`unifashion_pl.backbone.appearance`.
LOOKS = "backbone.appearance."
Q_R, Q_T = "backbone.query_tokens", "backbone.target_query_tokens"


def tiny_folder() -> Path:
    """Where the shipped tiny model lies: inside the wheel, or ``checkpoints/tiny`` of a checkout.

    Raises:
        FileNotFoundError: neither has it.
    """
    return shipped_file(f"tiny/{TENSORS}").parent


def find_weights(source: str | Path) -> Path:
    """Resolve ``tiny``, a folder of ours, a run folder (its ``checkpoints/last.ckpt``), a ``.ckpt`` or ``.safetensors`` file.

    Raises:
        FileNotFoundError: with what was looked for.
    """
    path = tiny_folder() if str(source) == "tiny" else Path(source)
    for candidate in (path, path / TENSORS, path / "checkpoints" / "last.ckpt"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no weights at {path}: expected a .ckpt or .safetensors file, a folder with {TENSORS}, or a run folder with "
        "checkpoints/last.ckpt"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file or a Lightning checkpoint; only tensors are ever unpickled."""
    content = read_content(path)
    if path.suffix != ".safetensors" and (not isinstance(content, dict) or "state_dict" not in content):
        raise ValueError(
            f"{path} is no checkpoint of this library. If it is a published one: `unifashion weights import {path} --out FOLDER`, then "
            "init_from: FOLDER"
        )
    return state_of(content, path)


def learned_of(path: Path) -> frozenset[str] | None:
    """What the weights of a file have learned; None where neither it nor what lies beside it says so."""
    if path.suffix == ".safetensors":
        config = path.parent / CONFIG
        return learned.of_config(read_json(config, dict[str, Any], "a model's config"), config) if config.is_file() else None
    return learned.of_checkpoint(read_content(path), path)


def load_weights(model: nn.Module, source: str | Sequence[str | Sequence[str]]) -> str:
    """Load a model's weights before training; of several sources the first that exists.

    A source may lack parts that the model leaves out of its checkpoints, and whole heads that this training makes (phase 1's stages
    follow each other so); it may hold heads that this model was built without. Denoisers of both kinds, simpler and richer, are
    brought together by :meth:`~unifashion_pl.generation.Denoiser.completed`. Any other difference is an error. A folder of ``unifashion weights
    import`` fills the parts that it holds, see :func:`load_imported`; the others keep what they were built with.

    Args:
        source: a place of :func:`find_weights`, or several; a list among them is one source of several places, whose tensors are
            laid over each other.

    Returns:
        What was loaded.
    """
    paths, skipped = _first_there([source] if isinstance(source, str) else list(source))
    state: dict[str, Tensor] = {}
    records: list[frozenset[str] | None] = []
    for path in paths:
        if is_imported(path.parent):
            report = load_imported(model, path.parent)
            records.append(learned.of_import(report.kind, report.absent))
            print(f"weights: {path.parent} ({report.kind}); not in it: {', '.join(report.absent) or 'nothing'}")
        else:
            state |= read_state(path)
            records.append(learned_of(path))
    name = " + ".join(map(str, paths)) + (f" (nothing was at {', '.join(skipped)})" if skipped else "")
    if state:
        _load_ours(model, state, name)
    learned.give(model, learned.joined(records))
    return name


def _first_there(sources: Sequence[str | Sequence[str]]) -> tuple[list[Path], list[str]]:
    """The files of the first source that exists, and the sources before it."""
    skipped: list[str] = []
    for number, names in enumerate(sources):
        places = [names] if isinstance(names, str) else list(names)
        try:
            return [find_weights(place) for place in places], skipped
        except FileNotFoundError as error:
            if number == len(sources) - 1:
                raise
            print(f"init_from: {error}; trying {sources[number + 1]!r}")
            skipped.append(" + ".join(places))
    raise FileNotFoundError("init_from is an empty list: name a run, a checkpoint or a folder, or null")


def _load_ours(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load tensors of our own files, see :func:`load_weights`."""
    heads = {name.split(".")[0] for name in state} - {name for name, _ in model.named_children()}
    state = {name: tensor for name, tensor in state.items() if name.split(".")[0] not in heads}
    if looks := [name for name in state.keys() - model.state_dict().keys() if name.startswith(LOOKS)]:
        state = {name: tensor for name, tensor in state.items() if name not in looks}
        print(f"weights: {name} has an appearance, which is left out: choose one when this training has ended")
    if (diffusion := getattr(model, "diffusion_head", None)) is not None:
        before = len(state)
        state = diffusion.denoiser.completed(state, "diffusion_head.denoiser.")
        if len(state) < before:
            print(f"weights: {name} can repaint persons, this model cannot: its garment branch is left out")
    fresh = _fresh_heads(model, state)
    _check_unchanged(model, state, name)
    begun = {n for n in model.state_dict() if n.split(".")[0] in fresh}
    load_exactly(model, state, name, optional=left_out(model) | begun)
    notes = [f"not built here, left out: {', '.join(sorted(heads))}"] if heads else []
    notes += [f"not in it, trained from where it stands: {', '.join(sorted(fresh))}"] if fresh else []
    print(f"weights: {name}" + (f" ({'; '.join(notes)})" if notes else ""))


def _fresh_heads(model: nn.Module, state: dict[str, Tensor]) -> set[str]:
    """Heads of which a source holds nothing and which the model's policy trains: earlier stages of training had none."""
    policy = POLICIES.get(getattr(model, "policy", ""))
    trains = set() if policy is None else {*policy.trains}
    held = {name.split(".")[0] for name in state}
    trained = {
        name.split(".")[0] for name, _ in model.named_parameters() if part_of(name) in trains or part_of(name) not in PARTS
    }
    return {head for head in trained - held if head.endswith("_head")}


def _check_unchanged(model: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Parts that checkpoints leave out have to be the published ones in the source too.

    Raises:
        ValueError: the source has trained one of them.
    """
    own = model.state_dict()
    for name in sorted(left_out(model) & state.keys()):
        if own[name].is_meta:  # a model without numbers, of which `unifashion doctor` compares names and shapes
            continue
        if own[name].shape == state[name].shape and not torch.equal(own[name], state[name].to(own[name])):
            raise ValueError(
                f"{path} holds a {name} that is not the one of the published weights, which the model's leave_out would forget: take "
                "its part out of leave_out"
            )


def load_imported(model: nn.Module, folder: str | Path) -> Report:
    """Load the parts that a folder of ``unifashion weights import`` holds; all others keep what they have.

    A part is the second level of a name, e.g. ``backbone.qformer`` or ``retrieval_head.itm_head``. What the folder holds of a part has to
    be all of it. Parts that this model was built without are left out. Target queries that the folder lacks become a copy of its
    reference queries.

    Args:
        model: a UniFashionModule, or any module with names like it.

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
    state = _fitted(model, state)
    held = {part_name(name) for name in state}
    cure = "Build the model with the sizes of the imported checkpoint; nothing was loaded"
    filled = {name: tensor for name, tensor in own.items() if part_name(name) in held}
    unread = [name for name in filled if name.startswith(TOWER) and re.match(UNREAD, name.removeprefix(TOWER))]
    require_fit(state, filled, f"{folder} does not fit this model", cure, unread)
    _check_settings(model, report, held, folder)
    model.load_state_dict(taken(model, _scaled(model, state, report)), strict=False)
    report.absent = {p: report.absent.get(p, "not in the folder: keeps what it has") for p in sorted(built - held)}
    if unbuilt:
        report.notes.append(f"not built here, left out: {', '.join(unbuilt)}")
    return report


def _fitted(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an import with the vision tower's in the shape that the model's has, as where ``weights`` names the folder."""
    vision = getattr(getattr(model, "backbone", None), "vision", None)
    if not isinstance(vision, VisionTower) or not any(name.startswith(TOWER) for name in state):
        return state
    fitted = fit_tower(vision.model, state, vision.depth)
    return {n: t for n, t in state.items() if not n.startswith(TOWER)} | {TOWER + n: t for n, t in fitted.items()}


def settings_of(model: nn.Module) -> dict[str, Any]:
    """Place -> what is no tensor of a model and changes what its tensors compute, in the words of an import's report."""
    found: dict[str, Any] = {}
    backbone, head = getattr(model, "backbone", None), getattr(model, "diffusion_head", None)
    if isinstance(backbone, QFormerBackbone):
        config = backbone.qformer.config
        found = {"heads": config.num_attention_heads, "activation": config.hidden_act, "eps": config.layer_norm_eps}
        found = {f"backbone.qformer.{name}": value for name, value in found.items()}
        block: Any = next(iter(getattr(backbone.vision.model, "blocks", ())), None)
        if hasattr(block, "attn"):
            found |= {"backbone.vision.heads": block.attn.num_heads, "backbone.vision.eps": block.norm1.eps}
            found["backbone.vision.activation"] = type(getattr(block.mlp, "act", None)).__name__.lower()
    if head is not None:
        found["diffusion_head.vae.scale"] = head.vae.scale
        if not head.denoiser.predicts_v.is_meta:
            found["diffusion_head.denoiser.unet.prediction"] = "v" if int(head.denoiser.predicts_v) else "epsilon"
    return found


def _check_settings(model: nn.Module, report: Report, held: set[str], folder: Path) -> None:
    """
    Raises:
        ValueError: a part that the folder holds would compute otherwise in this model.
    """
    own = settings_of(model)
    wrong = [
        f"{name} is {value} in the import, {own[name]} in the model"
        for name, value in report.settings.items()
        if part_name(name) in held and own.get(name, value) != value
    ]
    if wrong:
        raise ValueError(
            f"{folder} does not fit this model: {'; '.join(wrong)}. Build the model as the import is; nothing was loaded"
        )


def _scaled(model: nn.Module, state: dict[str, Tensor], report: Report) -> dict[str, Tensor]:
    """LoRA whose product is the import's under the model's own alpha / rank."""
    scale = report.settings.get(SCALE)
    for name in [name for name in state if ".lora_B." in name and isinstance(scale, int | float)]:
        layer: Any = model.get_submodule(name.partition(".lora_B.")[0])
        if layer.scaling["default"] != scale:
            state[name] = state[name].float() * (scale / layer.scaling["default"])
    return state
