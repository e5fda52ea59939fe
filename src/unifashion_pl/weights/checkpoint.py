"""Our own format: a folder with ``config.json`` (how to build the model) and ``model.safetensors`` (its tensors)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unifashion_pl import learned
from unifashion_pl.freezing import POLICIES, left_out, part_of
from unifashion_pl.metrics.records import write_records
from unifashion_pl.reading import read_json
from unifashion_pl.weights.card import MARK, model_card, read_results
from unifashion_pl.weights.loading import is_imported, load_imported

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

CONFIG, TENSORS = "config.json", "model.safetensors"
FORMAT = 1


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
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(
            f"{path} is no checkpoint of this library. If it is a published one: `unifashion weights import {path} --out FOLDER`, then "
            "init_from: FOLDER"
        )
    state: dict[str, Tensor] = content["state_dict"]
    return state


def learned_of(path: Path) -> frozenset[str] | None:
    """What the weights of a file have learned; None where neither it nor what lies beside it says so."""
    if path.suffix == ".safetensors":
        config = path.parent / CONFIG
        return learned.of_config(read_json(config, dict[str, Any], "a model's config")) if config.is_file() else None
    return learned.of_checkpoint(torch.load(path, map_location="cpu", mmap=True, weights_only=True))


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
    _load_exactly(model, state, name, optional=left_out(model) | begun)
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


def _load_exactly(model: nn.Module, state: dict[str, Tensor], path: str, optional: Iterable[str] = ()) -> None:
    """Load a state that has to have every tensor of the model but the optional ones, and nothing else.

    Raises:
        ValueError: with the differences.
    """
    own = model.state_dict()
    shapes = [
        f"{n}: file {tuple(t.shape)}, model {tuple(own[n].shape)}"
        for n, t in state.items()
        if n in own and own[n].shape != t.shape
    ]
    missing, unused = sorted(own.keys() - state.keys() - set(optional)), sorted(state.keys() - own.keys())
    if shapes or missing or unused:
        raise ValueError(
            f"{path} does not fit this model: {len(missing)} tensors missing {missing[:3]}, {len(unused)} unused {unused[:3]}, "
            f"{len(shapes)} of another shape {shapes[:3]}. Was it made with another config?"
        )
    model.load_state_dict(state, strict=False)


def _merge_configs(configs: Iterable[str | Path]) -> list[dict[str, Any]]:
    from unifashion_pl.cli import config_chain

    sections = []
    for name in (path for config in configs for path in config_chain(str(config))):
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        if "model" not in content:
            raise ValueError(f"{name} has no `model:` section")
        sections.append(content["model"])
    return sections


def _build(cls: type[UniFashionModule], section: dict[str, Any]) -> UniFashionModule:
    """Instantiate from plain config so that the config is stored in ``hparams``, as under the command line."""
    from lightning.pytorch.cli import instantiate_module
    from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context

    with _given_hyperparameters_context(dict(section), instantiator="lightning.pytorch.cli.instantiate_module"):
        return instantiate_module(cls, section)


def from_config(
    cls: type[UniFashionModule], config: str | Path | Iterable[str | Path], overrides: dict[str, Any] | None = None
) -> UniFashionModule:
    """See :meth:`UniFashionModule.from_config`. Weights named by ``init_from`` are loaded as in training."""
    from jsonargparse import ArgumentParser

    configs = [config] if isinstance(config, str | Path) else list(config)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "model", fail_untyped=False)
    merged = None
    for section in _merge_configs(configs):
        merged = parser.parse_object({"model": section}, merged)
    args = [
        f"--model.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in (overrides or {}).items()
    ]
    merged = parser.parse_args(args, namespace=merged)
    return _build(cls, merged.as_dict()["model"])


def save_pretrained(
    model: UniFashionModule,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    *,
    results: str | Path | None = None,
    data: str = "",
    licence: str = "other",
) -> Path:
    """See :meth:`UniFashionModule.save_pretrained`.

    Args:
        dtype: floating-point tensors are stored in it, None = as they are. Loading casts back to the model's own.
        results: ``results.json`` or a run folder, for the model card; a copy is saved beside it.
        data, licence: for the model card, see :func:`unifashion_pl.weights.card.model_card`.

    Raises:
        ValueError: the model was assembled by hand, so that nothing says how to build it again.
    """
    if not model.hparams:
        raise ValueError(
            "this model was assembled by hand: build it with UniFashionModule.from_config(...) to be able to save it"
        )
    folder = Path(folder)
    _check_ours(folder)
    folder.mkdir(parents=True, exist_ok=True)
    section = {key: value for key, value in model.hparams.items() if key != "_instantiator"}
    text = json.dumps(
        {"format": FORMAT, "model": section, "learned": learned.stored(model.learned)}, indent=2, sort_keys=True, default=_plain
    )
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    absent = left_out(model)
    state = {name: _stored(tensor, dtype) for name, tensor in model.state_dict().items() if name not in absent}
    save_file(state, folder / TENSORS, metadata={"format": "pt"})
    records = read_results(results)
    card = folder / "README.md"
    if card.is_file() and MARK not in card.read_text("utf-8", errors="replace"):
        print(f"{card} is not this library's model card, so it stays as it is")
    else:
        card.write_text(model_card(model, records, data, licence), encoding="utf-8")
    if records:
        write_records(folder / "results.json", records)
    return folder


def _check_ours(folder: Path) -> None:
    """A folder that is to be written holds no other model.

    Raises:
        FileExistsError: it has a ``config.json`` of something else.
    """
    path = folder / CONFIG
    if path.is_file():
        try:
            ours = {"format", "model"} <= json.loads(path.read_text("utf-8")).keys()
        except (ValueError, AttributeError):
            ours = False
        if not ours:
            raise FileExistsError(f"{path} was not written by this library: save into a new folder")


def push_to_hub(model: UniFashionModule, repository: str, *, private: bool = False, **saving: Any) -> str:
    """See :meth:`UniFashionModule.push_to_hub`."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as work:
        folder = save_pretrained(model, Path(work) / "model", **saving)
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        info = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model saved by unifashion-pl")
    return str(info)


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu().clone().contiguous()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if hasattr(value, "__dict__"):
        return vars(value)
    raise TypeError(f"cannot write {type(value).__name__} into {CONFIG}")


