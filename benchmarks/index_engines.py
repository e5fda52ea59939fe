"""Other engines on the tokens of :mod:`index`, each with what it has for many vectors an image: built, changed, asked.

An engine that is not installed is left out: `pip install faiss-cpu usearch qdrant-edge-py lancedb`. All are asked for the images of the best
tokens (MaxSim); what an engine lacks, grouping or exact ranking, is done here in numpy and counted. Letters: N images, Q tokens, E width.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
K, BATCH = 10, 256


class Engine(Protocol):
    """An index of images by their numbers."""

    def add(self, tokens: Floats, first: int) -> None:
        """Append images (n, Q, E), numbered from ``first`` on."""

    def remove(self, number: int) -> None: ...

    def search(self, asked: Floats) -> list[list[int]]:
        """(m, E) -> the best ten images of each."""


def best_images(tokens_of: NDArray[np.int64]) -> list[int]:
    """The first ten images in a list of the images of tokens, best first."""
    return list(dict.fromkeys(tokens_of.tolist()))[:K]


class Torch:
    """fp32 in memory; einsum for one query, one product for many."""

    def __init__(self, _: Path) -> None:
        self.tokens = torch.empty(0)

    def add(self, tokens: Floats, first: int) -> None:
        self.tokens = torch.from_numpy(tokens) if not first else torch.cat([self.tokens, torch.from_numpy(tokens)])

    def remove(self, number: int) -> None:
        self.tokens = torch.cat([self.tokens[:number], self.tokens[number + 1 :]])

    def search(self, asked: Floats) -> list[list[int]]:
        vectors = torch.from_numpy(asked)
        if len(vectors) == 1:
            scores = torch.einsum("e,nqe->nq", vectors[0], self.tokens).amax(1)[None]
        else:
            scores = (self.tokens.flatten(0, 1) @ vectors.T).view(*self.tokens.shape[:2], -1).amax(1).T
        found: list[list[int]] = scores.topk(min(K, scores.shape[1]), 1).indices.tolist()
        return found


class Faiss:
    """Flat, or 8-bit codes whose best images are ranked by exact numbers."""

    def __init__(self, kind: str) -> None:
        self.kind, self.index, self.tokens = kind, None, np.empty(0, np.float32)

    def __call__(self, _: Path) -> Faiss:
        return Faiss(self.kind)

    def add(self, tokens: Floats, first: int) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        N, Q, E = tokens.shape
        if self.index is None:
            own = (
                faiss.IndexFlatIP(E)
                if self.kind == "flat"
                else faiss.IndexScalarQuantizer(E, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            )
            self.index, self.Q = faiss.IndexIDMap(own), Q
            self.index.train(tokens.reshape(-1, E)[:65536])
        self.index.add_with_ids(tokens.reshape(-1, E), np.repeat(np.arange(first, first + N), Q))
        self.tokens = tokens if not first else self.tokens  # what it ranks by; a real one would have to grow it

    def remove(self, number: int) -> None:
        assert self.index is not None
        self.index.remove_ids(np.array([number]))

    def search(self, asked: Floats) -> list[list[int]]:
        assert self.index is not None
        found = self.index.search(asked, (K - 1) * self.Q + 1)[1]  # so many tokens are of ten images at least
        if self.kind == "flat":
            return [best_images(row) for row in found]
        ranked = []
        for vector, row in zip(asked, found):
            images = np.unique(row)
            scores = (self.tokens[images] @ vector).max(1)
            ranked.append(images[np.argsort(-scores, kind="stable")][:K].tolist())
        return ranked


class Usearch:
    """HNSW over int8 tokens, one thread."""

    def __init__(self, _: Path) -> None:
        self.index: Any = None

    def add(self, tokens: Floats, first: int) -> None:
        from usearch.index import Index

        N, self.Q, E = tokens.shape
        if self.index is None:
            self.index = Index(ndim=E, metric="ip", dtype="i8")
        self.index.add(np.arange(first * self.Q, (first + N) * self.Q), tokens.reshape(-1, E), threads=1)

    def remove(self, number: int) -> None:
        self.index.remove(np.arange(number * self.Q, (number + 1) * self.Q))

    def search(self, asked: Floats) -> list[list[int]]:
        many = (K - 1) * self.Q + 1
        return [best_images(np.asarray(self.index.search(one, many, threads=1).keys, np.int64) // self.Q) for one in asked]


class Qdrant:
    """Qdrant in the process: fp16 multi-vectors with MaxSim, no graph; ``stages``: the best 1,024 by the mean first."""

    def __init__(self, stages: bool) -> None:
        self.stages = stages

    def __call__(self, folder: Path) -> Qdrant:
        new = Qdrant(self.stages)
        new.folder = folder / "shard"
        return new

    folder: Path
    shard: Any = None

    def add(self, tokens: Floats, first: int) -> None:
        import qdrant_edge as q

        if self.shard is None:
            self.folder.mkdir()
            plain, half = q.HnswIndexConfig(m=0, ef_construct=8, full_scan_threshold=0), q.VectorStorageDatatype.Float16
            many = q.MultiVectorConfig(q.MultiVectorComparator.MaxSim)
            vectors = {
                "tokens": q.EdgeVectorParams(
                    tokens.shape[2], q.Distance.Dot, multivector_config=many, datatype=half, hnsw_config=plain
                ),
                "mean": q.EdgeVectorParams(tokens.shape[2], q.Distance.Dot, datatype=half, hnsw_config=plain),
            }
            self.shard = q.EdgeShard.create(str(self.folder), q.EdgeConfig(vectors=vectors, max_search_threads=1))
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            points = [
                q.Point(first + start + i, {"tokens": one.tolist(), "mean": one.mean(0).tolist()}) for i, one in enumerate(part)
            ]
            self.shard.update(q.UpdateOperation.upsert_points(points))
        self.shard.flush()

    def remove(self, number: int) -> None:
        import qdrant_edge as q

        self.shard.update(q.UpdateOperation.delete_points([number]))
        self.shard.flush()

    def search(self, asked: Floats) -> list[list[int]]:
        import qdrant_edge as q

        def request(vector: Floats) -> Any:
            first = [q.Prefetch(1024, q.Query.Nearest(vector.tolist(), "mean"))] if self.stages else None
            return q.QueryRequest(K, query=q.Query.Nearest([vector.tolist()], "tokens"), prefetches=first)

        return [[point.id for point in self.shard.query(request(one))] for one in asked]


class Lance:
    """LanceDB: flat search over a column of several vectors."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.table = folder, None

    def add(self, tokens: Floats, first: int) -> None:
        import lancedb
        import pyarrow as pa

        N, Q, E = tokens.shape
        flat = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), E)
        column = pa.ListArray.from_arrays(pa.array(np.arange(0, (N + 1) * Q, Q, dtype=np.int32)), flat)
        rows = pa.table({"id": pa.array(np.arange(first, first + N)), "tokens": column})
        if self.table is None:
            self.table = lancedb.connect(str(self.folder)).create_table("images", rows)
        else:
            self.table.add(rows)

    def remove(self, number: int) -> None:
        assert self.table is not None
        self.table.delete(f"id = {number}")

    def search(self, asked: Floats) -> list[list[int]]:
        assert self.table is not None
        return [
            self.table.search([one.tolist()], vector_column_name="tokens")
            .distance_type("cosine")
            .limit(K)
            .select(["id", "_distance"])
            .to_arrow()["id"]
            .to_pylist()
            for one in asked
        ]


