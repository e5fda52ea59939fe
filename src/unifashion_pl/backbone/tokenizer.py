"""The Q-Former's tokenizer: BERT WordPiece plus ``[DEC]``, as in BLIP-2."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from transformers import BertTokenizerFast  # type: ignore[attr-defined]


def load_tokenizer(source: str) -> BertTokenizerFast:
    """Args: ``tiny`` (the shipped vocabulary), a folder or ``vocab.txt`` of a BERT tokenizer, or a hub id such as
    ``bert-base-uncased``.

    Returns:
        A tokenizer with ``[DEC]`` appended as last id (30522 for bert-base-uncased).
    """
    path = Path(source)
    if source == "tiny":
        tokenizer = BertTokenizerFast(vocab=str(files("unifashion_pl.configs") / "tiny_vocab.txt"), do_lower_case=True)
    elif path.is_file():
        tokenizer = BertTokenizerFast(vocab=str(path), do_lower_case=True)
    else:
        tokenizer = BertTokenizerFast.from_pretrained(source)
    if "[DEC]" not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer


def clean_text(text: str, max_words: int = 50) -> str:
    """LAVIS' caption cleaning (``blip_processors.py``): lower case, punctuation to blanks, first ``max_words`` words.

    >>> clean_text('Is "RED"; has  longer sleeves!')
    'is red has longer sleeves'
    """
    text = re.sub(r"([.!\"()*#:;~])", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])
