"""Pictures generated from evaluated samples, beside the truth. Samples are drawn by hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.data.samples import Batch, PairBatch, QueryBatch
from unifashion_pl.data.transforms import png, thumbnail
from unifashion_pl.evaluation.part import Context, Outcome, Part, Stage
from unifashion_pl.evaluation.sampling import Drawing
from unifashion_pl.inference.requests import TOGETHER
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task
from unifashion_pl.metrics.image_scores import ImageScores
from unifashion_pl.metrics.lines import PictureLine, image_name
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.team import merged


@dataclass
class ImagePart(Part):
    """Generated images beside the truth: reconstructions of pairs (Eq. 7) and composed generations (Eq. 12).

    Args:
        most: samples per dataset for which images are generated in test, drawn by hash.
        most_in_validation: the same in validation.
        seeds: one image per sample and seed.
        sampler, guidance, steps: of the diffusion head; None = its default.
        batch_size: pictures that are painted at once.
        weights: local files for :class:`~unifashion_pl.metrics.ImageScores` of reconstructions in test (arguments of that name); those
            that are not named are left out, SSIM needs none.
    """

    drawn = True
    most: int = 8
    most_in_validation: int = 0
    seeds: Sequence[int] = (0, 1)
    sampler: str = "fast"
    guidance: float | None = None
    steps: int | None = None
    batch_size: int = TOGETHER
    weights: Mapping[str, str] | None = None

    def takes(self, model: FashionModel, batch: Batch, stage: Stage) -> bool:
        """Pairs and composed queries, if pictures are wanted and the model can paint."""
        most = self.most if stage == "test" else self.most_in_validation
        return isinstance(batch, PairBatch | QueryBatch) and model.diffusion_head is not None and most > 0

    def task_of(self, record: ResultRecord) -> Task:
        return "generation"

    def begin(self) -> None:
        first = self.seeds[0] if self.seeds else None
        task = Protocol("reconstruction", self.dataset).adding(seed=first, sampler=self.sampler)
        self.scores = ImageScores(task=task, **(self.weights or {})) if self.test else None  # type: ignore[arg-type]
        most = self.most if self.test else self.most_in_validation
        self.drawing: Drawing[tuple[PairBatch | QueryBatch, Tensor]] = Drawing(most, self.setting.seed)

    def update(self, model: FashionModel, batch: Batch) -> None:
        """Keep the samples to be generated, and what the Q-Former reads off them."""
        assert isinstance(batch, PairBatch | QueryBatch)
        for i, key in enumerate(batch.keys):
            self.drawing.offer(key, key, lambda i=i: self._drawn(model, batch[i]))  # type: ignore[misc]

    def _drawn(self, model: FashionModel, sample: PairBatch | QueryBatch) -> tuple[PairBatch | QueryBatch, Tensor]:
        """A sample and its query outputs (1, Q, D), on the CPU."""
        backbone = model.backbone
        if isinstance(sample, PairBatch):
            features = self.seen.features(model, sample.images, [(self.dataset, sample.keys[0])])
            queries = backbone.image_pass(backbone.image_features(features))
        else:
            features = self.seen.features(model, sample.references, [(self.dataset, sample.reference_ids[0])], again=True)
            queries = backbone.fused_pass(backbone.image_features(features), backbone.tokenize(sample.texts))[0]
        return sample.to("cpu"), queries.cpu()

    def finish(self, context: Context) -> Outcome:
        """Generate on the rank that holds the sample."""
        outcome, own = Outcome(self.dataset), self.drawing.own(context.team).values()
        todo = [(queries, _text(sample)) for _, (sample, queries) in own]
        rows = [(i, seed) for i in range(len(todo)) for seed in self.seeds]
        made = [
            picture
            for start in range(0, len(rows), self.batch_size)
            for picture in self._painted(context.model, todo, rows[start : start + self.batch_size])
        ]
        pictures = dict(zip(rows, made))
        lines = [
            self._line(key, sample, {seed: pictures[i, seed] for seed in self.seeds}, outcome.files)
            for i, (key, (sample, _)) in enumerate(own)
        ]
        outcome.lines = [*merged(context.team, lines, lambda line: line.id)]
        if self.scores is not None:
            outcome.records = self.scores.records(absent=True, draws=tuple(self.seeds[:1]) or None)
            outcome.log(outcome.records, "image")
        return outcome

    def _painted(
        self, model: FashionModel | None, todo: Sequence[tuple[Tensor, str]], rows: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Pictures (B, 3, H, W) of rows (sample, seed), all at once; of each sample its queries (1, Q, D) and its text."""
        assert model is not None
        assert model.diffusion_head is not None
        queries, texts = torch.cat([todo[i][0] for i, _ in rows]).to(model.device), [todo[i][1] for i, _ in rows]
        settings: dict[str, Any] = {"sampler": self.sampler, "guidance": self.guidance, "steps": self.steps}
        asked = {name: value for name, value in settings.items() if value is not None}
        return model.diffusion_head.generate(queries, texts, seeds=[seed for _, seed in rows], **asked)

    def _line(
        self, key: str, sample: PairBatch | QueryBatch, made: Mapping[int, Tensor], files: dict[str, bytes]
    ) -> PictureLine:
        """The line of a sample; its pictures come into ``files``."""
        kind, text = "reconstruction" if isinstance(sample, PairBatch) else "composed", _text(sample)
        stem = image_name(self.dataset, key).removesuffix(".jpg") + f"--{kind}"
        painted = {seed: f"{stem}-seed{seed}.png" for seed in self.seeds}
        files |= {painted[seed]: png(picture) for seed, picture in made.items()}
        if self.scores is not None and kind == "reconstruction" and sample.pixels is not None and self.seeds:
            first = made[self.seeds[0]][None]
            self.scores.to(first.device).update([key], first, sample.pixels.to(first.device), [text])
        settings: dict[str, Any] = {"sampler": self.sampler, "guidance": self.guidance, "steps": self.steps}
        made_of: dict[str, Any] = {"dataset": self.dataset, "id": key, "kind": kind, "prompt": text, **settings}
        line = PictureLine(shown=True, seeds=[*self.seeds], files=[*painted.values()], **made_of)
        if kind == "composed" and sample.shown is not None:
            line.reference = f"{stem}-given.jpg"
            files[line.reference] = thumbnail(sample.shown[0], 256)
        if sample.pixels is not None:
            line.truth = f"{stem}-truth.png"
            files[line.truth] = png(sample.pixels[0])
        return line


def _text(sample: PairBatch | QueryBatch) -> str:
    """What a sample is painted from beside its queries."""
    (text,) = sample.prompts if isinstance(sample, PairBatch) else sample.texts
    return text
