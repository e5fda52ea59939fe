"""Whether what a config names is what its model is built of: files are opened, their names and shapes compared, as they are for an import."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from torch import nn

from unifashion_pl.backbone.pretrained import load_bert, load_vision_weights
from unifashion_pl.generation.denoiser import trained_for
from unifashion_pl.generation.prompts import check_words
from unifashion_pl.parts.rebuild import rebuilding
from unifashion_pl.weights.download import Download, open_download
from unifashion_pl.weights.encoders import check_encoder
from unifashion_pl.weights.ldm import move_diffusers, write_parts
from unifashion_pl.weights.ledger import Ledger, Report
from unifashion_pl.weights.llm import convert_llm
from unifashion_pl.weights.loading import load_weights

#: Last but one of a place in the config -> blueprint of :mod:`unifashion_pl.parts.rebuild`, subfolder of a pipeline.
FOLDERS = {
    "language_model": ("llm", ""),
    "denoiser": ("unet", "unet"),
    "vae": ("vae", "vae"),
    "text_encoder": ("clip_text", "text_encoder"),
}
#: Part -> what its weights are called where its library looks for them.
FILES = {
    "llm": "(pytorch_)?model",
    "clip_text": "(pytorch_)?model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
#: Files of a folder that are no weights and small.
SMALL = 1 << 25


def _part(place: str) -> str:
    return place.split(".")[-2] if "." in place else ""


def _inside(source: str, subfolder: str) -> Path:
    folder = Path(source) / subfolder
    return folder if subfolder and folder.is_dir() else Path(source)


@contextmanager
def as_described(sources: Iterable[tuple[str, str]]) -> Iterator[bool]:
    """Inside the block a model is built as the folders that are here describe their parts, without their weights.

    Args:
        sources: (place in the config, folder), as :func:`~unifashion_pl.weights.card.sources` gives them.

    Yields:
        Whether there are such folders.
    """
    blueprints: dict[str, dict[str, bytes]] = {}
    for place, source in sources:
        if _part(place) not in FOLDERS or not Path(source).is_dir():
            continue
        name, subfolder = FOLDERS[_part(place)]
        folders = [_inside(source, subfolder), *([Path(source) / "tokenizer"] if name == "clip_text" else [])]
        files = (file for folder in folders if folder.is_dir() for file in folder.iterdir())
        kept = {f.name: f.read_bytes() for f in files if f.suffix in (".json", ".txt", ".model") and f.stat().st_size < SMALL}
        if "config.json" in kept:
            blueprints[name] = kept
    with rebuilding("the config", blueprints) if blueprints else nullcontext():
        yield bool(blueprints)


def fault_of(model: nn.Module, place: str, source: str) -> str:
    """What keeps a source that is here from being a part of a model; "" if nothing does.

    Args:
        model: built of the config, on the meta device where it is large.
        place: of the source in the config, e.g. ``backbone.vision.weights``.
    """
    return _fault(lambda: _open(model, place, source))


def start_fault(model: nn.Module, start: list[str]) -> str:
    """The same of places that ``init_from`` names as one start."""
    return _fault(lambda: load_weights(model, [start]))


def _fault(opening: Any) -> str:
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opening()
    except Exception as error:  # names and shapes of a file can be anything
        return " ".join(str(error).removesuffix("Nothing was written").split()) or type(error).__name__
    return ""


def _open(model: Any, place: str, source: str) -> None:
    """
    Raises:
        ValueError, OSError: it cannot be opened, or is another model's.
    """
    if place.endswith("vision.weights"):
        load_vision_weights(model.backbone.vision.model, source, model.backbone.vision.depth)
    elif place.endswith((".vision.source", ".text_tower.source")):
        check_encoder(source)
    elif place.endswith(".bert"):
        load_bert(model.backbone, source, model.backbone.qformer.config.vocab_size)
    elif place.endswith(".source") and _part(place) in FOLDERS:
        name, part = FOLDERS[_part(place)]
        if name == "clip_text":
            check_words(model.diffusion_head.text_encoder.tokenizer, source)
        if name == "unet":
            trained_for(source)
        found, report = _looked_for(_inside(source, part), name), Report(name, source)
        if name == "llm":
            convert_llm(found, None, report)
        else:
            ledger = Ledger(found.tensors)
            write_parts(ledger, {part: move_diffusers(ledger, part, found)}, found.path, None, report)


def _looked_for(folder: Path, name: str) -> Download:
    """
    Raises:
        ValueError: a file that would not be found when the part is loaded.
    """
    found = open_download(folder)
    if len(found.files) == 1 and not re.fullmatch(rf"{FILES[name]}(-\d+-of-\d+)?\.(safetensors|bin)", found.files[0].name):
        usual = FILES[name].replace("(pytorch_)?", "")
        raise ValueError(f"{found.files[0]} is not looked for under this name: expected {usual}.safetensors")
    return found
