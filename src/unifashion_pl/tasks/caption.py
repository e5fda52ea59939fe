"""Caption head: an adapter carries the Q-Former's outputs into a language model that writes the caption (Eqs. 6 and 11)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from unifashion_pl import arguments
from unifashion_pl.backbone import Encoding, QFormerBackbone
from unifashion_pl.data.samples import PairBatch, TrainBatch, TripletBatch, sent
from unifashion_pl.tasks.base import TaskModule
from unifashion_pl.tasks.eval_mode import evaluating
from unifashion_pl.tasks.language_model import LanguageModel

#: Instruction of each caption style (Table 7 of the paper). The last one is printed "... color, design... and other key points"; the dots are
#: taken for an elision, not for text.
STYLES: dict[str, str] = {
    "fashion200k": "Short description.",
    "fashiongen": "Write a detail and professional description for the cloth.",
    "fashioniq": "Describe the cloth's style, color, design and other key points.",
}
IGNORED = -100


@dataclass
class GenerationSettings:
    """How captions are written where nobody asks otherwise. The numbers are the released code's, the paper is silent.

    A repetition penalty takes the words that stand twice in ordinary captions ("of", "is", a full stop), and what stands in their places need not
    end: SmolLM2, to repeat "This is a pair of pants. Its main color is black.", went on for a line after "Its main color" under 1.5. A decoder that
    has learned where captions end needs none (`benchmarks/RESULTS.md`).

    Attributes:
        num_beams: 1 = greedy.
        max_new_tokens: limit of the answer, its ``</s>`` included.
        repetition_penalty: of tokens that the answer has already; 1 = none.
        no_repeat_ngram: no so many tokens in a row come twice in an answer; 0 = they may.
    """

    num_beams: int = 5
    max_new_tokens: int = 256
    repetition_penalty: float = 1.5
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        self.num_beams = arguments.count(self.num_beams, "num_beams")
        self.max_new_tokens = arguments.count(self.max_new_tokens, "max_new_tokens")
        self.repetition_penalty = arguments.number(self.repetition_penalty, "repetition_penalty")
        if self.no_repeat_ngram != 0:
            self.no_repeat_ngram = arguments.count(self.no_repeat_ngram, "no_repeat_ngram")

    def processors(self) -> LogitsProcessorList:
        """The last two as transformers applies them, to what was generated alone.

        transformers 5's own ``repetition_penalty`` takes the padding of the mask for ids of a prompt, which embeddings do not have, and
        spares as many generated tokens: captions would depend on their batch.
        """
        found: list[LogitsProcessor] = []
        if self.repetition_penalty != 1:
            found.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.no_repeat_ngram:
            found.append(NoRepeatNGramLogitsProcessor(self.no_repeat_ngram))
        return LogitsProcessorList(found)


class CaptionModule(TaskModule):
    """Adapter (TSA) and language model over the Q-Former's query outputs: §3.1.2, §3.2.2, §3.3.

    Letters: B batch, Q queries, D width of the Q-Former, H width of the language model, T tokens, V vocabulary. A sequence is

        ``<s> USER: <Img>`` | Q adapted queries | ``</Img> {instruction} Assistant:`` | ``{answer} </s>``

    where ``<Img>`` is plain text: the vocabulary of the language model stays as it is.

    Args:
        language_model: the decoder with its tokenizer.
        query_width: D.
        adapter: ``linear`` (§3.1.2; App. B's "two layers of adapter" are read as one for each generator) or ``mlp2`` (Linear, GELU, Linear).
        styles: style name -> instruction, None = :data:`STYLES`.
        per_caption: average the loss within each caption first, as Eqs. 6 and 11 print it, so that long captions do not weigh more;
            False: over the batch's tokens, as transformers and LLaVA do.
        max_instruction_tokens: longer instructions are cut.
        max_answer_tokens: longer answers are cut and then lack their ``</s>``.
        max_samples: learn from the first n captions of a batch, where contrastive batches are larger than the LLM can pay for;
            None = all.
        generation: how captions are written, None = :class:`GenerationSettings`' defaults.
    """

    def __init__(
        self,
        *,
        language_model: LanguageModel,
        query_width: int = 768,
        adapter: Literal["linear", "mlp2"] = "linear",
        styles: dict[str, str] | None = None,
        per_caption: bool = False,
        max_instruction_tokens: int = 128,
        max_answer_tokens: int = 256,
        max_samples: int | None = None,
        generation: GenerationSettings | None = None,
        backbone: QFormerBackbone | None = None,
        learning_rate: float = 1e-4,
    ) -> None:
        super().__init__(backbone, learning_rate)
        arguments.choice(adapter, "adapter", ("linear", "mlp2"))
        width = language_model.width
        first = nn.Linear(query_width, width)
        self.adapter = first if adapter == "linear" else nn.Sequential(first, nn.GELU(), nn.Linear(width, width))
        self.language_model = language_model
        self.styles = dict(STYLES if styles is None else styles)
        self.per_caption = per_caption
        self.max_instruction_tokens = max_instruction_tokens
        self.max_answer_tokens = max_answer_tokens
        self.max_samples = max_samples
        self.generation = generation or GenerationSettings()

    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        """``itg`` of the batch's captions given ``encoding.queries`` (B, Q, D); samples without a caption take no part."""
        if not isinstance(batch, PairBatch | TripletBatch):
            return {}
        rows = [i for i, caption in enumerate(batch.captions) if caption.strip()][: self.max_samples]
        if not rows:  # all the same every parameter has a gradient, and every rank runs the LLM
            return {"itg": 0 * self.caption_loss(encoding.queries[:1], batch.styles[:1], ["none"])}
        styles, captions = [batch.styles[i] for i in rows], [batch.captions[i] for i in rows]
        queries = encoding.queries[sent(torch.tensor(rows), encoding.queries.device)]
        return {"itg": self.caption_loss(queries, styles, captions)}

    def caption_loss(self, queries: Tensor, styles: list[str], captions: list[str]) -> Tensor:
        """Mean negative log-likelihood per supervised token of non-empty ``captions`` given queries (B, Q, D): L_ITG (Eqs. 6 and 11)."""
        embeddings, mask, labels = self.training_sequences(queries, styles, captions)
        head, tails = self.prefix_ids(styles)
        targets = labels[:, len(head) + queries.shape[1] + min(map(len, tails)) :]  # nothing is asked for before
        logits = self.language_model.logits(embeddings, mask, keep=targets.shape[1] + 1)[:, :-1]
        reduction = "none" if self.per_caption else "mean"
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction=reduction)
        if self.per_caption:
            loss = (loss.view_as(targets).sum(1) / (targets != IGNORED).sum(1)).mean()
        return loss

    def training_sequences(self, queries: Tensor, styles: list[str], captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Right-padded input embeddings (B, T, H), mask (B, T) and labels (B, T), -100 outside the answer and its ``</s>``."""
        head, tails = self.prefix_ids(styles)
        answers = [self.answer_ids(style, caption) for style, caption in zip(styles, captions)]
        embeddings, mask = self._sequences(queries, head, [t + a for t, a in zip(tails, answers)], "right")
        labels = torch.full(mask.shape, IGNORED)
        for i, (tail, answer) in enumerate(zip(tails, answers)):
            start = len(head) + queries.shape[1] + len(tail)
            labels[i, start : start + len(answer)] = torch.tensor(answer)
        return embeddings, mask, sent(labels, mask.device)

    def prefix_ids(self, styles: list[str]) -> tuple[list[int], list[list[int]]]:
        """What stands around the queries, in training as in generation: ids before them, and ids after them for each style.

        Raises:
            ValueError: a style without an instruction.
        """
        tokenizer = self.language_model.tokenizer
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return bos + self._encode("USER: <Img>"), [self._encode(self._instruction_text(style)) for style in styles]

    def answer_ids(self, style: str, caption: str) -> list[int]:
        """Ids of the answer and its ``</s>``, cut to ``max_answer_tokens``.

        The answer is tokenized behind its instruction, because SentencePiece would put a second blank before a text of its own.
        """
        before = self._instruction_text(style)
        prefix, joint = self._encode(before), self._encode(f"{before} {caption.strip()}")
        answer = joint[len(prefix) :] if joint[: len(prefix)] == prefix else self._encode(f" {caption.strip()}")
        return [*answer, self.language_model.tokenizer.eos_token_id][: self.max_answer_tokens]

    @torch.no_grad()
    def generate(
        self,
        queries: Tensor,
        styles: list[str],
        *,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram: int | None = None,
    ) -> list[str]:
        """Captions by beam search without sampling.

        Args:
            queries: (B, Q, D) outputs of the Q-Former.
            styles: B style names.
            num_beams, max_new_tokens, repetition_penalty, no_repeat_ngram: as of :class:`GenerationSettings`; None = as the head has it.

        Raises:
            ValueError: unknown style, or not one style per image.
        """
        if len(styles) != len(queries):
            raise ValueError(f"one style per image is needed, got {len(styles)} styles for {len(queries)} images")
        if not styles:
            return []
        asked: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        asked |= {"repetition_penalty": repetition_penalty, "no_repeat_ngram": no_repeat_ngram}
        settings = replace(self.generation, **{name: value for name, value in asked.items() if value is not None})
        tokenizer = self.language_model.tokenizer
        config = GenerationConfig(
            num_beams=settings.num_beams,
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
        )
        with evaluating(self.adapter, self.language_model), self.language_model.merged():
            embeddings, mask = self._sequences(queries, *self.prefix_ids(styles), "left")
            if not embeddings.isfinite().all():
                raise arguments.ArgumentError("what the caption head reads is NaN or infinite: look at the model's weights")
            ids = self.language_model.model.generate(
                inputs_embeds=embeddings, attention_mask=mask, generation_config=config, logits_processor=settings.processors()
            )
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    def _sequences(
        self, queries: Tensor, head: list[int], tails: list[list[int]], padding_side: Literal["left", "right"]
    ) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, D) between ``head`` and each of B ``tails`` -> embeddings (B, T, H), mask (B, T)."""
        ids = sent(torch.tensor([*head, *chain.from_iterable(tails)]), queries.device)  # one copy to the device
        before, *after = self.language_model.embed(ids).split([len(head), *map(len, tails)])
        middle = self.adapter(queries).to(before.dtype)
        rows = [torch.cat([before, own, tail]) for own, tail in zip(middle, after)]
        ones = [torch.ones(len(row), dtype=torch.long) for row in rows]
        embeddings = pad_sequence(rows, batch_first=True, padding_side=padding_side)
        return embeddings, sent(pad_sequence(ones, batch_first=True, padding_side=padding_side), queries.device)

    def _instruction_text(self, style: str) -> str:
        style = arguments.choice(style, "caption style", sorted(self.styles))
        instruction = self.styles[style]
        ids = self._encode(instruction)
        if len(ids) > self.max_instruction_tokens:
            instruction = str(self.language_model.tokenizer.decode(ids[: self.max_instruction_tokens])).strip()
        return f"</Img> {instruction} Assistant:"

    def _encode(self, text: str) -> list[int]:
        return list(self.language_model.tokenizer(text, add_special_tokens=False)["input_ids"])
