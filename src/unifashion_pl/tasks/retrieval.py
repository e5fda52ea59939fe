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

    Over a backbone with a published text tower (:class:`~unifashion_pl.backbone.PublishedText`) the space is that encoder's: what the projections
    make of the Q-Former is added to its unit vectors, and starts at zero (as ControlNet's convolutions do), so that an untrained model searches
    as the published one, its image's tokens all alike. Composed queries are added to the sum of the published vectors of image and text by a
    projection of their own, which pairs do not train; the temperature starts at the published one.

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
        self.compose_proj: nn.Linear | None = None
        if backbone is not None:
            self.start_from(backbone)

    def start_from(self, backbone: QFormerBackbone) -> None:
        """Take over the space of the backbone's published encoder, if it has one.

        Raises:
            ValueError: E is not its width.
        """
        published = backbone.text_tower
        if published is None:
            return
        if published.width != self.text_proj.out_features:
            raise ValueError(
                f"the published encoder's space is {published.width} wide, the retrieval head's {self.text_proj.out_features}: set embed_dim "
                f"to {published.width}"
            )
        self.compose_proj = nn.Linear(self.text_proj.in_features, published.width)
        with torch.no_grad():
            for projection in (self.vision_proj, self.text_proj, self.compose_proj):
                projection.weight.zero_()
                projection.bias.zero_()
            self.temperature.copy_(torch.exp(-published.logit_scale.to(self.temperature)))

    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        """``itc, itm[, lm]`` of a PairBatch; ``cir_itc, cir_caption, cir_itm`` of a TripletBatch."""
        if isinstance(batch, TripletBatch):
            return self._triplet_losses(backbone, batch, encoding)
        if not isinstance(batch, PairBatch):
            return {}
        seen = encoding.features if encoding.seen is None else encoding.seen
        z = self.project_images(encoding.queries, backbone.published_images(encoding.features))
        c = self.text_vectors(backbone, encoding.tokens)
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
        features = backbone.image_features(batch.targets)
        queries, seen = backbone.look(features, "target")
        base = self._composed_base(backbone, encoding.features, encoding.tokens)
        e, z = self.project_composed(encoding.cls, base), self.project_images(queries, backbone.published_images(features))
        # samples without a caption take no part in the term of captions
        valid = sent(torch.tensor([bool(c.strip()) for c in batch.captions]), e.device)
        c = self.text_vectors(backbone, backbone.tokenize(batch.captions))
        composed = e[:, None] if self.caption_term == "cls" else self.project_images(encoding.queries, base)
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

    def project_images(self, queries: Tensor, published: Tensor | None = None) -> Tensor:
        """(B, Q, D) -> (B, Q, E) unit vectors.

        Args:
            published: (B, E), of :meth:`~unifashion_pl.backbone.QFormerBackbone.published_images`, over a backbone that has them.
        """
        return self._projected(self.vision_proj, queries, None if published is None else published[:, None])

    def project_texts(self, cls: Tensor, published: Tensor | None = None) -> Tensor:
        """(B, D) -> (B, E) unit vectors; ``published`` (B, E) as of :meth:`project_images`."""
        return self._projected(self.text_proj, cls, published)

    def project_composed(self, cls: Tensor, published: Tensor | None = None) -> Tensor:
        """:meth:`project_texts` of the fused pass' CLS."""
        return self._projected(self.compose_proj or self.text_proj, cls, published)

    def _projected(self, projection: nn.Linear, states: Tensor, published: Tensor | None) -> Tensor:
        if (published is None) != (self.compose_proj is None):
            raise RuntimeError(
                "this retrieval head adds to a published encoder's vectors, and was given none"
                if published is None
                else "this retrieval head was built without a published encoder, and was given its vectors: call start_from(backbone)"
            )
        own = projection(states)
        return F.normalize(own if published is None else published + own, dim=-1)

    def text_vectors(self, backbone: QFormerBackbone, tokens: TextTokens) -> Tensor:
        """Tokenised texts -> (B, E). On the CPU equal texts, which catalogues are full of, are read once."""
        if torch.compiler.is_compiling() or tokens.repeated is None or tokens.ids.device.type != "cpu":
            return self._text_vectors(backbone, tokens)
        rows, places = map(torch.tensor, tokens.repeated)
        return self._text_vectors(backbone, tokens[rows])[places]

    def _text_vectors(self, backbone: QFormerBackbone, tokens: TextTokens) -> Tensor:
        return self.project_texts(backbone.text_pass(tokens), backbone.published_texts(tokens))

    def image_vectors(self, backbone: QFormerBackbone, features: Tensor, query_set: QuerySet = "reference") -> Tensor:
        """Image tokens (B, P, W) -> (B, Q, E)."""
        return self.project_images(backbone.image_pass(features, query_set), backbone.published_images(features))

    def _composed_base(self, backbone: QFormerBackbone, features: Tensor, tokens: TextTokens) -> Tensor | None:
        """The published encoder's composed query, the unit sum of its vectors of image and text, which is the usual baseline without training."""
        images, texts = backbone.published_images(features), backbone.published_texts(tokens)
        return None if images is None or texts is None else F.normalize(images + texts, dim=-1)

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
        return self.image_vectors(backbone, backbone.image_features(images), query_set)

    def text_embeddings(self, backbone: QFormerBackbone, texts: list[str]) -> Tensor:
        """Captions -> (B, E)."""
        return self.text_vectors(backbone, backbone.tokenize(texts))

    def compose(self, backbone: QFormerBackbone, references: Tensor, texts: list[str]) -> Tensor:
        """Reference images (B, 3, S, S) and modifying texts -> composed queries e (B, E)."""
        features, tokens = backbone.image_features(references), backbone.tokenize(texts)
        return self.project_composed(backbone.fused_pass(features, tokens)[1], self._composed_base(backbone, features, tokens))

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
