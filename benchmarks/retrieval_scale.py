"""Exact two-way retrieval at the size of FashionGen's test set: time, memory and arithmetic of the metric.

    python benchmarks/retrieval_scale.py                                     # 35,500 images x 35,500 texts x 32 tokens x 256
    python benchmarks/retrieval_scale.py --images 8875 --texts 8875          # a sixteenth of the work

Random unit features, made and handed over in blocks, go through ``FashionGenRecall(protocol="fashiongen_full")``; the score matrix is
never stored. Printed beside the wall time: the FLOPs that the matrix products of the metric really did (pass 1, pass 2 and padding),
the rate of a bare ``torch`` product of the same block shape (per second of wall time, and of processor time for a machine that
does other work too), and the process's peak memory. A few ranks are checked against a
direct computation. ``--shuffled`` gives products names in random order, as files do, so that positives are far from the diagonal.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from unifashion_pl.metrics.fashiongen import FashionGenRecall
from unifashion_pl.metrics.recall import max_similarity

BATCH = 256
BLOCK = (256, 1024)
CHECKED = 8
GIGA = 1e9


def features(kind: str, start: int, stop: int, args: argparse.Namespace) -> Tensor:
    """Rows of one block, the same whenever they are asked for: images (B, Q, E), texts (B, E)."""
    generator = torch.Generator().manual_seed(2 * start + (kind == "texts"))
    shape = (stop - start, args.tokens, args.dim) if kind == "images" else (stop - start, args.dim)
    return normalize(torch.randn(shape, generator=generator), dim=-1)


def blocks(n: int) -> list[tuple[int, int]]:
    return [(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]


def peak_gigabytes() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGA


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def rates(self, flops: float) -> tuple[float, float]:
        """GFLOP per second of wall time and of processor time; the second hardly depends on what else the machine does."""
        return flops / (time.perf_counter() - self.start[0]) / GIGA, flops / (time.process_time() - self.start[1]) / GIGA


def bare_product(args: argparse.Namespace, seconds: float = 3.0) -> tuple[float, float]:
    """The same rates of nothing but the product of one block, for some seconds."""
    a, b = torch.randn(BLOCK[0] * args.tokens, args.dim), torch.randn(args.dim, BLOCK[1])
    out = torch.empty(len(a), BLOCK[1])
    torch.mm(a, b, out=out)
    clock, calls, end = Clock(), 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        torch.mm(a, b, out=out)
        calls += 1
    return clock.rates(2 * a.numel() * BLOCK[1] * calls)


def filled(args: argparse.Namespace, products: list[str]) -> FashionGenRecall:
    """The metric with all features in it; neighbouring images are views of one product."""
    metric = FashionGenRecall("fashiongen_full")
    for start, stop in blocks(args.images):
        own = [products[i * args.texts // args.images] for i in range(start, stop)]
        names = [f"r{i:07d}" for i in range(start, stop)]
        metric.update_images(names, own, ["all"] * len(own), ["all"] * len(own), features("images", start, stop, args))
    for start, stop in blocks(args.texts):
        own = products[start:stop]
        metric.update_texts(own, features("texts", start, stop, args), [f"text of {p}" for p in own])
    return metric


def checked_ranks(args: argparse.Namespace, metric: FashionGenRecall) -> int:
    """Number of the first images whose rank equals a direct count over all texts.

    Raises:
        AssertionError: naming an image whose rank is another one, though no other score is within rounding of its own.
    """
    found = {q["query"]: q["rank"] - 1 for q in metric.per_query() if q["direction"] == "i2t"}
    tokens = features("images", *blocks(args.images)[0], args)[:CHECKED]
    vectors = torch.cat([features("texts", start, stop, args) for start, stop in blocks(args.texts)])
    for i, scores in enumerate(max_similarity(tokens, vectors)):
        own = scores[i * args.texts // args.images]
        near = int(((scores - own).abs() < 1e-6).sum()) - 1
        expected = int((scores > own).sum())
        assert abs(found[f"r{i:07d}"] - expected) <= near, f"image {i}: rank {found[f'r{i:07d}']}, counted {expected}"
    return len(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 35_500), ("texts", 35_500), ("tokens", 32), ("dim", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: its own choice")
    parser.add_argument("--shuffled", action="store_true", help="names of products in random order")
    parser.add_argument("--limit-gb", type=float, default=4.0, help="peak memory that is called too much")
    args = parser.parse_args()
    if not 1 <= args.texts <= args.images:
        parser.error(
            f"--texts {args.texts} with --images {args.images}: every text's product needs an image, so texts <= images"
        )
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    order = (
        torch.randperm(args.texts, generator=torch.Generator().manual_seed(0)) if args.shuffled else torch.arange(args.texts)
    )
    products = [f"p{i:07d}" for i in order.tolist()]

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; peak memory after imports {peak_gigabytes():.2f} GB")
    before = bare_product(args)
    start = time.perf_counter()
    metric = filled(args, products)
    stored = time.perf_counter()
    print(
        f"features of {args.images:,} images and {args.texts:,} texts stored in {stored - start:.1f} s, {peak_gigabytes():.2f} GB"
    )
    clock = Clock()
    with FlopCounterMode(display=False) as counter:
        values = metric.compute()
    wall = time.perf_counter() - stored
    done, needed = counter.get_total_flops(), 2 * args.images * args.texts * args.tokens * args.dim
    own, peak = clock.rates(done), peak_gigabytes()
    print(f"ranks in {wall:.1f} s: {done / 1e12:.2f} TFLOP done ({needed / 1e12:.2f} for one pass)")
    print("GFLOP per second        wall    processor")
    for name, rates in (("exact ranks", own), ("bare product, before", before), ("bare product, after", bare_product(args))):
        print(f"{name:20} {rates[0]:8.1f} {rates[1]:12.1f}")
    print(f"peak memory {peak:.2f} GB, limit {args.limit_gb:g} GB: {'within' if peak <= args.limit_gb else 'TOO MUCH'}")
    print({name: round(value, 4) for name, value in values.items()})
    print(f"{checked_ranks(args, metric)} ranks equal a direct count")


if __name__ == "__main__":
    main()
