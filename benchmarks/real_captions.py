"""Captions of real photos in the styles of Table 7, by the small profile with a really pretrained decoder: named garments and colours, CIDEr, loops.

    python benchmarks/real_captions.py texts --clothing FOLDER --work work        # real_data.py's photos and rows -> work/captions.csv
    unifashion weights import SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
    unifashion adapt work/fit.csv --root work/photos --out runs/seed0 …           (as in real_photos.py, which keeps the same senders)
    unifashion fit --config small.yaml --config small-llm.yaml …                  (this line is printed by ``texts``)
    python benchmarks/real_captions.py copies --llm smollm2                       # what a repetition penalty does to the decoder alone
    python benchmarks/real_captions.py measure --work work --ckpt runs/small-llm/checkpoints/last.ckpt

The fit goes on where it was stopped (``--resume auto``). The captions of all styles are **derived** from the label and a measured colour.
Held out are whole senders (split ``val``), because photos of one sender share background and light; ``--split test`` is the source's
validation, whose senders are mostly in the training too.

The baseline writes the same style with the garment alone: the commonest one, and the one that the model's own retrieval head names by prompts.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from real_data import COLOURS, Row, embed, noun, prepare, proportion
from real_identity import SPLIT, kept
from transformers import GenerationConfig

from unifashion_pl import UniFashionModule
from unifashion_pl.evaluation.captions import first_mention
from unifashion_pl.metrics.caption_scores import CaptionScores
from unifashion_pl.tasks import GenerationSettings, LanguageModel

#: Style -> the column of captions.csv, and what is said of a garment with and without its colour.
STYLES: dict[str, tuple[str, str, str]] = {
    "fashion200k": ("short", "{colour} {garment}", "{garment}"),
    "fashiongen": (
        "professional",
        "A photo of a {colour} {garment}, laid flat or hung.",
        "A photo of a {garment}, laid flat or hung.",
    ),
    "fashioniq": ("key_points", "This is a {garment}. Its main color is {colour}.", "This is a {garment}."),
}
LONGEST_RUN, OFTEN = 6, 3


def texts(clothing: Path, work: Path) -> None:
    """``captions.csv``: the rows of ``items.csv`` with captions in three styles, and whole senders as ``val``."""
    source = prepare(clothing, work)
    with source.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    target = work / "captions.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *(column for column, *_ in STYLES.values())])
        writer.writeheader()
        writer.writerows({**row, "split": row["split"] or (SPLIT if kept(row) else "train"), **said(row)} for row in rows)
    print(
        f"{len(rows):,} rows -> {target}\n\nunifashion fit --config small.yaml --config small-llm.yaml --resume auto --data.csv {target} --data.root "
        f"{work}/photos \\\n  --model.init_from runs/seed0/checkpoints/best.ckpt --data.styles '{styles()}' …"
    )


def said(row: Row) -> Row:
    """A photo's caption of each style by column."""
    facts = {"colour": row["colour"], "garment": noun(row["category"])}
    return {column: whole.format(**facts) for column, whole, _ in STYLES.values()}


def styles() -> str:
    columns = ", ".join(f"{style}: {column}" for style, (column, *_) in STYLES.items())
    return f"{{{columns}}}"


def turns(text: str) -> bool:
    """Whether a text turns in circles: up to six words that stand three times behind each other.

    >>> turns("a pair of a pair of a pair of pants"), turns("a pair of pants, a pair of shoes")
    (True, False)
    """
    words = text.lower().split()
    return any(
        words[start : start + size] * OFTEN == words[start : start + size * OFTEN]
        for size in range(1, LONGEST_RUN + 1)
        for start in range(len(words) - size * OFTEN + 1)
    )


