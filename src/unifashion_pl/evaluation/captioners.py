"""Captioners for :func:`unifashion_pl.data.annotate.annotate`: our own caption head, or any vision-language model of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unifashion_pl.data.annotate import TEMPLATE, Subject
from unifashion_pl.provenance import weights_hash

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

SEED = 0


class HeadCaptioner:
    """The model's own caption head; it sees the image and nothing else.

    Args:
        model: with a caption head.
        style: ``fashion200k``, ``fashiongen`` or ``fashioniq``.
        **decoding: of the head's ``generate``, e.g. ``num_beams``.
    """

    def __init__(self, model: UniFashionModule, style: str = "fashioniq", **decoding: Any) -> None:
        from unifashion_pl.inference.requests import head_of

        self.model, self.style, self.decoding = model, style, decoding
        self.record: Mapping[str, Any] = {
            "captioner": "unifashion_pl caption head",
            "weights_hash": weights_hash(model),
            "template": head_of(model, "caption").styles[style],
            "decoding": {"style": style, **decoding},
            "inputs": ["image"],
        }

    def __call__(self, subjects: Sequence[Subject], attempt: int) -> list[str]:
        """Greedy or by beams, so that a later attempt would say the same: it is answered with nothing."""
        if attempt:
            return [""] * len(subjects)
        return self.model.caption([s.image for s in subjects], style=self.style, batch_size=len(subjects), **self.decoding)


class TransformersCaptioner:
    """A vision-language model of transformers, asked with the annotation's template; greedy, after a refusal by sampling.

    Args:
        model: a folder, or an id of the hub, of an ``image-text-to-text`` model.
        device: where it runs.
        max_new_tokens: of a caption.
    """

    def __init__(self, model: str | Path, device: str | torch.device = "cpu", max_new_tokens: int = 96) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor: Any = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        if getattr(self.processor, "tokenizer", None) is not None:
            self.processor.tokenizer.padding_side = "left"
        loaded: Any = AutoModelForImageTextToText.from_pretrained(model, trust_remote_code=False)
        self.model: Any = loaded.to(device).eval()
        self.max_new_tokens = max_new_tokens
        self.record: Mapping[str, Any] = {
            "captioner": str(model) if not Path(model).exists() else Path(model).name,
            "revision": getattr(self.model.config, "_commit_hash", None) or "local",
            "weights_hash": weights_hash(self.model),
            "template": TEMPLATE,
            "decoding": {"do_sample": False, "max_new_tokens": max_new_tokens},
            "seed": SEED,
            "inputs": ["image", "category", "keywords"],
        }

    def __call__(self, subjects: Sequence[Subject], attempt: int) -> list[str]:
        """See :class:`~unifashion_pl.data.annotate.Captioner`; the ``attempt`` seeds the sampling."""
        inputs = self._inputs(subjects).to(self.model.device)
        settings: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": attempt > 0}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(SEED + attempt)
            out = self.model.generate(**inputs, **settings)
        out = _answers(out, inputs["input_ids"])
        texts: list[str] = self.processor.batch_decode(out, skip_special_tokens=True)
        return [text.strip().removeprefix(subject.prompt).strip() for text, subject in zip(texts, subjects)]

    def _inputs(self, subjects: Sequence[Subject]) -> Any:
        images = [subject.image for subject in subjects]
        prompts = [subject.prompt for subject in subjects]
        if getattr(self.processor, "chat_template", None):
            content = [[{"type": "image"}, {"type": "text", "text": prompt}] for prompt in prompts]
            prompts = [
                self.processor.apply_chat_template([{"role": "user", "content": c}], add_generation_prompt=True)
                for c in content
            ]
            images = [[image] for image in images]  # type: ignore[misc]
        return self.processor(images=images, text=prompts, padding=True, return_tensors="pt")


def _answers(out: Tensor, prompt: Tensor) -> Tensor:
    """What was written after the prompt: decoders return it in front of the answer, encoder-decoders do not.

    BLIP goes on from the prompt without its last token and with another first one.
    """
    for length in (prompt.shape[1], prompt.shape[1] - 1):
        if out.shape[1] >= length and torch.equal(out[:, 1:length], prompt[:, 1:length]):
            return out[:, length:]
    return out
