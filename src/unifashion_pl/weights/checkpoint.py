"""Models as a whole, in our own formats: a folder of :meth:`PretrainedMethods.save_pretrained`, written and read; a Lightning ``.ckpt``, read.

A folder holds ``config.json``, ``model.safetensors``, a model card, and what the model's parts need to be built again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core import saving
from torch import Tensor
from typing_extensions import Self

from unifashion_pl import learned
from unifashion_pl.files import replacing_folder, write_tensors
from unifashion_pl.freezing import left_out
from unifashion_pl.interface import SavedModel
from unifashion_pl.metrics.records import write_records
from unifashion_pl.parts.rebuild import PARTS, blueprints, check_blueprints, rebuilding, write_blueprints
from unifashion_pl.parts.tensors import CONFIG, TENSORS, load_tensors, read_content, saved_on, state_of
from unifashion_pl.parts.trust import local
from unifashion_pl.reading import FormatError, read_json
from unifashion_pl.weights.building import M, Saved, build_saved, buildable, from_config
from unifashion_pl.weights.card import HUB_ID, MARK, model_card, read_results
from unifashion_pl.weights.loading import find_weights, learned_of, load_weights, read_state, tiny_folder

__all__ = [
    "PretrainedMethods", "find_weights", "from_pretrained", "learned_of", "load_weights", "loading", "read_checkpoint", "read_state",
    "tiny_folder",
]  # fmt: skip

CARD, RESULTS = "README.md", "results.json"
#: What a folder of ours holds; everything else in it is its user's.
OURS = (CONFIG, TENSORS, RESULTS, PARTS)
FORMAT = 1
#: Bytes of a config.json; the largest of ours has 20 kB.
MAX_CONFIG = 1 << 24


def _write_model(model: SavedModel, folder: Path, dtype: torch.dtype | None) -> None:
    section = {key: value for key, value in model.hparams.items() if key != "_instantiator"}
    said = {"format": FORMAT, "model": section, "learned": learned.stored(model.learned)}
    if model.training_seed is not None:
        said[learned.TRAINING_SEED] = model.training_seed
    text = json.dumps(said, indent=2, sort_keys=True, default=_plain)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    if parts := blueprints(model.modules()):
        (folder / PARTS).mkdir()
        write_blueprints(parts, folder / PARTS)
    absent = left_out(model)
    write_tensors(folder / TENSORS, {n: _for_disk(t, dtype) for n, t in model.state_dict().items() if n not in absent})


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


def _for_disk(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu().clone().contiguous()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if hasattr(value, "__dict__"):
        return vars(value)
    raise TypeError(f"cannot write {type(value).__name__} into {CONFIG}")


def from_pretrained(
    cls: type[M],
    source: str | Path,
    revision: str | None = None,
    *,
    heads: Collection[str] | None = None,
    trust_remote_code: bool = False,
) -> M:
    """See :meth:`UniFashionModule.from_pretrained`."""
    folder = tiny_folder() if str(source) == "tiny" else Path(source)
    if folder.name == TENSORS and folder.is_file():
        folder = folder.parent
    if folder.suffix == ".ckpt" and folder.is_file():
        saved = read_checkpoint(folder)
    else:
        saved = _read_folder(folder if folder.exists() else _from_hub(str(source), revision))
    model = build_saved(cls, saved if heads is None else saved.only(heads), trust_remote_code).eval()
    vars(model)["toy"] = str(source) == "tiny"
    return model


def _read_folder(folder: Path) -> Saved:
    """
    Raises:
        FileNotFoundError: it is no folder of ours.
        ValueError: its files are damaged, or of a later version.
    """
    if folder.is_file():
        raise FileNotFoundError(
            f"{folder} is a file: expected a folder written by save_pretrained, its {TENSORS}, or a .ckpt of a training"
        )
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
    parts = folder / PARTS if (folder / PARTS).is_dir() else None
    return Saved(
        str(folder), section, parts, load_tensors(folder / TENSORS), learned.of_config(content, path), learned.seed_of(content)
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
        learned.seed_of(content),
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


@contextmanager
def _mapping(path: Any) -> Iterator[list[Any]]:
    """Inside the block Lightning reads ``path`` as we do, mapped, so that what is not used stays on the disk.

    Yields what it asked for there, if it said nothing of a device: nothing is moved to one, where the optimiser's states would go too.
    """
    module: Any = saving
    usual = module.pl_load
    used: list[Any] = []

    def read(source: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        undecided = map_location is saving._default_map_location
        if source == path and weights_only and (undecided or str(map_location) == "cpu"):
            used.extend([source] if undecided else [])
            return read_content(path)
        return usual(source, map_location=map_location, weights_only=weights_only)

    module.pl_load = read
    try:
        yield used
    finally:
        module.pl_load = usual


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


class PretrainedMethods(L.LightningModule):
    """How a :class:`unifashion_pl.UniFashionModule` comes from files and goes into them."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        revision: str | None = None,
        *,
        heads: Collection[str] | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """A model in eval mode from ``tiny`` (shipped), a folder of :meth:`save_pretrained`, a Lightning ``.ckpt`` or a hub id.

        The files it was started from are not needed, except for parts that ``leave_out`` names.

        Args:
            source: the name ``tiny``, a path, or a hub id ``owner/name``. revision: of a hub id.
            heads: of ``retrieval``, ``caption`` and ``diffusion`` those that are built, without the tensors of the others; None = all. A
                search needs no language model.
            trust_remote_code: also import and call classes that are not of this library, if its config names some, as a model with parts
                of your own does. They may run any program with your rights: only for files of people whom you trust.

        Raises:
            FileNotFoundError: nothing of that name, with what was looked for.
            ValueError: a damaged file, or one whose config names other classes without ``trust_remote_code``.

        >>> from unifashion_pl import UniFashionModule
        >>> UniFashionModule.from_pretrained("tiny", heads=["retrieval"]).training
        False
        """
        return from_pretrained(cls, source, revision, heads=heads, trust_remote_code=trust_remote_code)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, trust_remote_code: bool = False, **kwargs: Any) -> Self:
        """Lightning's, from a local file, with what :meth:`from_pretrained` promises of a ``.ckpt``.

        Args:
            args, kwargs: as Lightning takes them.
        """
        kwargs.setdefault("weights_only", True)
        with loading(checkpoint_path, trust_remote_code), _mapping(checkpoint_path) as used:
            model = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        return model.to(saved_on(checkpoint_path)) if used and torch.accelerator.is_available() else model

    @classmethod
    def from_config(cls, config: str | Path | Iterable[str | Path], overrides: dict[str, Any] | None = None) -> Self:
        """The model section of one or more YAML files (a bare name is looked up here, then among the shipped ones).

        Args:
            overrides: dotted names inside the model section, e.g. ``{"policy": "phase1_retrieval"}``.

        Raises:
            FileNotFoundError: no such file, nor a shipped config of that name.
            ValueError: no ``model`` section, or one that cannot be built.

        >>> UniFashionModule.from_config("phase1.yaml", {"caption": None, "diffusion": None})  # doctest: +SKIP
        """
        return from_config(cls, config, overrides)

    def save_pretrained(
        self: Any,
        folder: str | Path,
        dtype: torch.dtype | None = None,
        *,
        results: str | Path | None = None,
        data: str = "",
        licence: str = "other",
        datasets: Sequence[str] = (),
    ) -> Path:
        """Write ``config.json``, ``model.safetensors`` and a model card; returns the folder.

        An older model in the folder is replaced in one step, by the whole new one.

        Args:
            dtype: floating-point tensors are stored in it, None = as they are. Loading casts back to the model's own.
            results: ``results.json`` or a run folder, for the model card; a copy is saved beside it.
            data, licence, datasets: what it learned from in words, the card's licence, and datasets by name; see :func:`unifashion_pl.weights.card.model_card`.

        Raises:
            ValueError: the model was assembled by hand, so that nothing says how to build it again; or the folder is the current one.
            FileExistsError: the folder holds another library's model.
            WriteError: it cannot be written; what was there before still is.

        >>> model.save_pretrained("my-model", dtype=torch.bfloat16, results="runs/phase2")  # doctest: +SKIP
        """
        if not self.hparams:
            raise ValueError(
                "this model was assembled by hand: build it with UniFashionModule.from_config(...) to be able to save it"
            )
        folder = Path(folder)
        place = folder.resolve()
        if Path.cwd().is_relative_to(place):
            raise ValueError(f"{place} is the current folder or above it, and is replaced as a whole: save into a folder in it")
        _check_ours(place)
        records = read_results(results)
        card = model_card(self, records, data, licence, datasets)
        with replacing_folder(place) as part:
            _keep_what_is_not_ours(place, part)
            _write_model(self, part, dtype)
            if (part / CARD).exists():
                print(f"{folder / CARD} is not this library's model card, so it stays as it is")
            else:
                (part / CARD).write_text(card, encoding="utf-8")
            if records:
                write_records(part / RESULTS, records)
        return folder

    def push_to_hub(self, repository: str, *, private: bool = False, **saving: Any) -> str:
        """Upload what :meth:`save_pretrained` writes to ``owner/name``; needs a login of huggingface_hub. Returns the address.

        Args:
            repository: ``owner/name``. private: whether others may not see it.
            saving: arguments of :meth:`save_pretrained`.

        Raises:
            ValueError: as :meth:`save_pretrained`. Errors of the hub are huggingface_hub's own.

        >>> model.push_to_hub("me/my-model", private=True, licence="apache-2.0")  # doctest: +SKIP
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as work:
            folder = self.save_pretrained(Path(work) / "model", **saving)
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            info = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model saved by unifashion-pl")
        return str(info)
