"""Tokens by the package tokenizers against those of the backbone."""

from __future__ import annotations

import pytest
from small import small_backbone

from unifashion_pl.inference.text_reader import TextReader, plain_tokenizer
from unifashion_pl.parts.rebuild import tokenizer_files

TEXTS = ["red", 'Is "RED"; has  longer sleeves (38)!', " ".join(["a long blue shirt"] * 20), "", "日本 zzqx"]


def test_tokens_are_the_backbone_s() -> None:
    backbone = small_backbone(max_text_tokens=9)
    reader = TextReader(plain_tokenizer(tokenizer_files(backbone.tokenizer)["tokenizer.json"].decode()), 9)
    for text in TEXTS:
        assert reader.ids(text) == backbone.tokenize([text]).ids[0].tolist()
        assert reader.reading_of(text) == backbone.reading_of(text)
    with pytest.warns(UserWarning, match="has 82 tokens, the Q-Former reads 9"):
        reader.warn_if_cut([TEXTS[2]])
