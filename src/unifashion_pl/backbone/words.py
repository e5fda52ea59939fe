"""What users' texts are to a model: cleaned words, what of them a vocabulary has, and what is said where it has nothing."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unifashion_pl.arguments import ArgumentError, asked_at, text_list
from unifashion_pl.names import quoted

#: Words of a text that LAVIS reads.
MAX_WORDS = 50


class Reads(Protocol):
    """A part of a model that reads texts."""

    tokenizer: Any

    def reading_of(self, text: str) -> Reading: ...


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
            f"{more if len(texts) > 1 else ''}{quoted(texts[first], 60)} has {lengths[first]} tokens, {reader} reads {read[first]}: "
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
    """See :class:`Reading`, by a tokenizer of transformers."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return reading_from(text, found.input_ids, found.offset_mapping, found.word_ids(), tokenizer.unk_token_id)


def reading_from(
    text: str, ids: Sequence[int], places: Sequence[tuple[int, int]], words: Sequence[int | None], unknown_id: int | None
) -> Reading:
    """See :class:`Reading`. Letters, digits and pictographs say something; blanks and punctuation, known or not, do not.

    Args:
        ids, places, words: of each token its id, where it stands in the text, and the number of its word.
    """
    parts: dict[int | None, list[tuple[int, int]]] = {}
    read: list[str] = []
    unknown: list[str] = []
    for id, (start, end), word in zip(ids, places, words):
        parts.setdefault(word, []).append((start, end))
        if any(map(_says, text[start:end])):
            (unknown if id == unknown_id else read).append(text[start:end])
    wholes = [(text[own[0][0] : own[-1][1]], len(own)) for own in parts.values()]
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


def readable(texts: str | Iterable[str], *readers: Reads, strict: bool = True) -> list[str]:
    """The texts of a request as a list, if the model can read them. Words that one of the readers has not are named in a warning.

    Args:
        readers: backbone, text encoder: whoever reads them.
        strict: refuse texts of which no reader has anything; else a warning names them.

    Raises:
        ValueError: no texts, or with ``strict`` one that says nothing to the model: two such texts would be one and the same request.
    """
    listed = text_list(texts)
    found = [[reader.reading_of(text) for reader in readers] for text in listed]
    for remark in remarks_on(part for row in found for part in row):
        warnings.warn(remark, stacklevel=asked_at())
    if silent := [text for text, row in zip(listed, found) if row and not any(part.says for part in row)]:
        scripts = " or ".join(dict.fromkeys(scripts_of(reader.tokenizer) for reader in readers))
        message = f"nothing of {_quoted(silent)} can be read by this model's tokenizer: expected words ({scripts} letters)"
        if strict:
            raise ArgumentError(message)
        warnings.warn(f"{message}; {len(silent)} of {len(listed)} texts get the vector of an empty one", stacklevel=asked_at())
    return listed


def remarks_on(readings: Iterable[Reading]) -> list[str]:
    """Sentences about the words that are not read, or without a meaning."""
    parts = list(readings)
    unknown = _quoted(word for part in parts for word in part.unknown)
    spelled = _quoted(word for part in parts for word in part.spelled)
    return [
        *([f"not in this model's vocabulary, so not read: {unknown}"] if unknown else []),
        *([f"read letter by letter, so without a meaning: {spelled}"] if spelled else []),
    ]


def _quoted(texts: Iterable[str]) -> str:
    """The first few different texts, for messages."""
    different = list(dict.fromkeys(texts))
    return ", ".join(quoted(text, 60) for text in different[:5]) + " …" * (len(different) > 5)
