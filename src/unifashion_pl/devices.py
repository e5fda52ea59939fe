"""Which device a model works on where nobody names one: NVIDIA's or AMD's GPU, Apple's, or the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch


def default_device(env: Mapping[str, str] = os.environ) -> str:
    """``cuda`` (under torchrun that of this process), else ``mps`` (Apple), else ``cpu``."""
    if torch.cuda.is_available():
        return f"cuda:{env['LOCAL_RANK']}" if "LOCAL_RANK" in env else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def described() -> list[tuple[str, str]]:
    """Name and properties of every GPU; of none, what that means."""
    if torch.cuda.is_available():
        found = []
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            found.append((f"gpu {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"))
        return found
    if torch.backends.mps.is_available():
        fallback = "set" if os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1" else "not set"
        return [
            (
                "gpu",
                f"Apple (mps), in the memory above; PYTORCH_ENABLE_MPS_FALLBACK=1 runs on the CPU what it lacks: {fallback}",
            )
        ]
    built = " (this torch has mps, which needs macOS 14 and Apple silicon)" if torch.backends.mps.is_built() else ""
    return [("gpu", f"none{built}: the embedded default trains on the CPU, the paper's size needs a GPU")]
