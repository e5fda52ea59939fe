"""Writing our own format: a folder with ``config.json``, ``model.safetensors``, a model card, and what its parts need to be built again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unifashion_pl import learned
from unifashion_pl.files import replacing_folder, write_tensors
from unifashion_pl.freezing import left_out
from unifashion_pl.interface import SavedModel
from unifashion_pl.metrics.records import write_records
from unifashion_pl.reading import FormatError, read_json
from unifashion_pl.weights.card import MARK, model_card, read_results
from unifashion_pl.weights.rebuild import PARTS, blueprints, write_blueprints

CONFIG, TENSORS, CARD, RESULTS = "config.json", "model.safetensors", "README.md", "results.json"
#: What a folder of ours holds; everything else in it is its user's.
OURS = (CONFIG, TENSORS, RESULTS, PARTS)
FORMAT = 1


def save_pretrained(
    model: SavedModel,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    *,
    results: str | Path | None = None,
    data: str = "",
    licence: str = "other",
) -> Path:
    """See :meth:`UniFashionModule.save_pretrained`. An older model in the folder is replaced in one step, by the whole new one.

    Args:
        dtype: floating-point tensors are stored in it, None = as they are. Loading casts back to the model's own.
        results: ``results.json`` or a run folder, for the model card; a copy is saved beside it.
        data, licence: for the model card, see :func:`unifashion_pl.weights.card.model_card`.

    Raises:
        ValueError: the model was assembled by hand, so that nothing says how to build it again; or the folder is the current one.
        FileExistsError: the folder holds another library's model.
        WriteError: it cannot be written; what was there before still is.
    """
    if not model.hparams:
        raise ValueError(
            "this model was assembled by hand: build it with UniFashionModule.from_config(...) to be able to save it"
        )
    folder = Path(folder)
    place = folder.resolve()
    if Path.cwd().is_relative_to(place):
        raise ValueError(f"{place} is the current folder or above it, and is replaced as a whole: save into a folder in it")
    _check_ours(place)
    records = read_results(results)
    card = model_card(model, records, data, licence)
    with replacing_folder(place) as part:
        _keep_what_is_not_ours(place, part)
        _write_model(model, part, dtype)
        if (part / CARD).exists():
            print(f"{folder / CARD} is not this library's model card, so it stays as it is")
        else:
            (part / CARD).write_text(card, encoding="utf-8")
        if records:
            write_records(part / RESULTS, records)
    return folder


def _write_model(model: SavedModel, folder: Path, dtype: torch.dtype | None) -> None:
    section = {key: value for key, value in model.hparams.items() if key != "_instantiator"}
    text = json.dumps(
        {"format": FORMAT, "model": section, "learned": learned.stored(model.learned)}, indent=2, sort_keys=True, default=_plain
    )
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    if parts := blueprints(model.modules()):
        (folder / PARTS).mkdir()
        write_blueprints(parts, folder / PARTS)
    absent = left_out(model)
    write_tensors(folder / TENSORS, {n: _stored(t, dtype) for n, t in model.state_dict().items() if n not in absent})


def _check_ours(folder: Path) -> None:
    """A folder that is to be written holds no other model.

    Raises:
        FileExistsError: it has a ``config.json`` of something else.
    """
    path = folder / CONFIG
    if path.is_file():
        try:
            ours = {"format", "model"} <= read_json(path, dict[str, Any]).keys()
        except FormatError:
            ours = False
        if not ours:
            raise FileExistsError(f"{path} was not written by this library: save into a new folder")


def _keep_what_is_not_ours(older: Path, new: Path) -> None:
    """Files of the older folder that a user put there, by links where the disk knows them; their own README too."""
    for path in sorted(older.iterdir()) if older.is_dir() else ():
        if path.name in OURS or (path.name == CARD and MARK in path.read_text("utf-8", errors="replace")):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, new / path.name)


def _link(source: str | Path, target: str | Path) -> None:
    with suppress(OSError):
        os.link(source, target, follow_symlinks=False)
        return
    shutil.copy2(source, target, follow_symlinks=False)


def push_to_hub(model: SavedModel, repository: str, *, private: bool = False, **saving: Any) -> str:
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
