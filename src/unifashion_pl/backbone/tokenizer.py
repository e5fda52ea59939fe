"""The Q-Former's tokenizer: BERT WordPiece plus ``[DEC]``, as in BLIP-2."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from transformers import BertTokenizerFast  # type: ignore[attr-defined]

from unifashion_pl.parts import rebuild


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
                f"is in the hub's cache or can be reached. {rebuild.instead(rebuild.OPTIONS.get(part, ''))}"
            )
    if "[DEC]" not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer
