"""Persons repainted in test: try-on and design beside controls from which garment, text or sketch is withheld.

All variants of a sample start from the same noise, so they differ in what they were given and in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.data.samples import Batch, EditBatch, TryOnBatch
from unifashion_pl.data.transforms import png
from unifashion_pl.evaluation.part import Context, Outcome, Part, Stage
from unifashion_pl.evaluation.sampling import Drawing, fingerprint
from unifashion_pl.evaluation.seen import distinct
from unifashion_pl.generation.denoiser import LATENT_CHANNELS
from unifashion_pl.inference.prediction import noise_seed
from unifashion_pl.inference.requests import TOGETHER, edit_queries
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task as LearnedTask
from unifashion_pl.metrics.image_scores import ImageScores
from unifashion_pl.metrics.images import ssim
from unifashion_pl.metrics.intervals import bootstrap_interval
from unifashion_pl.metrics.lines import PersonLine, Repainted, image_name
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.tasks.editing import GREY, Task, edit_batch
from unifashion_pl.team import merged

SAMPLER = "fast"
#: Persons of a rank, by key.
Samples = Sequence[tuple[str, TryOnBatch]]
#: Scores of a picture against the truth -> how they are read.
SCORES = {
    "SSIM": "structural similarity of the whole picture",
    "MAE(repainted)": "mean absolute error inside the mask, levels of 0..255",
    "MAE(kept)": "mean absolute error outside of the mask, levels of 0..255",
}


@dataclass(frozen=True)
class Variant:
    """What one picture of a sample is painted from.

    Attributes:
        task: as in :mod:`unifashion_pl.tasks.editing`.
        withheld: ``garment`` or ``text``, None = nothing.
    """

    name: str
    task: Task
    withheld: str | None = None

    @property
    def kind(self) -> str:
        """``tryon`` or ``design``."""
        return self.name.split("/")[0]


TRYON, DESIGN = Variant("tryon", "tryon"), Variant("design", "design")
VARIANTS = (
    TRYON,
    Variant("tryon/garment-withheld", "tryon", "garment"),
    DESIGN,
    Variant("design/text-withheld", "design", "text"),
    Variant("design/sketch-withheld", "text"),
)


@dataclass(frozen=True)
class Row:
    """One picture to be painted: of a sample, by its key, and its queries (1, Q, D)."""

    key: str
    sample: TryOnBatch
    variant: Variant
    queries: Tensor


def variants_of(batch: TryOnBatch) -> list[Variant]:
    """All that a batch has the inputs for; of unpaired samples, which have no truth, the two tasks of Table 3, compared as sets of pictures."""
    has = {"tryon": True, "text": any(batch.texts), "design": batch.sketches is not None and any(batch.texts)}
    return [variant for variant in (VARIANTS if batch.paired else (TRYON, DESIGN)) if has[variant.task]]


def rows_of(sample: TryOnBatch, variants: list[Variant]) -> EditBatch:
    """One sample as a row per variant."""
    rows = edit_batch(sample[[0] * len(variants)], [variant.task for variant in variants])
    nothing = torch.tensor([variant.withheld == "garment" for variant in variants], device=rows.has_image.device)
    texts = ["" if variant.withheld == "text" else text for variant, text in zip(variants, rows.texts)]
    shown = {name: getattr(rows, name) & ~nothing for name in ("has_image", "has_garment", "has_photo")}
    return replace(rows, texts=texts, **shown)


@dataclass
class PersonPart(Part):
    """Repainted persons in test: pictures, and for paired samples what they differ from the truth by.

    Nothing is pasted back, and no picture starts from the truth: both would copy it into the result.

    Args:
        most: persons per dataset, drawn by hash; None = all.
        sampler, steps, guidance: of the diffusion head; None = its default for the task.
        garment_guidance: by what the garment branch sees; 1 = none.
        batch_size: pictures that are painted at once.
        weights: local files for :class:`~unifashion_pl.metrics.ImageScores` of try-on and design (arguments of that name): FID and KID, of
            design CLIP-S, too (Table 3).
    """

    kinds = ("tryon",)
    drawn = True
    most: int | None = 8
    sampler: str = SAMPLER
    steps: int | None = None
    guidance: float | None = None
    garment_guidance: float = 1.0
    batch_size: int = TOGETHER
    weights: Mapping[str, str] | None = None

    def takes(self, model: FashionModel, batch: Batch, stage: Stage) -> bool:
        """Persons in test, if any are wanted and the model's U-Net reads them."""
        head = model.diffusion_head
        wanted = isinstance(batch, TryOnBatch) and stage == "test" and self.most != 0
        return wanted and head is not None and head.denoiser.in_channels != LATENT_CHANNELS

    def begin(self) -> None:
        weights: dict[str, Any] = dict(self.weights or {})
        measured = (TRYON, DESIGN) if weights else ()
        self.scores = {v.name: ImageScores(task=self._protocol(v, self.guidance), **weights) for v in measured}
        for scores in self.scores.values():  # one copy of each network
            first = self.scores[TRYON.name]
            scores.features, scores.perceptual, scores.cosines = first.features, first.perceptual, first.cosines
        self.drawing: Drawing[TryOnBatch] = Drawing(self.most, self.setting.seed)

    def task_of(self, record: ResultRecord) -> LearnedTask:
        """Persons may be painted from a text, too."""
        return "design" if record.under.family == "design" else "try-on"

    def _protocol(self, variant: Variant, guidance: float | None) -> Protocol:
        details = {"sampler": self.sampler, "steps": self.steps, "guidance": None if guidance is None else f"{guidance:g}"}
        details["garment_guidance"] = None if self.garment_guidance == 1.0 else f"{self.garment_guidance:g}"
        withheld = variant.name.partition("/")[2].removesuffix("-withheld")
        made = Protocol(variant.kind, self.dataset, withheld=withheld)
        made = made.adding(**{name: value for name, value in details.items() if value is not None})
        return made.adding(start="noise", paste_back="off", seed=self.setting.seed)

    def update(self, model: FashionModel, batch: Batch) -> None:
        """Keep the samples to be painted; nothing is painted yet."""
        assert isinstance(batch, TryOnBatch)
        for i, key in enumerate(batch.keys):
            self.drawing.offer(key, key, lambda i=i: batch[i].to("cpu"))  # type: ignore[misc]

    def finish(self, context: Context) -> Outcome:
        """Paint on the rank that holds the sample; a collective."""
        outcome, own = Outcome(self.dataset), self.drawing.own(context.team).values()
        made = self._painted(context.model, [*own], outcome.files)
        lines = merged(context.team, made, lambda line: line.id)
        outcome.lines = [*lines]
        outcome.records = list(self._records(lines))
        for record in outcome.records:
            outcome.log([record], record.under.name.removeprefix(f"{self.dataset}/"))
        for name, measured in self.scores.items():
            if n := sum(name in line.made for line in lines):
                outcome.records += [r for r in measured.records(absent=True, n=n) if r.metric != "SSIM"]
        return outcome

    def _painted(self, model: FashionModel | None, own: Samples, files: dict[str, bytes]) -> list[PersonLine]:
        """The lines of persons; what was given and painted comes into ``files``."""
        settings: dict[str, Any] = {"sampler": self.sampler, "steps": self.steps, "garment_guidance": self.garment_guidance}
        lines, rows = {}, list[Row]()
        for key, sample in own:
            shown = {name: f"{_stem(self.dataset, key)}--{name}.png" for name in given(sample)}
            files |= {shown[name]: png(picture) for name, picture in given(sample).items()}
            asked = {"dataset": self.dataset, "id": key, "paired": sample.paired, "prompt": sample.texts[0], **settings}
            lines[key] = PersonLine(shown=True, given=shown, made={}, seed=self.setting.seed, **asked)
            variants = variants_of(sample)
            queries = self._queries(model, sample, variants)
            rows += [Row(key, sample, variant, queries[i : i + 1]) for i, variant in enumerate(variants)]
        for kind in (TRYON.kind, DESIGN.kind):
            chosen = [row for row in rows if row.variant.kind == kind]
            for start in range(0, len(chosen), self.batch_size):
                self._paint(model, chosen[start : start + self.batch_size], lines, settings, files)
        return [*lines.values()]

    def _queries(self, model: FashionModel | None, sample: TryOnBatch, variants: list[Variant]) -> Tensor:
        """(variants, Q, D) of one sample; the vision tower sees its photo and its sketch once."""
        assert model is not None
        rows = rows_of(sample.to(model.device), variants)
        self.seen.turn()
        features = self.seen.features(model, rows.images, distinct(rows.images))
        return edit_queries(model, replace(rows, images=features))

    def _paint(
        self,
        model: FashionModel | None,
        rows: Sequence[Row],
        lines: Mapping[str, PersonLine],
        settings: dict[str, Any],
        files: dict[str, bytes],
    ) -> None:
        """Rows of one kind, all at once."""
        assert model is not None
        assert model.diffusion_head is not None
        head, kind = model.diffusion_head, rows[0].variant.kind
        batch = EditBatch.cat([rows_of(row.sample.to(model.device), [row.variant]) for row in rows])
        guidance = head.usual_guidance(kind) if self.guidance is None else self.guidance
        seeds = [noise_seed(self.setting.seed, row.key) for row in rows]
        made = head.paint(torch.cat([row.queries for row in rows]), batch, seeds=seeds, guidance=guidance, **settings)
        for row, picture, text in zip(rows, made, batch.texts):
            file = f"{_stem(self.dataset, row.key)}--{row.variant.name.replace('/', '-')}.png"
            files[file], sample = png(picture), row.sample.to(picture.device)
            against = scores(picture, sample.pixels[0], sample.masks[0]) if sample.paired else {}
            lines[row.key].made[row.variant.name] = Repainted(file=file, guidance=guidance, scores=against)
            self._measure(row.variant, row.key, picture[None], sample, [text])

    def _measure(self, variant: Variant, key: str, made: Tensor, sample: TryOnBatch, texts: list[str]) -> None:
        """A picture (1, 3, H, W) for FID and KID, and for CLIP-S if it was painted from a text."""
        if (measured := self.scores.get(variant.name)) is None:
            return
        truth = sample.pixels if sample.paired else None
        measured.to(made.device).update([key], made, truth, texts if any(texts) else None)
        if truth is None:  # sets of pictures are compared: the photos of the persons, as the paper's Table 3 does
            measured.update_real([key.partition("__")[0]], sample.pixels)

    def _records(self, lines: list[PersonLine]) -> Iterable[ResultRecord]:
        """A record per variant and score, over the persons that have it."""
        for name in dict.fromkeys(name for line in lines for name in line.made):
            variant = next(variant for variant in VARIANTS if variant.name == name)
            drawn = [(line, line.made[name]) for line in lines if name in line.made and line.made[name].scores]
            if not drawn:
                continue
            protocol = str(self._protocol(variant, drawn[0][1].guidance))
            data = fingerprint({line.id: line.prompt for line, _ in drawn})
            for metric in SCORES:
                values = [made.scores[metric] for _, made in drawn]
                n, interval = len(values), bootstrap_interval(values) if len(values) > 1 else None
                record = ResultRecord(metric, sum(values) / n, "raw", n, protocol, interval=interval)
                yield record.with_context(seed=self.setting.seed, data_hash=data)


