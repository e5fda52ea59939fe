"""``unifashion doctor``: what is installed, what the machine offers, what can run here."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from unifashion_pl.weights.card import licence_rows

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

PACKAGES = (
    *(
        "unifashion-pl",
        "torch",
        "torchvision",
        "lightning",
        "jsonargparse",
        "transformers",
        "diffusers",
        "peft",
        "torchmetrics",
    ),
    *("webdataset", "timm", "h5py", "safetensors", "tensorboard", "pycocoevalcap"),
)


def examine() -> str:
    """A report of versions, devices and of the shipped model, one fact a line."""
    lines = [f"{'python':<16}{sys.version.split()[0]} on {platform.platform()}"]
    lines += [f"{name:<16}{_version(name)}" for name in PACKAGES]
    return "\n".join([*lines, *_device(), *_models()])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _device() -> list[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else float("nan")
    lines = [f"{'cpu':<16}{os.cpu_count()} cores, {memory:.0f} GiB"]
    if not torch.cuda.is_available():
        return [*lines, f"{'gpu':<16}none: the embedded default trains on the CPU, the paper's size needs a GPU"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        lines.append(f"{'gpu ' + str(index):<16}{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")
    return lines


def _models() -> list[str]:
    from unifashion_pl.weights.checkpoint import tiny_folder

    try:
        return [f"{'tiny model':<16}{tiny_folder()}"]
    except FileNotFoundError as error:
        return [f"{'tiny model':<16}{error}"]


def examine_overlay(configs: Sequence[str]) -> str:
    """What a training with these configs needs: published parts, whether they are here, and memory for weights and optimiser.

    Raises:
        SystemExit, ValueError: as for building the model.
    """
    from unifashion_pl.cli import config_chain
    from unifashion_pl.parameters import shapes_only

    model = shapes_only(configs)
    lines = [f"{'config':<16}{' + '.join(configs)}", *model.describe_parameters().splitlines(), *_memory(model)]
    merged: dict[str, tuple[str, str, str]] = {}
    for name in configs:
        for path in config_chain(name):
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
            merged.update({place: (source, licence, use) for place, source, licence, use in licence_rows(content.get("model"))})
    built = [name for name, _ in model.named_children()]
    for place, (source, licence, use) in merged.items():
        if place.split(".")[0] == "backbone" or f"{place.split('.')[0]}_head" in built:
            lines.append(f"{'needs':<16}{source} ({place}; {licence}; commercial use: {use}): {_where(source)}")
    return "\n".join(lines)


def _memory(model: UniFashionModule) -> list[str]:
    """Bytes that do not depend on the batch; activations come on top."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    learning = sum(p.numel() * 3 * p.element_size() for p in model.parameters() if p.requires_grad)
    need = (weights + learning) / 2**30
    lines = [
        f"{'memory':<16}{weights / 2**30:.1f} GiB of weights + {learning / 2**30:.1f} GiB of gradients and AdamW = {need:.1f} GiB, "
        "activations on top (counted, not measured)"
    ]
    for index in range(torch.cuda.device_count()):
        total = torch.cuda.get_device_properties(index).total_memory / 2**30
        lines.append(
            f"{'gpu ' + str(index):<16}{total:.0f} GiB: {'weights and optimiser fit' if need < total else 'too small'}"
        )
    if not torch.cuda.device_count():
        lines.append(f"{'gpu':<16}none here")
    return lines


def _where(source: str) -> str:
    """Whether a folder or hub id can be had without the network, and what to do if not."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    if Path(source).exists():
        return "here"
    try:
        cached = {repository.repo_id for repository in scan_cache_dir().repos}
    except CacheNotFound:
        cached = set()
    if source in cached:
        return "in the hub's cache"
    if source.count("/") == 1 and not source.startswith((".", "/", "weights/", "runs/")):
        return "absent: comes from the hub on first use, or name a folder instead"
    return f"absent: make it with `unifashion weights import FILE --out {source}` (`unifashion weights list` says which files)"
