"""Captions of products: scores, plain-word checks, and what the model says in other styles. Products are drawn by hash."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from unifashion_pl.data.samples import Batch, PairBatch
from unifashion_pl.data.transforms import thumbnail
from unifashion_pl.evaluation.part import Context, Outcome, Part, Stage
from unifashion_pl.evaluation.sampling import Drawing
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task
from unifashion_pl.metrics.caption_scores import CaptionScores
from unifashion_pl.metrics.intervals import wilson_interval
from unifashion_pl.metrics.lines import CaptionLine
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.team import merged, united

COLOURS = (  # noqa: SIM905
    "black white grey gray navy blue red pink purple green yellow orange brown beige cream ivory tan khaki camel olive teal "
    "turquoise burgundy maroon lilac mint coral gold silver"
).split()
GARMENTS = (  # noqa: SIM905
    "dress gown shirt blouse t-shirt tee top sweater cardigan hoodie sweatshirt jacket coat blazer vest skirt pants trousers "
    "jeans leggings shorts jumpsuit romper"
).split()


def first_mention(text: str, words: Sequence[str]) -> str | None:
    """The word of the list that a text names first, singular or plural; at one place the longest wins.

    >>> first_mention("Long-sleeved T-shirts in navy and white", ["shirt", "t-shirt", "white", "navy"])
    't-shirt'
    """
    found = [
        (match.start(), -len(word), word)
        for word in words
        if (match := re.search(rf"(?<![\w-]){re.escape(word.lower())}(?:s|es)?(?![\w-])", text.lower()))
    ]
    return min(found)[2] if found else None


def word_accuracy(name: str, pairs: Sequence[tuple[str | None, str | None]], words: int) -> list[ResultRecord]:
    """How often the hypothesis names the reference's first word first, in percent, and the level of always saying the commonest.

    Args:
        name: of the check, e.g. ``colour``.
        pairs: (hypothesis, reference) mentions; references without one are left out and counted as dropped.
        words: length of the list, part of the protocol.
    """
    judged = [(said, true) for said, true in pairs if true is not None]
    if not judged:
        return []
    n, hits = len(judged), sum(said == true for said, true in judged)
    common = Counter(true for _, true in judged).most_common(1)[0][1]
    protocol = Protocol("first-mention").adding(list=name, words=words)
    chance = replace(protocol, chance=True)
    interval = wilson_interval(hits, n).scaled(100)
    dropped = {"reference names none": len(pairs) - n} if len(pairs) > n else None
    metric = f"caption/{name}_accuracy"
    return [
        ResultRecord(metric, 100 * hits / n, "percent", n, str(protocol), interval=interval, dropped=dropped),
        ResultRecord(metric, 100 * common / n, "percent", n, str(chance), implementation="commonest word"),
    ]


@dataclass
class _Product:
    """A product to be captioned: the view's key, what is said of it, a picture to show, the query outputs (1, Q, D) on the CPU."""

    key: str
    style: str
    caption: str
    picture: bytes | None
    queries: Tensor


