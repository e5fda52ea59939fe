"""What a model's vectors know of the categories of pairs: naming an image's category by a prompt, and precision of the lists of searches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.data.plan import shortened
from unifashion_pl.data.samples import Batch, PairBatch
from unifashion_pl.evaluation.part import Context, Outcome, Part, Stage
from unifashion_pl.evaluation.sampling import fingerprint
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task
from unifashion_pl.metrics.categories import precision_at
from unifashion_pl.metrics.intervals import bootstrap_interval, wilson_interval
from unifashion_pl.metrics.lines import RetrievalLine
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.recall import exact_fp32, token_scores
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.team import united

Details = tuple[tuple[str, str], ...]
FAMILY = "naming"
#: What stands in the protocol's details where the guesses know how often each category occurs.
PRIOR: Details = (("prior", "learned"),)


@dataclass(frozen=True)
class Judged:
    """Images of known category: ids, categories, and the accuracy of their guesses or lists of neighbours."""

    keys: Sequence[str]
    categories: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The categories, sorted."""
        return sorted(set(self.categories))

    def right(self, others: Sequence[str]) -> list[list[bool]]:
        """Which images have each of some categories: (categories, images)."""
        return [[one == category for category in self.categories] for one in others]


def naming_records(
    judged: Judged, accuracy: tuple[str, Sequence[bool]] | None, lists: dict[str, Sequence[float]], under: Protocol, cut: int
) -> list[ResultRecord]:
    """Records in percent: accuracy of the guesses (name, hit by image), precision of lists by name, and what the commonest category reaches.

    Args:
        lists: e.g. ``i2i`` -> precision at ``cut`` of each query, in 0..1.
    """
    counts, total = Counter(judged.categories), len(judged.categories)
    data = fingerprint(dict(zip(judged.keys, judged.categories)))
    made: list[tuple[str, float, Any, int, float]] = []
    if accuracy is not None:
        name, hits = accuracy
        chance = max(counts.values()) / total
        made.append((f"{name}/accuracy", sum(hits) / total, wilson_interval(sum(hits), total), total, chance))
    for name, each in lists.items():
        own = sum(count / total for count in counts.values()) / len(counts)
        drawn = own if name == "t2i" else sum(c * (c - 1) for c in counts.values()) / (total * max(1, total - 1))
        made.append((f"{name}/P@{cut}", sum(each) / len(each), bootstrap_interval(each), len(each), drawn))
    text, beside = str(under), str(Protocol(under.family, details=under.details, chance=True))
    records = []
    for name, value, interval, n, chance in made:
        said: dict[str, Any] = {"unit": "percent", "n": n, "n_expected": n, "data_hash": data}
        records.append(ResultRecord(name, 100 * value, protocol=text, interval=interval.scaled(100), **said))
        how = "the commonest category" if name.endswith("accuracy") else "an order by chance"
        records.append(ResultRecord(name, 100 * chance, protocol=beside, implementation=how, **said))
    return records


def log_prior(names: Sequence[str], counts: Mapping[str, int]) -> Tensor:
    """Logarithm of how often each category occurs, up to a constant: (categories,)."""
    return torch.tensor([max(float(counts.get(name, 0)), 0.5) for name in names]).log()


