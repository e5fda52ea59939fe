"""Retrieval head: ITC and ITM on pairs (Eq. 5), L_cir on triplets (Eq. 10), and the embeddings that galleries are made of."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unifashion_pl.backbone import Encoding, QFormerBackbone, TextTokens
from unifashion_pl.backbone.layers import SeenImages
from unifashion_pl.backbone.qformer import QuerySet
from unifashion_pl.data.samples import PairBatch, TrainBatch, TripletBatch, sent
from unifashion_pl.losses import Contrast, Negatives, Reduction, contrast, drawn_negatives, itm_loss, lm_loss, max_sim
from unifashion_pl.tasks.base import TaskModule


class RetrievalModule(TaskModule):
    """Projections, matching head and temperature over the Q-Former's outputs.

    Letters: B batch, Q queries, D hidden width of the Q-Former, E embedding width.

    Args:
        hidden_size: D.
        embed_dim: E (256 in the paper).
        temperature: start value of the learnt temperature (0.07).
        itm: train the matching head; False leaves only the contrastive terms.
        itm_samples: match only the first n samples of a batch (each costs three fused passes); None = all, as in the paper.
        negatives, reduction, label_smoothing, multi_positive, gather: see :mod:`unifashion_pl.losses`.
        caption_term: ``cls`` = ITC(e, c) as in Eq. 10; ``queries`` = released code (caption against the fused queries).
        itm_text: text matched with the target image in L_cir: the ``modifying`` text (paper) or the ``caption`` (released).
        lm_vocab: vocabulary size of the optional Q-Former LM head (BLIP-2 and released code; Eq. 5 has none), None = no head.
    """

    def __init__(
        self,
        *,
        hidden_size: int = 768,
        embed_dim: int = 256,
        temperature: float = 0.07,
        itm: bool = True,
        itm_samples: int | None = None,
        negatives: Negatives = "multinomial",
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        multi_positive: bool = False,
        gather: bool = True,
        caption_term: Literal["cls", "queries"] = "cls",
        itm_text: Literal["modifying", "caption"] = "modifying",
        lm_vocab: int | None = None,
        backbone: QFormerBackbone | None = None,
        learning_rate: float = 1e-4,
    ) -> None:
        super().__init__(backbone, learning_rate)
        self.vision_proj = nn.Linear(hidden_size, embed_dim)
        self.text_proj = nn.Linear(hidden_size, embed_dim)
        self.itm_head = nn.Linear(hidden_size, 2) if itm else None
        self.temperature = nn.Parameter(torch.tensor(temperature))
        self.lm_head = LanguageHead(hidden_size, lm_vocab) if lm_vocab else None
        self.itm_samples = itm_samples
        self.negatives: Negatives = negatives
        self.itc: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
        self.itc |= {"multi_positive": multi_positive, "gather": gather}
        self.caption_term = caption_term
        self.itm_text = itm_text

    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        """``itc, itm[, lm]`` of a PairBatch; ``cir_itc, cir_caption, cir_itm`` of a TripletBatch."""
        if isinstance(batch, TripletBatch):
            return self._triplet_losses(backbone, batch, encoding)
        if not isinstance(batch, PairBatch):
            return {}
        seen = encoding.features if encoding.seen is None else encoding.seen
        z = self.project_images(encoding.queries)
        c = self.project_texts(backbone.text_pass(encoding.tokens))
        itc = self._contrast(c, z, batch.products)
        losses = {"itc": itc.loss}
        if self.itm_head is not None:
            scores = itc.similarities / self.clamped_temperature.detach()
            losses["itm"] = self._itm(backbone, seen, encoding.tokens, scores, batch.products, "reference")
        if self.lm_head is not None:
            states = backbone.language_pass(seen, encoding.tokens.all_but_last())
            logits = self.lm_head(states, backbone.embeddings.word_embeddings.weight)
            losses["lm"] = lm_loss(logits, encoding.tokens.ids, encoding.tokens.mask)
        return losses

    def _triplet_losses(self, backbone: QFormerBackbone, batch: TripletBatch, encoding: Encoding) -> dict[str, Tensor]:
        if encoding.cls is None:
            raise ValueError("a TripletBatch needs the fused encoding of Eq. 9, got one without a text CLS")
        queries, seen = backbone.look(backbone.image_features(batch.targets), "target")
        e, z = self.project_texts(encoding.cls), self.project_images(queries)
        # samples without a caption take no part in the term of captions
        valid = sent(torch.tensor([bool(c.strip()) for c in batch.captions]), e.device)
        c = self.project_texts(backbone.text_pass(backbone.tokenize(batch.captions)))
        composed = e[:, None] if self.caption_term == "cls" else self.project_images(encoding.queries)
        itc = self._contrast(e, z, batch.target_ids)
        losses = {"cir_itc": itc.loss, "cir_caption": self._contrast(c, composed, batch.target_ids, valid).loss}
        if self.itm_head is not None:
            scores = itc.similarities / self.clamped_temperature.detach()
            if self.itm_text == "modifying":
                losses["cir_itm"] = self._itm(backbone, seen, encoding.tokens, scores, batch.target_ids, "target")
            else:
                losses["cir_itm"] = self._caption_itm(backbone, seen, batch, scores)
        return losses

    def _caption_itm(self, backbone: QFormerBackbone, seen: SeenImages, batch: TripletBatch, scores: Tensor) -> Tensor:
        """Matching of targets and their captions; samples without a caption take no part."""
        rows = [i for i, caption in enumerate(batch.captions) if caption.strip()]
        own = sent(torch.tensor(rows or [0]), scores.device)
        if not rows:  # all the same every parameter has a gradient
            return 0 * self.match(backbone, seen[own], backbone.tokenize(["none"]), "target").sum()
        tokens = backbone.tokenize([batch.captions[i] for i in rows])
        return self._itm(backbone, seen[own], tokens, scores[own][:, own], batch.target_ids[own], "target")

    def _contrast(self, text: Tensor, image: Tensor, ids: Tensor, valid: Tensor | None = None) -> Contrast:
        return contrast(text, image, self.clamped_temperature, ids=ids, valid=valid, **self.itc)

    def _itm(
        self,
        backbone: QFormerBackbone,
        seen: Tensor | SeenImages,
        tokens: TextTokens,
        scores: Tensor,
        ids: Tensor,
        query_set: QuerySet,
    ) -> Tensor:
        """[positives; (negative image, text); (image, negative text)] in one fused pass; scores (B texts, B images)."""
        B = min(len(ids), self.itm_samples or len(ids))
        own = torch.arange(B, device=ids.device)
        (images, of_texts), (texts, of_images) = (
            tuple(rows[:B] for rows in drawn_negatives(one, ids, how=self.negatives)) for one in (scores, scores.T)
        )
        logits = self.match(backbone, seen[torch.cat([own, images, own])], tokens[torch.cat([own, own, texts])], query_set)
        positive = torch.ones_like(of_texts)
        return itm_loss(
            logits,
            torch.cat([positive, ~positive, ~positive]),
            torch.cat([positive, of_texts, of_images]),
        )

    @property
    def clamped_temperature(self) -> Tensor:
        return self.temperature.clamp(1e-3, 0.5)

    def project_images(self, queries: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, E) unit vectors."""
        return F.normalize(self.vision_proj(queries), dim=-1)

    def project_texts(self, cls: Tensor) -> Tensor:
        """(B, D) -> (B, E) unit vectors."""
        return F.normalize(self.text_proj(cls), dim=-1)

    def match(
        self, backbone: QFormerBackbone, features: Tensor | SeenImages, tokens: TextTokens, query_set: QuerySet = "reference"
    ) -> Tensor:
        """ITM logits (B, 2), class 1 = match: the mean over queries. ``features``: image tokens, or what a pass has made of them.

        Raises:
            RuntimeError: the head was built with ``itm=False``.
        """
        if self.itm_head is None:
            raise RuntimeError("this retrieval head was built with itm=False and cannot score matches")
        return self.itm_head(backbone.fused_queries(features, tokens, query_set)).mean(1)

    def image_embeddings(self, backbone: QFormerBackbone, images: Tensor, query_set: QuerySet = "reference") -> Tensor:
        """uint8 images (B, 3, S, S) -> (B, Q, E): ``reference`` for text <-> image, ``target`` for composed galleries."""
        return self.project_images(backbone.image_pass(backbone.image_features(images), query_set))

    def text_embeddings(self, backbone: QFormerBackbone, texts: list[str]) -> Tensor:
        """Captions -> (B, E)."""
        return self.project_texts(backbone.text_pass(backbone.tokenize(texts)))

    def compose(self, backbone: QFormerBackbone, references: Tensor, texts: list[str]) -> Tensor:
        """Reference images (B, 3, S, S) and modifying texts -> composed queries e (B, E)."""
        return self.project_texts(backbone.fused_pass(backbone.image_features(references), backbone.tokenize(texts))[1])

    @staticmethod
    def score(queries: Tensor, gallery: Tensor) -> Tensor:
        """(N, E) against (M, Q, E) -> (N, M), the maximum over an image's query tokens."""
        return max_sim(queries, gallery)


class LanguageHead(nn.Module):
    """BERT's masked-language head as BLIP-2 uses it: dense, GELU, LayerNorm, decoder tied to the word embeddings."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, states: Tensor, word_embeddings: Tensor) -> Tensor:
        """(B, T, D), (V, D) -> (B, T, V)."""
        return F.linear(self.norm(F.gelu(self.dense(states))), word_embeddings, self.bias)
