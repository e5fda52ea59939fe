"""From a request's vectors to the best images: candidates by codes, their order by exact numbers. Letters: m vectors, M images, E width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.gallery.hits import Hit
from unifashion_pl.gallery.rows import IndexRows, Keys
from unifashion_pl.gallery.scan import Corpus, Positions, largest, order
from unifashion_pl.gallery.segments import Floats

#: Images that are ranked by exact numbers: at least, for each hit, and where coarse tokens chose them.
CANDIDATES, EACH, WIDE = 64, 4, 2048
#: A filter that lets fewer than this share through is searched by itself; of more, all codes are read.
FEW = 8
#: Vectors that are searched with at once.
TOGETHER = 64


@dataclass(frozen=True)
class Term:
    """Vectors (m, E) among one set; an image's score is the mean of the best products of each, times ``share`` and ``weight``.

    ``part`` is what hits call it; they tell it times ``share``, which is 1/n for one of n examples. A single vector's best token is named in
    the hit. With a ``reach`` a product p counts as exp((p - 1) / reach), which only comes near 1 for nearly the same.
    """

    part: str
    within: str
    vectors: Floats
    weight: float = 1.0
    share: float = 1.0
    reach: float | None = None

    def counted(self, products: Floats) -> Floats:
        """(m, n) products -> (n,) what they say before ``weight``."""
        own = products[0] if len(products) == 1 else products.mean(0, dtype=np.float64).astype(np.float32)
        if self.reach is not None:
            own = np.exp((own - 1) / np.float32(self.reach))
        counted: Floats = np.float32(self.share) * own
        return counted


@dataclass(frozen=True)
class Request:
    """One search.

    Attributes:
        terms: whose weighted sum the score is. k: hits.
        allowed: (M,) the images that may be found; None = all.
        group: a column; one hit a value of it, the best.
        words: keys and weighted scores of the lexical part.
    """

    terms: Sequence[Term]
    k: int
    allowed: NDArray[np.bool_] | None = None
    group: str | None = None
    words: Mapping[int, float] = field(default_factory=dict)
    word_weight: float = 0.0


@dataclass(frozen=True)
class _Scored:
    positions: Positions
    score: Floats
    parts: dict[str, Floats]
    token: NDArray[np.int64] | None


@np.errstate(over="ignore", invalid="ignore")  # what is no number is refused in the end
def rank(corpus: Corpus, rows: IndexRows, requests: Sequence[Request]) -> list[list[Hit]]:
    """The best images of each request, best first; equal scores in the order of ids.

    Raises:
        ArgumentError: scores that are NaN or infinite.
    """
    hits: list[list[Hit]] = []
    start = 0
    while start < len(requests):
        stop, vectors = start, 0
        while stop < len(requests) and (stop == start or vectors < TOGETHER):
            vectors += sum(len(term.vectors) for term in requests[stop].terms)
            stop += 1
        part = requests[start:stop]
        looked = cache(partial(_approximate, corpus, part))  # for all of them together, when the first needs it
        hits += [_best(corpus, rows, request, lambda looked=looked, i=i: looked()[i]) for i, request in enumerate(part)]  # type: ignore[misc]
        start = stop
    return hits


def _approximate(corpus: Corpus, requests: Sequence[Request], wide: bool = True) -> list[Floats]:
    out = [np.zeros(len(corpus.live), np.float32) for _ in requests]
    for name in dict.fromkeys(term.within for request in requests for term in request.terms):
        asked = [(number, term) for number, request in enumerate(requests) for term in request.terms if term.within == name]
        found = corpus.approximate(name, np.concatenate([term.vectors for _, term in asked]), wide)
        at = 0
        for number, term in asked:
            part = found[at : at + len(term.vectors)]
            out[number] += np.float32(term.weight) * term.counted(part)
            at += len(term.vectors)
    for scores, request in zip(out, requests):
        if request.words:
            scores += np.float32(request.word_weight) * _word_scores(request, corpus.live.keys)
    return out


def _word_scores(request: Request, keys: Keys) -> Floats:
    """(n,) the lexical part of rows by their keys, which ascend; 0 without one."""
    found, values = np.fromiter(request.words, np.int64), np.fromiter(request.words.values(), np.float32)
    there, out = np.isin(found, keys), np.zeros(len(keys), np.float32)
    out[np.searchsorted(keys, found[there])] = values[there]
    return out


def _best(corpus: Corpus, rows: IndexRows, request: Request, approximate: Callable[[], Floats]) -> list[Hit]:
    """Candidates are taken until there are k hits, which takes one turn unless products are grouped."""
    allowed = request.allowed
    most = len(corpus.live) if allowed is None else int(allowed.sum())
    if allowed is not None and most < len(corpus.live) // FEW:
        few = replace(request, allowed=None)
        small = Corpus(corpus.segments, corpus.live.take(allowed))
        return _best(small, rows, few, lambda: _approximate(small, [few])[0])
    count = max(CANDIDATES, EACH * request.k, WIDE if corpus.has_coarse else 0)
    while True:
        ranked = max(EACH * request.k, count * CANDIDATES // WIDE) if corpus.has_coarse else count
        if most <= count:
            positions = np.arange(len(corpus.live)) if allowed is None else np.flatnonzero(allowed)
        else:
            scores = approximate()
            _require_finite(scores)
            positions = largest(scores, count, allowed)
        if len(positions) > ranked and corpus.has_coarse:
            positions = _narrowed(corpus, request, positions, ranked)
        scored = _scored(corpus, request, positions)
        chosen = _chosen(corpus, rows, request, scored)
        if len(chosen) == request.k or most <= ranked:
            return _hits(corpus, rows, request, scored, chosen)
        count *= 8


def _narrowed(corpus: Corpus, request: Request, positions: Positions, count: int) -> Positions:
    """The best by all codes of what coarse tokens, or a filter, have chosen."""
    chosen = np.zeros(len(corpus.live), bool)
    chosen[positions] = True
    few = Corpus(corpus.segments, corpus.live.take(chosen))
    return positions[largest(_approximate(few, [request], wide=False)[0], count)]


def _scored(corpus: Corpus, request: Request, positions: Positions) -> _Scored:
    total = np.zeros(len(positions), np.float32)
    parts: dict[str, Floats] = {}
    token = None
    for term in request.terms:
        score, tokens = corpus.exact(term.within, term.vectors, positions)
        own = term.counted(score)
        if term.part == "image" and len(score) == 1 and sum(one.part == "image" for one in request.terms) == 1:
            token = tokens[0]
        total = total + np.float32(term.weight) * own
        parts[term.part] = parts[term.part] + own if term.part in parts else own
    if request.word_weight:
        parts["words"] = _word_scores(request, corpus.live.keys[positions])
        total = total + np.float32(request.word_weight) * parts["words"]
    _require_finite(total)
    return _Scored(positions, total, parts, token)


def _require_finite(scores: Floats) -> None:
    if not np.isfinite(scores).all():
        raise ArgumentError("scores are NaN or infinite: the query's numbers, a weight or the model's weights are out of range")


def _chosen(corpus: Corpus, rows: IndexRows, request: Request, scored: _Scored) -> list[int]:
    """Indices of the k best, best first; only those whose score may be among them are looked up by name."""
    keys = corpus.live.keys[scored.positions]
    inside = np.arange(len(keys)) if request.group is not None else largest(scored.score, request.k)
    ids = rows.named(keys[inside].tolist())
    ranked = [int(inside[i]) for i in order(scored.score[inside], [ids[int(key)] for key in keys[inside]])]
    if request.group is None:
        return ranked[: request.k]
    products = rows.named(keys.tolist(), request.group)
    best: dict[str, int] = {}
    for index in ranked:
        best.setdefault(products[int(keys[index])], index)
    return list(best.values())[: request.k]


def _hits(corpus: Corpus, rows: IndexRows, request: Request, scored: _Scored, chosen: Sequence[int]) -> list[Hit]:
    keys = corpus.live.keys[scored.positions].tolist()
    items = rows.items([keys[i] for i in chosen])
    captioned = any(term.part == "caption" for term in request.terms)
    hits = []
    for i in chosen:
        item = items[keys[i]]
        parts = {name: float(values[i]) for name, values in scored.parts.items()}
        caption = None
        if captioned:
            caption = item.caption or None
            if caption is None:
                del parts["caption"]
        token = None if scored.token is None else int(scored.token[i])
        hits.append(
            Hit(
                item.id,
                float(scored.score[i]),
                parts.get("image", 0.0),
                token,
                parts.get("caption"),
                caption,
                image=item.image,
                product=item.product or item.id,
                columns=dict(item.columns),
                parts=parts,
            )
        )
    return hits
