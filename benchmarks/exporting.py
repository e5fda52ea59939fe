"""Exports beside their model: what they lose, and what a picture costs in each runtime.

    python benchmarks/exporting.py                                       # the shipped model on drawn garments, some minutes
    python benchmarks/exporting.py --model FOLDER --photos PHOTOS        # your own, on 256 of your photos
    python benchmarks/exporting.py --scale tiny                          # texts of a few drawings; figures mean nothing

A model is exported as ONNX in fp32, fp16 and int8 and by torch.export in fp32 and fp16. Each is loaded from its folder and asked for the same pictures and texts as the
model (``unifashion_pl.export.parity``): the largest difference of a number, the smallest cosine, the share of the model's ten best pictures that a search by
pictures and one by texts find too when gallery and queries are the export's, and the size of its graphs. Then all of them and the eager model embed the same
pixels and texts in turns, in processor time of one thread, one row a call and 16. Decoding and resizing are no part of it: they are the same for all.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from sidebyside import Goal, in_turns

from unifashion_pl import UniFashionModule
from unifashion_pl.commands.export import Photos
from unifashion_pl.export.folder import export
from unifashion_pl.export.graphs import MODULES
from unifashion_pl.export.parity import TOP, Material, Parity, drawings
from unifashion_pl.export.programs import TorchExport
from unifashion_pl.inference.exported import ExportedModel

COMMAND = "python benchmarks/exporting.py"
VARIANTS = (("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("torch", "fp32"), ("torch", "fp16"))
#: Parts, variants, rows of a call, rounds.
SCALES: dict[str, tuple[list[str], tuple[tuple[str, str], ...], tuple[int, ...], int]] = {
    "full": (["image", "text"], VARIANTS, (1, 16), 7),
    "tiny": (["text"], VARIANTS[:1], (1,), 1),
}


@dataclass(frozen=True)
class Found:
    """Reports by variant (``onnx fp32``), seconds of exporting, and (part, rows of a call) -> variant, or ``eager``, -> milliseconds a row."""

    reports: dict[str, Parity]
    took: dict[str, float]
    milliseconds: dict[tuple[str, int], dict[str, float]]


def measured(name: str, material: Material, scale: str) -> Found:
    """Export a model in every variant, compare, and time all of them in turns."""
    parts, variants, calls, rounds = SCALES[scale]
    torch.set_num_threads(1)
    model = UniFashionModule.from_pretrained(name, heads=("retrieval",)).eval()
    reports, took, opened = {}, {}, {}
    with tempfile.TemporaryDirectory() as place:
        for runtime, dtype in variants:
            variant, folder = f"{runtime} {dtype}", Path(place) / f"{runtime}-{dtype}"
            since = time.process_time()
            reports[variant] = export(model, folder, runtime, dtype, parts, material)  # type: ignore[arg-type]
            took[variant] = time.process_time() - since
            opened[variant] = (ExportedModel if runtime == "onnx" else TorchExport)(folder, 1)
        first = opened[" ".join(variants[0])]
        given = {"text": first.words_of([*islice(cycle(material.texts), max(calls))])}
        if "image" in parts:
            given["image"] = first.pixels_of([*islice(cycle(material.images), max(calls))])
        milliseconds = {}
        for part in parts:
            for rows in calls:
                some = {key: value[:rows] for key, value in given[part].items()}
                asked: dict[str, Callable[[], Any]] = {"eager": partial(eager, MODULES[part](model).eval(), some)}
                asked |= {variant: partial(one.run, part, some) for variant, one in opened.items()}
                milliseconds[part, rows] = {who: 1000 * s / rows for who, s in in_turns(asked, rounds).items()}
    return Found(reports, took, milliseconds)


@torch.no_grad()
def eager(module: torch.nn.Module, given: dict[str, Any]) -> Any:
    """The model's own answer, without a graph."""
    return module(**{key: torch.from_numpy(value) for key, value in given.items()})


def table(found: Found, columns: list[tuple[str, int]]) -> list[str]:
    """Lines of a table in Markdown."""
    timed = [f"{part}, {rows} a call: ms" for part, rows in columns]
    head = ["", "MB", "largest difference", "smallest cosine", f"top {TOP} by pictures", f"top {TOP} by texts", *timed]
    lines = [" | ".join(head), "|".join(["---"] + ["---:"] * (len(head) - 1))]
    took = {who: [f"{found.milliseconds[column][who]:.2f}" for column in columns] for who in found.milliseconds[columns[0]]}
    lines.append(" | ".join(["eager", *[""] * 5, *took["eager"]]))
    for variant, report in found.reports.items():
        loss, cosine = max(report.loss.values()), min(one.smallest_cosine for one in report.parts.values())
        best = [f"{report.searches[p].all:.1%}" if p in report.searches else "" for p in ("image", "text")]
        size = f"{sum(report.megabytes.values()):.1f}"
        lines.append(" | ".join([variant, size, f"{loss:.1e}", f"{cosine:.6f}", *best, *took[variant]]))
    return [f"| {line} |" if "---" not in line else f"|{line}|" for line in lines]


def goals(scale: str = "full") -> list[Goal]:
    """Measured anew: the shipped model on drawn garments."""
    found = measured("tiny", drawings(), scale)
    out = []
    for (part, rows), took in found.milliseconds.items():
        for variant in [name for name in took if name in ("onnx fp32", "torch fp32")]:
            report = found.reports[variant]
            same = f"largest difference {report.parts[part].largest:.0e}"
            if part in report.searches:
                same += f", top {TOP} {report.searches[part].all:.1%} alike"
            words = f"{part} embedded by an export, {variant}, {rows} a call, shipped model", f"{took[variant]:.2f} ms"
            out.append(Goal(*words, f"eager {took['eager']:.2f} ms", took["eager"] / took[variant], None, same, COMMAND))
    return out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a .ckpt or a hub id")
    parser.add_argument("--photos", type=Path, help="a folder of pictures; default: drawn garments")
    parser.add_argument("--limit", type=int, default=256, metavar="N", help="of them so many, drawn at random")
    parser.add_argument("--scale", choices=SCALES, default="full")
    told = parser.parse_args(arguments)
    material = Photos(photos=told.photos, limit=told.limit).material() or drawings()
    found = measured(told.model, material, told.scale)
    print(f"{told.model} on {len(material.images)} pictures and {len(material.texts)} texts ({material.source})")
    print("\n".join(table(found, [*found.milliseconds])))
    print(", ".join(f"{variant} exported and compared in {seconds:.0f} s" for variant, seconds in found.took.items()))


if __name__ == "__main__":
    main()
