"""The diffusion model's own text encoder (CLIP ViT-L/14's for Stable Diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast  # type: ignore[attr-defined]

from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.backbone.words import Reading, reading_of, warn_of_cut
from unifashion_pl.data.samples import sent
from unifashion_pl.parts import rebuild
from unifashion_pl.parts.mapped import unfilled
from unifashion_pl.parts.rebuild import config_folder, load_part
from unifashion_pl.parts.tensors import floating
from unifashion_pl.parts.trust import Fields


class PromptEncoder(nn.Module):
    """Texts -> last hidden states (B, L, C), padded to the encoder's full length and read without a mask, as Stable Diffusion does.

    The fixed length makes a prompt's states independent of its batch. Parameters from ``source`` are frozen; an encoder from
    ``config`` is random and left trainable.

    Args:
        source: hub id of a pipeline, folder of one or of a CLIP text model with its tokenizer, or ``tiny`` (shipped, of the toy
            Stable Diffusion).
        config: instead of ``source``, fields of ``CLIPTextConfig``.
        tokenizer: of ``config``: ``tiny`` (shipped WordPiece), or folder or hub id of a BERT tokenizer.
        dtype: of the parameters, e.g. ``bfloat16`` for a frozen encoder on a GPU.

    Attributes:
        width: C.
        length: L (77 in Stable Diffusion); longer texts are cut.

    Raises:
        ValueError: not exactly one of source and config.
    """

    part = "clip_text"

    def __init__(
        self,
        *,
        source: str | None = None,
        config: Fields | None = None,
        tokenizer: str = "tiny",
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if (source is None) == (config is None):
            raise ValueError("give a PromptEncoder either source (folder or hub id) or config (fields of CLIPTextConfig)")
        self.pretrained = source is not None
        self.tokenizer: Any
        self.model: Any
        self._shipped = "tiny" in (source, tokenizer if source is None else "")
        if source is not None:
            with rebuild.reading_source(self.part, source):
                self.tokenizer = _load_tokenizer(source)
                self.model = _load_model(source, floating(dtype)).requires_grad_(False)
        else:
            self.tokenizer = load_tokenizer(tokenizer, self.part)
            self.model = CLIPTextModel(_clip_config(config or {}, self.tokenizer))
            nn.Module.to(self.model, floating(dtype))
        self.width: int = self.model.config.hidden_size
        self.length: int = self.model.config.max_position_embeddings

    def blueprint(self) -> dict[str, bytes]:
        """The tokenizer, and of an encoder from a source its config."""
        if self._shipped:
            return {}
        config = {"config.json": self.model.config.to_json_string().encode()} if self.pretrained else {}
        return {**rebuild.tokenizer_files(self.tokenizer), **config}

    def forward(self, texts: list[str]) -> Tensor:
        """B texts, "" allowed -> (B, L, C)."""
        ids = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).input_ids
        states: Tensor = self.model(input_ids=sent(ids, self.model.device)).last_hidden_state
        return states

    def reading_of(self, text: str) -> Reading:
        """What the vocabulary has of a text; for users' texts, training's may be empty."""
        return reading_of(self.tokenizer, text)


def warn_if_cut(encoder: PromptEncoder, texts: Sequence[str]) -> None:
    """Say which texts are longer than the encoder reads; users' texts, not training's."""
    lengths = [len(ids) for ids in (encoder.tokenizer(list(texts)).input_ids if texts else ())]
    warn_of_cut(texts, lengths, [encoder.length] * len(lengths), "the text encoder")


def _load_tokenizer(source: str) -> Any:
    if source == "tiny":
        return load_tokenizer("tiny")
    folder = rebuild.blueprint_of(PromptEncoder.part)
    if folder is not None:
        return CLIPTokenizerFast.from_pretrained(folder)
    tokenizer = load_part(CLIPTokenizerFast, source, "tokenizer")
    check_words(tokenizer, source)
    return tokenizer


def check_words(tokenizer: Any, source: str) -> None:
    """
    Raises:
        FileNotFoundError: there was none in the source.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # transformers makes an empty one of nothing
        raise FileNotFoundError(
            f"no CLIP tokenizer at {source!r}: expected tokenizer.json, or vocab.json and merges.txt, in its tokenizer/ (that of "
            "openai/clip-vit-large-patch14)"
        )


def _load_model(source: str, dtype: torch.dtype) -> nn.Module:
    folder = config_folder(PromptEncoder.part, source, "text_encoder")
    if folder is None:
        return rebuild.load_model(CLIPTextModel, source, "text_encoder", dtype=dtype)
    return unfilled(lambda: CLIPTextModel(CLIPTextConfig.from_pretrained(folder)), dtype)


def _clip_config(fields: dict[str, Any], tokenizer: Any) -> CLIPTextConfig:
    ids = {"bos": tokenizer.cls_token_id, "eos": tokenizer.sep_token_id, "pad": tokenizer.pad_token_id}
    return CLIPTextConfig(**{"vocab_size": len(tokenizer), **{f"{n}_token_id": id for n, id in ids.items()}, **fields})
