"""An index at the size of a shop: build, add, remove, searches of one and of 32 queries, memory and recall, engines side by side.

    python benchmarks/index.py                       # 35,500 images x 32 tokens x 256, random and clustered tokens
    python benchmarks/index.py --scale million       # a million images, fp16 as int8 codes alone, coarse tokens
    python benchmarks/index.py --scale tiny          # seconds; what the test runs
    python benchmarks/bench.py index                 # its goals alone

Tokens are drawn, no model is asked. *Random* tokens are independent unit vectors, which no index can summarise; *clustered* ones are what a
model gives more nearly: images belong to some hundreds of kinds, an image's tokens to some kinds of tokens. Queries are tokens of held-out
images of the same kind, with noise. Times are processor times of one thread, the best of several turns, because other work on the machine does
not count in them. Recall is the share of the exact fp32 ranking's first ten.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from index_engines import ENGINES, compared
from sidebyside import Goal, in_turns

from unifashion_pl import files
from unifashion_pl.gallery import store
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.ranking import Request, Term, rank
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.scan import Corpus
from unifashion_pl.gallery.segments import Floats, Segment, segment_from
from unifashion_pl.gallery.stored import IndexSettings, Stored

K, QUERIES = 10, 32


@dataclass(frozen=True)
class Scale:
    """Images, tokens of each, their width, and how they are kept."""

    images: int
    tokens: int = 32
    width: int = 256
    storages: tuple[str, ...] = ("fp32", "fp16", "int8")
    coarse: tuple[int | None, ...] = (None,)
    block: int = 16384
    engines: bool = True


SCALES = {
    "tiny": Scale(600, 8, 32, block=250, coarse=(None, 2)),
    "shop": Scale(35_500),
    "million": Scale(1_000_000, storages=("int8",), coarse=(1,), engines=False),
}


def drawn(kind: str, scale: Scale, start: int, count: int) -> Floats:
    """(count, tokens, width) unit vectors of the images from ``start`` on, the same whenever they are asked for."""
    chance = np.random.default_rng([1, start])
    noise = chance.standard_normal((count, scale.tokens, scale.width), dtype=np.float32)
    if kind == "clustered":
        fixed = np.random.default_rng(0)
        kinds = fixed.standard_normal((500, scale.width), dtype=np.float32)
        parts = fixed.standard_normal((8, scale.width), dtype=np.float32)
        own = chance.standard_normal((count, 1, scale.width), dtype=np.float32)
        part = chance.integers(0, len(parts), (count, scale.tokens))
        own += kinds[chance.integers(0, len(kinds), count)][:, None]
        noise *= np.float32(0.5)
        for image, one, which in zip(noise, own, part):  # in a core's cache
            image += one
            image += parts[which]
    for start in range(0, count, 64):
        block = noise[start : start + 64]
        block /= np.sqrt(np.einsum("nqe,nqe->nq", block, block))[..., None]
    return noise


def queries(kind: str, scale: Scale) -> Floats:
    """(QUERIES, width): one token of images that are not in the index, with noise."""
    held_out = drawn(kind, scale, 1 << 40, QUERIES)[:, 0]
    held_out = held_out + 0.3 / scale.width**0.5 * np.random.default_rng(2).standard_normal(held_out.shape, dtype=np.float32)
    return np.asarray(held_out / np.linalg.norm(held_out, axis=1, keepdims=True), np.float32)


def processor_time(work: Callable[[], Any], turns: int) -> float:
    """Seconds of the best turn, after one that does not count; 0 turns = of the first."""
    if turns:
        work()
    best = float("inf")
    for _ in range(turns or 1):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def exact_best(kind: str, scale: Scale, asked: Floats) -> list[set[int]]:
    """The first ten of each query by fp32, block by block."""
    scores = []
    for start in range(0, scale.images, scale.block):
        tokens = torch.from_numpy(drawn(kind, scale, start, min(scale.block, scale.images - start)))
        scores.append((tokens.flatten(0, 1) @ torch.from_numpy(asked).T).view(len(tokens), scale.tokens, -1).amax(1))
    return [set(column.tolist()) for column in torch.cat(scores).topk(K, 0).indices.T]


def built(kind: str, scale: Scale, storage: str, coarse: int | None, folder: Path) -> dict[str, float]:
    """An index of all images in a folder, then one image added and one removed -> seconds and bytes."""
    settings = IndexSettings("reference", "benchmark", storage, None, coarse)  # type: ignore[arg-type]
    start, drawing = time.process_time(), 0.0
    rows, held = IndexRows(), dict[int, Segment]()
    for number, first in enumerate(range(0, scale.images, scale.block)):
        before = time.process_time()
        tokens = drawn(kind, scale, first, min(scale.block, scale.images - first))
        drawing += time.process_time() - before
        segment = segment_from({"reference": tokens}, storage, None, coarse)
        with files.exclusive(folder):
            held[number] = segment_at(folder, segment)
        rows.add(
            [(number, [IndexItem(f"i{first + i}", columns={"price": i % 100}) for i in range(len(tokens))], [-1] * len(tokens))]
        )
    with files.exclusive(folder):
        store.put_anew(folder, Stored(settings, rows, held))
    figures = {"build": time.process_time() - start - drawing}
    figures["bytes an image"] = sum(path.stat().st_size for path in folder.iterdir()) / scale.images
    figures["open"] = processor_time(lambda: store.read(folder), 2)
    stored = store.read(folder)
    new = segment_from({"reference": drawn(kind, scale, 1 << 41, 1)}, storage, None, coarse)
    number = max(stored.segments) + 1
    start = time.process_time()
    stored.rows.add([(number, [IndexItem("new")], [-1])])
    with files.exclusive(folder):
        store.save(folder, replace(stored, segments={**stored.segments, number: new}))
    figures["add one"] = time.process_time() - start
    start = time.process_time()
    store.take_out(folder, ["new"])
    figures["remove one, opening included"] = time.process_time() - start
    return figures


def segment_at(folder: Path, segment: Segment) -> Segment:
    """A segment on the disk instead of in memory."""
    from unifashion_pl.gallery import segments

    return segments.read(folder / segments.write(folder, segment))


def searched(stored: Stored, asked: Floats, best: list[set[int]], turns: int) -> dict[str, float]:
    """Milliseconds a query alone and of 32 together, with a filter, and recall."""
    corpus = Corpus(stored.segments, stored.rows.live())

    def search(vectors: Floats, allowed: Any = None) -> list[list[Any]]:
        return rank(corpus, stored.rows, [Request([Term("image", "reference", one[None])], K, allowed) for one in vectors])

    hits = search(asked)
    found = [len({int(hit.id[1:]) for hit in own} & right) / K for own, right in zip(hits, best)]
    few = np.isin(corpus.live.keys, stored.rows.matching("price < 5"))
    return {
        "recall": float(np.mean(found)),
        "one": 1e3 * processor_time(lambda: search(asked[:1]), turns),
        "of 32": 1e3 * processor_time(lambda: search(asked), max(1, turns // 2)) / len(asked),
        "filtered": 1e3 * processor_time(lambda: search(asked[:1], few), turns),
    }


def measured(name: str, kind: str, turns: int, names: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """All figures of one size and kind of tokens."""
    scale = SCALES[name]
    asked = queries(kind, scale)
    best = exact_best(kind, scale, asked)
    for storage in scale.storages:
        for coarse in scale.coarse:
            with tempfile.TemporaryDirectory() as place:
                figures = built(kind, scale, storage, coarse, Path(place))
                figures |= searched(store.read(Path(place)), asked, best, turns)
            figures["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
            yield {"tokens": kind, "engine": f"ours, {storage}" + (f", coarse {coarse}" if coarse else ""), **figures}
    if scale.engines:
        tokens = np.concatenate(
            [drawn(kind, scale, first, min(scale.block, scale.images - first)) for first in range(0, scale.images, scale.block)]
        )
        codes = np.rint(tokens.reshape(-1) * 127).astype(np.int8).view(np.int64)
        yield {"tokens": kind, "engine": "int8 bytes read once", "one": 1e3 * processor_time(codes.sum, turns)}
        del codes
        for figures in compared(tokens, asked, best, processor_time, turns, names):
            yield {"tokens": kind, **figures}


def goals(name: str = "shop") -> list[Goal]:
    """An index as it is kept where nothing is said, of random tokens, beside reading the codes' bytes once and beside einsum over all tokens."""
    scale = SCALES[name]
    asked = queries("random", scale)
    starts = range(0, scale.images, scale.block)
    with tempfile.TemporaryDirectory() as place:
        built("random", scale, IndexSettings.storage, None, Path(place))
        stored = store.read(Path(place))
        corpus = Corpus(stored.segments, stored.rows.live())
        tokens = np.concatenate([drawn("random", scale, first, min(scale.block, scale.images - first)) for first in starts])
        codes = np.rint(tokens.reshape(-1) * 127).astype(np.int8).view(np.int64)
        whole, vectors = torch.from_numpy(tokens), torch.from_numpy(asked)

        def search(some: Floats) -> list[list[Any]]:
            return rank(corpus, stored.rows, [Request([Term("image", "reference", one[None])], K, None) for one in some])

        def einsum() -> torch.Tensor:
            return torch.einsum("e,nqe->nq", vectors[0], whole).amax(1).topk(K).indices

        found = [{int(hit.id[1:]) for hit in own} for own in search(asked)]
        recall = float(np.mean([len(own & right) / K for own, right in zip(found, exact_best("random", scale, asked))]))
        taken = in_turns(
            {"one": lambda: search(asked[:1]), "bytes": codes.sum, "einsum": einsum, "of 32": lambda: search(asked)}, 7
        )
    one, read, peer, many = (1e3 * taken[name] for name in ("one", "bytes", "einsum", "of 32"))
    many /= len(asked)
    size = f"{scale.images:,} images x {scale.tokens} tokens x {scale.width}"
    said = {"equal": f"recall@{K} {recall:.4f} of the exact ranking", "command": "python benchmarks/bench.py index"}
    return [
        Goal(f"one query of {size}: at most 2 x reading the int8 bytes", f"{one:.1f} ms", f"bytes once {read:.1f} ms",
             read / one, 0.5, limit=f"{read:.1f} ms", **said),
        Goal(f"32 queries together, each >= 20 x einsum, {size}", f"{many:.1f} ms a query", f"einsum {peer:.0f} ms a query",
             peer / many, 20.0, limit=f"{read / len(asked):.1f} ms: bytes read once for all", **said),
        Goal(f"recall@{K} >= 0.999, {size}", f"{recall:.4f}", "exact fp32 ranking 1", recall, 0.999, limit="1", **said),
    ]  # fmt: skip


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="shop")
    parser.add_argument("--images", type=int, help="other than the scale's")
    parser.add_argument("--kinds", nargs="+", choices=("random", "clustered"), default=["random", "clustered"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--engines", nargs="*", choices=ENGINES, help="beside ours; default: all that are installed")
    told = parser.parse_args(args)
    torch.set_num_threads(1)
    if told.images:
        SCALES[told.scale] = Scale(**{**vars(SCALES[told.scale]), "images": told.images})
    for kind in told.kinds:
        for line in measured(told.scale, kind, told.turns, told.engines):
            plain = {name: round(value, 4) if isinstance(value, float) else value for name, value in line.items()}
            print(json.dumps(plain), flush=True)


if __name__ == "__main__":
    main()