def from_pretrained(cls: type[UniFashionModule], source: str | Path, revision: str | None = None) -> UniFashionModule:
    """See :meth:`UniFashionModule.from_pretrained`."""
    path = Path(source)
    if path.suffix == ".ckpt" and path.is_file():
        return _from_checkpoint(cls, path)
    folder = tiny_folder() if str(source) == "tiny" else path
    if not folder.exists():
        folder = _from_hub(str(source), revision)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: expected a folder written by save_pretrained (half a download?)")
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise ValueError(f"{folder / CONFIG} has format {content.get('format')!r}, this version reads {FORMAT}")
    model = _build(cls, {**content["model"], "init_from": None})
    _load_exactly(model, load_file(folder / TENSORS), str(folder / TENSORS), left_out(model))
    learned.give(model, learned.of_config(content))
    model.toy = str(source) == "tiny"
    return model.eval()


def _from_checkpoint(cls: type[UniFashionModule], path: Path) -> UniFashionModule:
    """A model from a Lightning checkpoint of the command line, with the config that lies in it, so that it can be saved again."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    section = {key: value for key, value in content.get("hyper_parameters", {}).items() if not key.startswith("_")}
    if "backbone" not in section:
        raise ValueError(f"{path} holds no config of a UniFashionModule: it was not written by `unifashion fit`")
    model = _build(cls, {**section, "init_from": None})
    _load_exactly(model, content["state_dict"], str(path), left_out(model))
    learned.give(model, learned.of_checkpoint(content))
    return model.eval()


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, TENSORS, "*.md", "results.json"]))
    except Exception as error:
        raise FileNotFoundError(
            f"{name!r} is neither 'tiny', nor a folder or .ckpt here, nor could it be had from the hub ({type(error).__name__}: {error})"
        ) from error
