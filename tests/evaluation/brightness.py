"""A measure from outside of the library, as somebody might add one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

from unifashion_pl.data.samples import Batch, PairBatch
from unifashion_pl.evaluation import Context, Outcome, Part, Stage
from unifashion_pl.metrics.lines import Line
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.team import merged


class BrightnessLine(Line, kw_only=True):
    """How bright one picture is."""

    file: ClassVar[str] = "brightness"
    id: str
    value: float


@dataclass
class Brightness(Part):
    """Mean of the pixels, all or in one channel: what somebody might add."""

    channel: int | None = None

    def takes(self, model: Any, batch: Batch, stage: Stage) -> bool:
        return isinstance(batch, PairBatch) and stage == "test"

    def task_of(self, record: ResultRecord) -> None:
        return None

    def begin(self) -> None:
        self.found: dict[str, float] = {}

    def update(self, model: Any, batch: Batch) -> None:
        assert isinstance(batch, PairBatch)
        chosen = batch.images if self.channel is None else batch.images[:, self.channel : self.channel + 1]
        self.found.update(zip(batch.keys, chosen.float().mean((1, 2, 3)).tolist()))

    def finish(self, context: Context) -> Outcome:
        own = [BrightnessLine(dataset=self.dataset, id=key, value=value) for key, value in self.found.items()]
        lines = merged(context.team, own, lambda line: line.id)
        mean = statistics.fmean(line.value for line in lines)
        records = [ResultRecord("mean", mean, "raw", len(lines), f"brightness(channel={self.channel})")]
        outcome = Outcome(self.dataset, records=records, lines=[*lines])
        outcome.log(records, "brightness")
        return outcome
