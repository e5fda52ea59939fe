"""Caption metric: BLEU-1..4, METEOR, ROUGE-L and CIDEr-D of a whole set, with per-caption values and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unifashion_pl.arguments import choice
from unifashion_pl.metrics.coco import captions as pure
from unifashion_pl.metrics.coco import ptb
from unifashion_pl.metrics.coco.java import JavaTools, meteor_process, one_line, ptb_java, summable
from unifashion_pl.metrics.intervals import RESAMPLES, percentile_interval, resampled_means, resampled_sums
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.records import Interval, ResultRecord
from unifashion_pl.metrics.tables import KeyedMetric

PROTOCOLS = ("coco", "unifashion_release")
TOKENIZERS = ("auto", "ptb-java", "ptb-py")
RELEASE_CUT = 100
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
_SEED = 0


@dataclass(frozen=True)
class CaptionTable:
    """Scored captions.

    Attributes:
        ids: N names.
        hypotheses, references: tokenised, as they were compared (swapped under ``unifashion_release``).
        bleu: (N, 10) statistics, see :func:`unifashion_pl.metrics.coco.captions.bleu_statistics`.
        rouge, cider: N values each.
        meteor, meteor_statistics, meteor_corpus: N segment scores, N × 23 statistics and the corpus score; None without Java.
        meteor_note: why METEOR is absent, else None.
        tokenizer: the one used.
        empty: number of hypotheses without tokens.
    """

    ids: list[str]
    hypotheses: list[str]
    references: list[list[str]]
    bleu: np.ndarray[Any, Any]
    rouge: list[float]
    cider: list[float]
    meteor: list[float] | None = None
    meteor_statistics: list[list[float]] | None = None
    meteor_corpus: float | None = None
    meteor_note: str | None = None
    tokenizer: str = "ptb-py"
    empty: int = 0
    raw: dict[str, tuple[str, list[str]]] = field(default_factory=dict)

    def scores(self) -> dict[str, float | None]:
        """Corpus values, raw scales."""
        bleu = pure.bleu_from_statistics(self.bleu.sum(0)).tolist()
        rest = {"ROUGE-L": float(np.mean(self.rouge)), "CIDEr": float(np.mean(self.cider))}
        return {**{f"BLEU-{n}": value for n, value in enumerate(bleu, start=1)}, "METEOR": self.meteor_corpus, **rest}


def tokenize_captions(texts: Sequence[str], tokenizer: str = "ptb-py", tools: JavaTools | None = None) -> list[str]:
    """PTB tokens of each text, lower-cased, punctuation dropped, separated by blanks.

    >>> tokenize_captions(["Long sleeve dress (slim-fit) in black."])
    ['long sleeve dress -lrb- slim-fit -rrb- in black']
    """
    if tokenizer == "ptb-java":
        raw = [line.split(" ") for line in ptb_java(texts, tools or JavaTools.find())]
    else:
        raw = [ptb.tokenize(one_line(text)) for text in texts]
    return [" ".join(t for t in tokens if t not in ptb.PUNCTUATION) for tokens in raw]


def score_captions(
    hypotheses: dict[str, str],
    references: dict[str, Sequence[str]],
    protocol: str = "coco",
    tokenizer: str = "auto",
    meteor: bool = True,
    tools: JavaTools | None = None,
) -> CaptionTable:
    """Tokenise and score a whole set.

    Args:
        hypotheses, references: by id; one hypothesis, one or more references each.
        protocol: ``coco``, or ``unifashion_release``: both texts cut to their first 100 characters and their roles swapped, as
            the paper's released script does (single reference only).
        tokenizer: ``auto``, ``ptb-java`` or ``ptb-py``.
        meteor: whether to compute METEOR (where Java is).
        tools: where Java and the jars are; None = look for them.

    Raises:
        ValueError: naming ids that lack a hypothesis or reference, or whose reference has no tokens.
    """
    choice(protocol, "protocol", PROTOCOLS), choice(tokenizer, "tokenizer", TOKENIZERS)
    if difference := sorted(set(hypotheses) ^ set(references)):
        raise ValueError(f"ids without hypothesis or without reference: {', '.join(difference[:5])}")
    tools = tools or JavaTools.find()
    if tokenizer == "auto":
        tokenizer = "ptb-java" if tools.missing(tools.ptb_jar) is None else "ptb-py"
    ids = sorted(hypotheses)
    cut = RELEASE_CUT if protocol == "unifashion_release" else None
    own = tokenize_captions([hypotheses[i][:cut] for i in ids], tokenizer, tools)
    flat = iter(tokenize_captions([text[:cut] for i in ids for text in references[i]], tokenizer, tools))
    several = [[next(flat) for _ in references[i]] for i in ids]
    if empty := [i for i, group in zip(ids, several) if not group or not all(group)]:
        raise ValueError(f"references without tokens: {', '.join(empty[:5])}")
    if protocol == "unifashion_release":
        if many := [i for i, group in zip(ids, several) if len(group) > 1]:
            raise ValueError(f"unifashion_release knows one reference per caption; several for {', '.join(many[:5])}")
        compared, against = [group[0] for group in several], [[caption] for caption in own]
    else:
        compared, against = own, several
    table = CaptionTable(
        ids,
        compared,
        against,
        pure.bleu_statistics(compared, against),
        pure.rouge_l(compared, against),
        pure.cider_d(compared, against),
        tokenizer=tokenizer,
        empty=sum(not caption for caption in own),
        raw={i: (hypotheses[i], list(references[i])) for i in ids},
    )
    if note := tools.missing(tools.meteor_jar) if meteor else "not asked for":
        return replace(table, meteor_note=note)
    with meteor_process(tools) as process:
        lines = [process.statistics(*pair) for pair in zip(compared, against)]
        segments, corpus = process.evaluate(lines)
    return replace(table, meteor=segments, meteor_statistics=summable(lines), meteor_corpus=corpus)


class CaptionScores(KeyedMetric):
    """Caption metrics of a whole set (Table 2), as ``pycocoevalcap`` defines them.

    Args:
        protocol: ``coco`` or ``unifashion_release``; see :func:`score_captions`.
        tokenizer: ``auto``, ``ptb-java`` or ``ptb-py``; the name stands in every record.
        meteor: compute METEOR where Java and the jar are; it is never replaced by another metric of that name.
        java, jars: path of ``java`` and folder of the jars; None = look for them.
        text: part of the protocol string: what the reference is.

    ``compute`` returns ``{"BLEU-1".."BLEU-4", "METEOR" (None without Java), "ROUGE-L", "CIDEr"}``, raw; ``{}`` if no rank has a
    caption. Texts are scored on rank 0 only (so Java runs once) and the result is shared.
    """

    def __init__(
        self,
        protocol: str = "coco",
        tokenizer: str = "auto",
        meteor: bool = True,
        java: str | Path | None = None,
        jars: str | Path | None = None,
        text: str = "description",
        **kwargs: Any,
    ) -> None:
        super().__init__("captions", **kwargs)
        self.protocol, self.tokenizer = choice(protocol, "protocol", PROTOCOLS), choice(tokenizer, "tokenizer", TOKENIZERS)
        self.meteor, self.text = meteor, text
        self.java, self.jars = java, jars
        self._table: CaptionTable | None = None

    def reset(self) -> None:
        """Forget all captions and results."""
        super().reset()
        self._table = None

    def update(self, hypotheses: Sequence[str], references: Sequence[str | Sequence[str]], ids: Sequence[str]) -> None:
        """Add captions.

        Args:
            hypotheses: B generated texts.
            references: one text or several per caption.
            ids: B unique names; one that comes twice counts once, with other texts it is an error.
        """
        groups = [[r] if isinstance(r, str) else list(r) for r in references]
        self._store("captions", list(map(str, ids)), {"hypothesis": hypotheses, "references": groups})

    def compute(self) -> dict[str, float | None]:
        """Corpus scores, equal on all ranks; errors of :func:`score_captions` on all ranks."""
        team = self._team()
        facts = team.facts(team.own(team.guarded(lambda: self._local("captions"))))
        if not len(facts):
            return {}
        table = team.guarded(lambda: self._scored(facts.ids, facts.facts) if team.rank == 0 else None)
        self._table = team.objects(table)[0]
        return {} if self._table is None else self._table.scores()

    def _scored(self, ids: Sequence[Any], facts: dict[str, list[Any]]) -> CaptionTable:
        tools = JavaTools.find(self.java, self.jars)
        pairs = dict(zip(ids, facts["hypothesis"])), dict(zip(ids, facts["references"]))
        try:
            return score_captions(*pairs, self.protocol, self.tokenizer, self.meteor, tools)
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    def _known(self) -> CaptionTable:
        self.compute()
        if self._table is None:
            raise ValueError("no captions were scored")
        return self._table

    def details(self) -> dict[str, Any]:
        """What the numbers do not say: n, empty hypotheses, tokeniser, and why METEOR is absent (None if it is not)."""
        table = self._known()
        return {"n": len(table.ids), "empty": table.empty, "tokenizer": table.tokenizer, "meteor": table.meteor_note}

    def per_caption(self) -> list[dict[str, Any]]:
        """One record per caption for a prediction file: texts as given, tokens compared, and its own scores."""
        table = self._known()
        segments = pure.bleu_from_statistics(table.bleu)
        return [
            {
                "id": name,
                "hypothesis": table.raw[name][0],
                "references": table.raw[name][1],
                "BLEU-4": float(segments[i, 3]),
                "METEOR": table.meteor[i] if table.meteor is not None else None,
                "ROUGE-L": table.rouge[i],
                "CIDEr": table.cider[i],
            }
            for i, name in enumerate(table.ids)
        ]

    def records(self, resamples: int = RESAMPLES, **context: Any) -> list[ResultRecord]:
        """All metrics with bootstrap intervals over captions (CIDEr with the full set's IDF kept fixed); ``context``: further fields."""
        values = self.compute()
        if not values:
            return []
        table = self._known()
        spread = self._intervals(table, resamples)
        protocol = str(Protocol(self.protocol).adding(text=self.text, tokenizer=table.tokenizer))
        records = []
        for name, value in values.items():
            note = "pycocoevalcap 1.2 definitions" if name != "METEOR" else "METEOR 1.5 jar"
            note += "; not in the released script" if name == "CIDEr" and self.protocol == "unifashion_release" else ""
            note = f"n/a: {table.meteor_note}" if value is None else f"{note}; {table.tokenizer}"
            facts = {"interval": spread.get(name), "implementation": note, **context}
            records.append(ResultRecord(name, value, "raw", len(table.ids), protocol, **facts))
        return records

    def _intervals(self, table: CaptionTable, resamples: int) -> dict[str, Interval]:
        method = f"bootstrap(iid,B={resamples},seed={_SEED})"
        bleu = pure.bleu_from_statistics(resampled_sums(table.bleu, resamples, _SEED))
        means = resampled_means(np.column_stack([table.rouge, table.cider]), None, resamples, _SEED)
        draws = {f"BLEU-{n + 1}": bleu[:, n] for n in range(pure.ORDERS)} | {"ROUGE-L": means[:, 0], "CIDEr": means[:, 1]}
        intervals = {name: percentile_interval(values, 0.95, method) for name, values in draws.items()}
        intervals["CIDEr"] = replace(intervals["CIDEr"], method=f"{method}, IDF of the full set")
        if table.meteor_statistics is not None:
            sums = resampled_sums(np.array(table.meteor_statistics), resamples, _SEED)
            with meteor_process(JavaTools.find(self.java, self.jars)) as process:
                scores = process.corpus_scores(sums)
            intervals["METEOR"] = percentile_interval(scores, 0.95, method)
        return intervals
