"""``data``: the toy wardrobe, dataset checks, shards, and what a model adds to a dataset: captions and a frozen tower's features."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from unifashion_pl.commands.options import MaxBad, Model
from unifashion_pl.commands.signature import FILE, FOLDER
from unifashion_pl.files import check_writable, write_text

NAMES = {"type": lambda text: [name.strip() for name in text.split(",") if name.strip()], "metavar": "NAME,…"}


def _extras(said: str, module: str, names: str) -> Callable[[], dict[str, Any]]:
    """A help with names that a module of the wardrobe knows."""
    return lambda: {"help": said.format(", ".join(getattr(import_module(f"unifashion_pl.wardrobe.{module}"), names)))}


LAYOUTS = _extras("also write {}, or all", "write", "LAYOUTS")
DIRT = _extras("break some files on purpose: {}, or all; dirt.json says which", "dirt", "KINDS")


def _datasets() -> dict[str, Any]:
    from unifashion_pl.data.plan import DATASETS

    return {"choices": DATASETS}


def wardrobe(
    *,
    out: Annotated[Path, FOLDER],
    size: Literal["tiny", "demo"] = "demo",
    products: Annotated[int | None, "number of training products instead of the size's"] = None,
    seed: int = 0,
    workers: int | None = None,
    layouts: Annotated[list[str] | None, NAMES, LAYOUTS] = None,
    dirt: Annotated[list[str] | None, NAMES, DIRT] = None,
) -> None:
    """Write the procedural catalogue in the datasets' raw layouts."""
    from unifashion_pl.wardrobe import SIZES, write_wardrobe

    spec = SIZES[size]
    if products is not None:
        spec = replace(spec, products_train=products)
    print(write_wardrobe(out, spec=spec, seed=seed, workers=workers, layouts=layouts or [], dirt=dirt or []))


