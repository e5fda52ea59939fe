"""Reading our own formats: a folder of :func:`~unifashion_pl.weights.saving.save_pretrained`, a Lightning ``.ckpt``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unifashion_pl import learned
from unifashion_pl.freezing import POLICIES, left_out, part_of
from unifashion_pl.reading import read_json
from unifashion_pl.weights.building import M, Saved, build_saved, buildable, load_exactly
from unifashion_pl.weights.files import load_tensors, read_content, state_of
from unifashion_pl.weights.loading import is_imported, load_imported
from unifashion_pl.weights.rebuild import PARTS, check_blueprints, rebuilding
from unifashion_pl.weights.saving import CONFIG, FORMAT, TENSORS
from unifashion_pl.weights.trust import local

#: Bytes of a config.json; the largest of ours has 20 kB.
MAX_CONFIG = 1 << 24
#: ``owner/name``.
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def tiny_folder() -> Path:
    """Where the shipped tiny model lies: inside the wheel, or ``checkpoints/tiny`` of a checkout.

    Raises:
        FileNotFoundError: neither has it.
    """
    places = [Path(str(files("unifashion_pl"))) / "checkpoints" / "tiny", Path(__file__).parents[3] / "checkpoints" / "tiny"]
    for place in places:
        if (place / TENSORS).is_file():
            return place
    raise FileNotFoundError(
        f"the shipped tiny model is in none of {', '.join(map(str, places))}: reinstall unifashion-pl, or train it with `make tiny`"
    )


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
    import`` fills the parts that it holds, see :func:`~unifashion_pl.weights.loading.load_imported`; the others keep what they were
    built with.

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
    known = learned.joined(records)
    name = " + ".join(map(str, paths)) + (f" (nothing was at {', '.join(skipped)})" if skipped else "")
    if not state:
        learned.give(model, known)
        return name
    heads = {name.split(".")[0] for name in state} - {name for name, _ in model.named_children()}
    state = {name: tensor for name, tensor in state.items() if name.split(".")[0] not in heads}
    if (diffusion := getattr(model, "diffusion_head", None)) is not None:
        before = len(state)
        state = diffusion.denoiser.completed(state, "diffusion_head.denoiser.")
        if len(state) < before:
            print(f"weights: {name} can repaint persons, this model cannot: its garment branch is left out")
    fresh = _fresh_heads(model, state)
    _check_unchanged(model, state, name)
    begun = {n for n in model.state_dict() if n.split(".")[0] in fresh}
    load_exactly(model, state, name, optional=left_out(model) | begun)
    learned.give(model, known)
    notes = [f"not built here, left out: {', '.join(sorted(heads))}"] if heads else []
    notes += [f"not in it, trained from where it stands: {', '.join(sorted(fresh))}"] if fresh else []
    print(f"weights: {name}" + (f" ({'; '.join(notes)})" if notes else ""))
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


def _fresh_heads(model: nn.Module, state: dict[str, Tensor]) -> set[str]:
    """Heads of which a source holds nothing and which the model's policy trains: earlier stages of training had none."""
    policy = POLICIES.get(getattr(model, "policy", ""))
    trains = set() if policy is None else {*policy.trains}
    held = {name.split(".")[0] for name in state}
    own = {name.split(".")[0]: set[str | None]() for name, _ in model.named_parameters()}
    for name, _ in model.named_parameters():
        own[name.split(".")[0]].add(part_of(name))
    return {head for head, parts in own.items() if head.endswith("_head") and head not in held and parts & trains}


def _check_unchanged(model: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Parts that checkpoints leave out have to be the published ones in the source too.

    Raises:
        ValueError: the source has trained one of them.
    """
    own = model.state_dict()
    for name in sorted(left_out(model) & state.keys()):
        if own[name].shape == state[name].shape and not torch.equal(own[name], state[name].to(own[name])):
            raise ValueError(
                f"{path} holds a {name} that is not the one of the published weights, which the model's leave_out would forget: take "
                "its part out of leave_out"
            )


def from_pretrained(cls: type[M], source: str | Path, revision: str | None = None, *, trust_remote_code: bool = False) -> M:
    """See :meth:`UniFashionModule.from_pretrained`."""
    path = Path(source)
    saved = read_checkpoint(path) if path.suffix == ".ckpt" and path.is_file() else _read_folder(_folder(source, revision))
    model = build_saved(cls, saved, trust_remote_code).eval()
    vars(model)["toy"] = str(source) == "tiny"
    return model


def _folder(source: str | Path, revision: str | None) -> Path:
    folder = tiny_folder() if str(source) == "tiny" else Path(source)
    return folder if folder.exists() else _from_hub(str(source), revision)


def _read_folder(folder: Path) -> Saved:
    """
    Raises:
        FileNotFoundError: it is no folder of ours.
        ValueError: its files are damaged, or of a later version.
    """
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: expected a folder written by save_pretrained (half a download?)")
    path = folder / CONFIG
    if (size := path.stat().st_size) > MAX_CONFIG:
        raise ValueError(f"{path} has {size:,} bytes: expected a model's config, at most {MAX_CONFIG:,}")
    content = read_json(path, dict[str, Any], "a model's config")
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has format {content.get('format')!r}, this version reads {FORMAT}")
    section = content.get("model")
    if not isinstance(section, dict) or "backbone" not in section:
        raise ValueError(f"{path} has no `model` with a `backbone`: expected a folder written by save_pretrained")
    parts = folder / PARTS
    return Saved(
        str(folder),
        section,
        parts if parts.is_dir() else None,
        load_tensors(folder / TENSORS),
        learned.of_config(content, folder / CONFIG),
    )


def read_checkpoint(path: str | Path, *, described: bool = True) -> Saved:
    """What the command line's ``.ckpt`` says of its model, so that it can be built and saved again. Only what is used is read from disk.

    Args:
        described: it has to say how its model is built.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or not of this library.
    """
    path = Path(path)
    content = read_content(path)
    given = content.get("hyper_parameters") if isinstance(content, dict) else None
    section = {key: value for key, value in given.items() if not str(key).startswith("_")} if isinstance(given, dict) else {}
    if described and "backbone" not in section:
        raise ValueError(f"{path} holds no config of a UniFashionModule: it was not written by `unifashion fit`")
    parts = content.get(PARTS)
    return Saved(
        str(path),
        section,
        None if parts is None else check_blueprints(parts, str(path)),
        state_of(content, path),
        learned.of_checkpoint(content, path),
    )


@contextmanager
def loading(path: Any, trusted: bool) -> Iterator[None]:
    """Inside the block Lightning builds the model of a checkpoint, with no more rights than :func:`from_pretrained` has.

    Raises:
        ValueError: an address, a damaged file, or one that names other classes and is not trusted.
    """
    saved = read_checkpoint(local(path))
    with buildable(saved.where, trusted), rebuilding(saved.where, saved.parts, saved.section.get("leave_out") or ()):
        yield


def _from_hub(name: str, revision: str | None) -> Path:
    """The folder of a hub id ``owner/name``; anything else asks no network.

    Raises:
        FileNotFoundError: it is none, or cannot be had.
    """
    from huggingface_hub import snapshot_download

    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"there is no model {name!r}: expected 'tiny', a folder, a .ckpt, or a hub id (owner/name)")
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=[CONFIG, TENSORS, f"{PARTS}/*", "*.md", "results.json"])
        )
    except Exception as error:
        raise FileNotFoundError(
            f"{name!r} is neither 'tiny', nor a folder or .ckpt here, nor could it be had from the hub ({type(error).__name__}: {error})"
        ) from error