@dataclass
class NamingPart(Part):
    """Categories of pairs (test): which prompt fits an image best, and how pure the best answers of searches are.

    * ``naming/accuracy``: the category whose prompt the image resembles most is its own;
    * ``naming_prior/accuracy``: the same where it is known how often each category occurs. A contrastive loss teaches score / temperature =
      log p(text | image) - log p(text) (van den Oord et al., arXiv 1807.03748, §2.3), which leaves out that a catalogue has more T-shirts than
      polos, and a classifier learns; with log p(category) added the guess is the most probable one (Bayes);
    * ``t2i/P@K``: of the K images that resemble a category's prompt most, the share that has it, averaged over categories;
    * ``i2i/P@K``: of the K other images that resemble an image most (each of its tokens takes the best of theirs), the share of its category.

    Pairs without a category are left out; with fewer than two categories, or no more than K images, nothing is measured.

    Args:
        prompts: templates with ``{}``; several vote by the mean of their scores.
        cut: K.
        prior: category -> rows of it that the model has learned from, or pairs of both; a category that is asked for and not there
            counts as half a row. None = how often each occurs is not known, and ``naming_prior`` is not measured.
    """

    prompts: Sequence[str] = ("a photo of a {}",)
    cut: int = 10
    prior: dict[str, int] | list[tuple[str, int]] | None = None

    def __post_init__(self) -> None:
        counts = None if self.prior is None else dict(self.prior)
        if wrong_counts := {name: count for name, count in (counts or {}).items() if count < 0}:
            raise ValueError(f"prior has {shortened(wrong_counts)} below 0, expected numbers of rows, from 0 on")
        self.counts = counts
        if wrong := [prompt for prompt in self.prompts if prompt.count("{}") != 1] or not self.prompts:
            raise ValueError(f"prompts of naming are {[*self.prompts]}, expected texts with one {{}} each, not {wrong}")

    def takes(self, model: FashionModel, batch: Batch, stage: Stage) -> bool:
        """Pairs of a test, if the model can embed them."""
        return stage == "test" and isinstance(batch, PairBatch) and model.retrieval_head is not None

    def task_of(self, record: ResultRecord) -> Task:
        return "retrieval"

    def begin(self) -> None:
        self.images: dict[str, tuple[str, Tensor]] = {}

    def update(self, model: FashionModel, batch: Batch) -> None:
        """Embed the images of a batch that have a category."""
        assert isinstance(batch, PairBatch)
        assert model.retrieval_head is not None
        features = self.seen.features(model, batch.images, [(self.dataset, key) for key in batch.keys])
        tokens = model.retrieval_head.image_embeddings(model.backbone, features).float().cpu()
        said = zip(batch.keys, batch.categories, tokens)
        self.images |= {key: (category, own.clone()) for key, category, own in said if category}

    def finish(self, context: Context) -> Outcome:
        """Guesses, precisions and a line for each image and prompt; every rank has all."""
        outcome = Outcome(self.dataset)
        images = united(context.team, self.images)
        judged = Judged(sorted(images), [images[key][0] for key in sorted(images)])
        asked = self._asked(context.model, judged.names)
        found = context.team.objects(asked)
        there = next((one for one in found if one is not None), None)  # a rank without batches has no model
        if len(judged.names) < 2 or len(images) <= self.cut or there is None:
            return outcome
        vectors, temperature = there
        tokens = torch.stack([images[key][1] for key in judged.keys])
        with exact_fp32(torch.device("cpu")):
            scores = token_scores(vectors, tokens).view(len(self.prompts), len(judged.names), -1).mean(0)
        lists = {
            "t2i": precision_at(scores, judged.right(judged.names), self.cut).tolist(),
            "i2i": precision_at(similarity(tokens), judged.right(judged.categories), self.cut, itself=True).tolist(),
        }
        ways: list[tuple[str, Tensor, dict[str, Any], Details]] = [("naming", scores, lists, ())]
        if self.counts is not None:
            ways.append(("naming_prior", scores + temperature * log_prior(judged.names, self.counts)[:, None], {}, PRIOR))
        for name, values, own, further in ways:
            guesses = [judged.names[int(one)] for one in values.argmax(0)]
            hits = [guess == category for guess, category in zip(guesses, judged.categories)]
            said = (("categories", str(len(judged.names))), *further, ("prompts", str(len(self.prompts))))
            under = Protocol(FAMILY, details=said)
            records = naming_records(judged, (name, hits), own, under, self.cut)
            outcome.log([record for record in records if not record.under.chance])
            if context.full:
                outcome.records += records
                outcome.lines += [self._line(str(under), judged, row, values[:, row]) for row in range(len(judged.keys))]
        return outcome

    def _asked(self, model: FashionModel | None, names: Sequence[str]) -> tuple[Tensor, float] | None:
        """Vectors (prompts x categories, E) of every prompt about every category, and the temperature that scores are learned at."""
        if model is None or model.retrieval_head is None or not names:
            return None
        asked = [prompt.replace("{}", name) for prompt in self.prompts for name in names]
        head = model.retrieval_head
        return head.text_embeddings(model.backbone, asked).float().cpu(), float(head.clamped_temperature)

    def _line(self, protocol: str, judged: Judged, row: int, scores: Tensor) -> RetrievalLine:
        own, category = scores[judged.names.index(judged.categories[row])], judged.categories[row]
        better, equal = int((scores > own).sum()), int((scores == own).sum()) - 1
        where: dict[str, Any] = {"dataset": self.dataset, "protocol": protocol, "direction": "i2t", "draw": 0}
        said: dict[str, Any] = {"query": judged.keys[row], "product": category, "rank": better + equal + 1, "ties": equal}
        return RetrievalLine(**where, **said, candidates=len(judged.names))


def similarity(tokens: Tensor) -> Tensor:
    """(N, Q, E) -> (N, N): the mean over an image's tokens of the best of another's, as a search by image ranks."""
    n, queries, width = tokens.shape
    with exact_fp32(torch.device("cpu")):
        each = token_scores(tokens.reshape(n * queries, width), tokens)
    return each.view(n, queries, n).mean(1)
