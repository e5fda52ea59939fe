"""The evaluator: sends evaluation batches to the parts that measure them, and writes what they found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from unifashion_pl.data.samples import Batch, GalleryBatch, PairBatch, QueryBatch, TryOnBatch
from unifashion_pl.evaluation.collect import Outcome, team_of_all
from unifashion_pl.evaluation.composed import ComposedEvaluation
from unifashion_pl.evaluation.coverage import Coverage
from unifashion_pl.evaluation.edits import EditEvaluation
from unifashion_pl.evaluation.pairs import PairEvaluation
from unifashion_pl.evaluation.robustness import NAME as ROBUSTNESS
from unifashion_pl.evaluation.robustness import RobustComposedEvaluation, RobustPairEvaluation
from unifashion_pl.evaluation.samples import COLOURS, GARMENTS, CaptionEvaluation, ImageEvaluation
from unifashion_pl.files import replacing
from unifashion_pl.generation.denoiser import LATENT_CHANNELS
from unifashion_pl.learned import Task, label
from unifashion_pl.metrics.records import ResultRecord, write_records
from unifashion_pl.metrics.tables import Team
from unifashion_pl.provenance import __version__, commit, weights_hash
from unifashion_pl.report.lines import marked
from unifashion_pl.report.runfolder import PREDICTIONS, image_name, write_lines

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

Stage = Literal["validation", "test"]
#: Part of an evaluation -> what a model has to have learned for it; persons may be painted from a text, too.
TASK_OF: dict[str, Task] = {
    "pairs": "retrieval",
    "composed": "composed",
    "captions": "caption",
    "images": "generation",
    "edits": "try-on",
}
Part = PairEvaluation | ComposedEvaluation | CaptionEvaluation | ImageEvaluation | EditEvaluation


class Evaluator:
    """Measures a model on evaluation batches; validation is a cheap part of what test does.

    Validation: recall only, plus a few captions and images if asked for. Test: recall under all protocols with intervals, the halves
    of composed queries, captions, images, result records and prediction files. Samples are counted once whatever ranks, workers and
    batch size (rows are keyed by id), and those that are captioned, generated or shown are drawn by a hash of their names.

    Args:
        pair_protocols: of :class:`~unifashion_pl.metrics.fashiongen.FashionGenRecall`; validation uses the first, with one draw.
        pair_ks, composed_ks: the K of R@K.
        n_queries, draws: of the sampled pair protocols.
        ablations: rank the halves of composed queries too (test).
        robustness: ask composed queries in other and in denied words too, and rank products beside their views (test); see
            :mod:`unifashion_pl.evaluation.robustness`.
        max_captions: products captioned in test; None = all.
        max_images: samples per dataset for which images are generated in test.
        max_edits: persons per dataset that are repainted in test: try-on, design, and controls; None = all.
        validation_captions, validation_images: the same in validation.
        image_seeds: one image per sample and seed.
        sampler, guidance, steps: of the diffusion head; None = its default.
        garment_guidance: of repainted persons, by what the garment branch sees; 1 = none.
        image_weights: local weights for FID and KID (``inception``), LPIPS (``lpips``) and CLIP-S (``clip``) of reconstructed
            images in test, arguments of :class:`~unifashion_pl.metrics.ImageScores`; those that are not named are left out, SSIM
            needs none.
        num_beams, max_new_tokens, batch_size: of caption generation; None = the caption head's default.
        word_checks: name -> words; how often a caption names the reference's first word first. None = colours and garments.
        shown: queries and captions with pictures, per kind. top_k: length of result lists.
        seed: of every drawing.
    """

    def __init__(
        self,
        *,
        pair_protocols: Sequence[str] = ("fashiongen_100", "fashiongen_full"),
        pair_ks: Sequence[int] = (1, 5, 10),
        composed_ks: Sequence[int] = (10, 50),
        n_queries: int = 1000,
        draws: int = 5,
        ablations: bool = True,
        robustness: bool = False,
        max_captions: int | None = 256,
        max_images: int = 8,
        max_edits: int | None = 8,
        validation_captions: int = 0,
        validation_images: int = 0,
        image_seeds: Sequence[int] = (0, 1),
        sampler: str = "fast",
        guidance: float | None = None,
        steps: int | None = None,
        garment_guidance: float = 1.0,
        image_weights: dict[str, str] | None = None,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 32,
        word_checks: dict[str, list[str]] | None = None,
        shown: int = 12,
        top_k: int = 10,
        seed: int = 0,
    ) -> None:
        self.pair_protocols, self.pair_ks, self.composed_ks = tuple(pair_protocols), tuple(pair_ks), tuple(composed_ks)
        self.n_queries, self.draws, self.ablations = n_queries, draws, ablations
        self.robustness = robustness
        self.captions = {"validation": validation_captions, "test": max_captions}
        self.images = {"validation": validation_images, "test": max_images}
        self.edits = max_edits
        self.image_seeds, self.sampler, self.guidance, self.steps = tuple(image_seeds), sampler, guidance, steps
        self.garment_guidance = garment_guidance
        self.image_weights = dict(image_weights or {})
        self.num_beams, self.max_new_tokens, self.batch_size = num_beams, max_new_tokens, batch_size
        self.word_checks = word_checks if word_checks is not None else {"category": list(GARMENTS), "colour": list(COLOURS)}
        self.shown, self.top_k, self.seed = shown, top_k, seed
        self._told: set[str] = set()
        self.start("validation")

    def start(self, stage: Stage, loaders: Any = (), limit: float | None = None) -> None:
        """Forget everything and prepare for an epoch of this stage.

        Args:
            loaders: whose batches will come, so that it is known how many samples there are.
            limit: the trainer's on their batches: a count, or a share; None = none.

        Raises:
            ValueError: see :class:`~unifashion_pl.evaluation.coverage.Coverage`.
        """
        self.stage: Stage = stage
        self._coverage = Coverage(loaders, limit)
        self._started = time.monotonic()
        self._parts: dict[tuple[str, str], Part] = {}
        self._model: UniFashionModule | None = None
        self._samples: list[Outcome] = []

    @torch.no_grad()
    def update(self, model: UniFashionModule, batch: Batch) -> None:
        """Embed a batch and remember what the end of the epoch needs. Training triplets are ignored."""
        self._model = model
        self._coverage.add(batch)
        for kind in self._kinds(model, batch):
            match self._part(kind, batch.dataset), batch:
                case PairEvaluation() as part, PairBatch() as pairs:
                    part.update(model, pairs)
                case CaptionEvaluation() as captions, PairBatch() as pairs:
                    captions.update(pairs)
                case ImageEvaluation() as painted, (PairBatch() | QueryBatch()) as samples:
                    painted.update(samples)
                case EditEvaluation() as edited, TryOnBatch() as persons:
                    edited.update(persons)
                case ComposedEvaluation() as composed, GalleryBatch() as gallery:
                    composed.update_gallery(model, gallery)
                case ComposedEvaluation() as composed, QueryBatch() as queries:
                    composed.update_queries(model, queries)

    def _kinds(self, model: UniFashionModule, batch: Batch) -> list[str]:
        """What this batch is measured for, given the heads that exist."""
        kinds: list[str] = []
        if isinstance(batch, GalleryBatch | QueryBatch):
            kinds += ["composed"] if model.retrieval_head is not None else []
        elif isinstance(batch, PairBatch):
            kinds += ["pairs"] if model.retrieval_head is not None else []
            kinds += ["captions"] if model.caption_head is not None and self.captions[self.stage] != 0 else []
        if isinstance(batch, PairBatch | QueryBatch) and model.diffusion_head is not None and self.images[self.stage]:
            kinds.append("images")
        if isinstance(batch, TryOnBatch) and self.stage == "test" and self.edits != 0:
            head = model.diffusion_head
            kinds += ["edits"] if head is not None and head.denoiser.in_channels != LATENT_CHANNELS else []
        return kinds

    def _part(self, kind: str, dataset: str) -> Part:
        if (kind, dataset) not in self._parts:
            self._parts[kind, dataset] = self._build(kind, dataset)
        return self._parts[kind, dataset]

    def _build(self, kind: str, dataset: str) -> Part:
        test = self.stage == "test"
        shown = self.shown if test else 0
        if kind == "pairs":
            protocols = self.pair_protocols if test else self.pair_protocols[:1]
            draws = self.draws if test else 1
            pairs = RobustPairEvaluation if test and self.robustness else PairEvaluation
            return pairs(dataset, protocols, self.pair_ks, self.n_queries, draws, self.seed, shown, self.top_k)
        if kind == "composed":
            composed = RobustComposedEvaluation if test and self.robustness else ComposedEvaluation
            return composed(dataset, self.composed_ks, test and self.ablations, shown, self.top_k, self.seed)
        if kind == "captions":
            asked = {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}
            generation = {name: value for name, value in asked.items() if value is not None}
            most = self.captions[self.stage]
            return CaptionEvaluation(dataset, most, self.word_checks, self.shown, self.seed, self.batch_size, **generation)
        weights = self.image_weights if test else None
        if kind == "edits":
            scales = (self.guidance, self.garment_guidance)
            return EditEvaluation(dataset, self.edits, self.seed, self.sampler, self.steps, *scales, weights)
        most_images = self.images[self.stage] or 0
        settings = (self.sampler, self.guidance, self.steps, weights)
        return ImageEvaluation(dataset, most_images, self.image_seeds, self.seed, *settings)

    @torch.no_grad()
    def finish(self, out_dir: Path | None) -> dict[str, float]:
        """Compute everything; a collective that every rank calls, also one without any batch.

        Args:
            out_dir: where rank 0 writes ``results.json``, ``predictions/`` and ``images/``; None writes nothing.

        Returns:
            Flat metric names, e.g. ``fashiongen/t2i/R@1`` in percent; equal on all ranks.
        """
        team = team_of_all()
        names = sorted({name for part in team.objects(sorted(self._parts)) for name in part})
        full = out_dir is not None
        self._coverage.close(team)
        if team.rank == 0:
            for note in [note for note in self._coverage.notes() if note not in self._told]:
                print(f"{self.stage}: {note}")
                self._told.add(note)
        outcomes = [self._finish_part(*name, team, full) for name in names]
        values = named_apart(outcomes)
        if out_dir is not None:
            self._write(out_dir, outcomes, team)
        self._samples = [o for o in outcomes if o.files or "captions" in o.lines]
        self._parts = {}
        self._model = None
        return values

    def _finish_part(self, kind: str, dataset: str, team: Team, full: bool) -> Outcome:
        part, coverage = self._part(kind, dataset), self._coverage
        whole = coverage.whole(dataset) if full and coverage.missed((dataset, "pairs")) else None
        if isinstance(part, CaptionEvaluation):
            outcome = part.finish(team, self._model, full, None if whole is None else whole.captioned)
        elif isinstance(part, ImageEvaluation | EditEvaluation):
            outcome = part.finish(team, self._model)
        elif isinstance(part, PairEvaluation):
            outcome = part.finish(team, full, None if whole is None else whole.catalogue)
        else:
            outcome = part.finish(team, full)
        outcome.records = [self._completed(record, kind, dataset) for record in outcome.records]
        return outcome

    def _completed(self, record: ResultRecord, kind: str, dataset: str) -> ResultRecord:
        """A record with its dataset, how many there are in all, and what is wrong with weights or data."""
        kinds = {"composed": ("gallery", "queries"), "edits": ("tryon",)}.get(kind, ("pairs",))
        keys = [(dataset, name) for name in kinds]
        if record.n_expected is None:
            there = self._coverage.total(keys[-1])
            drawn = kind in ("images", "edits") or self._coverage.missed(keys[-1])
            record = replace(record, n_expected=there if drawn else record.n)
        for key in keys:
            record = self._coverage.labelled(record, key)
        task: Task = "design" if kind == "edits" and record.under.family == "design" else TASK_OF[kind]
        weights = label(self._model, task) if self._model is not None else None
        return replace(record, dataset=dataset, weights=weights)

    def _write(self, out_dir: Path, outcomes: Sequence[Outcome], team: Team) -> None:
        """Pictures travel to rank 0, which writes all files."""
        files: dict[str, bytes] = {}
        for outcome in outcomes:
            own = {image_name(outcome.dataset, k): v for k, v in outcome.thumbnails.items() if k in outcome.needed}
            for part in team.objects({**own, **outcome.files}):
                files.update(part)
        weights = weights_hash(self._model) if self._model is not None else None
        if team.rank != 0:
            return
        context: dict[str, Any] = {
            "code_version": __version__,
            "commit": commit(),
            "wall_seconds": round(time.monotonic() - self._started, 1),
            "weights_hash": weights,
        }
        out_dir.mkdir(parents=True, exist_ok=True)
        for name in (*PREDICTIONS, ROBUSTNESS):
            # of an earlier test, or of none: what stands here is shown beside today's numbers
            (out_dir / "predictions" / f"{name}.jsonl").unlink(missing_ok=True)
            lines = [line for outcome in outcomes for line in outcome.lines.get(name, [])]
            if lines:
                write_lines(out_dir / "predictions" / f"{name}.jsonl", marked(lines))
        (out_dir / "images").mkdir(exist_ok=True)
        for picture in (out_dir / "images").iterdir():
            if "--" in picture.name and picture.suffix in (".png", ".jpg"):  # see image_name
                picture.unlink()
        for file, data in files.items():
            with replacing(out_dir / "images" / file) as opened:
                opened.write(data)
        write_records(out_dir / "results.json", [r.with_context(**context) for o in outcomes for r in o.records])

    def log_samples(self, logger: Any, step: int) -> None:
        """Show this rank's captions and images of the last :meth:`finish` in TensorBoard, W&B or whatever can show them.

        Args:
            logger: a Lightning logger, a list of them, or None; those that cannot show pictures or text are passed over.
            step: optimiser step.
        """
        loggers: Iterable[Any] = logger if isinstance(logger, list | tuple) else [logger]
        for one in loggers:
            for outcome in self._samples if one is not None else []:
                lines = outcome.lines.get("captions", [])[: self.shown]
                if lines:
                    _log_text(one, f"{outcome.dataset}/captions", lines, step)
                for name, data in outcome.files.items():
                    _log_image(one, f"{outcome.dataset}/{name}", data, step)


def named_apart(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Values of all outcomes by name; names that two datasets would share begin with the whole name of each.

    >>> parts = [Outcome("shop/val", {"shop/t2i/R@1": 1.0}), Outcome("shop/test", {"shop/t2i/R@1": 2.0})]
    >>> named_apart(parts), named_apart(parts[:1])
    ({'shop/val/t2i/R@1': 1.0, 'shop/test/t2i/R@1': 2.0}, {'shop/t2i/R@1': 1.0})
    """
    times = Counter(name for outcome in outcomes for name in outcome.values)
    shared = {name.partition("/")[0] for name, count in times.items() if count > 1}
    values = {}
    for outcome in outcomes:
        for name, value in outcome.values.items():
            short, _, rest = name.partition("/")
            values[f"{outcome.dataset}/{rest}" if short in shared else name] = value
    return values


def _log_text(logger: Any, tag: str, lines: Sequence[dict[str, Any]], step: int) -> None:
    columns = ["id", "hypothesis", "reference"]
    rows = [[line[c] for c in columns] for line in lines]
    if hasattr(logger, "log_text"):
        logger.log_text(tag, columns=columns, data=rows, step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_text"):
        table = "\n".join(
            "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in [columns, ["---"] * 3, *rows]
        )
        logger.experiment.add_text(tag, table, step)


def _log_image(logger: Any, tag: str, data: bytes, step: int) -> None:
    import numpy as np

    from unifashion_pl.data.decode import open_image, to_rgb

    picture = to_rgb(open_image(data))
    if hasattr(logger, "log_image"):
        logger.log_image(tag, [picture], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(tag, np.asarray(picture), step, dataformats="HWC")
