"""Captioners for :func:`unifashion_pl.datamodules.annotate.annotate`: our own caption head, or any vision-language model of transformers;
and the own head's captions of a gallery as it is evaluated, from the images alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from unifashion_pl.datamodules.annotate import TEMPLATE, CaptionInput, caption_entry

from unifashion_pl.arguments import OneImage
from unifashion_pl.data.captions import check_provenance
from unifashion_pl.data.samples import Batch, GalleryBatch
from unifashion_pl.files import check_writable
from unifashion_pl.inference.captions import caption
from unifashion_pl.inference.requests import head_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import require
from unifashion_pl.metrics.lines import write_lines
from unifashion_pl.provenance import weights_hash

SEED = 0


class HeadCaptioner:
    """The model's own caption head; it sees the image and nothing else.

    Args:
        model: with a caption head.
        style: ``fashion200k``, ``fashiongen`` or ``fashioniq``.
        **decoding: of the head's ``generate``, e.g. ``num_beams``.

    Raises:
        RuntimeError: a model without a caption head, or that has not learned to caption.
    """

    def __init__(self, model: FashionModel, style: str = "fashioniq", **decoding: Any) -> None:
        head = head_of(model, "caption")
        require(model, "caption")
        self.model, self.style, self.decoding = model, style, decoding
        self.record: Mapping[str, Any] = {
            "captioner": "unifashion_pl caption head",
            "weights_hash": weights_hash(model),
            "template": head.styles[style],
            "decoding": {"style": style, **decoding},
            "inputs": ["image"],
        }

    def captions(self, images: Sequence[OneImage] | Tensor) -> list[str]:
        """One per image, all written at once."""
        return caption(self.model, images, style=self.style, batch_size=len(images), **self.decoding)

    def __call__(self, subjects: Sequence[CaptionInput], attempt: int) -> list[str]:
        """Greedy or by beams, so that a later attempt would say the same: it is answered with nothing."""
        if attempt:
            return [""] * len(subjects)
        return self.captions([subject.image for subject in subjects])


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

    def __call__(self, subjects: Sequence[CaptionInput], attempt: int) -> list[str]:
        """See :class:`~unifashion_pl.datamodules.annotate.Captioner`; the ``attempt`` seeds the sampling."""
        inputs = self._inputs(subjects).to(self.model.device)
        settings: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": attempt > 0}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(SEED + attempt)
            out = self.model.generate(**inputs, **settings)
        out = _answers(out, inputs["input_ids"])
        texts: list[str] = self.processor.batch_decode(out, skip_special_tokens=True)
        return [text.strip().removeprefix(subject.prompt).strip() for text, subject in zip(texts, subjects)]

    def _inputs(self, subjects: Sequence[CaptionInput]) -> Any:
        images = [subject.image for subject in subjects]
        prompts = [subject.prompt for subject in subjects]
        if getattr(self.processor, "chat_template", None):
            contents = [[{"type": "image"}, {"type": "text", "text": prompt}] for prompt in prompts]
            chats = [[{"role": "user", "content": content}] for content in contents]
            prompts = [self.processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
            images = [[image] for image in images]
        return self.processor(images=images, text=prompts, padding=True, return_tensors="pt")


def _answers(out: Tensor, prompt: Tensor) -> Tensor:
    """What was written after the prompt: decoders return it in front of the answer, encoder-decoders do not.

    BLIP goes on from the prompt without its last token and with another first one.
    """
    for length in (prompt.shape[1], prompt.shape[1] - 1):
        if out.shape[1] >= length and torch.equal(out[:, 1:length], prompt[:, 1:length]):
            return out[:, length:]
    return out


def write_gallery_captions(
    model: FashionModel,
    batches: Iterable[Batch],
    out: str | Path,
    *,
    style: str = "fashioniq",
    num_beams: int = 1,
    max_new_tokens: int = 64,
) -> Path:
    """Caption every gallery image by the model's own head, from its pixels alone: a library that passes the leak guards.

    The file is what ``gallery_captions`` of a DataModule reads, as :func:`~unifashion_pl.datamodules.annotate.annotate` writes it.

    Args:
        batches: evaluation batches; all but gallery batches are passed over, an id that comes twice is captioned once.
        out: the ``.jsonl`` file; it appears when it is complete.
        style, num_beams, max_new_tokens: of the caption head's ``generate``.

    Returns:
        ``out``.

    Raises:
        RuntimeError: as :class:`HeadCaptioner`.
        ValueError: no gallery image among the batches.
        WriteError: ``out`` cannot be written.
    """
    captioner = HeadCaptioner(model, style, num_beams=num_beams, max_new_tokens=max_new_tokens)
    check_writable(out)
    lines: dict[str, dict[str, Any]] = {}
    for batch in batches:
        new = [i for i, key in enumerate(batch.keys) if key not in lines] if isinstance(batch, GalleryBatch) else []
        if isinstance(batch, GalleryBatch) and new:
            part = batch[new]
            for id, text in zip(part.keys, captioner.captions(part.images)):
                lines[id] = {"image": id, **caption_entry(text), **captioner.record}
    if not lines:
        raise ValueError("no gallery image to caption: expected evaluation batches of composed retrieval, found none")
    check_provenance(lines.values())
    return write_lines(out, [lines[key] for key in sorted(lines)])
