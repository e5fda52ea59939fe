"""Generated samples: captions with their scores and plain-word checks, images beside the truth. Both are drawn by hash."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unifashion_pl.data.samples import PairBatch, QueryBatch
from unifashion_pl.evaluation.collect import Chosen, Line, Outcome, merged, png, thumbnail
from unifashion_pl.metrics.caption_scores import CaptionScores
from unifashion_pl.metrics.image_scores import ImageScores
from unifashion_pl.metrics.intervals import wilson_interval
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.metrics.tables import Team
from unifashion_pl.report.runfolder import image_name

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule


def listed(words: str) -> list[str]:
    """Words separated by blanks."""
    return words.split()


COLOURS = listed(
    "black white grey gray navy blue red pink purple green yellow orange brown beige cream ivory tan khaki camel olive teal "
    "turquoise burgundy maroon lilac mint coral gold silver"
)
GARMENTS = listed(
    "dress gown shirt blouse t-shirt tee top sweater cardigan hoodie sweatshirt jacket coat blazer vest skirt pants trousers "
    "jeans leggings shorts jumpsuit romper"
)


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


class CaptionEvaluation:
    """Captions of one dataset's products: one per product, for the view with the smallest key.

    Args:
        dataset: as the batches carry it.
        most: products to caption, drawn by hash; None = all.
        words: plain-word checks, name -> list.
        shown: captions with a picture.
        seed, batch_size, num_beams, max_new_tokens: of drawing and generation.
    """

    def __init__(
        self,
        dataset: str,
        most: int | None,
        words: dict[str, list[str]],
        shown: int,
        seed: int,
        batch_size: int,
        **generation: int,
    ) -> None:
        self.dataset, self.words, self.shown, self.batch_size = dataset, words, shown, batch_size
        self.generation = generation
        self.chosen: Chosen[tuple[Tensor, str, str]] = Chosen(most, seed)
        self.products: set[str] = set()

    def update(self, batch: PairBatch) -> None:
        """Keep the images to be captioned; nothing is generated yet."""
        for i, key in enumerate(batch.keys):
            product = str(int(batch.products[i]))
            self.products |= {product} if batch.captions[i] else set()
            if batch.captions[i] and self.chosen.wants(product, key):
                self.chosen.add(product, key, (batch.images[i].cpu(), batch.captions[i], batch.styles[i]))

    def finish(self, team: Team, model: UniFashionModule | None, full: bool, whole: int | None = None) -> Outcome:
        """Generate on the rank that holds the image, score on all.

        Args:
            whole: products with a caption, where only a part of the data was seen.
        """
        own = self.chosen.own(team)
        outcome = Outcome(self.dataset)
        lines = []
        if own and model is not None:
            items = [(key, *item) for key, item in own.values()]
            for start in range(0, len(items), self.batch_size):
                lines += self._captions(model, items[start : start + self.batch_size])
            outcome.thumbnails = {key: thumbnail(image) for key, (image, _, _) in own.values()}
        lines = merged(team, lines, "id")
        if not lines:
            return outcome
        scores = CaptionScores(protocol="coco", meteor=full)
        scores.update([x["hypothesis"] for x in lines], [[x["reference"]] for x in lines], [x["id"] for x in lines])
        words = [r for name, w in self.words.items() for r in word_accuracy(name, [x["words"][name] for x in lines], len(w))]
        there = len({product for part in team.objects(self.products) for product in part}) if whole is None else whole
        outcome.records = [replace(record, n_expected=there) for record in (*scores.records(), *words)]
        short = self.dataset.partition("/")[0]
        for r in outcome.records:
            if r.value is not None and not r.under.chance:
                outcome.values[f"{short}/caption/{r.metric.removeprefix('caption/')}"] = r.value
        for i, (line, each) in enumerate(zip(lines, scores.per_caption())):
            line["shown"] = i < self.shown
            line["scores"] = {name: each[name] for name in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")}
        if full:
            self._other_styles(team, model, own, lines)
        outcome.lines["captions"] = lines
        outcome.needed = {line["id"] for line in lines if line["shown"]}
        if not full:
            outcome.records = []
        return outcome

    def _other_styles(self, team: Team, model: UniFashionModule | None, own: dict[str, Any], lines: list[Line]) -> None:
        """The shown products once more in the styles that their dataset does not have."""
        shown = {line["id"]: line for line in lines if line["shown"]}
        mine = {key: (image, style) for key, (image, _, style) in own.values() if key in shown}
        made: dict[str, dict[str, str]] = {key: {} for key in mine}
        if mine and model is not None:
            assert model.caption_head is not None
            images = torch.stack([image for image, _ in mine.values()]).to(model.device)
            queries = model.backbone.image_pass(model.backbone.image_features(images))
            for style in model.caption_head.styles:
                rows = [i for i, (_, own_style) in enumerate(mine.values()) if own_style != style]
                texts = model.caption_head.generate(queries[rows], [style] * len(rows), **self.generation)
                for i, text in zip(rows, texts):
                    made[list(mine)[i]][style] = text
        for part in team.objects(made):
            for key, texts_of in part.items():
                shown[key]["styles"] = texts_of

    def _captions(self, model: UniFashionModule, items: list[tuple[str, Tensor, str, str]]) -> list[Line]:
        assert model.caption_head is not None
        keys, images, references, styles = (list(column) for column in zip(*items))
        queries = model.backbone.image_pass(model.backbone.image_features(torch.stack(images).to(model.device)))
        texts = model.caption_head.generate(queries, styles, **self.generation)
        return [
            {
                "dataset": self.dataset,
                "id": key,
                "style": style,
                "hypothesis": text,
                "reference": reference,
                "words": {n: [first_mention(text, w), first_mention(reference, w)] for n, w in self.words.items()},
            }
            for key, style, text, reference in zip(keys, styles, texts, references)
        ]


class ImageEvaluation:
    """Generated images of one dataset beside the truth: reconstructions of pairs (Eq. 7) or composed generations (Eq. 12).

    Args:
        dataset: as the batches carry it.
        most: samples to generate, drawn by hash.
        seeds: one image per sample and seed.
        seed: of the drawing.
        sampler, guidance, steps: of the diffusion head.
        weights: local files for :class:`~unifashion_pl.metrics.ImageScores` (arguments of that name); None = no scores.
    """

    def __init__(
        self,
        dataset: str,
        most: int,
        seeds: Sequence[int],
        seed: int,
        sampler: str,
        guidance: float | None,
        steps: int | None,
        weights: dict[str, str] | None = None,
    ) -> None:
        self.dataset, self.seeds = dataset, list(seeds)
        task = Protocol("reconstruction", dataset).adding(seed=self.seeds[0] if self.seeds else None, sampler=sampler)
        self.scores = None if weights is None else ImageScores(task=task, **weights)  # type: ignore[arg-type]
        self.settings = {"sampler": sampler, "guidance": guidance, "steps": steps}
        self.chosen: Chosen[tuple[Tensor, str, Tensor | None, str]] = Chosen(most, seed)

    def update(self, batch: PairBatch | QueryBatch) -> None:
        """Keep the samples to be generated."""
        if isinstance(batch, PairBatch):
            images, texts, kind = batch.images, batch.prompts, "reconstruction"
        else:
            images, texts, kind = batch.references, batch.texts, "composed"
        for i, key in enumerate(batch.keys):
            if self.chosen.wants(key, key):
                truth = batch.pixels[i].cpu() if batch.pixels is not None else None
                self.chosen.add(key, key, (images[i].cpu(), texts[i], truth, kind))

    def finish(self, team: Team, model: UniFashionModule | None) -> Outcome:
        """Generate on the rank that holds the sample."""
        own = self.chosen.own(team)
        outcome = Outcome(self.dataset)
        lines = []
        if model is not None:
            for key, item in own.values():
                line, files = self._generate(model, key, *item)
                lines.append(line)
                outcome.files.update(files)
        outcome.lines["images"] = merged(team, lines, "id")
        if self.scores is not None:
            outcome.records = self.scores.records(absent=True)
            outcome.values = {
                f"{self.dataset.partition('/')[0]}/image/{r.metric}": r.value for r in outcome.records if r.value is not None
            }
        return outcome

    def _generate(
        self, model: UniFashionModule, key: str, image: Tensor, text: str, truth: Tensor | None, kind: str
    ) -> tuple[Line, dict[str, bytes]]:
        assert model.diffusion_head is not None
        features = model.backbone.image_features(image[None].to(model.device))
        if kind == "composed":
            queries = model.backbone.fused_pass(features, model.backbone.tokenize([text]))[0]
        else:
            queries = model.backbone.image_pass(features)
        stem = image_name(self.dataset, key).removesuffix(".jpg")
        files: dict[str, bytes] = {}
        settings: dict[str, Any] = {name: value for name, value in self.settings.items() if value is not None}
        for seed in self.seeds:
            made = model.diffusion_head.generate(queries, [text], seeds=[seed], **settings)
            files[f"{stem}--{kind}-seed{seed}.png"] = png(made[0])
            if self.scores is not None and kind == "reconstruction" and truth is not None and seed == self.seeds[0]:
                self.scores.to(made.device).update([key], made, truth[None].to(made.device), [text])
        line: Line = {"dataset": self.dataset, "id": key, "kind": kind, "prompt": text, "shown": True}
        line |= {"seeds": self.seeds, "files": list(files)}
        if kind == "composed":
            line["reference"] = f"{stem}--{kind}-given.jpg"
            files[line["reference"]] = thumbnail(image, 256)
        if truth is not None:
            line["truth"] = f"{stem}--{kind}-truth.png"
            files[line["truth"]] = png(truth)
        return {**line, **self.settings}, files
