"""The model card beside saved weights: what the model is, what it learned from, what was measured, whose licences it carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifashion_pl import learned
from unifashion_pl.version import __version__
from unifashion_pl.weights.manifest import PublishedPart, load_manifest

if TYPE_CHECKING:
    from unifashion_pl.interface import SavedModel
    from unifashion_pl.metrics.records import ResultRecord

PLACES = ("source", "weights", "bert", "tokenizer", "name")
SHIPPED = ("tiny", "none", "timm")
#: Folders of `weights import` that the shipped overlays name -> the manifest's parts that they are made of.
IMPORTED = {
    "weights/blip2": ("blip2-pretrained", "eva-vit-g"),
    "weights/pbe": ("paint-by-example",),
    "weights/vae-viton": ("stableviton-vae",),
    "weights/stableviton": ("stableviton-vitonhd-pbe-pose",),
}
SHOWN = 40


def sources(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(where in the config, what it names) of everything that is loaded from elsewhere; timm's models as ``timm/NAME``."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            here = f"{path}.{key}" if path and key != "init_args" else path or str(key)
            if (
                key in PLACES
                and isinstance(value, str)
                and value not in SHIPPED
                and (key != "name" or config.get("weights") == "timm")
            ):
                yield here, f"timm/{value}" if key == "name" else value
            else:
                yield from sources(value, here)


def licence_rows(config: Any) -> list[tuple[str, str, str, str]]:
    """(place, source, licence, commercial use) of every published part; unknown where the manifest does not have the source."""
    rows: list[tuple[str, str, str, str]] = []
    for place, name in sources(config):
        parts = parts_of(name)
        worst = min((part.commercial for part in parts), key=("no", "unclear", "yes").index, default="unclear")
        rows.append((place, name, " and ".join(part.licence for part in parts) or "unknown", worst))
    return rows


def parts_of(source: str) -> list[PublishedPart]:
    """The manifest's part with this source, or those that a folder of :data:`IMPORTED` is made of; none if it knows neither."""
    parts = load_manifest()
    names = IMPORTED.get(source, ())
    return [part for part in parts if part.name in names or (not names and part.source == source)][: len(names) or 1]


#: In every card of this library.
MARK = "Saved by unifashion-pl"


def model_card(model: SavedModel, records: Sequence[ResultRecord] = (), data: str = "", licence: str = "other") -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        model: built from a config.
        records: results to show; each row carries protocol, n and interval.
        data: what it was trained on, a sentence or more; empty = not stated, and the card says so.
        licence: identifier of the weights' licence, e.g. ``apache-2.0``.
    """
    config = {key: value for key, value in model.hparams.items() if not key.startswith("_")}
    heads = [
        name.removesuffix("_head") for name in ("retrieval_head", "caption_head", "diffusion_head") if getattr(model, name)
    ]
    lines = [
        "---",
        "library_name: unifashion-pl",
        f"license: {licence}",
        "tags: [fashion, composed-image-retrieval, image-captioning, image-generation]",
        "---",
        "# UniFashion model",
        f"Heads: {', '.join(heads)}. {MARK} {__version__}; the method is that of arXiv 2408.11305.",
        f"Trained for: {learned.said(model.learned)}.",
        "",
        "```python",
        "from unifashion_pl import UniFashionModule",
        "",
        'model = UniFashionModule.from_pretrained("<this repository or folder>")',
        "```",
        "",
        "## Data",
        data or "Not stated by whoever saved it.",
        "",
        "## Results",
        *_results(records),
        "",
        "## Parts from elsewhere, and their licences",
        *_parts(licence_rows(config)),
    ]
    if model.leave_out:
        lines += [
            "",
            f"Not in the file, but loaded from the sources above when the model is built: {', '.join(model.leave_out)}.",
        ]
    lines += ["", "## Parameters", "```", model.describe_parameters(), "```"]
    return "\n".join(lines) + "\n"


def _results(records: Sequence[ResultRecord]) -> list[str]:
    measured = [r for r in records if r.value is not None and not r.under.chance]
    if not measured:
        return ["None were given. Numbers without a protocol are not comparable: evaluate with `unifashion test`."]
    lines = ["| metric | value | 95 % interval | n | protocol |", "|---|---|---|---|---|"]
    for r in measured[:SHOWN]:
        span = f"{r.interval.low:.2f}–{r.interval.high:.2f}" if r.interval else ""
        lines.append(f"| {r.metric} | {r.value:.2f} | {span} | {r.n:,} | `{r.protocol}` |")
    if len(measured) > SHOWN:
        lines += ["", f"{len(measured) - SHOWN} further records stand in results.json."]
    return lines


def _parts(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    if not rows:
        return ["None: every tensor was made by this training or is shipped with unifashion-pl (Apache-2.0)."]
    lines = ["| part | source | licence | commercial use |", "|---|---|---|---|"]
    return lines + [f"| {place} | {name} | {licence} | {commercial} |" for place, name, licence, commercial in rows]


def read_results(path: str | Path | None) -> list[ResultRecord]:
    """Records of a ``results.json`` or of the run folder it lies in; none for None."""
    from unifashion_pl.metrics.records import read_records

    if path is None:
        return []
    path = Path(path)
    if path.is_dir():
        path = next((p for p in (path / "results.json", path / "test" / "results.json") if p.is_file()), path / "results.json")
    return read_records(path)
