"""Composed retrieval over gallery and query batches, with what either half of the query reaches alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from unifashion_pl.arguments import choice
from unifashion_pl.data.captions import check_provenance
from unifashion_pl.data.samples import Batch, GalleryBatch, QueryBatch
from unifashion_pl.data.transforms import thumbnail
from unifashion_pl.evaluation.part import Context, Outcome, Part, Stage
from unifashion_pl.evaluation.robustness import Rewritings
from unifashion_pl.evaluation.sampling import chance_recall, fingerprint, order
from unifashion_pl.evaluation.seen import Seen
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task
from unifashion_pl.metrics.fashioniq import FashionIQRecall
from unifashion_pl.metrics.leaks import HALF, Audit, TextQuery, caption_audit, check_audits, text_only_floor
from unifashion_pl.metrics.lines import ComposedLine
from unifashion_pl.metrics.protocol import AUDIT, HEADLINE, Protocol
from unifashion_pl.metrics.ranked import averages
from unifashion_pl.metrics.records import Interval, ResultRecord
from unifashion_pl.team import Rows, Team, united

AUDITED = Protocol("fashioniq", gallery="original", score=AUDIT, details=(("bag-of-words", None),))
ABLATIONS = ("text-only", "text-blank", "image-only", "image-similarity")


@dataclass
class ComposedPart(Part):
    """Composed retrieval over gallery and query batches (§4.5, Table 4), with intervals, the halves of the queries and prediction lines in test.

    With ``ablations`` the same gallery is also ranked by queries that lack one half, so that a table shows what composing adds.
    Each half is asked in two ways, because the fair one is not known beforehand; compare with the stronger:

    * ``text-only``: the modifying text through the text pass, the way captions are embedded;
    * ``text-blank``: the composed query with a uniform grey picture as reference (the text half of the trained path);
    * ``image-only``: the composed query with an empty text (the image half of the trained path);
    * ``image-similarity``: the normalised mean of the reference's own q_T tokens. Without ``ref-removed`` the reference itself
      takes the first rank in the last two.

    Scores that read gallery captions exist only for captions with provenance (:func:`~unifashion_pl.data.captions.check_provenance`)
    that pass the bag-of-words audit; the floor of word matching and the audit stand beside them. Batches that allow unsafe captions
    get their numbers labelled ``leaked`` or ``suspicious``: in the logged names and the protocol; the reason is their ``doubt``.
    Where some targets also stand in a training split, as 285 of Fashion-IQ's do, recall without those queries stands beside (``no-overlap``).

    Args:
        ks: the K of R@K.
        ablations: also rank the halves (test; four further passes of the Q-Former per batch, none of the vision tower).
        robustness: also ask in other and in denied words (test); see :class:`~unifashion_pl.evaluation.robustness.Rewritings`.
    """

    kinds = ("gallery", "queries")
    ks: Sequence[int] = (10, 50)
    ablations: bool = True
    robustness: bool = False

    def takes(self, model: FashionModel, batch: Batch, stage: Stage) -> bool:
        """Galleries and composed queries, if the model can embed them."""
        return isinstance(batch, GalleryBatch | QueryBatch) and model.retrieval_head is not None

    def task_of(self, record: ResultRecord) -> Task:
        return "composed"

    def begin(self) -> None:
        listed = self.setting.trec if self.test else 0
        measures = self.setting.measures if self.test else ()
        self.metric = FashionIQRecall(ks=self.ks, top_k=self.setting.top_k, listed=listed, measures=measures)
        names = ABLATIONS if self.test and self.ablations else ()
        self.halves = {name: FashionIQRecall(self.ks, ("image",), score=name, top_k=1, listed=listed) for name in names}
        self.rewritings = Rewritings(self.dataset, self.metric) if self.test and self.robustness else None
        self.shown = self.setting.shown if self.test else 0
        self.captions: dict[tuple[str, str], str] = {}
        self.unsafe: list[dict[str, Any]] = []
        self.allow_unsafe = False
        self.texts: dict[str, str] = {}
        self.joiners: set[str] = set()
        self.planned: dict[str, dict[str, int]] = {"queries": {}, "gallery": {}}
        self.thumbnails: dict[str, bytes] = {}

    def update(self, model: FashionModel, batch: Batch) -> None:
        """Embed gallery images with q_T, and their captions where they have one; or composed queries, and their halves.

        Raises:
            LeakError: captions without provenance, or made from more than the image, and the batch does not allow them.
        """
        if isinstance(batch, GalleryBatch):
            self._add_gallery(model, batch)
        elif isinstance(batch, QueryBatch):
            self._add_queries(model, batch)

    def _add_gallery(self, model: FashionModel, batch: GalleryBatch) -> None:
        assert model.retrieval_head is not None
        self._check_provenance(batch)
        names, known = [(self.dataset, key) for key in batch.keys], bool(batch.again)
        features = self.seen.features(model, batch.images, names, batch.again or batch.in_union, sure=known)
        tokens = model.retrieval_head.image_embeddings(model.backbone, features, "target").float()
        has = [bool(c) for c in batch.captions]
        captions = model.retrieval_head.text_embeddings(model.backbone, batch.captions).float() if any(has) else None
        self.metric.update_gallery(batch.keys, batch.categories, tokens, batch.in_union, captions, has)
        self.planned["gallery"] |= batch.planned
        self.captions |= {
            (category, key): text for category, key, text in zip(batch.categories, batch.keys, batch.captions) if text
        }
        self._keep(batch.keys, batch.shown)

    def _check_provenance(self, batch: GalleryBatch) -> None:
        said = batch.provenance or [{}] * len(batch)
        records = [{**record, "image": key} for key, text, record in zip(batch.keys, batch.captions, said) if text]
        self.allow_unsafe |= batch.allow_unsafe_captions
        if check_provenance(records, allow_unsafe=batch.allow_unsafe_captions):
            self.unsafe += records

    def _add_queries(self, model: FashionModel, batch: QueryBatch) -> None:
        assert model.retrieval_head is not None
        names = [(self.dataset, key) for key in batch.reference_ids]
        looked = replace(batch, references=self.seen.features(model, batch.references, names, again=True))
        composed = model.retrieval_head.compose(model.backbone, looked.references, batch.texts)
        self._rank(self.metric, batch, composed, batch.overlap or None)
        for name, metric in self.halves.items():
            self._rank(metric, batch, half_query(model, looked, name, self.seen))
        if self.rewritings is not None:
            self.rewritings.update(model, looked)
        self.texts.update(zip(batch.keys, batch.texts))
        self.planned["queries"] |= batch.planned
        self.joiners.add(batch.joiner)
        self._keep(batch.reference_ids, batch.shown)

    @staticmethod
    def _rank(metric: FashionIQRecall, batch: QueryBatch, vectors: Tensor, overlap: Sequence[bool] | None = None) -> None:
        asked = (batch.keys, batch.categories, batch.reference_ids, batch.target_ids, vectors.float(), overlap)
        metric.update_queries(*asked, right=batch.right or None)

    def _keep(self, keys: Sequence[str], images: Tensor | None) -> None:
        if self.shown and images is not None:
            new = ((key, image) for key, image in zip(keys, images.cpu()) if key not in self.thumbnails)
            self.thumbnails.update((key, thumbnail(image)) for key, image in new)

    def finish(self, context: Context) -> Outcome:
        """Metrics; where they are written also records, chance levels and prediction lines."""
        team, full = context.team, context.full
        outcome = Outcome(self.dataset, thumbnails=self.thumbnails)
        self._know_the_whole(team)
        computed = self.metric.compute()
        if not computed:
            return outcome
        captions = self._gallery_captions(team)
        audits = self._audits(captions)
        label, reason = self._label(team, audits)
        outcome.values = self._values(computed, label=label)
        texts = united(team, self.texts) if full else {}
        if full:
            records = [*self.metric.records(data_hash=self._fingerprint(texts)), *self._floor(captions, texts)]
            outcome.records = [*labelled(records, label, reason), *audit_records(audits, captions), *self._chance()]
        for name, metric in self.halves.items():
            metric.gallery = self.metric.gallery
            outcome.values.update(self._values(metric.compute(), name))
            if full:
                outcome.records += metric.records()
                outcome.add_runs(metric.runs(), f".{name}")
        if full:
            self._add_lines(outcome, texts)
            outcome.add_runs(self.metric.runs())
        if full and self.rewritings is not None:
            self.rewritings.add(outcome, team, texts, self.metric.under(HEADLINE))
        return outcome

    def _know_the_whole(self, team: Team) -> None:
        """Tell the metrics how large split and gallery are meant to be; what is smaller is allowed, and named in the protocol."""
        planned: dict[str, dict[str, int]] = {"queries": {}, "gallery": {}}
        for part in team.objects(self.planned):
            for name, counts in part.items():
                planned[name] |= counts
        tables: list[list[Rows]] = [self.metric.queries, self.metric.gallery]  # type: ignore[list-item]
        own = [{key for rows in table for key in rows.ids} for table in tables]
        seen, shelved = (set[Hashable]().union(*parts) for parts in zip(*team.objects(own)))
        joiners = {joiner for part in team.objects(self.joiners) for joiner in part}
        images, queries = sum(planned["gallery"].values()), sum(planned["queries"].values())
        for metric in (self.metric, *self.halves.values()):
            metric.text = "+".join(sorted(joiners)) or metric.text
            metric.expected = planned["queries"] or None
            metric.gallery_expected = images or None
            metric.allow_partial = len(seen) < queries or len(shelved) < images

    def _fingerprint(self, texts: Mapping[str, str]) -> str:
        """Of queries, their references and targets, and of the galleries."""
        asked, shelved = self.metric.asked, self.metric.shelved
        pairs = zip(map(str, asked.ids), asked.facts["reference"], asked.facts["target"])
        rows = {key: f"{reference}\t{target}\t{texts[key]}" for key, reference, target in pairs}
        return fingerprint(rows | {"\t".join(("gallery", *member)): "" for member in shelved.ids})  # type: ignore[misc]

    def _values(self, computed: dict[str, float], half: str = "", label: str = "") -> dict[str, float]:
        """``fashioniq/mean/R@10`` for the headline variant; further scores and halves under their own names."""
        mark = f"-{label}" if label else ""
        short = self.dataset.partition("/")[0]
        values = {}
        for score, tag in (("image", half), ("caption", f"caption-score{mark}"), ("both", f"both-scores{mark}")):
            head = "/".join((*HEADLINE[:2], score)) + "/"
            prefix = f"{short}/{tag}/" if tag else f"{short}/"
            values.update(
                {prefix + n.removeprefix(head): v for n, v in computed.items() if n.startswith(head) and "overlap" not in n}
            )
        return values

    def _chance(self) -> list[ResultRecord]:
        """Chance levels with the reference kept, on the whole gallery and on references and targets."""
        members, asked = self.metric.shelved.facts, self.metric.asked.facts
        categories = sorted({line["category"] for line in self.metric.per_query()})
        right = {c: Counter(len(r) for of, r in zip(asked["category"], asked["right"]) if of == c) for c in categories}
        records = []
        for gallery in ("original", "union"):
            both = zip(members["category"], members["in_union"])
            sizes = Counter(category for category, union in both if union or gallery == "original")
            if all(sizes[c] for c in categories):
                levels = {
                    f"{c}/R@{k}": sum(n * chance_recall(sizes[c], few, k) for few, n in right[c].items()) / right[c].total()
                    for c in categories
                    for k in self.metric.ks
                }
                under = replace(self.metric.under((gallery, *HEADLINE[1:])), chance=True)
                records += self._recalls({**levels, **averages(levels, self.metric.ks)}, under, "hypergeometric")
        return records

    def _recalls(self, values: Mapping[str, float], under: Protocol, implementation: str) -> list[ResultRecord]:
        """Records of recalls that need no model, with the numbers of queries that they are about."""
        queries = Counter(line["category"] for line in self.metric.per_query())
        expected = self.metric.expected
        records = []
        for name, value in values.items():
            category = name.partition("/")[0]
            n = queries.get(category, queries.total())
            whole = None if expected is None else expected.get(category, sum(expected.values()))
            records.append(ResultRecord(name, value, "percent", n, str(under), whole, implementation=implementation))
        return records

    def _gallery_captions(self, team: Team) -> dict[str, dict[str, str]]:
        """Category -> image id -> caption over all ranks, sorted by id."""
        captions: dict[str, dict[str, str]] = {}
        for (category, key), text in sorted({pair for part in team.objects(self.captions) for pair in part.items()}):
            captions.setdefault(category, {})[key] = text
        return captions

    def _audits(self, captions: dict[str, dict[str, str]]) -> dict[str, Audit]:
        """Bag-of-words audit of every category in which some image is a target and some is not."""
        targets = {(line["category"], line["target"]) for line in self.metric.per_query()}
        audits = {}
        for category, texts in captions.items():
            is_target = [(category, key) in targets for key in texts]
            if any(is_target) and not all(is_target):
                audits[category] = caption_audit(list(texts.values()), is_target)
        return audits

    def _label(self, team: Team, audits: dict[str, Audit]) -> tuple[str, str]:
        """What to call numbers of these captions, and why: ``leaked``, ``suspicious`` or nothing."""
        allowed = any(team.objects(self.allow_unsafe))
        unsafe = [record for part in team.objects(self.unsafe) for record in part]
        if reason := check_provenance(unsafe, allow_unsafe=True):
            return "leaked", reason
        if reason := check_audits(audits, allow_unsafe=allowed):
            return "suspicious", reason
        return "", ""

    def _floor(self, captions: dict[str, dict[str, str]], texts: dict[str, str]) -> list[ResultRecord]:
        """What matching words reaches, without images or a model: stands beside every score that reads gallery captions."""
        if not captions:
            return []
        queries = [TextQuery(line["category"], line["target"], texts[line["key"]]) for line in self.metric.per_query()]
        headline = self.metric.under(HEADLINE)
        details = {**dict(headline.details), "score": "bm25"}
        under = replace(headline, score="caption", details=tuple(details.items()))
        return self._recalls(text_only_floor(queries, captions, self.metric.ks), under, "BM25")

    def _add_lines(self, outcome: Outcome, texts: dict[str, str]) -> None:
        """A line per query: of the metric, with rank, ties and list of the image score, which the report shows."""
        ranked = self.metric.per_query()
        shown = set(sorted((line["key"] for line in ranked), key=lambda key: order(self.setting.seed, key))[: self.shown])
        halves: dict[str, dict[str, tuple[int, int]]] = {line["key"]: {} for line in ranked}
        for name, metric in self.halves.items():
            for line in metric.per_query():
                halves[line["key"]][name] = tuple(line["ranks"]["/".join(HEADLINE)])
        for found in ranked:
            key, top = found["key"], found.pop("top")["image"]
            del found["scores"]
            found["rank"], found["ties"] = found["ranks"]["/".join(HEADLINE)]
            found |= {"dataset": self.dataset, "text": texts[key], "halves": halves[key]}
            outcome.lines.append(ComposedLine(**found, shown=key in shown, target_shown=found["target"], top=top))
            if key in shown:
                outcome.needed |= {found["reference"], found["target"], *(name for name, _ in top)}


def labelled(records: Sequence[ResultRecord], label: str, reason: str) -> list[ResultRecord]:
    """Records with ``captions=<label>`` in the protocol and the reason as ``doubt`` where captions were read.

    Older versions look for the reason in ``implementation``.
    """
    out = []
    for r in records:
        said = "; ".join(text for text in (r.implementation, f"{label}: {reason}") if text)
        new = {"protocol": str(r.under.adding(captions=label)), "doubt": reason, "implementation": said}
        out.append(r.with_context(**new) if label and r.under.score in ("caption", "both") else r)
    return out


def audit_records(audits: dict[str, Audit], captions: dict[str, dict[str, str]]) -> list[ResultRecord]:
    """AUC of the audit with its spread where words tell nothing, and of its control with shuffled labels, per category."""
    records = []
    for category, audit in audits.items():
        n = len(captions[category])
        note = f"held-out bag of words: {audit.finding}; standard error without leak {audit.error:.3f}"
        doubt = audit.finding if audit.finding != "ok" else None
        half = HALF * audit.error
        spread = Interval(audit.auc - half, audit.auc + half, 0.95, "normal, as if words told nothing")
        base = ResultRecord(f"{category}/caption-AUC", audit.auc, "raw", n, str(AUDITED), implementation=note, doubt=doubt)
        control = replace(base, metric=f"{base.metric}/labels-shuffled", value=audit.control)
        records += [replace(base, interval=spread), control]
    return records


def half_query(model: FashionModel, batch: QueryBatch, name: str, seen: Seen | None = None) -> Tensor:
    """Query vectors (B, E) that know only one half of the composed query; names of :data:`ABLATIONS`.

    Args:
        seen: what knows the grey picture already.
    """
    backbone, retrieval = model.backbone, model.retrieval_head
    assert retrieval is not None
    if choice(name, "half", ABLATIONS) == "text-only":
        return retrieval.text_embeddings(backbone, batch.texts)
    if name == "text-blank":
        grey = (Seen() if seen is None else seen).grey(model)
        return retrieval.compose(backbone, grey.expand(len(batch), *grey.shape[1:]), batch.texts)
    if name == "image-only":
        return retrieval.compose(backbone, batch.references, [""] * len(batch))
    return F.normalize(retrieval.image_embeddings(backbone, batch.references, "target").mean(1), dim=-1)
