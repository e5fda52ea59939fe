"""``data annotate``: captions for Fashion-IQ's images, written without a query in sight."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifashion_pl.commands.options import device_of, device_option, load_model, trust_option

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands
    from unifashion_pl.data.annotate import Captioner


def add(actions: Commands) -> None:
    """Add ``annotate`` to the actions of ``data``."""
    parser = actions.add_parser("annotate", help="caption Fashion-IQ's images, query-blind and with provenance; resumable")
    parser.add_argument("--root", type=Path, required=True, help="Fashion-IQ: captions/, image_splits/, images")
    parser.add_argument("--out", type=Path, required=True, help="the caption library, e.g. captions.train.jsonl")
    parser.add_argument(
        "--split", default="train", choices=("train", "val"), help="whose images; keywords always come from train"
    )
    writer = parser.add_mutually_exclusive_group()
    writer.add_argument("--model", default="tiny", help="our own caption head: tiny, a folder, a .ckpt or a hub id")
    writer.add_argument("--vlm", help="any image-text-to-text model of transformers: a folder or a hub id")
    parser.add_argument("--style", default="fashioniq", choices=("fashion200k", "fashiongen", "fashioniq"), help="of --model")
    parser.add_argument("--keywords", type=int, default=40, metavar="N", help="words per category in the prompt")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    device_option(trust_option(parser))
    parser.add_argument("--allow-missing", action="store_true", help="leave images out that cannot be read")
    parser.set_defaults(handler=_annotate)


def _annotate(args: argparse.Namespace) -> int:
    from unifashion_pl.data.annotate import annotate, keywords_of
    from unifashion_pl.datamodules.fashioniq_cap import caption_targets, training_texts
    from unifashion_pl.files import check_writable, write_text

    check_writable(args.out)
    keywords = keywords_of(training_texts(args.root), args.keywords)
    for category, words in keywords.counts.items():
        print(f"{category}: {', '.join(f'{word} {count:,}' for word, count in words[:12])}, …")
    targets = caption_targets(args.root, args.split)
    out = annotate(targets, _captioner(args), keywords, args.out, batch_size=args.batch_size, allow_missing=args.allow_missing)
    beside = out.with_suffix(".keywords.json")
    write_text(beside, json.dumps(keywords.as_dict(), indent=1, ensure_ascii=False) + "\n")
    print(out)
    return 0


def _captioner(args: argparse.Namespace) -> Captioner:
    from unifashion_pl.evaluation.captioners import HeadCaptioner, TransformersCaptioner

    if args.vlm is not None:
        return TransformersCaptioner(args.vlm, device_of(args), args.max_new_tokens)
    decoding: dict[str, Any] = {"max_new_tokens": args.max_new_tokens}
    return HeadCaptioner(load_model(args), args.style, **decoding)
