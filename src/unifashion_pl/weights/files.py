"""Reading tensors from files, and nothing but tensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict from ``.safetensors`` or a PyTorch file, never unpickling anything but tensors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, cut off, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and was not loaded: {str(error).splitlines()[0]}") from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read: damaged or half downloaded? ({error})"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict: expected names mapped to tensors, optionally under 'state_dict'")
    return state


def load_part(cls: Any, source: str | Path, subfolder: str, **kwargs: Any) -> Any:
    """A model or tokenizer of diffusers or transformers from a hub id, a pipeline's folder, or the part's own folder.

    Args:
        cls: a class with ``from_pretrained``.
        subfolder: where a pipeline keeps the part, e.g. ``unet``. A hub id is taken to be a pipeline; ``owner/name:`` with a colon
            is a repository of that part alone.
    """
    name = str(source)
    path = Path(name)
    if name.endswith(":"):
        return cls.from_pretrained(name.removesuffix(":"), **kwargs)
    inside = (path / subfolder).is_dir() or not path.exists()
    return cls.from_pretrained(name, **({"subfolder": subfolder} if inside else {}), **kwargs)
