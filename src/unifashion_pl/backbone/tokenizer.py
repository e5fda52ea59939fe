"""The Q-Former's tokenizer: BERT WordPiece plus ``[DEC]``, as in BLIP-2."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from transformers import BertTokenizerFast  # type: ignore[attr-defined]

from unifashion_pl.parts import rebuild

#: Words of a text that LAVIS reads.
MAX_WORDS = 50


def load_tokenizer(source: str, part: str = "qformer") -> BertTokenizerFast:
    """
    Args:
        source: ``tiny`` (the shipped vocabulary), a folder or ``vocab.txt`` of a BERT tokenizer, or a hub id such as
            ``bert-base-uncased``.
        part: whose tokenizer it is, among a saved model's blueprints (:mod:`unifashion_pl.parts.rebuild`).

    Returns:
        A tokenizer with ``[DEC]`` appended as last id (30522 for bert-base-uncased).

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(source)
    if source == "tiny":
        tokenizer = BertTokenizerFast(vocab=str(files("unifashion_pl.configs") / "tiny_vocab.txt"), do_lower_case=True)
    elif path.is_file() and rebuild.blueprint_of(part) is None:
        tokenizer = BertTokenizerFast(vocab=str(path), do_lower_case=True)
    else:
        with rebuild.reading_source(part, source):
            tokenizer = BertTokenizerFast.from_pretrained(rebuild.blueprint_of(part) or source)
        if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):  # transformers makes an empty one of nothing
            raise FileNotFoundError(
                f"no BERT tokenizer at {source!r}: expected 'tiny', a vocab.txt, a folder with vocab.txt or tokenizer.json, or a hub id that "
                "is in the hub's cache or can be reached"
            )
    if "[DEC]" not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer


def clean_text(text: str, max_words: int = MAX_WORDS) -> str:
    """LAVIS' caption cleaning (``blip_processors.py``): lower case, punctuation to blanks, first ``max_words`` words.

    >>> clean_text('Is "RED"; has  longer sleeves!')
    'is red has longer sleeves'
    """
    text = re.sub(r"([.!\"()*#:;~])", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def warn_of_cut(texts: Sequence[str], lengths: Sequence[int], read: Sequence[int], reader: str) -> None:
    """Say which texts are longer than is read; for users' texts, not for training's.

    Args:
        lengths, read: tokens of each text, and how many of them ``reader`` reads.
    """
    cut = [i for i, (length, seen) in enumerate(zip(lengths, read)) if length > seen]
    if cut:
        first = cut[0]
        more = f"{len(cut)} of {len(texts)} texts {'is' if len(cut) == 1 else 'are'} longer than the model reads; "
        warnings.warn(
            f"{more if len(texts) > 1 else ''}{shorten(texts[first], 60)!r} has {lengths[first]} tokens, {reader} reads {read[first]}: "
            "the end is not read",
            stacklevel=4,
        )


@dataclass(frozen=True)
class Reading:
    """What a vocabulary makes of a text.

    Attributes:
        says: anything of the text that says something is read.
        unknown: words that are not read.
        spelled: words that are read letter by letter, so that no model can have learned what they mean.
    """

    says: bool
    unknown: tuple[str, ...]
    spelled: tuple[str, ...]


def reading_of(tokenizer: Any, text: str) -> Reading:
    """See :class:`Reading`. Letters, digits and pictographs say something; blanks and punctuation, known or not, do not."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    words: dict[int, list[tuple[int, int]]] = {}
    read: list[str] = []
    unknown: list[str] = []
    for id, (start, end), word in zip(found.input_ids, found.offset_mapping, found.word_ids()):
        words.setdefault(word, []).append((start, end))
        if any(map(_says, text[start:end])):
            (unknown if id == tokenizer.unk_token_id else read).append(text[start:end])
    wholes = [(text[parts[0][0] : parts[-1][1]], len(parts)) for parts in words.values()]
    spelled = [word for word, pieces in wholes if pieces == len(word) > 2 and word.isalpha()]
    return Reading(bool(read), tuple(unknown), tuple(spelled))


def scripts_of(tokenizer: Any) -> str:
    """The scripts that most of a vocabulary's letters belong to, e.g. ``Latin``."""
    letters = Counter(c for token in tokenizer.get_vocab() for c in token if c.isalpha())
    scripts: Counter[str] = Counter()
    for letter, times in letters.items():
        scripts[unicodedata.name(letter, "UNKNOWN").split()[0].capitalize()] += times
    return ", ".join(name for name, _ in scripts.most_common(3))


def _says(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] in "LN" or kind == "So"


def shorten(text: str, width: int) -> str:
    """The first ``width`` characters, and an ellipsis where there were more."""
    return text if len(text) <= width else f"{text[:width].rstrip()} …"
