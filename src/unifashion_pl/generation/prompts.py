"""The diffusion model's own text encoder (CLIP ViT-L/14's for Stable Diffusion)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.generation.denoiser import load_part


class PromptEncoder(nn.Module):
    """Texts -> (B, N, C), padded to the encoder's full length without a mask, as Stable Diffusion does.

    Args:
        source: folder or hub id of a Stable Diffusion pipeline or CLIP text encoder, or None with a ``config``.
        config: fields of ``CLIPTextConfig`` for random weights with the tiny WordPiece vocabulary.

    Raises:
        ValueError: neither or both of source and config.
    """

    def __init__(self, *, source: str | None = None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        if (source is None) == (config is None):
            raise ValueError("give a PromptEncoder either source (folder or hub id) or config (fields of CLIPTextConfig)")
        self.tokenizer: Any
        if config is None:
            self.tokenizer = load_part(CLIPTokenizer, source, "tokenizer")
            self.model: Any = load_part(CLIPTextModel, source, "text_encoder")
            self.model.requires_grad_(False)
        else:
            self.tokenizer = load_tokenizer("tiny")
            end = self.tokenizer.sep_token_id
            ids = {"bos_token_id": self.tokenizer.cls_token_id, "eos_token_id": end, "pad_token_id": self.tokenizer.pad_token_id}
            self.model = CLIPTextModel(CLIPTextConfig(**{"vocab_size": len(self.tokenizer), **ids, **config}))
        self.length = int(self.model.config.max_position_embeddings)

    def forward(self, texts: list[str]) -> Tensor:
        """(B, N, C) last hidden states; a text that is too long is cut at N tokens."""
        ids = self.tokenizer(texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt").input_ids
        training = any(p.requires_grad for p in self.model.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and training):
            return self.model(input_ids=ids.to(self.model.device)).last_hidden_state
