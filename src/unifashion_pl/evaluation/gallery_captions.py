"""Gallery captions by the model's own caption head, from the image alone: a caption library that passes the leak guards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifashion_pl.data.samples import Batch, GalleryBatch
from unifashion_pl.files import check_writable, write_text
from unifashion_pl.inference.requests import evaluating, head_of
from unifashion_pl.learned import require
from unifashion_pl.metrics.leaks import check_provenance
from unifashion_pl.provenance import weights_hash

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

NO_WORDS = "."


def write_gallery_captions(
    model: UniFashionModule,
    batches: Iterable[Batch],
    out: str | Path,
    *,
    style: str = "fashioniq",
    num_beams: int = 1,
    max_new_tokens: int = 64,
) -> Path:
    """Caption every gallery image from its pixels (image pass with q_R); no query, category or keyword reaches the caption head.

    The file is what ``gallery_captions`` of a DataModule reads: JSON Lines with ``image`` and ``caption``, and with ``captioner``,
    ``weights_hash``, ``template``, ``decoding`` and ``inputs`` as provenance. An empty answer is stored as ``.`` with
    ``"empty": true``, because evaluation takes an empty caption for an absent one.

    Args:
        batches: evaluation batches; all but gallery batches are passed over, an id that comes twice is captioned once.
        out: the ``.jsonl`` file; it appears when it is complete.
        style, num_beams, max_new_tokens: of the caption head's ``generate``.

    Returns:
        ``out``.

    Raises:
        RuntimeError: a model without a caption head, or that has not learned to caption.
        ValueError: no gallery image among the batches.
        WriteError: ``out`` cannot be written.
    """
    head = head_of(model, "caption")
    require(model, "caption")
    check_writable(out)
    provenance: dict[str, Any] = {
        "captioner": "unifashion_pl caption head",
        "weights_hash": weights_hash(model),
        "template": head.styles[style],
        "decoding": {"style": style, "num_beams": num_beams, "max_new_tokens": max_new_tokens},
        "inputs": ["image"],
    }
    lines: dict[str, dict[str, Any]] = {}
    with evaluating(model):
        for batch in batches:
            if not isinstance(batch, GalleryBatch):
                continue
            rows = [i for i, key in enumerate(batch.keys) if key not in lines]
            if not rows:
                continue
            queries = model.backbone.image_pass(model.backbone.image_features(batch.images[rows].to(model.device)))
            texts = head.generate(queries, [style] * len(rows), num_beams=num_beams, max_new_tokens=max_new_tokens)
            for i, text in zip(rows, texts):
                words = " ".join(text.split())
                found = {"caption": words} if words else {"caption": NO_WORDS, "empty": True}
                lines[batch.keys[i]] = {"image": batch.keys[i], **found, **provenance}
    if not lines:
        raise ValueError("no gallery image to caption: expected evaluation batches of composed retrieval, found none")
    check_provenance(lines.values())
    text = "".join(json.dumps(lines[key], ensure_ascii=False, sort_keys=True) + "\n" for key in sorted(lines))
    return write_text(out, text)
