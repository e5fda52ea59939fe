"""Reading tensors from files, and nothing but tensors."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unifashion_pl.names import plain_state
from unifashion_pl.parts.mapped import remember

#: Files of a saved model; imported folders have the second one too.
CONFIG, TENSORS = "config.json", "model.safetensors"


class Inert:
    """Stands for a class that a file names beside its tensors; it takes anything and does nothing."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


#: A tensor may have several names in a file (tied weights), so that names claim more bytes than there are.
SHARED = 8
#: What Lightning wrote into published checkpoints beside tensors (Stable Diffusion v1's pickles name exactly these). They are replaced
#: by :class:`Inert`, never imported.
BESIDE_TENSORS = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "numpy.core.multiarray.scalar", "numpy.dtype")


def read_content(path: str | Path) -> Any:
    """What lies in a ``.safetensors`` or PyTorch file, never unpickling anything but tensors. Large files are mapped, not read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, cut off, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        remember(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipped := zipfile.is_zipfile(path):
            _check_zip(path)
        with torch.serialization.safe_globals([(Inert, name) for name in BESIDE_TENSORS]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if found := re.search(r"[Uu]nsupported (?:global: GLOBAL|GLOBAL|class) (\S+)", str(error)):
            raise ValueError(f"{path} holds more than tensors and was not loaded: {found[1]}") from error
        raise ValueError(f"{path} ({path.stat().st_size:,} bytes) is no weights file, or a damaged one") from error
    except Exception as error:  # a file cut off raises anything from OSError to struct.error, depending on where
        said = " ".join(str(error).split())
        why = f" ({said})" if " " in said else ""  # a bare key or number says nothing
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read: damaged or half downloaded?{why} Expected a .safetensors or PyTorch file"
        ) from error


def saved_on(path: str | Path) -> str:
    """The device that the first tensor of a PyTorch file was saved from, e.g. ``cpu`` or ``cuda:0``, of a file that was read already."""
    places: list[str] = []

    def here(storage: Any, place: str) -> Any:
        places.append(place)
        return storage

    with torch.serialization.safe_globals([(Inert, name) for name in BESIDE_TENSORS]):
        torch.load(path, map_location=here, weights_only=True, mmap=zipfile.is_zipfile(path))
    return places[0] if places else "cpu"


def _check_zip(path: Path) -> None:
    """PyTorch stores everything as it is, so that nothing in its files can grow when it is read.

    Raises:
        ValueError: packed entries, or entries that overlap.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are packed, and PyTorch packs nothing")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries overlap")


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict from ``.safetensors`` or a PyTorch file, see :func:`read_content`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, cut off, a pickle that holds more than tensors, or no state dict in it.
    """
    return state_of(read_content(path), path)


def state_of(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in what was read from a file, directly or under ``state_dict`` or ``model`` (LAVIS).

    Raises:
        ValueError: there is none, it holds something else than plain tensors, or they claim to be larger than the file.
    """
    state = content.get("state_dict", content.get("model", content)) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{path} holds no state dict: expected names mapped to tensors, optionally under 'state_dict' or 'model'"
        )
    return plain_state(check_state(state, path))


def check_state(state: dict[Any, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Plain dense tensors by name, which fit into their file: a few bytes can claim to be a tensor of any size.

    Raises:
        ValueError: with the name.
    """
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: a tensor is called {name!r}, expected text")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ValueError(f"{path}: {name} is {tensor.layout} on {tensor.device}, expected a plain dense tensor")
    size, claimed = Path(path).stat().st_size, sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if claimed > SHARED * size:
        raise ValueError(f"{path} has {size:,} bytes and claims tensors of {claimed:,}: a damaged file?")
    return state


def floating(name: str) -> torch.dtype:
    """A floating-point type of torch by its name.

    Raises:
        ValueError: no such type.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must name a floating point type of torch such as float32 or bfloat16, got {name!r}")
    return dtype