def measure(work: Path, ckpt: str, split: str, most: int, penalty: float | None, beams: int | None) -> None:
    """Print every figure with n and a 95 % interval."""
    torch.set_num_threads(1)
    model = UniFashionModule.from_pretrained(ckpt).eval()
    head = model.caption_head
    assert head is not None
    with (work / "captions.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    rows = sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).digest())[:most]
    known = Counter(row["category"] for row in rows)
    print(f"{len(rows)} photos of {split}, {len(known)} garments, {ckpt}: {Path(ckpt).stat().st_size / 1e6:.0f} MB")
    guessed = named_by_prompts(model, work, rows)
    asked = {name: value for name, value in (("repetition_penalty", penalty), ("num_beams", beams)) if value is not None}
    nouns = sorted({noun(label) for label in WORDS_OF})
    for style, (column, _, plain) in STYLES.items():
        start = time.perf_counter()
        written = model.caption([work / "photos" / row["image"] for row in rows], style=style, batch_size=32, **asked)
        seconds = (time.perf_counter() - start) / len(rows)
        lengths = [len(head.answer_ids(style, text)) for text in written]
        endless = sum(turns(text) or n >= head.generation.max_new_tokens for text, n in zip(written, lengths))
        print(f"\n{style}: {seconds:.2f} s a caption, e.g. {written[:3]}")
        garments = [first_mention(text, nouns) == noun(row["category"]) for text, row in zip(written, rows)]
        colours = [first_mention(text, list(COLOURS)) == row["colour"] for text, row in zip(written, rows)]
        proportion(f"{style}: names the garment", sum(garments), len(rows))
        proportion(f"{style}: names the measured colour", sum(colours), len(rows))
        proportion(f"{style}: turns in circles or does not end", endless, len(rows))
        common = noun(known.most_common(1)[0][0])
        cider("written", written, rows, column)
        cider("commonest garment", [plain.format(garment=common)] * len(rows), rows, column)
        cider("garment by prompts", [plain.format(garment=noun(label)) for label in guessed], rows, column)


def cider(name: str, written: Sequence[str], rows: Sequence[Row], column: str) -> None:
    """Print CIDEr-D x 100 of texts against a column, by the pure tokeniser."""
    scores = CaptionScores(protocol="coco", meteor=False, tokenizer="ptb-py")
    scores.update(written, [[row[column]] for row in rows], [row["id"] for row in rows])
    print(f"  CIDEr {100 * float(scores.compute()['CIDEr'] or 0):6.1f}  {name}")


def copies(folder: str) -> None:
    """Print what the decoder alone says when it is to repeat a caption, shown three examples, with and without a repetition penalty.

    The captions have words twice, as ordinary ones do.
    """
    torch.set_num_threads(1)
    decoder = LanguageModel(folder).eval()
    tokenizer = decoder.tokenizer

    def turn(text: str) -> str:
        return f"<|im_start|>user\nRepeat: {text}<|im_end|>\n<|im_start|>assistant\n"

    shown = "".join(f"{turn(text)}{text}<|im_end|>\n" for text in SHOWN)
    for penalty, beams in itertools.product((1.0, 1.5), (1, 5)):
        settings = GenerationSettings(num_beams=beams, repetition_penalty=penalty)
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        config = GenerationConfig(num_beams=beams, do_sample=False, max_new_tokens=40, **ends)
        for text in ASKED:
            ids = tokenizer(shown + turn(text), return_tensors="pt", add_special_tokens=False)["input_ids"]
            out = decoder.model.generate(
                inputs_embeds=decoder.embed(ids),
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=settings.processors(),
            )
            written = tokenizer.decode(out[0], skip_special_tokens=True)
            print(f"penalty {penalty}, {beams} beams: {'same' if written == text else repr(written)}")


SHOWN = ("a photo of a red dress", "a photo of a white pair of shoes", "a photo of a blue pair of shorts")
ASKED = (
    "a photo of a grey pair of pants",
    "a photo of a black piece of outerwear",
    "a photo of a navy pair of shoes",
    "This is a pair of pants. Its main color is black.",
)


#: Labels of the source.
WORDS_OF = (
    "t-shirt", "pants", "longsleeve", "shirt", "dress", "shorts", "shoes", "outwear", "hat", "skirt", "polo", "undershirt", "blazer", "hoodie",
    "body", "top", "blouse",
)  # fmt: skip


@torch.inference_mode()
def named_by_prompts(model: UniFashionModule, work: Path, rows: Sequence[Row]) -> list[str]:
    """The garment that the retrieval head finds nearest by one prompt each."""
    assert model.retrieval_head is not None
    labels = sorted({row["category"] for row in rows})
    prompts = model.retrieval_head.text_embeddings(model.backbone, [f"a photo of a {noun(label)}" for label in labels])
    best = model.retrieval_head.score(prompts, embed(model, work, rows)[1]).argmax(0)
    guessed = [labels[int(i)] for i in best]
    proportion("garment by one prompt each", sum(g == r["category"] for g, r in zip(guessed, rows)), len(rows))
    return guessed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    first, alone, last = (actions.add_parser(name) for name in ("texts", "copies", "measure"))
    alone.add_argument("--llm", required=True, help="folder of the imported decoder")
    first.add_argument("--clothing", type=Path, required=True)
    last.add_argument("--ckpt", required=True)
    last.add_argument("--split", choices=("val", "test"), default="val")
    last.add_argument("--most", type=int, default=400, help="photos, drawn by hash")
    last.add_argument("--penalty", type=float, help="repetition penalty in the place of the head's own")
    last.add_argument("--beams", type=int)
    for sub in (first, last):
        sub.add_argument("--work", type=Path, default=Path("work"))
    args = parser.parse_args()
    if args.action == "texts":
        texts(args.clothing, args.work)
    elif args.action == "copies":
        copies(args.llm)
    else:
        measure(args.work, args.ckpt, args.split, args.most, args.penalty, args.beams)


if __name__ == "__main__":
    main()