#: Name -> the package, the engine, and how many images it is given at most: the others would take hours.
ENGINES: dict[str, tuple[str, Callable[[Path], Engine], int]] = {
    "torch fp32": ("torch", Torch, 1 << 30),
    "faiss flat": ("faiss", Faiss("flat"), 1 << 30),
    "faiss 8 bits, ranked exactly": ("faiss", Faiss("sq8"), 1 << 30),
    "usearch HNSW int8": ("usearch", Usearch, 2000),
    "qdrant-edge fp16": ("qdrant_edge", Qdrant(False), 1 << 30),
    "qdrant-edge fp16, 1,024 by the mean": ("qdrant_edge", Qdrant(True), 1 << 30),
    "LanceDB fp32": ("lancedb", Lance, 1 << 30),
}


def installed(names: list[str] | None = None) -> Iterator[tuple[str, Callable[[Path], Engine], int]]:
    """Those of the engines whose packages are here."""
    for name, (package, make, most) in ENGINES.items():
        if importlib.util.find_spec(package) and (names is None or name in names):
            yield name, make, most


def compared(
    tokens: Floats,
    asked: Floats,
    best: list[set[int]],
    timed: Callable[[Callable[[], Any], int], float],
    turns: int,
    names: list[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Figures of each installed engine.

    Args:
        best: the first ten of each query. timed: seconds of the best of some turns.
    """
    for name, make, most in installed(names):
        part = tokens[:most]
        with tempfile.TemporaryDirectory() as place:
            before, engine = resident(), make(Path(place))
            figures: dict[str, Any] = {"engine": name, "images": len(part)}
            figures["build"] = timed(lambda engine=engine, part=part: engine.add(part, 0), 0)
            found = engine.search(asked)
            if len(part) == len(tokens):
                figures["recall"] = float(np.mean([len(set(one) & right) / K for one, right in zip(found, best)]))
            figures["one"] = 1e3 * timed(lambda engine=engine: engine.search(asked[:1]), turns)
            figures["of 32"] = 1e3 * timed(lambda engine=engine: engine.search(asked), 1) / len(asked)
            figures["GB in memory"] = resident() - before
            figures["add one"] = timed(lambda engine=engine, part=part: engine.add(part[:1], len(part)), 0)
            figures["remove one"] = timed(lambda engine=engine, part=part: engine.remove(len(part)), 0)
            figures["bytes an image"] = sum(p.stat().st_size for p in Path(place).rglob("*") if p.is_file()) / len(part)
            yield figures
            del engine


def resident() -> float:
    """GB that this process has in memory."""
    import os

    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    except OSError:
        return float("nan")
