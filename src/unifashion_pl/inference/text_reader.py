"""A text as the Q-Former reads it, by the package tokenizers alone."""

from __future__ import annotations

import sys

from tokenizers import Tokenizer

from unifashion_pl.backbone.words import MAX_WORDS, Reading, clean_text, reading_from, warn_of_cut


def plain_tokenizer(content: str) -> Tokenizer:
    """A ``tokenizer.json`` whose own padding and cutting are switched off: :class:`TextReader` does both.

    Raises:
        Exception: it is none; tokenizers raises no other kind.
    """
    made = Tokenizer.from_str(content)
    made.no_padding()
    made.no_truncation()
    return made


class TextReader:
    """The tokens of texts.

    Args:
        tokenizer: BERT WordPiece with ``[CLS]`` and ``[SEP]``.
        most: tokens that the model reads of a text, those two included.
    """

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self._marks = [int(tokenizer.token_to_id(mark) or 0) for mark in ("[CLS]", "[SEP]", "[UNK]")]

    def ids(self, text: str) -> list[int]:
        """From ``[CLS]`` to ``[SEP]``, cut at :attr:`most`."""
        ids = self._pieces(text)
        return ids if len(ids) <= self.most else [*ids[: self.most - 1], ids[-1]]

    def reading_of(self, text: str) -> Reading:
        """What the vocabulary has of a text."""
        cleaned = clean_text(text)
        found = self.tokenizer.encode(cleaned, add_special_tokens=False)
        return reading_from(cleaned, found.ids, found.offsets, found.word_ids, self._marks[2])

    def warn_if_cut(self, texts: list[str]) -> None:
        """Say which texts are longer than the Q-Former reads."""
        whole, kept = ([len(self._pieces(text, words)) for text in texts] for words in (sys.maxsize, MAX_WORDS))
        warn_of_cut(texts, whole, [min(length, self.most) for length in kept], "the Q-Former")

    def _pieces(self, text: str, words: int = MAX_WORDS) -> list[int]:
        start, end, _ = self._marks
        return [start, *self.tokenizer.encode(clean_text(text, words), add_special_tokens=False).ids, end]
