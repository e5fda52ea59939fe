"""``unifashion doctor``: what is installed, what the machine offers, what can run here."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unifashion_pl import learned
from unifashion_pl.configs import merged, read_config
from unifashion_pl.devices import described
from unifashion_pl.memory import needed
from unifashion_pl.parameters import TRAININGS, shapes_only
from unifashion_pl.reading import read_json
from unifashion_pl.weights.card import IMPORTED, licence_rows, parts_of, sources
from unifashion_pl.weights.manifest import shipped_file

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


def examine(trainings: bool = True) -> str:
    """A report of versions, devices, the shipped model, and of what can be trained here, one fact a line.

    Args:
        trainings: with a line for each shipped training of the paper's size.
    """
    lines = [f"{'python':<16}{sys.version.split()[0]} on {platform.platform()}"]
    lines += [f"{name:<16}{_version(name)}" for name in PACKAGES]
    lines += [*_device(), *_models()]
    if not trainings:
        return "\n".join(lines)
    for training in TRAININGS:
        need = f"{training.gib:.1f} GiB + activations; fits: {_fits(training.gib)}"
        lines.append(f"{'training':<16}{' + '.join(training.configs)}: {need}")
    lines.append(
        f"{'':<16}`unifashion doctor --config phase2.yaml --config paper.yaml` says of one which weights and data are absent and how to get them"
    )
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _device() -> list[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else float("nan")
    lines = [f"{'cpu':<16}{os.cpu_count()} cores, {memory:.0f} GiB"]
    return [*lines, *(f"{name:<16}{said}" for name, said in described())]


def _models() -> list[str]:
    try:
        config = shipped_file("tiny/config.json")
        folder, record = config.parent, learned.of_config(read_json(config, dict[str, Any], "a model's config"), config)
        return [f"{'tiny model':<16}{folder}", f"{'':<16}a toy that knows drawings alone; trained for {learned.said(record)}"]
    except FileNotFoundError as error:
        return [f"{'tiny model':<16}{error}"]


def examine_overlay(configs: Sequence[str], commercial_only: bool = False) -> str:
    """What a training with these configs needs: published parts, whether they are here, and memory for weights and optimiser.

    Args:
        commercial_only: refuse parts that the manifest does not know to be free for commercial use.

    Raises:
        SystemExit, ValueError: as for building the model.
        ValueError: a part that ``commercial_only`` refuses.
    """
    content = merged(configs)
    section = content.get("model") or {}
    model, size = _size(configs, section)
    lines = [f"{'config':<16}{' + '.join(configs)}", *size]
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for place, source, licence, use in licence_rows(section):
        rows.setdefault(source, []).append((place, licence, use))
    for source, found in rows.items():
        places, (_, licence, use) = ", ".join(place for place, _, _ in found), found[0]
        lines.append(
            f"{'needs':<16}{source} ({places}; {licence}; commercial use: {use}): {_where(source, [p for p, _, _ in found], model)}"
        )
    lines += [*_start(section, bool(rows), model), *_data(content.get("data") or {}, _streams(configs))]
    refused = [f"{source} ({found[0][1]}; {found[0][2]})" for source, found in rows.items() if found[0][2] != "yes"]
    if commercial_only and refused:
        raise ValueError(
            f"refused under --commercial-only: {' + '.join(configs)} needs parts that are not known to be free for commercial use: "
            f"{'; '.join(refused)}. Lay commercial.yaml over the phase instead, or name other weights"
        )
    return "\n".join(lines)


def _start(section: dict[str, Any], large: bool, model: nn.Module | None) -> list[str]:
    """Which of the places that ``init_from`` names is here and fits; the shipped tiny model starts nothing large."""
    wanted = section.get("init_from")
    if not wanted or wanted == "tiny":
        return []
    if isinstance(wanted, list) and large:
        wanted = [choice for choice in wanted if choice != "tiny"]
    choices = [[choice] if isinstance(choice, str) else choice for choice in ([wanted] if isinstance(wanted, str) else wanted)]
    names = ["tiny" if "tiny" in choice else " + ".join(choice) for choice in choices]
    here = [pair for pair in zip(names, choices) if all(part == "tiny" or Path(part).exists() for part in pair[1])]
    from unifashion_pl.weights.opening import start_fault

    fault = start_fault(model, here[0][1]) if here and model is not None else ""
    cure = ". Move it away, or name another start, or none, by --model.init_from" if fault else ""
    found = (
        _here(fault, f"{here[0][0]}: ") + cure
        if here
        else f"absent: {', or '.join(names)} (an earlier stage's run, or an import)"
    )
    return [f"{'starts from':<16}{found}"]


def _streams(configs: Sequence[str]) -> dict[str, Any]:
    """Which streams are trained on: another DataModule takes them over, which :func:`merged` does not know."""
    layers = [(read_config(config).get("data") or {}).get("init_args") or {} for config in configs]
    return {name: given[name] for given in layers for name in ("pairs", "triplets", "tryon") if name in given}


def _data(data: dict[str, Any], streams: dict[str, Any]) -> list[str]:
    """Whether the folders of the datasets that are trained on are here."""
    given = data.get("init_args") or {}
    if given.get("root") is None:
        return []
    from unifashion_pl.datamodules.benchmark import BenchmarkDataModule, folders_of

    joined = str(data.get("class_path")).endswith(BenchmarkDataModule.__name__)
    places = [Path(given["root"], folder) for folder in (folders_of(**{**given, **streams}) if joined else [""])]
    absent = [place for place in places if not place.is_dir()]
    cure = (
        "absent: a dataset as its authors distribute it goes there; `unifashion data check DATASET --root FOLDER` looks at it"
    )
    return [f"{'data':<16}{', '.join(map(str, absent or places))}: {cure if absent else 'here'}"]


def _here(fault: str, name: str = "") -> str:
    return f"{name}here, but unfit: {fault}" if fault else f"{name}here"


def _size(configs: Sequence[str], section: dict[str, Any]) -> tuple[nn.Module | None, list[str]]:
    """The model without numbers, its parameters and memory; of parts whose sizes only their files know, none can be said before those can
    be read."""
    try:
        from unifashion_pl.weights.opening import as_described

        with as_described(sources(section)) as described:
            model = shapes_only(configs, large=described)
    except OSError as error:
        return None, [f"{'memory':<16}not counted, because a part cannot be read: {str(error).splitlines()[0]}"]
    model.leave_out = tuple(section.get("leave_out") or ())
    return model, [*model.describe_parameters().splitlines(), *_memory(model)]


def _memory(model: nn.Module) -> list[str]:
    weights, learning = needed(model)
    need = (weights + learning) / 2**30
    return [
        f"{'memory':<16}{weights / 2**30:.1f} GiB of weights + {learning / 2**30:.1f} GiB of gradients and AdamW = {need:.1f} GiB, "
        "counted, not measured; activations come on top",
        f"{'fits':<16}{_fits(need)}",
    ]


def _fits(need: float) -> str:
    """Whether so many GiB and the activations fit on the GPUs here."""
    sizes = [torch.cuda.get_device_properties(i).total_memory / 2**30 for i in range(torch.cuda.device_count())]
    if not sizes:
        return "no GPU here"
    if need < 0.8 * min(sizes):
        return "yes"
    if need < min(sizes):
        return "hardly: little is left for activations"
    return "sharded over the GPUs here (fsdp.yaml)" if need < 0.8 * sum(sizes) else "no"


def _where(source: str, places: Sequence[str], model: nn.Module | None) -> str:
    """Whether a folder or hub id can be had without the network and is what the config builds, and what to do if not."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    if Path(source).exists():
        from unifashion_pl.weights.opening import fault_of

        return (
            _here(next((f for f in (fault_of(model, place, source) for place in places) if f), ""))
            if model
            else "here, not compared (see memory)"
        )
    if source in IMPORTED:
        first, *others = parts_of(source)
        files = ", ".join(f"{part.file} ({part.source})" for part in (first, *others))
        tower = "".join(f" --tower {part.file}" for part in others)
        place = "FOLDER" if first.kind == "encoder" else first.file  # several files, which belong together
        return f"absent: download {files}, then `unifashion weights import {place}{tower} --out {source}`"
    try:
        cached = {repository.repo_id for repository in scan_cache_dir().repos}
    except CacheNotFound:
        cached = set()
    if source in cached:
        return "in the hub's cache"
    if source.count("/") == 1 and not source.startswith((".", "/", "weights/", "runs/")):
        return "absent: comes from the hub on first use, or name a folder instead"
    return f"absent: make it with `unifashion weights import FILE --out {source}` (`unifashion weights list` says which files)"