def check(
    dataset: Annotated[str, _datasets],
    *,
    root: Path,
    json: Annotated[Path | None, FILE, "also write the findings here"] = None,
) -> int:
    """What of a dataset is there, missing or broken."""
    from unifashion_pl.datamodules.checks import check_dataset
    from unifashion_pl.datamodules.checks_text import report_text

    report = check_dataset(dataset, root)
    print(report_text(report))
    if json:
        write_text(json, json_.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
    return 0 if report.complete else 1


def shards(
    dataset: Annotated[str, _datasets],
    *,
    root: Path,
    out: Annotated[Path, FOLDER],
    workers: int = 1,
    allow_missing: Annotated[bool, "build evaluation splits although samples are lost"] = False,
) -> None:
    """Raw layout -> WebDataset shards + index.json."""
    from unifashion_pl.data.index import ShardIndex
    from unifashion_pl.data.plan import shortened
    from unifashion_pl.datamodules.checks import build_shards

    for index in build_shards(dataset, root, out, workers=workers, allow_missing=allow_missing):
        print(index)
        if lost := ShardIndex.load(index.parent).missing:
            named = shortened((f"{entry['role']} {entry['id']}: {entry['reason']}" for entry in lost), 20)
            print(f"{len(lost):,} samples are left out: {named}", file=sys.stderr)


def annotate(
    *,
    root: Annotated[Path, "Fashion-IQ: captions/, image_splits/, images"],
    out: Annotated[Path, FILE, "the caption library, e.g. captions.train.jsonl"],
    split: Annotated[Literal["train", "val"], "whose images; keywords always come from train"] = "train",
    model: Model,
    vlm: Annotated[
        str | None, "not beside --model, in its place: any image-text-to-text model of transformers, a folder or a hub id"
    ] = None,
    style: Annotated[Literal["fashion200k", "fashiongen", "fashioniq"], "of --model"] = "fashioniq",
    endpoint: Annotated[
        str | None,
        {
            "metavar": "URL",
            "help": "in --model's place too: a server of OpenAI's chat interface, e.g. http://127.0.0.1:8000/v1",
        },
    ] = None,
    served: Annotated[str | None, {"metavar": "NAME", "help": "of --endpoint: the model, as the server names it"}] = None,
    prompt: Annotated[str | None, "of --endpoint: a text with {garment} and {keywords}; default: ours"] = None,
    key_env: Annotated[
        str | None, {"metavar": "VARIABLE", "help": "of --endpoint: the environment variable that holds its key"}
    ] = None,
    concurrency: Annotated[int, "of --endpoint: questions at a time"] = 4,
    timeout: Annotated[float, {"metavar": "SECONDS", "help": "of --endpoint: without a byte"}] = 120.0,
    keywords: Annotated[int, {"metavar": "N"}, "words per category in the prompt"] = 40,
    batch_size: int = 8,
    max_new_tokens: int = 96,
    allow_missing: Annotated[bool, "leave images out that cannot be read"] = False,
) -> None:
    """Caption Fashion-IQ's images, query-blind and with provenance; resumable."""
    from unifashion_pl.datamodules.annotate import annotate, keywords_of
    from unifashion_pl.datamodules.captioners import HeadCaptioner, TransformersCaptioner
    from unifashion_pl.datamodules.endpoint import EndpointCaptioner
    from unifashion_pl.datamodules.fashioniq_cap import caption_targets, training_texts

    if sum(named is not None for named in (model.model, vlm, endpoint)) > 1:
        raise ValueError("one captioner writes: name --model, --vlm or --endpoint, not two of them")
    if (endpoint is None) != (served is None) or (endpoint is None and (prompt or key_env)):
        raise ValueError(
            "--endpoint and --served go together, the address and the model's name there; --prompt and --key-env need both"
        )
    asked: EndpointCaptioner | None = None
    if endpoint is not None and served is not None:
        own: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
        own |= {"key_env": key_env, "max_new_tokens": max_new_tokens, "concurrency": concurrency, "timeout": timeout}
        asked = EndpointCaptioner(endpoint, served, **own)
    found = keywords_of(training_texts(root), keywords)
    for category, words in found.counts.items():
        print(f"{category}: {', '.join(f'{word} {count:,}' for word, count in words[:12])}, …")
    targets = caption_targets(root, split)
    heads = {"style": style, "max_new_tokens": max_new_tokens}
    captioner = asked or (
        HeadCaptioner(model.load(), **heads) if vlm is None else TransformersCaptioner(vlm, model.place(), max_new_tokens)
    )
    library = annotate(targets, captioner, found, out, batch_size=batch_size, allow_missing=allow_missing)
    beside = library.with_suffix(".keywords.json")
    write_text(beside, json_.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n")
    print(library)


def features(
    *,
    shards: Annotated[Path, "a folder with index.json, or one that holds such folders"],
    dtype: Annotated[Literal["bf16", "fp32"], "bf16: half the size; fp32: the very numbers"] = "bf16",
    out: Annotated[Path | None, FOLDER, "write here instead of beside the shards"] = None,
    batch_size: Annotated[int, "images that the tower sees at once"] = 64,
    workers: Annotated[int, "threads that decode"] = 2,
    max_bad: Annotated[MaxBad, "go on without features of up to N damaged samples; each is named"] = 0,
    mirrored: Annotated[bool, "of training pairs also those of the mirrored pictures, for flip=..."] = False,
    model: Model,
) -> None:
    """Run a frozen vision tower (of --model, which may also be a .yaml) once over the images of shards, of training and evaluation."""
    from unifashion_pl.data.features import MIRRORED_FIELDS, TOWER_FIELDS
    from unifashion_pl.data.make_features import shard_folders, write_features

    folders = shard_folders(shards)
    _check_places(folders, out)
    tower = _whole(model).backbone.vision.eval()
    tower.to(model.place())
    settings: dict[str, Any] = {"dtype": dtype, "batch_size": batch_size, "workers": workers, "max_bad": max_bad}
    settings["fields"] = MIRRORED_FIELDS if mirrored else TOWER_FIELDS
    made: list[Path] = []
    for folder in folders:
        index = write_features(folder, tower, out=_beside(folder, shards, out), known=made, **settings)
        made.append(index.parent)
        print(index)


def latents(
    *,
    shards: Annotated[Path, "a folder with index.json, or one that holds such folders"],
    dtype: Annotated[
        Literal["bf16", "fp32"], "bf16: half the size; fp32: the very numbers of an autoencoder in float32"
    ] = "bf16",
    out: Annotated[Path | None, FOLDER, "write here instead of beside the shards"] = None,
    batch_size: Annotated[int, "pictures that the autoencoder sees at once"] = 16,
    workers: Annotated[int, "threads that decode"] = 2,
    max_bad: Annotated[MaxBad, "go on without latents of up to N damaged samples; each is named"] = 0,
    model: Model,
) -> None:
    """Run the frozen autoencoder of a diffusion head (of --model, which may also be a .yaml) once over the pictures of training shards that the head learns from."""
    from unifashion_pl.data.index import ShardIndex
    from unifashion_pl.data.latents import FOLDER as BESIDE
    from unifashion_pl.data.latents import PAINTED, Posteriors
    from unifashion_pl.data.make_features import shard_folders, write_features
    from unifashion_pl.data.transforms import PixelTransform
    from unifashion_pl.generation.denoiser import LATENT_CHANNELS

    head = _whole(model).diffusion_head
    if head is None:
        raise ValueError("the model has no diffusion head, whose autoencoder it would be")
    edits = head.denoiser.in_channels != LATENT_CHANNELS
    read = {kind: names for kind, names in PAINTED.items() if kind != "tryon" or edits}
    folders = shard_folders(shards, read, ())
    _check_places(folders, out)
    posteriors = Posteriors(head.vae).to(model.place())
    settings: dict[str, Any] = {"dtype": dtype, "batch_size": batch_size, "workers": workers, "max_bad": max_bad}
    for folder in folders:
        size = head.edit_size if ShardIndex.load(folder).kind == "tryon" else head.size
        settings |= {"encoder": PixelTransform(size), "fields": read, "evaluated": ()}
        print(write_features(folder, posteriors, out=_beside(folder, shards, out) or folder / BESIDE, **settings))


def _check_places(folders: list[Path], out: Path | None) -> None:
    """That what is made can be written, before anything is."""
    for place in folders if out is None else ():
        check_writable(place, folder=True)


def _whole(model: Model) -> Any:
    """The model. Phase 1 starts from parts whose weights its config names, before there is any checkpoint."""
    from unifashion_pl import UniFashionModule

    named = model.model or ""
    return UniFashionModule.from_config(named) if named.endswith((".yaml", ".yml")) else model.load()


def _beside(folder: Path, root: Path, out: Path | None) -> Path | None:
    return None if out is None else out / folder.relative_to(root if folder != root else folder.parent)