@dataclass
class CaptionPart(Part):
    """Captions of products, one per product, for the view with the smallest key.

    Args:
        most: products captioned in test, drawn by hash; None = all.
        most_in_validation: the same in validation.
        num_beams, max_new_tokens: of generation; None = the caption head's default.
        batch_size: of generation.
        word_checks: name -> words; how often a caption names the reference's first word first. None = garments and colours.
    """

    most: int | None = 256
    most_in_validation: int = 0
    num_beams: int | None = None
    max_new_tokens: int | None = None
    batch_size: int = 32
    word_checks: Mapping[str, Sequence[str]] | None = None

    def takes(self, model: FashionModel, batch: Batch, stage: Stage) -> bool:
        """Pairs, if captions are wanted and the model can write them."""
        most = self.most if stage == "test" else self.most_in_validation
        return isinstance(batch, PairBatch) and model.caption_head is not None and most != 0

    def task_of(self, record: ResultRecord) -> Task:
        return "caption"

    def begin(self) -> None:
        asked = {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}
        self.generation = {name: value for name, value in asked.items() if value is not None}
        self.words = {"category": GARMENTS, "colour": COLOURS} if self.word_checks is None else self.word_checks
        most = self.most if self.test else self.most_in_validation
        self.drawing: Drawing[_Product] = Drawing(most, self.setting.seed)
        self.products: set[str] = set()

    def update(self, model: FashionModel, batch: Batch) -> None:
        """Keep what the Q-Former reads off the images to be captioned; nothing is generated yet."""
        assert isinstance(batch, PairBatch)
        new: dict[int, _Product] = {}

        def drawn(i: int) -> _Product:
            picture = None if batch.shown is None else thumbnail(batch.shown[i])
            new[i] = _Product(batch.keys[i], batch.styles[i], batch.captions[i], picture, torch.empty(0))
            return new[i]

        for i, key in enumerate(batch.keys):
            product = str(int(batch.products[i]))
            if batch.captions[i]:
                self.products.add(product)
                self.drawing.offer(product, key, partial(drawn, i))
        if new:
            names = [(self.dataset, batch.keys[i]) for i in new]
            features = self.seen.features(model, batch[[*new]].images, names)
            queries = model.backbone.image_pass(model.backbone.image_features(features)).cpu()
            for row, product_ in enumerate(new.values()):
                product_.queries = queries[row : row + 1].clone()

    def finish(self, context: Context) -> Outcome:
        """Generate on the rank that holds the image, score on all."""
        team, model, full = context.team, context.model, context.full
        own = [product for _, product in self.drawing.own(team).values()]
        outcome = Outcome(self.dataset, thumbnails={x.key: x.picture for x in own if x.picture is not None})
        parts = [own[start : start + self.batch_size] for start in range(0, len(own), self.batch_size)]
        lines = merged(team, (line for part in parts for line in self._captions(model, part)), lambda line: line.id)
        if not lines:
            return outcome
        scores = CaptionScores(protocol="coco", meteor=full)
        scores.update([x.hypothesis for x in lines], [[x.reference] for x in lines], [x.id for x in lines])
        words = [r for name, w in self.words.items() for r in word_accuracy(name, [x.words[name] for x in lines], len(w))]
        records = [*scores.records(), *words]
        measured = [r for r in records if not r.under.chance]
        outcome.log([replace(r, metric=r.metric.removeprefix("caption/")) for r in measured], "caption")
        for i, (line, each) in enumerate(zip(lines, scores.per_caption())):
            line.shown = i < self.setting.shown
            line.scores = {name: each[name] for name in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")}
        outcome.lines = [*lines]
        outcome.needed = {line.id for line in lines if line.shown}
        if full:
            whole, products = context.whole(self.dataset), {name for part in team.objects(self.products) for name in part}
            there = len(products) if whole is None else whole.captioned
            outcome.records = [replace(record, n_expected=there) for record in records]
            styles = united(team, self._other_styles(model, [product for product in own if product.key in outcome.needed]))
            for line in lines:
                line.styles = styles.get(line.id, {})
        return outcome

    def _other_styles(self, model: FashionModel | None, shown: list[_Product]) -> dict[str, dict[str, str]]:
        """The shown products of this rank once more in the styles that their dataset does not have: id -> style -> text."""
        if not shown or model is None or model.caption_head is None:
            return {}
        queries, made = _queries(model, shown), {product.key: dict[str, str]() for product in shown}
        for style in model.caption_head.styles:
            rows = [i for i, product in enumerate(shown) if product.style != style]
            texts = model.caption_head.generate(queries[rows], [style] * len(rows), **self.generation)
            for i, text in zip(rows, texts):
                made[shown[i].key][style] = text
        return made

    def _captions(self, model: FashionModel | None, products: list[_Product]) -> Iterator[CaptionLine]:
        assert model is not None
        assert model.caption_head is not None
        styles = [product.style for product in products]
        texts = model.caption_head.generate(_queries(model, products), styles, **self.generation)
        for x, text in zip(products, texts):
            found = {name: (first_mention(text, w), first_mention(x.caption, w)) for name, w in self.words.items()}
            line = CaptionLine(dataset=self.dataset, id=x.key, style=x.style, hypothesis=text, reference=x.caption, words=found)
            yield line


def _queries(model: FashionModel, products: list[_Product]) -> Tensor:
    return torch.cat([product.queries for product in products]).to(model.device)
