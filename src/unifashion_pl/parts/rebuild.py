"""Building a saved model again without the files that it was started from.

Beside its config and its tensors a model needs small files of its sources: the tokenizers and the configs of published networks. Each
part that has a source gives them by ``blueprint()``; they are saved with the model, as files in a folder or as bytes in a ``.ckpt``.
While a model is built again, its parts find them by :func:`blueprint_of`, and read no weights, because every tensor is in the saved file.
The parts that ``leave_out`` names are the exception: theirs are read from the published source, as in training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import msgspec
import torch
from torch import nn

#: Folder of a saved model, and key of a checkpoint, that hold the blueprints.
PARTS = "parts"
#: Part -> option of a training that names its source.
OPTIONS = {
    "vision": "--model.backbone.init_args.vision.init_args.weights",
    "qformer": "--model.backbone.init_args.tokenizer",
    "bert": "--model.backbone.init_args.bert",
}
#: Part -> file name -> content.
Blueprints = Mapping[str, Mapping[str, bytes]]
#: A name that leads into no other folder.
Name = Annotated[str, msgspec.Meta(pattern=r"\A\w[\w.-]*\Z")]


class SourceMissing(FileNotFoundError):
    """A part of a saved model has to come from its source, which is not there."""

    def __str__(self) -> str:
        return str(self.args[0])


@runtime_checkable
class Rebuildable(Protocol):
    """A part that is built from a source."""

    #: Its name among the blueprints.
    part: str

    def blueprint(self) -> dict[str, bytes]:
        """File name -> content of what it needs beside its arguments and tensors; nothing, if its source is shipped."""


@dataclass(frozen=True)
class Rebuild:
    """A model that is being built again.

    Attributes:
        where: its file, for messages.
        folder: of the blueprints; None = it has none.
        published: parts that its file leaves out.
    """

    where: str
    folder: Path | None
    published: frozenset[str]


_current: ContextVar[Rebuild | None] = ContextVar("rebuild", default=None)


def blueprints(modules: Iterable[nn.Module]) -> dict[str, dict[str, bytes]]:
    """What a model's parts need to be built again, without the parts that need nothing."""
    found = {module.part: module.blueprint() for module in modules if isinstance(module, Rebuildable)}
    return {part: files for part, files in found.items() if files}


def check_blueprints(content: Any, where: str) -> Blueprints:
    """Blueprints from a file of somebody else's.

    Raises:
        ValueError: something else, or names that would lead out of a folder.
    """
    try:
        return msgspec.convert(content, dict[Name, dict[Name, bytes]], builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{where}: `{PARTS}` should map names of parts to files by name, which it does not: a damaged file? ({error})"
        ) from error


def write_blueprints(content: Blueprints, folder: Path) -> None:
    """One folder a part, below ``folder``, which has to exist."""
    for part, files in content.items():
        (folder / part).mkdir()
        for name, data in files.items():
            (folder / part / name).write_bytes(data)


@contextmanager
def rebuilding(where: str, parts: Path | Blueprints | None, published: Iterable[str] = ()) -> Iterator[None]:
    """Inside the block a model is built whose tensors are in ``where``.

    Args:
        parts: its blueprints, as a folder or as content.
        published: parts that ``where`` leaves out.
    """
    with tempfile.TemporaryDirectory(prefix="unifashion-") as work:
        folder = parts if isinstance(parts, Path) else Path(work)
        if isinstance(parts, Mapping):
            write_blueprints(parts, folder)
        token = _current.set(Rebuild(where, folder, frozenset(published)))
        try:
            yield
        finally:
            _current.reset(token)


def brings_tensors(part: str) -> bool:
    """Whether the tensors of a part come from the file of the model that is being built again."""
    current = _current.get()
    return current is not None and part not in current.published


def blueprint_of(part: str) -> Path | None:
    """The folder with a part's blueprint, if the model that is being built again has one and its tensors too."""
    current = _current.get()
    folder = current.folder / part if current is not None and current.folder is not None and brings_tensors(part) else None
    return folder if folder is not None and folder.is_dir() else None


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """What ``from_pretrained`` needs of a tokenizer of transformers; where it is ``tokenizer.json``, older formats stay away."""
    with tempfile.TemporaryDirectory(prefix="unifashion-") as work:
        tokenizer.save_pretrained(work)
        files = {path.name: path.read_bytes() for path in Path(work).iterdir() if path.is_file()}
    return {name: data for name, data in files.items() if name.endswith(".json") or "tokenizer.json" not in files}


