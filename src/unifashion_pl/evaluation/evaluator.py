"""The evaluator: sends evaluation batches to the parts that measure them, and writes what they found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unifashion_pl.arguments import count
from unifashion_pl.data.samples import Batch
from unifashion_pl.evaluation.captions import CaptionPart
from unifashion_pl.evaluation.composed import ComposedPart
from unifashion_pl.evaluation.coverage import Coverage
from unifashion_pl.evaluation.loggers import show_captions, show_picture
from unifashion_pl.evaluation.part import Context, Outcome, Part, Setting, Stage
from unifashion_pl.evaluation.persons import PersonPart
from unifashion_pl.evaluation.pictures import ImagePart
from unifashion_pl.evaluation.retrieval import RetrievalPart
from unifashion_pl.evaluation.seen import Seen
from unifashion_pl.files import replacing
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import label
from unifashion_pl.metrics.lines import KINDS, CaptionLine, ProductLine, image_name, write_lines
from unifashion_pl.metrics.measures import depth
from unifashion_pl.metrics.records import ResultRecord, write_records
from unifashion_pl.metrics.schema import write_head
from unifashion_pl.provenance import __version__, commit, weights_hash
from unifashion_pl.team import Team, team_of_all, united
from unifashion_pl.trec import write_folder


class Evaluator:
    """Measures a model on evaluation batches; validation is a cheap part of what test does.

    Its parts measure: recall between texts and images, composed retrieval, captions, generated images, repainted persons, and whatever
    is named beside them, a subclass of :class:`~unifashion_pl.evaluation.Part` each. Test also writes result records, prediction files
    and pictures. Samples are counted once whatever ranks, workers and batch size (rows are keyed by id), and those that are captioned,
    generated or shown are drawn by a hash of their names.

    Args:
        parts: what measures; None = the five of this library, which the arguments down to ``word_checks`` set up: a shorthand, so that
            one of them is one option of the command line.
        also: further parts, beside those.
        pair_protocols, pair_ks, n_queries, draws: ``protocols``, ``ks``, ``n_queries`` and ``draws`` of
            :class:`~unifashion_pl.evaluation.RetrievalPart`.
        composed_ks, ablations: ``ks`` and ``ablations`` of :class:`~unifashion_pl.evaluation.ComposedPart`.
        robustness: of both.
        max_captions, validation_captions: ``most`` and ``most_in_validation`` of :class:`~unifashion_pl.evaluation.CaptionPart`.
        max_images, validation_images: the same of :class:`~unifashion_pl.evaluation.ImagePart`.
        max_edits: ``most`` of :class:`~unifashion_pl.evaluation.PersonPart`.
        image_seeds: ``seeds`` of the images. image_batch_size: ``batch_size`` of images and persons.
        sampler, guidance, steps: of images and persons.
        garment_guidance: of persons.
        image_weights: ``weights`` of images and persons.
        num_beams, max_new_tokens, batch_size, word_checks: of captions.
        shown: queries and captions with pictures, per kind. top_k: length of result lists.
        seed: of every drawing.
        trec: write the best so many candidates of every query, and the right answers, in TREC's form (test); 0 = not.
        measures: of all retrieval in the test beside recall, e.g. ``[nDCG@5, MAP@10, MRR]``; see :mod:`unifashion_pl.metrics.measures`.

    Raises:
        ValueError: ``parts``, and something of the shorthand for those that they replace; or lists of fewer than no candidates.
    """

    def __init__(
        self,
        parts: Sequence[Part] | None = None,
        also: Sequence[Part] = (),
        *,
        pair_protocols: Sequence[str] = RetrievalPart.protocols,
        pair_ks: Sequence[int] = RetrievalPart.ks,
        composed_ks: Sequence[int] = ComposedPart.ks,
        n_queries: int = RetrievalPart.n_queries,
        draws: int = RetrievalPart.draws,
        ablations: bool = ComposedPart.ablations,
        robustness: bool = False,
        max_captions: int | None = CaptionPart.most,
        max_images: int = ImagePart.most,
        max_edits: int | None = PersonPart.most,
        validation_captions: int = CaptionPart.most_in_validation,
        validation_images: int = ImagePart.most_in_validation,
        image_seeds: Sequence[int] = ImagePart.seeds,
        image_batch_size: int = ImagePart.batch_size,
        sampler: str = ImagePart.sampler,
        guidance: float | None = None,
        steps: int | None = None,
        garment_guidance: float = PersonPart.garment_guidance,
        image_weights: dict[str, str] | None = None,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = CaptionPart.batch_size,
        word_checks: dict[str, list[str]] | None = None,
        shown: int = Setting.shown,
        top_k: int = Setting.top_k,
        seed: int = Setting.seed,
        trec: int = Setting.trec,
        measures: Sequence[str] = Setting.measures,
    ) -> None:
        depth(measures)  # a wrong name is told before anything is measured
        if trec < 0:
            raise ValueError(f"trec is {trec}, expected how many candidates a list has, or 0")
        painting: dict[str, Any] = {"sampler": sampler, "guidance": guidance, "steps": steps, "weights": image_weights}
        painting["batch_size"] = count(image_batch_size, "image_batch_size")
        usual: list[Part] = [
            CaptionPart(max_captions, validation_captions, num_beams, max_new_tokens, batch_size, word_checks),
            ComposedPart(tuple(composed_ks), ablations, robustness),
            PersonPart(max_edits, garment_guidance=garment_guidance, **painting),
            ImagePart(max_images, validation_images, tuple(image_seeds), **painting),
            RetrievalPart(tuple(pair_protocols), tuple(pair_ks), n_queries, draws, robustness),
        ]
        if parts is not None and (changed := [type(part) for part in usual if part != type(part)()]):
            raise ValueError(
                f"the evaluator's parts are named, and arguments of the usual {', '.join(kind.__name__ for kind in changed)} beside them: "
                "set them where the part is named (init_args), or name further parts under `also`"
            )
        self.parts: list[Part] = [*(usual if parts is None else parts), *also]
        self.setting = Setting("validation", shown, top_k, seed, trec, tuple(measures))
        self._told: set[str] = set()
        self.start("validation")

    def __repr__(self) -> str:
        return f"Evaluator({', '.join(type(part).__name__ for part in self.parts)})"

    def start(self, stage: Stage, loaders: Any = (), limit: float | None = None) -> None:
        """Forget everything and prepare for an epoch of this stage.

        Args:
            loaders: whose batches will come, so that it is known how many samples there are.
            limit: the trainer's on their batches: a count, or a share; None = none.

        Raises:
            ValueError: see :class:`~unifashion_pl.evaluation.coverage.Coverage`.
        """
        self.setting = replace(self.setting, stage=stage)
        self._coverage = Coverage(loaders, limit)
        self._started = time.monotonic()
        self._measuring: dict[tuple[int, str], Part] = {}
        self._model: FashionModel | None = None
        self._samples: list[Outcome] = []
        self._seen = Seen()

    @torch.no_grad()
    def update(self, model: FashionModel, batch: Batch) -> None:
        """Give a batch to the parts that take it. Training triplets are ignored."""
        self._model = model
        self._coverage.add(batch)
        self._seen.turn()
        for number, part in enumerate(self.parts):
            if part.takes(model, batch, self.setting.stage):
                self._part(number, batch.dataset).update(model, batch)

    def _part(self, number: int, dataset: str) -> Part:
        """The copy of a part that measures a dataset."""
        if (number, dataset) not in self._measuring:
            self._measuring[number, dataset] = self.parts[number].of(dataset, self.setting, self._seen)
        return self._measuring[number, dataset]

    @torch.no_grad()
    def finish(self, out_dir: Path | None) -> dict[str, float]:
        """Compute everything; a collective that every rank calls, also one without any batch.

        Args:
            out_dir: where rank 0 writes ``results.json``, ``predictions/``, ``images/`` and ``trec/``; None writes nothing.

        Returns:
            Flat metric names, e.g. ``fashiongen/t2i/R@1`` in percent; equal on all ranks.
        """
        team = team_of_all()
        names = sorted({name for part in team.objects(sorted(self._measuring)) for name in part})
        self._coverage.close(team)
        if team.rank == 0:
            for note in [note for note in self._coverage.notes() if note not in self._told]:
                print(f"{self.setting.stage}: {note}")
                self._told.add(note)
        context = Context(team, self._model, out_dir is not None, self._coverage)
        outcomes = []
        for part in [self._part(*name) for name in names]:
            outcomes.append(part.finish(context))
            outcomes[-1].records = [self._completed(record, part) for record in outcomes[-1].records]
        if out_dir is not None:
            self._write(out_dir, outcomes, team)
        self._samples = [o for o in outcomes if o.files or any(isinstance(line, CaptionLine) for line in o.lines)]
        self._measuring, self._seen = {}, Seen()
        self._model = None
        return named_apart(outcomes)

    def _completed(self, record: ResultRecord, part: Part) -> ResultRecord:
        """A record with its dataset, how many there are in all, and what is wrong with weights or data."""
        keys, seen = [(part.dataset, name) for name in part.kinds], self._coverage
        if record.n_expected is None:
            drawn = part.drawn or seen.missed(keys[-1])
            record = replace(record, n_expected=seen.total(keys[-1]) if drawn else record.n)
        for key in keys:
            record = seen.labelled(record, key)
        task = part.task_of(record)
        weights = label(self._model, task) if self._model is not None and task is not None else None
        trained: int | None = getattr(self._model, "training_seed", None)
        seed = part.setting.seed if record.seed is None else record.seed
        return replace(record, dataset=part.dataset, weights=weights, seed=seed, training_seed=trained)

    def _write(self, out_dir: Path, outcomes: Sequence[Outcome], team: Team) -> None:
        """Pictures travel to rank 0, which writes all files."""
        own: dict[str, bytes] = {}
        for outcome in outcomes:
            own |= {
                image_name(outcome.dataset, k): v for k, v in outcome.thumbnails.items() if k in outcome.needed
            } | outcome.files
        files = united(team, own)
        weights = weights_hash(self._model) if self._model is not None else None
        if team.rank != 0:
            return
        context: dict[str, Any] = {"code_version": __version__, "commit": commit(), "weights_hash": weights}
        out_dir.mkdir(parents=True, exist_ok=True)
        trained: int | None = getattr(self._model, "training_seed", None)
        head = {**context, "seed": self.setting.seed, "training_seed": trained}
        _write_predictions(out_dir / "predictions", outcomes, head)
        _write_pictures(out_dir / "images", files)
        write_folder(out_dir / "trec", {name: lists for outcome in outcomes for name, lists in outcome.runs.items()})
        context["wall_seconds"] = round(time.monotonic() - self._started, 1)
        write_records(out_dir / "results.json", [r.with_context(**context) for o in outcomes for r in o.records])

    def log_samples(self, logger: Any, step: int) -> None:
        """Show this rank's captions and images of the last :meth:`finish` in TensorBoard, W&B, MLflow or beside a CSV file.

        Args:
            logger: a Lightning logger, a list of them, or None; those that cannot show pictures or text are passed over.
            step: optimiser step.
        """
        for one in logger if isinstance(logger, list | tuple) else [logger]:
            for outcome in self._samples:
                captions = [line for line in outcome.lines if isinstance(line, CaptionLine)][: self.setting.shown]
                if captions:
                    show_captions(one, f"{outcome.dataset}/captions", captions, step)
                for name, data in outcome.files.items():
                    show_picture(one, f"{outcome.dataset}/{name}", data, step)


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


def _write_predictions(folder: Path, outcomes: Sequence[Outcome], head: Mapping[str, Any]) -> None:
    """One file per kind of line, and their head; those of an earlier test go: what stands here is shown beside today's numbers."""
    lines = [line for outcome in outcomes for line in outcome.lines]
    written = {line.file for line in lines}
    for name in {*KINDS, ProductLine.file} - written:
        (folder / f"{name}.jsonl").unlink(missing_ok=True)
    for name in written:
        write_lines(folder / f"{name}.jsonl", [line for line in lines if line.file == name])
    write_head(folder, lines, **head)


def _write_pictures(folder: Path, files: Mapping[str, bytes]) -> None:
    """Instead of those of an earlier test."""
    folder.mkdir(exist_ok=True)
    for picture in folder.iterdir():
        if "--" in picture.name and picture.suffix in (".png", ".jpg"):  # see image_name
            picture.unlink()
    for name, data in files.items():
        with replacing(folder / name) as opened:
            opened.write(data)