def scores(made: Tensor, truth: Tensor, mask: Tensor) -> dict[str, float]:
    """:data:`SCORES` of a picture (3, H, W) uint8 against the truth; mask (1, H, W) bool, True = repainted."""
    difference = (made.float() - truth.float()).abs().mean(0)
    inside = mask[0]
    return {
        "SSIM": float(ssim(made[None].float() / 255, truth[None].float() / 255)),
        "MAE(repainted)": float(difference[inside].mean()) if bool(inside.any()) else 0.0,
        "MAE(kept)": float(difference[~inside].mean()) if bool((~inside).any()) else 0.0,
    }


def given(sample: TryOnBatch) -> dict[str, Tensor]:
    """What the model was given of a sample, and the truth, for people to look at: (3, H, W) uint8."""
    pictures = {"person": sample.pixels[0].masked_fill(sample.masks[0], GREY), "garment": sample.garment_pixels[0]}
    if sample.sketches is not None and (sample.paired or DESIGN in variants_of(sample)):
        pictures["sketch"] = sample.sketches[0]
    pictures["truth" if sample.paired else "worn before"] = sample.pixels[0]
    return pictures


def _stem(dataset: str, key: str) -> str:
    """How the names of a person's files begin."""
    return image_name(dataset, key).removesuffix(".jpg")
