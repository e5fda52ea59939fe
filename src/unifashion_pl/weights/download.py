"""What people download, opened: single files, sharded folders, pipelines, checkpoints that wrap their state dict; and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from unifashion_pl.parts.tensors import check_state, read_content
from unifashion_pl.reading import read_json
from unifashion_pl.weights.gguf_file import SUFFIX, GGUFTensors, read_gguf

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
#: Names that Hugging Face libraries give to weights; the first that exists is read.
STANDARD = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "adapter_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)

PIPELINE = "model_index.json"
#: What a file that describes a download should be, for messages.
JSON = "readable JSON (half downloaded?)"
#: Class names under which SPRC's code saves; UniFashion's code took over others of them.
SPRC_CLASSES = ("Blip2QformerCirAlignPrompt", "Blip2QformerCirCat")


class Index(TypedDict):
    """An index of shards, as transformers and diffusers write it."""

    weight_map: dict[str, str]


@dataclass
class Download:
    """An opened checkpoint.

    Attributes:
        path: file or folder.
        tensors: names as they stand in it; empty for a pipeline, whose parts are in ``parts``.
        files: the weight files that were read.
        wrapper: key of the dict that held the state dict, e.g. ``state_dict`` or a class name, or None.
        config: ``config.json`` or ``adapter_config.json`` beside the weights.
        parts: subfolder -> what is in it, for diffusers pipelines.
    """

    path: Path
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    wrapper: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Download] = field(default_factory=dict)


def open_download(path: str | Path) -> Download:
    """Open a file or folder; tensors stay on disk where the format allows it.

    Raises:
        FileNotFoundError: nothing there, a folder without weights, or a shard that the index names is missing.
        ValueError: not a checkpoint, a damaged one, or one that holds more than tensors.
        ImportError: a GGUF file, and the package ``gguf`` is absent.
    """
    path = Path(path)
    if path.is_file() and path.suffix == SUFFIX:
        return Download(path, GGUFTensors(read_gguf(path)), [path])
    if path.is_file():
        tensors, wrapper = unwrap(read_content(path), path)
        return Download(path, tensors, [path], wrapper)
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {path}: expected a file or a folder")
    if (path / PIPELINE).is_file():
        return _open_pipeline(path)
    configs = (path / name for name in ("config.json", "adapter_config.json"))
    config = next((read_json(file, dict[str, Any], JSON) for file in configs if file.is_file()), {})
    files = weight_files(path)
    tensors = {}
    for file in files:
        part, _ = unwrap(read_content(file), file)
        if doubled := tensors.keys() & part.keys():
            raise ValueError(f"{file} repeats {len(doubled)} tensors of another shard, e.g. {sorted(doubled)[:2]}")
        tensors.update(part)
    _check_index(path, tensors)
    return Download(path, tensors, files, None, config)


def unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The state dict of a loaded file, and the key that it stood under.

    Published files hold it directly, under ``state_dict`` (Lightning), under ``model`` (LAVIS) or under the name of their class
    (UniFashion, SPRC: ``{"epoch": 3, "Blip2QformerCirFull": {...}}``).

    Raises:
        ValueError: no dict of tensors in it, or several.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected names mapped to tensors")
    if _is_state(content):
        return check_state(content, path), None
    found = {str(key): value for key, value in content.items() if isinstance(value, dict) and _is_state(value)}
    for key in ("state_dict", "model"):
        if key in found:
            return check_state(found[key], path), key
    if len(found) == 1:
        return next((check_state(value, path), key) for key, value in found.items())
    what = f"several state dicts: {', '.join(found)}" if found else f"no state dict, only {', '.join(map(str, content))[:200]}"
    raise ValueError(f"{path} holds {what}; expected one dict of tensors, as `state_dict`, `model` or under its class name")


def _is_state(value: dict[Any, Any]) -> bool:
    return bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder: all shards of its index, its standard file, or the only one.

    Raises:
        FileNotFoundError: none, or a shard of the index is not there.
        ValueError: several, and nothing says which.
    """
    if index := _index_of(folder):
        shards = sorted(set(_weight_map(index).values()))
        if gone := [name for name in shards if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{folder} is half downloaded: {index.name} names {len(shards)} files, {len(gone)} are missing, e.g. {gone[0]}"
            )
        return [folder / name for name in shards]
    for name in STANDARD:
        if (folder / name).is_file():
            return [folder / name]
    files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    if len(files) > 1:
        raise ValueError(f"{folder} holds several weight files ({', '.join(p.name for p in files[:5])}): name one of them")
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights: expected one of {', '.join(STANDARD)} or an index of shards")
    return files


