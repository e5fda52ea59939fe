"""``unifashion doctor``: what is installed, what the machine offers, what can run here."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

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
    import torch

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
