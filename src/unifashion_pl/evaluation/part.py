"""What a part of an evaluation is: one measure, which the evaluator gives batches to and then asks for what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Literal

from typing_extensions import Self

from unifashion_pl.data.samples import Batch
from unifashion_pl.evaluation.coverage import Coverage, Whole
from unifashion_pl.evaluation.seen import Seen
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task
from unifashion_pl.metrics.lines import Line, file_name
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.team import Team
from unifashion_pl.trec import Listing

Stage = Literal["validation", "test"]


@dataclass
class Outcome:
    """What one part of an evaluation found; equal on all ranks except for ``files`` and ``thumbnails``.

    Attributes:
        values: flat metric names for the logger.
        records: result records.
        lines: prediction lines, each of which knows its file.
        needed: keys of the thumbnails that the shown lines refer to.
        thumbnails: JPEG bytes by key, those this rank has seen.
        files: further images by file name, those this rank has made.
        runs: ranked lists by the names of their TREC files, without ending.
    """

    dataset: str
    values: dict[str, float] = field(default_factory=dict)
    records: list[ResultRecord] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    needed: set[str] = field(default_factory=set)
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    runs: dict[str, list[Listing]] = field(default_factory=dict)

    def add_runs(self, runs: Mapping[str, list[Listing]], further: str = "") -> None:
        """Take the lists of a metric; ``further`` tells its names apart from another metric's."""
        self.runs |= {file_name(self.dataset, f"{name}{further}", ".run"): lists for name, lists in runs.items()}

    def log(self, records: list[ResultRecord], name: str = "") -> None:
        """Give the logger the values of records: ``dataset/name/metric``, without the dataset's split."""
        short = self.dataset.partition("/")[0]
        prefix = f"{short}/{name}/" if name else f"{short}/"
        self.values |= {prefix + r.metric: r.value for r in records if r.value is not None}


@dataclass(frozen=True)
class Setting:
    """What all parts of an evaluation have in common.

    Attributes:
        stage: validation is a cheap part of what test does.
        shown: queries and captions with pictures, per kind.
        top_k: length of result lists.
        seed: of every drawing.
        trec: candidates of each list in TREC's form; 0 = none are written.
        measures: of rankings beside recall (test), see :mod:`unifashion_pl.metrics.measures`.
    """

    stage: Stage = "test"
    shown: int = 12
    top_k: int = 10
    seed: int = 0
    trec: int = 0
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """What a part is told when all batches have come.

    Attributes:
        team: all ranks.
        model: None on a rank that saw no batch.
        full: records and prediction lines are wanted too, because they are written.
        coverage: what was seen of the data.
    """

    team: Team
    model: FashionModel | None
    full: bool
    coverage: Coverage = field(default_factory=Coverage)

    def whole(self, dataset: str) -> Whole | None:
        """All pairs of a dataset of which only a part was seen; None where all were, or where nothing is written."""
        return self.coverage.whole(dataset) if self.full and self.coverage.missed((dataset, "pairs")) else None


class Part(ABC):
    """One measure of an evaluation: subclass it, and name the subclass under ``model.evaluator.parts``, or ``also``.

    What an :class:`~unifashion_pl.evaluation.Evaluator` is given holds settings alone. For every dataset whose batches it takes, a copy
    made by :meth:`of` accumulates, from :meth:`begin` over :meth:`update` to :meth:`finish`.

    Attributes:
        kinds: sets of samples that the numbers are of (``pairs``, ``gallery``, ``queries``, ``tryon``), the one that is counted last.
        drawn: a few samples are drawn from the last of them.
        dataset, setting: of a copy, what it is made for.
        seen: of a copy, what the vision tower made of images; the evaluator gives one to all parts, so that each passes once.
    """

    kinds: tuple[str, ...] = ("pairs",)  # annotated with builtins alone: jsonargparse evaluates it among a subclass's names
    drawn = False
    dataset = ""
    setting = Setting()
    seen = Seen()

    @abstractmethod
    def takes(self, model: FashionModel, batch: Batch, stage: Stage) -> bool:
        """Whether a batch is measured: by its type, and by what the model can do at all."""

    @abstractmethod
    def task_of(self, record: ResultRecord) -> Task | None:
        """What a model has to have learned for a record to mean anything; None = nothing."""

    @abstractmethod
    def begin(self) -> None:
        """Prepare to accumulate, when :attr:`dataset` and :attr:`setting` are known."""

    @abstractmethod
    def update(self, model: FashionModel, batch: Batch) -> None:
        """Keep what :meth:`finish` needs of a batch that :meth:`takes` took."""

    @abstractmethod
    def finish(self, context: Context) -> Outcome:
        """What was found, over all ranks; a collective that every rank calls, also one without any batch."""

    @property
    def test(self) -> bool:
        """Whether this is the test."""
        return self.setting.stage == "test"

    def of(self, dataset: str, setting: Setting, seen: Seen | None = None) -> Self:
        """A copy that accumulates for one dataset."""
        new = copy(self)
        new.dataset, new.setting, new.seen = dataset, setting, Seen() if seen is None else seen
        new.begin()
        return new
