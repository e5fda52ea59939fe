"""What an export loses: its vectors beside the model's, on a user's own photos, the searches that come out alike, and both runtimes' speed.

Letters: n pictures or texts, Q tokens, E width.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion_pl.arguments import OneImage
from unifashion_pl.backbone.qformer import TextTokens
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.export.graphs import MODULES, OUTPUTS
from unifashion_pl.inference.exported import PARTS, Described, ExportedModel
from unifashion_pl.inference.images import open_image
from unifashion_pl.interface import FashionModel
from unifashion_pl.similarity import max_sim
from unifashion_pl.tasks.eval_mode import evaluating
from unifashion_pl.wardrobe.catalogue import pair_products
from unifashion_pl.wardrobe.render import render_product
from unifashion_pl.wardrobe.texts import describe

Arrays = NDArray[Any]
#: Of a search that are compared; rows of a batch; calls whose median is told.
TOP, BATCH, ROUNDS = 10, 16, 5
#: Drawn garments where nobody names photos.
DRAWN = 48
#: Largest difference of an fp32 export from its model: more is another function, and is refused.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Material:
    """What an export is compared on.

    Attributes:
        images, texts: of which there are at least two each. source: where they come from, in words.
    """

    images: Sequence[OneImage]
    texts: Sequence[str]
    source: str


@dataclass(frozen=True)
class Apart:
    """Vectors of a part: how many, the largest difference of a number, the mean and the smallest cosine."""

    vectors: int
    largest: float
    mean_cosine: float
    smallest_cosine: float


@dataclass(frozen=True)
class Alike:
    """Searches, as shares of 1: of the model's best that the export finds too, and with the same image first.

    Attributes:
        asked: the export asks a gallery of the model's vectors, as ``index search --model EXPORT`` does.
        all: it has embedded the gallery as well.
    """

    queries: int
    best: int
    asked: float
    asked_first: float
    all: float
    all_first: float


@dataclass(frozen=True)
class Parity:
    """The report, ``parity.json``.

    Attributes:
        pixels, tokens: shares of pictures and of texts that a graph is given exactly as the model is.
        parts, searches: by parts. milliseconds: part -> ``model`` and ``export`` -> rows of a call -> processor time a row.
        threads: that both used.
    """

    source: str
    images: int
    texts: int
    runtime: str
    dtype: str
    pixels: float
    tokens: float
    parts: dict[str, Apart]
    searches: dict[str, Alike]
    milliseconds: dict[str, dict[str, dict[str, float]]]
    threads: int
    megabytes: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> dict[str, float]:
        """The largest difference of each part."""
        return {name: apart.largest for name, apart in self.parts.items()}

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.runtime} {self.dtype} beside the model, on {self.images} pictures and {self.texts} texts ({self.source})",
            f"given exactly as the model is: {self.pixels:.1%} of pictures, {self.tokens:.1%} of texts",
            "part      MB      vectors  largest difference  cosine mean / smallest",
        ]
        for name, apart in self.parts.items():
            cosines = f"{apart.mean_cosine:.6f} / {apart.smallest_cosine:.6f}"
            lines.append(f"{name:<9} {self.megabytes[name]:<7.1f} {apart.vectors:<8} {apart.largest:<19.2g} {cosines}")
        lines.append("searches  queries  of the model's best the export asks for / has embedded all of (first the same)")
        for name, one in self.searches.items():
            shares = f"{one.asked:.1%} ({one.asked_first:.1%}) / {one.all:.1%} ({one.all_first:.1%})"
            lines.append(f"{name:<9} {one.queries:<8} top {one.best}: {shares}")
        lines.append(f"processor time a row in ms, {self.threads} threads: model / export")
        for name, took in self.milliseconds.items():
            told = ", ".join(f"{rows} a call: {took['model'][rows]:.2f} / {took['export'][rows]:.2f}" for rows in took["model"])
            lines.append(f"{name:<9} {told}")
        return "\n".join(lines) + "\n"


def drawings() -> Material:
    """Garments of the made-up wardrobe and their descriptions, where nobody names photos."""
    products = pair_products(0, "validation", DRAWN)
    pictures = [render_product(product, "front", 160, f"export/{number}") for number, product in enumerate(products)]
    texts = dict.fromkeys(describe(product, "fashion200k", random.Random(number)) for number, product in enumerate(products))
    return Material(pictures, [*texts], "drawn garments, which say little about photos: name your own by --photos or --csv")


def measure(model: FashionModel, export: ExportedModel, material: Material) -> Parity:
    """An export beside its model.

    Args:
        export: with as many threads as torch has.
    """
    described = export.described
    given, tokens = _inputs(model, export, material)
    reference = {name: MODULES[name](model) for name in described.parts}

    def by_model(name: str, inputs: dict[str, Arrays]) -> list[Arrays]:
        with evaluating(model), torch.no_grad():
            out = reference[name](**{key: torch.from_numpy(value).to(model.device) for key, value in inputs.items()})
        return [one.float().cpu().numpy() for one in out]

    vectors = {name: (_all(by_model, name, given[name]), _all(export.run, name, given[name])) for name in described.parts}
    speed = {
        name: {who: _speed(run, name, given[name]) for who, run in (("model", by_model), ("export", export.run))}
        for name in described.parts
    }
    pixels = [_same_pixels(model, image, rows) for image, rows in zip(material.images, _all_pixels(given))]
    return Parity(
        material.source,
        len(material.images),
        len(material.texts),
        described.runtime,
        described.dtype,
        float(np.mean(pixels)),
        tokens,
        {name: _apart(*found) for name, found in vectors.items()},
        _searches(vectors),
        speed,
        torch.get_num_threads(),
        {name: graph.bytes / 1e6 for name, graph in described.parts.items()},
    )


def refuse_another_function(parity: Parity, described: Described) -> None:
    """
    Raises:
        RuntimeError: an fp32 export is not what its model computes, or texts are read otherwise.
    """
    if parity.tokens < 1:
        raise RuntimeError(
            f"{1 - parity.tokens:.1%} of the texts are read otherwise by the tokenizer alone than by the model: a backbone with a way of its own "
            "to read texts cannot be exported"
        )
    wrong = {name: apart.largest for name, apart in parity.parts.items() if not apart.largest <= TOLERANCE}
    if described.dtype == "fp32" and wrong:
        raise RuntimeError(
            f"the exported graphs are not what the model computes: largest differences {wrong}, allowed {TOLERANCE}"
        )


def _inputs(model: FashionModel, export: ExportedModel, material: Material) -> tuple[dict[str, dict[str, Arrays]], float]:
    """What each graph is given, and the share of texts of which that is what the model reads."""
    pixels = export.pixels_of(material.images)
    words = export.words_of(material.texts)
    paired = [*islice(cycle(material.texts), len(material.images))]
    own: TextTokens = model.backbone.tokenize([*material.texts])
    ids, mask = (one.cpu().numpy() for one in (own.ids, own.mask))
    same = np.zeros(len(ids), bool)
    if ids.shape == words["input_ids"].shape:
        same = ((ids == words["input_ids"]) | ~mask).all(1) & (mask == words["attention_mask"].astype(bool)).all(1)
    return {"image": pixels, "text": words, "compose": pixels | export.words_of(paired)}, float(same.mean())


def _all_pixels(given: dict[str, dict[str, Arrays]]) -> Arrays:
    return given["image"]["images"]


def _same_pixels(model: FashionModel, image: OneImage, pixels: Arrays) -> bool:
    made: Tensor = EncoderTransform(model.backbone.vision.image_size)(open_image(image))
    return bool((made.numpy() == pixels).all())


def _all(run: Callable[[str, dict[str, Arrays]], list[Arrays]], name: str, given: dict[str, Arrays]) -> list[Arrays]:
    """Outputs for all rows, batch by batch."""
    rows = len(next(iter(given.values())))
    parts = [run(name, {key: value[at : at + BATCH] for key, value in given.items()}) for at in range(0, rows, BATCH)]
    return [np.concatenate(found) for found in zip(*parts)]


def _speed(run: Callable[[str, dict[str, Arrays]], list[Arrays]], name: str, given: dict[str, Arrays]) -> dict[str, float]:
    """Rows of a call -> milliseconds of processor time a row, the median of some calls."""
    out = {}
    for rows in (1, BATCH):
        part = {key: np.concatenate([value] * -(-rows // len(value)))[:rows] for key, value in given.items()}
        taken = []
        for _ in range(ROUNDS + 1):
            since = time.process_time()
            run(name, part)
            taken.append(time.process_time() - since)
        out[str(rows)] = 1000 * float(np.median(taken[1:])) / rows
    return out


def _apart(model: list[Arrays], export: list[Arrays]) -> Apart:
    """Outputs may be of several widths, as an appearance's is another."""
    largest, cosines = 0.0, []
    for own, other in zip(model, export):
        one, two = (found.reshape(-1, found.shape[-1]).astype(np.float64) for found in (own, other))
        largest = max(largest, float(np.abs(one - two).max()))
        cosines.append((one * two).sum(-1) / np.maximum(np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1), 1e-12))
    every = np.concatenate(cosines)
    return Apart(len(every), largest, float(every.mean()), float(every.min()))