@contextmanager
def reading_source(part: str, source: str | None) -> Iterator[None]:
    """Inside the block a part is read from its source. Of a model that is being built again a failure says why it is needed.

    Raises:
        SourceMissing: the source is not there, with the saved file, the part, and the cure.
        FileNotFoundError: of a new model, as of :func:`from_hub`.
    """
    current = _current.get()
    if current is None or source is None or blueprint_of(part) is not None:
        with from_hub(source or "", OPTIONS.get(part, "")):
            yield
        return
    # no hub id, so that the hub need not be asked
    is_path = Path(source).is_absolute() or source.startswith(".") or source.count("/") > 1
    try:
        if is_path and not Path(source).exists():
            raise FileNotFoundError("there is nothing")
        with torch.device("cpu"):  # read, even where the rest is built without memory
            yield
    except (OSError, ValueError) as error:
        left = part in current.published
        why = "leaves its tensors out (`leave_out`)" if left else "was saved by an older version, without what this part needs"
        cure = "take the part out of leave_out where it was trained" if left else "save it again where its sources are"
        raise SourceMissing(
            f"{current.where} {why}: {part} is loaded from {source}, which failed ({' '.join(str(error).split())}). Put it there "
            f"(`unifashion weights list` names published parts), or {cure}"
        ) from error


@contextmanager
def from_hub(source: str, option: str) -> Iterator[None]:
    """Inside the block a library reads a hub id, unless ``source`` is here.

    Args:
        option: of a training, that names the source.

    Raises:
        FileNotFoundError: it cannot be had, with the cure.
    """
    try:
        yield
    except OSError as error:
        if not source or Path(source).exists() or type(error) is FileNotFoundError:  # whose sentence is ours
            raise
        raise FileNotFoundError(
            f"{source} is no file or folder here, and the hub did not give it ({' '.join(str(error).split())}). {instead(option)}"
        ) from error


def instead(option: str) -> str:
    """What helps without the hub."""
    place = f"by {option} PATH" if option else "in the config"
    return (
        f'Name a file or folder {place} (for small.yaml, the tutorial "Your own photos" gets them by `pip download`); `unifashion doctor` '
        "with the same --config options says what else is absent"
    )


def tiny_sd_folder() -> Path:
    """The shipped toy Stable Diffusion: ``vae``, ``unet`` and ``text_encoder`` for 64 x 64 pictures of the wardrobe."""
    return Path(str(package_files("unifashion_pl.configs"))) / "tiny_sd"


def load_part(cls: Any, source: str | Path, subfolder: str, *, load: str = "from_pretrained", **kwargs: Any) -> Any:
    """A model or tokenizer of diffusers or transformers from a hub id, a pipeline's folder, or the part's own folder.

    Args:
        cls: a class with ``from_pretrained``.
        source: ``tiny`` is the shipped toy Stable Diffusion.
        subfolder: where a pipeline keeps the part, e.g. ``unet``. A hub id is taken to be a pipeline; ``owner/name:`` with a colon
            is a repository of that part alone.
        load: the class's method, e.g. ``load_config`` for its fields alone.
    """
    name = str(tiny_sd_folder() if source == "tiny" else source)
    path = Path(name)
    if name.endswith(":"):
        return getattr(cls, load)(name.removesuffix(":"), **kwargs)
    inside = (path / subfolder).is_dir() or not path.exists()
    return getattr(cls, load)(name, **({"subfolder": subfolder} if inside else {}), **kwargs)


def load_model(cls: Any, source: str | Path, subfolder: str | None = None, **kwargs: Any) -> Any:
    """A model of diffusers or transformers with all of its tensors; both libraries fill what a file lacks with random numbers.

    Args:
        cls, source, subfolder: as of :func:`load_part`; None = the source is a model's own folder or hub id.

    Raises:
        ValueError: tensors are missing or of other shapes, by name.
    """
    kwargs["output_loading_info"] = True
    loaded = cls.from_pretrained(source, **kwargs) if subfolder is None else load_part(cls, source, subfolder, **kwargs)
    model, info = loaded
    lost = sorted(map(str, [*info["missing_keys"], *info.get("mismatched_keys", ())]))
    if lost:
        raise ValueError(
            f"{source} does not hold a whole {type(model).__name__}: {len(lost)} tensors are missing or of other shapes {lost[:3]}. Half a "
            "download, or another model's config.json?"
        )
    return model


def config_folder(part: str, source: str | Path, subfolder: str) -> Path | None:
    """The folder with the config of a part that a saved model brings the tensors of, else None.

    Args:
        source, subfolder: as of :func:`load_part`; of ``tiny`` the shipped folder is as good as a saved one.
    """
    if source == "tiny" and brings_tensors(part):
        return tiny_sd_folder() / subfolder
    return blueprint_of(part)
