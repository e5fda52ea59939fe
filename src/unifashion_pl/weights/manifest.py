"""Published checkpoints: the kinds that can be imported, and the manifest of parts with place, use, licence and known hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from unifashion_pl import reading

#: What can be imported.
KINDS: dict[str, str] = {
    "blip2-lavis": "BLIP-2, first stage, in LAVIS' names",
    "blip2-hf": "BLIP-2 in transformers' names (Blip2ForImageTextRetrieval)",
    "unifashion": "UniFashion's published code (Blip2QformerCirCls, ...CirRerank, ...CirFull)",
    "sprc": "SPRC's published code (Blip2QformerCirAlignPrompt)",
    "encoder": "image-text encoder: CLIP, SigLIP, SigLIP 2 and their fashion models, folder of open_clip or transformers",
    "tower": "EVA-CLIP vision tower alone (eva_vit_g.pth, timm)",
    "llm": "language model folder: Vicuna, LLaVA-1.5, any transformers decoder",
    "gguf": "language model in a GGUF file of llama.cpp (llama, qwen2, qwen3), dequantised once",
    "lora": "LoRA folder of peft for the language model",
    "sd": "Stable Diffusion 1.x, LDM checkpoint or diffusers folder",
    "pbe": "Paint-by-Example, LDM checkpoint or diffusers folder",
    "vae": "autoencoder of Stable Diffusion alone",
    "stableviton": "StableVITON",
}
#: A format that holds anybody's models: only a hash, or a name, says which one a file is, and under which licence.
FORMATS = ("gguf",)
#: BLIP-2 and models derived from it.
QFORMER_KINDS = ("blip2-lavis", "blip2-hf", "unifashion", "sprc")
#: Bars are shown above this size: hashing runs at some hundred MB/s.
LARGE = 1 << 28


@dataclass(frozen=True)
class PublishedPart:
    """One published file or folder.

    Attributes:
        name: short name of ours.
        kind: what `weights import` takes it for, None where no import is needed.
        source: hub id or address.
        revision, bytes, sha256: None = not known; a hash of None was not verified.
        file: in that source.
        licence: as its publisher states it.
        commercial: may it be used commercially? ``unclear`` counts as no wherever it matters.
        use: what it is for.
        note: what else to know.
    """

    name: str
    kind: str | None
    source: str
    revision: str | None
    file: str
    bytes: int | None
    sha256: str | None
    licence: str
    commercial: Literal["yes", "no", "unclear"]
    use: str
    note: str | None = None


@dataclass(frozen=True)
class Manifest:
    """``checkpoints/manifest.json``."""

    format: int
    about: str
    parts: list[PublishedPart]


def shipped_file(name: str) -> Path:
    """A file of ``checkpoints``: inside the wheel, or of a checkout.

    Raises:
        FileNotFoundError: neither has it.
    """
    places = [root / "checkpoints" / name for root in (Path(str(files("unifashion_pl"))), Path(__file__).parents[3])]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{name}, which is shipped, is in none of {', '.join(map(str, places))}: reinstall unifashion-pl (`make tiny` trains tiny anew)"
    )


def load_manifest() -> list[PublishedPart]:
    """The shipped manifest.

    Raises:
        FileNotFoundError: it is neither in the package nor in a checkout.
        ValueError: with the field that is not what it should be.
    """
    return reading.read_json(shipped_file("manifest.json"), Manifest, "a manifest").parts


def table(parts: list[PublishedPart]) -> str:
    """The manifest for people, one block of two or three lines a part."""
    lines = []
    for part in parts:
        size = "size unknown" if part.bytes is None else f"{part.bytes / 1e6:,.1f} MB"
        known = f"sha256 {part.sha256[:12]}…" if part.sha256 else "hash not verified"
        lines.append(f"{part.name}  [{part.licence}; commercial use: {part.commercial}]")
        lines.append(f"    {part.use}" + (f"  --as {part.kind}" if part.kind else ""))
        lines.append(f"    {part.source} : {part.file}  ({size}, {known})")
        if part.note:
            lines.append(f"    {part.note}")
    yes = sum(part.commercial == "yes" for part in parts)
    return "\n".join([*lines, f"{len(parts)} parts, {yes} of them free for commercial use by their publishers' word"])


def digest(path: Path, progress: bool = False) -> str:
    """SHA-256 of a file, perhaps under a bar."""
    size = path.stat().st_size
    hide = not progress or size < LARGE
    with tqdm(total=size, unit="B", unit_scale=True, desc=f"sha256 {path.name}", disable=hide) as bar:
        return reading.digest(path, bar.update)


def find(kind: str | None, hashes: Mapping[str, str], name: str | None = None) -> list[PublishedPart]:
    """The part of this name; else the part with one of these hashes; else all parts of the kind, if it is of a kind of model.

    Raises:
        ValueError: no part of that name, or its hash is known and none of these.
    """
    parts = load_manifest()
    if name is None:
        exact = [part for part in parts if part.sha256 and part.sha256 in hashes.values()]
        return exact or [part for part in parts if kind is not None and part.kind == kind and kind not in FORMATS]
    named = [part for part in parts if part.name == name]
    if not named:
        raise ValueError(f"the manifest has no part {name!r}: `unifashion weights list` shows their names")
    known = named[0].sha256
    if known and known not in hashes.values():
        raise ValueError(f"this is not {name}: its SHA-256 is {known}, found {', '.join(hashes.values())}")
    return named


def licence_of(kind: str, hashes: Mapping[str, str], name: str | None = None) -> str:
    """Licence of a source as far as the manifest knows it: one, or those that the kind may have."""
    licences = list(dict.fromkeys(part.licence for part in find(kind, hashes, name)))
    return " or ".join(licences) if licences else "not in the manifest"


def refuse_non_commercial(kind: str, hashes: Mapping[str, str], name: str | None = None) -> None:
    """
    Raises:
        ValueError: nothing is known about the source, or some part that it may be is not free for commercial use.
    """
    found = find(kind, hashes, name)
    refused = [part for part in found if part.commercial != "yes"]
    if not found:
        raise ValueError(
            f"refused under --commercial-only: the manifest knows no part of kind {kind}, so its licence is unknown. Nothing was written"
        )
    if refused:
        what = "; ".join(f"{p.name}: {p.licence}, commercial use {p.commercial}" for p in refused[:3])
        other = "" if len(found) == len(refused) else " If it is another part, say so with --part."
        raise ValueError(f"refused under --commercial-only: this may be {what}. Nothing was written.{other}")