def _searches(vectors: dict[str, tuple[list[Arrays], list[Arrays]]]) -> dict[str, Alike]:
    """Searches among the pictures, which the part ``image`` has embedded; a picture does not find itself."""
    if "image" not in vectors:
        return {}
    sets = OUTPUTS["image"]
    own, other = (dict(zip(sets, found)) for found in vectors["image"])
    out = {}
    for name in PARTS:
        if name not in vectors:
            continue
        within = "target" if name == "compose" else "reference"
        model, export = (found[0] for found in vectors[name])
        asks = [(model, own), (export, own), (export, other)]
        out[name] = _alike(*(_best(queries, gallery[within], alone=name == "image") for queries, gallery in asks))
    return out


def _best(queries: Arrays, gallery: Arrays, alone: bool) -> Arrays:
    """(n, k) numbers of the best pictures for queries (n, E) or (n, Q, E), best first; equal scores in order."""
    asked = torch.from_numpy(queries if queries.ndim == 3 else queries[:, None])
    scores = max_sim(asked.reshape(-1, asked.shape[-1]), torch.from_numpy(gallery))
    scores = scores.view(*asked.shape[:2], -1).mean(1)
    if alone:
        scores.fill_diagonal_(-torch.inf)
    best = min(TOP, len(gallery) - 1)
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :best].numpy()


def _alike(model: Arrays, asked: Arrays, whole: Arrays) -> Alike:
    def shared(found: Arrays) -> float:
        return float(np.mean([len({*one} & {*two}) / len(one) for one, two in zip(model.tolist(), found.tolist())]))

    def first(found: Arrays) -> float:
        return float((model[:, 0] == found[:, 0]).mean())

    return Alike(len(model), model.shape[1], shared(asked), first(asked), shared(whole), first(whole))