def _index_of(folder: Path) -> Path | None:
    """The index of shards, that of safetensors first."""
    return min(folder.glob("*.index.json"), key=lambda path: ("safetensors" not in path.name, path), default=None)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file of the same folder.

    Raises:
        ValueError: not an index of shards, or one that names files elsewhere.
    """
    names: dict[str, str] = read_json(index, Index, JSON)["weight_map"]
    if elsewhere := [name for name in names.values() if Path(name).name != name]:
        raise ValueError(f"{index} names {elsewhere[0]!r}, which is not a file beside it")
    return names


def _check_index(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    index = _index_of(folder)
    if index is not None and (lost := sorted(_weight_map(index).keys() - tensors.keys())):
        raise ValueError(f"{folder}: {index.name} promises {len(lost)} tensors that no shard holds, e.g. {lost[0]}")


def _open_pipeline(folder: Path) -> Download:
    index = read_json(folder / PIPELINE, dict[str, Any], JSON)
    parts = {}
    for name in ("unet", "vae", "text_encoder", "image_encoder"):
        named = index.get(name)
        if not (isinstance(named, list) and any(named)) and not (folder / name).is_dir():
            continue  # a part that a pipeline was saved without stands as [null, null]
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder} is half downloaded: {PIPELINE} names {name}/, which is not there")
        parts[name] = open_download(folder / name)
    if not parts:
        raise FileNotFoundError(f"{folder} has a {PIPELINE} but none of unet/, vae/, text_encoder/, image_encoder/")
    return Download(folder, {}, [file for part in parts.values() for file in part.files], None, index, parts)


def recognise(source: Download) -> str | None:
    """Of which kind of :data:`~unifashion_pl.weights.manifest.KINDS` a checkpoint is by the names of its tensors; None = of none."""
    if source.parts:
        return "pbe" if source.config.get("_class_name") == "PaintByExamplePipeline" else "sd"
    if source.config.get("peft_type"):
        return "lora"
    if isinstance(source.tensors, GGUFTensors):
        return "gguf"

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in source.tensors)

    if has("Qformer."):
        if source.wrapper in SPRC_CLASSES:
            return "sprc"
        own = has("prompt_tokens", "llm_proj.", "llm_query_tokens", "query_proj.", "caption_proj.", "proj_layer.")
        return "unifashion" if own or (source.wrapper or "").startswith("Blip2QformerCir") else "blip2-lavis"
    if has("qformer.") and has("vision_projection.", "text_projection."):
        return "blip2-hf"
    if has("logit_scale", "model.logit_scale") and has("visual.", "model.visual.", "vision_model.", "model.vision_model."):
        return "encoder"
    if has("model.diffusion_model."):
        if has("control_model."):
            return "stableviton"
        return "pbe" if has("learnable_vector", "cond_stage_model.mapper.") else "sd"
    if has("encoder.down.", "encoder.down_blocks.", "first_stage_model.encoder."):
        return "vae"
    if has("model.layers.0.", "language_model.", "model.language_model."):
        return "llm"
    return "tower" if {"blocks.0.attn.qkv.weight", "pos_embed"} <= source.tensors.keys() else None
