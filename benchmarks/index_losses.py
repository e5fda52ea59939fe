"""What an index loses by how it is kept, and gains by words: the shipped model on its wardrobe, pictures found by descriptions.

    python benchmarks/index_losses.py                # 2,000 products, 500 descriptions
    python benchmarks/index_losses.py --products 60 --texts 20

Every product is drawn once and never seen in training (seed 7). Each description asks for one product; *same* counts ten hits of its category and
colour, *recall* the share of the first ten of fp32 without words. Titles of the rows are the wardrobe's names ("Red Dotted Dress"); descriptions are
one detailed sentence (Fashion-IQ's style) or three to six words (Fashion200K's).
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from unifashion_pl import UniFashionModule
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.ranking import Request, Term, rank
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.scan import Corpus, approximate
from unifashion_pl.gallery.segments import Floats, coded, pooled, segment_from
from unifashion_pl.wardrobe.products import Product, make_product
from unifashion_pl.wardrobe.render import render_product
from unifashion_pl.wardrobe.texts import describe, name_of

K, SEED, DEEP = 10, 7, 32
STORAGES, POOLS, COARSE, WORDS = ("fp32", "fp16", "int8"), (4, 2, 1), (2, 1), (0.05, 0.1, 0.2, 0.5, 1.0)


def searched(
    tokens: Floats, rows: IndexRows, asked: Floats, texts: Sequence[str], words: float, **kept: Any
) -> list[list[int]]:
    """The products that each text finds.

    Args:
        kept: ``storage, pool``. words: weight of the lexical part.
    """
    corpus = Corpus({0: segment_from({"reference": tokens}, **kept)}, rows.live())
    requests = [
        Request([Term("image", "reference", one[None])], K, words=rows.words(text) if words else {}, word_weight=words)
        for one, text in zip(asked, texts)
    ]
    return [[int(hit.id) for hit in hits] for hits in rank(corpus, rows, requests)]


def figures(found: list[list[int]], exact: list[list[int]], products: Sequence[Product], step: int) -> dict[str, float]:
    """Own product first and among ten, hits of its category and colour, and recall of what fp32 found."""
    own = [i * step for i in range(len(found))]
    alike = [
        np.mean([(products[j].category, products[j].colour) == (products[i].category, products[i].colour) for j in hits])
        for i, hits in zip(own, found)
    ]
    return {
        "first": float(np.mean([hits[0] == i for i, hits in zip(own, found)])),
        "among ten": float(np.mean([i in hits for i, hits in zip(own, found)])),
        "same": float(np.mean(alike)),
        "recall": float(np.mean([len({*one} & {*right}) / K for one, right in zip(found, exact)])),
    }


def measured(number: int, asked: int) -> Iterator[dict[str, Any]]:
    """A line for each way to keep vectors, each weight of words, and each style of descriptions."""
    model = UniFashionModule.from_pretrained("tiny", heads=("retrieval",))
    products = [make_product(SEED, i) for i in range(number)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = model.encode_image([render_product(p, "front", 64, f"loss{i}") for i, p in enumerate(products)]).numpy()
    apart = np.einsum("nqe,npe->nqp", tokens, tokens)
    yield {"cosine between tokens of an image": float(apart.mean()), "images": number, "tokens": tokens.shape[1]}
    rows = IndexRows()
    rows.add(
        [(0, [IndexItem(str(i), columns={"title": name_of(p)}) for i, p in enumerate(products)], [-1] * number)],
    )
    step = max(1, number // asked)
    for style in ("fashioniq", "fashion200k"):
        texts = [describe(p, style, random.Random(i)) for i, p in enumerate(products[::step])]
        vectors = model.encode_text(texts).numpy()
        exact = searched(tokens, rows, vectors, texts, 0, storage="fp32")
        ways = [{"storage": storage} for storage in STORAGES]
        ways += [{"storage": "fp32", "pool": pool} for pool in POOLS]
        for kept in ways:
            found = searched(tokens, rows, vectors, texts, 0, **kept)  # type: ignore[arg-type]
            yield {"texts": style, **kept, **figures(found, exact, products, step)}
        for few in COARSE:
            order = np.argsort(-approximate(vectors, coded(pooled(tokens, few))), 1, kind="stable")[:, :DEEP]
            held = float(np.mean([len({*one} & {*right}) / K for one, right in zip(order.tolist(), exact)]))
            yield {"texts": style, "coarse": few, f"of the first ten among {DEEP} candidates": held}
        for words in WORDS:
            found = searched(tokens, rows, vectors, texts, words, storage="fp32")
            yield {"texts": style, "words": words, **figures(found, exact, products, step)}


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=2000)
    parser.add_argument("--texts", type=int, default=500)
    told = parser.parse_args(args)
    torch.set_num_threads(1)
    for line in measured(told.products, told.texts):
        print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in line.items()}))


if __name__ == "__main__":
    main()
