"""The model card beside saved weights: what the model is, what it learned from, what was measured, whose licences it carries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifashion_pl import learned
from unifashion_pl.freezing import OWN_HEADS
from unifashion_pl.version import __version__
from unifashion_pl.weights.manifest import PublishedPart, load_manifest

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from unifashion_pl.interface import SavedModel
    from unifashion_pl.metrics.records import ResultRecord

PLACES = ("source", "weights", "bert", "tokenizer", "name")
SHIPPED = ("tiny", "none", "timm")
#: Folders of `weights import` that the shipped overlays name -> the manifest's parts that they are made of.
IMPORTED = {
    "weights/blip2": ("blip2-pretrained", "eva-vit-g"),
    "weights/pbe": ("paint-by-example",),
    "weights/vae-viton": ("stableviton-vae",),
    "weights/fashion-siglip": ("marqo-fashion-siglip",),
    "weights/stableviton": ("stableviton-vitonhd-pbe-pose",),
}
SHOWN = 40
#: ``owner/name``.
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


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


#: Head -> the hub's name of what it does; a model is called after the first that it has.
PIPELINES = {"retrieval": "image-feature-extraction", "caption": "image-to-text", "diffusion": "text-to-image"}
TAGS = ["fashion", "composed-image-retrieval", "image-captioning", "image-generation"]


def model_card(
    model: SavedModel,
    records: Sequence[ResultRecord] = (),
    data: str = "",
    licence: str = "other",
    datasets: Sequence[str] = (),
) -> str:
    """Markdown with the front matter that model hubs read: ``pipeline_tag``, ``base_model``, ``datasets`` and results as ``model-index``.

    Args:
        model: built from a config.
        records: results to show; each row carries protocol, n and interval.
        data: what it was trained on, a sentence or more; empty = not stated, and the card says so.
        licence: identifier of the weights' licence, e.g. ``apache-2.0``.
        datasets: names or hub ids of what it was trained on.
    """
    config = {key: value for key, value in model.hparams.items() if not key.startswith("_")}
    heads = [name for name in OWN_HEADS if getattr(model, f"{name}_head")]
    lines = [
        "---",
        _front(heads, config, records, licence, datasets),
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


def _front(heads: Sequence[str], config: Any, records: Sequence[ResultRecord], licence: str, datasets: Sequence[str]) -> str:
    from huggingface_hub import ModelCardData

    published = [part.source for _, name in sources(config) for part in parts_of(name)]
    bases = [source for source in dict.fromkeys(published) if HUB_ID.fullmatch(source)]
    found = ModelCardData(
        library_name="unifashion-pl",
        license=licence,
        tags=TAGS,
        pipeline_tag=next((tag for head, tag in PIPELINES.items() if head in heads), None),
        base_model=bases or None,
        datasets=[*datasets] or None,
        model_name="UniFashion",
        eval_results=[result_of(record) for record in _measured(records)[:SHOWN]] or None,
    )
    if not found.eval_results:
        found.model_name = None  # the hub reads it with results alone
    return found.to_yaml().strip()


def result_of(record: ResultRecord) -> EvalResult:
    """A record as the hub's ``model-index`` has it; protocol, n and interval are the metric's arguments."""
    from huggingface_hub import EvalResult

    from unifashion_pl.metrics.protocol import PICTURES

    family, name = record.under.family, (record.dataset or "").partition("/")
    head = "caption" if family in ("coco", "first-mention", "unifashion_release") else "retrieval"
    if family in PICTURES:
        head = "diffusion"
    ends = None if record.interval is None else [round(record.interval.low, 4), round(record.interval.high, 4)]
    said = {
        "protocol": record.protocol,
        "n": record.n,
        "interval": ends,
        "seed": record.seed,
        "training_seed": record.training_seed,
    }
    return EvalResult(
        task_type=PIPELINES[head],
        dataset_type=name[0] or "unknown",
        dataset_name=record.dataset or "unknown",
        dataset_split=name[2] or None,
        dataset_config=record.protocol,
        metric_type=re.sub(r"[^a-z0-9]+", "_", record.metric.lower().replace("@", "_at_")).strip("_"),
        metric_name=record.metric,
        metric_value=round(float(record.value or 0.0), 4),
        metric_args={key: value for key, value in said.items() if value is not None},
    )


def _measured(records: Sequence[ResultRecord]) -> list[ResultRecord]:
    return [r for r in records if r.value is not None and not r.under.chance]


def _results(records: Sequence[ResultRecord]) -> list[str]:
    measured = _measured(records)
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
