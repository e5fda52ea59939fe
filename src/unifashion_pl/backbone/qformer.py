"""The Q-Former backbone: vision tower, two sets of queries, text, and the passes that the heads need.

Letters: B batch, S image side, P image tokens, W their width, Q queries, T text tokens, D hidden width.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from unifashion_pl.backbone.appearance import Appearance
from unifashion_pl.backbone.layers import QFormer, SeenImages
from unifashion_pl.backbone.masks import MaskMode, additive_mask, visibility
from unifashion_pl.backbone.pretrained import load_bert
from unifashion_pl.backbone.published import PublishedText, PublishedVision, beside
from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.backbone.vision import VisionTower
from unifashion_pl.backbone.words import MAX_WORDS, Reading, clean_text, reading_of, warn_of_cut
from unifashion_pl.data.samples import EditBatch, PairBatch, TripletBatch, sent
from unifashion_pl.parts import rebuild

QuerySet = Literal["reference", "target"]


@dataclass
class TextTokens:
    """``ids`` (B, T) int64 starting with CLS; ``mask`` (B, T) bool, True where not padding.

    ``words`` (B, 1 + T, D) are the word embeddings of ``[DEC]`` and ``ids`` where they are looked up already (:meth:`QFormerBackbone.look_up`): passes
    that share them send one gradient to the table, which is as large as the vocabulary, instead of one each. ``published`` (B, T') are the ids of
    the published text tower, if there is one. ``repeated`` says of texts of which some are equal: the rows of the different ones, and for each text
    which of those it is.
    """

    ids: Tensor
    mask: Tensor
    words: Tensor | None = None
    published: Tensor | None = None
    repeated: tuple[list[int], list[int]] | None = None

    def __getitem__(self, rows: Tensor) -> TextTokens:
        words, published = (None if part is None else part[rows] for part in (self.words, self.published))
        return TextTokens(self.ids[rows], self.mask[rows], words, published)

    def all_but_last(self) -> TextTokens:
        """(B, T - 1): what predicts a next token."""
        return TextTokens(self.ids[:, :-1], self.mask[:, :-1], None if self.words is None else self.words[:, :-1])


@dataclass
class Encoding:
    """What every head may read of one training batch.

    Attributes:
        features: (B, P, W) image tokens after ``ln_vision`` (of the image in phase 1, of the reference in phase 2).
        tokens: the batch's texts, tokenised.
        queries: (B, Q, D) soft prompts: image pass with q_R in phase 1, fused(q_R, t, I_R) in phase 2 (Eqs. 6, 7, 11, 12).
        cls: (B, D) text CLS of the fused pass in phase 2, None in phase 1.
        seen: what the image pass of phase 1 has projected, for passes over the same images; None in phase 2.
    """

    features: Tensor
    tokens: TextTokens
    queries: Tensor
    cls: Tensor | None
    seen: SeenImages | None = None


class QFormerBackbone(nn.Module):
    """Frozen vision tower + Q-Former with the query sets q_R (reference) and q_T (target) of Eq. 9.

    Args:
        vision: any module mapping uint8 images (B, 3, S, S) to tokens (B, P, W), with attributes ``width`` and ``image_size``.
        tokenizer: folder or hub id of a BERT tokenizer, or ``tiny`` (shipped); ``[DEC]`` is appended as in BLIP-2.
        num_queries, hidden_size, num_layers, num_heads, intermediate_size, cross_attention_frequency, dropout: as in BLIP-2
            (32, 768, 12, 12, 3072, 2, 0.1).
        initializer_range: standard deviation of random weights. BERT's 0.02 suits a width of 768; a narrow Q-Former needs about
            1 / sqrt(hidden_size), else its queries hardly see the image at first.
        vocab_size: of the word embeddings; None = the tokenizer's. Larger than it in models with random weights that stand for the
            published size.
        gradient_checkpointing: recompute the layers' activations in the backward pass.
        token_dropout: share of an image's tokens, drawn anew each time, that the Q-Former is not shown in training (as FLIP masks patches,
            arXiv 2212.00794): a step costs less, and few images are learnt by heart later.
        max_text_tokens: texts are cut on the right at this length, CLS and SEP included.
        tie_target_queries: q_T is q_R, one tensor.
        bert: start the Q-Former from this BERT (folder, file or hub id) of the same sizes, as BLIP-2 does from bert-base.
        appearance: width of the vectors by which a search knows the same photo again, see :class:`~unifashion_pl.backbone.appearance.Appearance`;
            None = the model has none. It is set where they are chosen (:func:`unifashion_pl.inference.appearance.choose_appearance`).
        text_tower: of the published encoder whose vision tower ``vision`` is: the space of both is where the retrieval head starts. The tower's
            tokens are read as it gives them then, with its own final norm in the place of ``ln_vision``.

    Raises:
        ValueError: a text tower of another encoder than the vision tower's, or ``token_dropout`` is no share.
    """

    part = "qformer"

    def __init__(
        self,
        vision: VisionTower,
        *,
        tokenizer: str = "tiny",
        num_queries: int = 32,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        intermediate_size: int = 3072,
        cross_attention_frequency: int = 2,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        max_text_tokens: int = 64,
        tie_target_queries: bool = False,
        bert: str | None = None,
        vocab_size: int | None = None,
        gradient_checkpointing: bool = False,
        token_dropout: float = 0.0,
        appearance: int | None = None,
        text_tower: PublishedText | None = None,
    ) -> None:
        super().__init__()
        self.text_tower = beside(vision, text_tower)
        self.vision = vision
        self.appearance = None if appearance is None else Appearance(vision.width, appearance)
        self.tokenizer = load_tokenizer(tokenizer)
        self.begin_id = int(self.tokenizer.convert_tokens_to_ids("[DEC]"))
        self._shipped = tokenizer == "tiny"
        self.max_text_tokens, self.num_queries, self.hidden_size = max_text_tokens, num_queries, hidden_size
        config = Blip2QFormerConfig(
            vocab_size=_vocabulary(vocab_size, len(self.tokenizer)),
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=intermediate_size,
            cross_attention_frequency=cross_attention_frequency,
            encoder_hidden_size=vision.width,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=initializer_range,
            use_qformer_text_input=True,
        )
        self.ln_vision: nn.Module = nn.LayerNorm(vision.width, eps=1e-5) if text_tower is None else nn.Identity()
        self.embeddings = Blip2TextEmbeddings(config)
        self.qformer = QFormer(config)
        for embedding in (self.embeddings.word_embeddings, self.embeddings.position_embeddings):
            nn.init.normal_(embedding.weight, std=config.initializer_range)
        self.query_tokens = nn.Parameter(torch.randn(1, num_queries, hidden_size) * 0.02)
        self.tie_target_queries, self.token_dropout = tie_target_queries, token_dropout
        if not 0 <= token_dropout < 1:
            raise ValueError(f"token_dropout is {token_dropout}, expected a share of the image tokens, from 0 to below 1")
        if not tie_target_queries:
            self.target_query_tokens = nn.Parameter(self.query_tokens.detach().clone())
        if gradient_checkpointing:
            self.qformer.gradient_checkpointing_enable({"use_reentrant": False})
        if bert is not None and not rebuild.brings_tensors(self.part):
            load_bert(self, bert, config.vocab_size)

    def blueprint(self) -> dict[str, bytes]:
        """The tokenizer."""
        return {} if self._shipped else rebuild.tokenizer_files(self.tokenizer)

    @property
    def vision_is_frozen(self) -> bool:
        return not any(p.requires_grad for p in self.vision.parameters())

    def tokenize(self, texts: list[str]) -> TextTokens:
        """Clean as LAVIS does, then WordPiece, trimmed to the longest text of the batch."""
        out = self.tokenizer(
            [clean_text(t) for t in texts],
            padding="longest",
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        )
        device = self.query_tokens.device
        published = None if self.text_tower is None else sent(self.text_tower.tokenize(texts), device)
        own = sent(out["input_ids"], device), sent(out["attention_mask"].bool(), device)
        return TextTokens(*own, published=published, repeated=_repeated(texts))

    def look_up(self, tokens: TextTokens) -> TextTokens:
        """The same texts with their word embeddings, for several passes over them."""
        if tokens.words is not None:
            return tokens
        begin = tokens.ids.new_full((tokens.ids.shape[0], 1), self.begin_id)
        return replace(tokens, words=self.embeddings.word_embeddings(torch.cat([begin, tokens.ids], 1)))

    def embedded(self, tokens: TextTokens, begun: bool = False) -> Tensor:
        """Words and positions (B, T, D); ``begun``: ``[DEC]`` stands in the place of CLS."""
        words = self.look_up(tokens).words
        assert words is not None
        words = torch.cat([words[:, :1], words[:, 2:]], 1) if begun else words[:, 1:]
        return words + self.embeddings.position_embeddings(self.embeddings.position_ids[:, : words.shape[1]])

    def warn_if_cut(self, texts: list[str]) -> None:
        """Say which texts are longer than the Q-Former reads (LAVIS' 50 words, ``max_text_tokens`` tokens); users' texts, not training's.

        Beside a published text tower it is that one's length that is told.
        """
        if self.text_tower is not None:
            return self.text_tower.warn_if_cut(texts)
        whole, kept = (
            [len(self.tokenizer(clean_text(t, words)).input_ids) for t in texts] for words in (sys.maxsize, MAX_WORDS)
        )
        warn_of_cut(texts, whole, [min(length, self.max_text_tokens) for length in kept], "the Q-Former")

    def reading_of(self, text: str) -> Reading:
        """What the vocabulary has of a text as :meth:`tokenize` reads it; for users' texts, training's may be empty."""
        return reading_of(self.tokenizer, clean_text(text)) if self.text_tower is None else self.text_tower.reading_of(text)

    def published_images(self, features: Tensor) -> Tensor | None:
        """Image tokens (B, P, W) of :meth:`image_features` -> unit vectors (B, E) of the published encoder; None without one."""
        if self.text_tower is None:
            return None
        assert isinstance(self.vision, PublishedVision)
        return self.vision.pool(features)

    def published_texts(self, tokens: TextTokens) -> Tensor | None:
        """The same of texts."""
        if self.text_tower is None:
            return None
        assert tokens.published is not None
        vectors: Tensor = self.text_tower(tokens.published)
        return vectors

    def image_features(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, S, S) -> (B, P, W). A frozen tower runs without gradient; ``ln_vision`` always has one.

        Outputs of the tower that were made before, (B, P, W) floats as :mod:`unifashion_pl.data.features` keeps them, pass for images.

        Raises:
            ValueError: images that the tower was not built for, or features of another width.
        """
        if images.ndim == 3:
            if images.shape[-1] != self.vision.width:
                raise ValueError(
                    f"cached vision features are {images.shape[-1]} wide, the vision tower gives {self.vision.width}"
                )
            return self.ln_vision(self._shown(images).to(self.query_tokens.dtype))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.vision_is_frozen):
            features = self.vision(images)
        return self.ln_vision(self._shown(features).to(self.query_tokens.dtype))

    def _shown(self, features: Tensor) -> Tensor:
        """(B, P, W) -> (B, P', W): in training without the tokens that :attr:`token_dropout` takes, at least one of an image stays."""
        if not self.training or not self.token_dropout:
            return features
        images, tokens, width = features.shape
        kept = max(1, round(tokens * (1 - self.token_dropout)))
        drawn = torch.rand(images, tokens, device=features.device).argsort(1)[:, :kept]
        return features.gather(1, drawn[..., None].expand(-1, -1, width))

    def queries_of(self, query_set: QuerySet, batch_size: int) -> Tensor:
        tokens = self.query_tokens
        if query_set == "target" and not self.tie_target_queries:
            tokens = self.target_query_tokens
        return tokens.expand(batch_size, -1, -1)

    def image_pass(self, features: Tensor, query_set: QuerySet = "reference") -> Tensor:
        """Image tokens (B, P, W) -> Z (B, Q, D), the queries' outputs without any text: Z_I of Eq. 2, with q_T Z_T of Eq. 9."""
        return self._look(features, query_set, keep=False)[0]

    def look(self, features: Tensor, query_set: QuerySet = "reference") -> tuple[Tensor, SeenImages]:
        """:meth:`image_pass`, and what it has projected of images and queries: give it to the passes after it in the place of the features."""
        queries, seen = self._look(features, query_set, keep=True)
        assert seen is not None
        return queries, seen

    def _look(self, features: Tensor, query_set: QuerySet, keep: bool) -> tuple[Tensor, SeenImages | None]:
        queries = self.queries_of(query_set, features.shape[0])
        return self.qformer(queries, None, features, queries=self.num_queries, keep=keep)

    def text_pass(self, tokens: TextTokens) -> Tensor:
        """Text alone -> CLS (B, D), e_cls of Z_C in Eq. 2.

        It and :meth:`image_pass` are the unimodal mask of §3.1.1 in two passes, which give the same numbers.
        """
        states = self.embedded(tokens)
        return self.qformer(states, additive_mask(tokens.mask[:, None, :], states.dtype), wanted=1)[0][:, 0]

    def joint_pass(
        self,
        features: Tensor | SeenImages,
        tokens: TextTokens,
        query_set: QuerySet = "reference",
        mode: MaskMode = "bidirectional",
    ) -> tuple[Tensor, Tensor]:
        """Queries and text in one sequence under one of the three masks -> (queries (B, Q, D), text states (B, T, D)).

        ``features`` may be image tokens (B, P, W), or what :meth:`look` has made of them.
        """
        out = self._joint(features, tokens, query_set, mode, None)
        return out[:, : self.num_queries], out[:, self.num_queries :]

    def _joint(
        self, features: Tensor | SeenImages, tokens: TextTokens, query_set: QuerySet, mode: MaskMode, wanted: int | None
    ) -> Tensor:
        words = self.embedded(tokens)
        states = torch.cat([self.queries_of(query_set, words.shape[0]).to(words.dtype), words], 1)
        mask = additive_mask(visibility(self.num_queries, tokens.mask, mode), states.dtype)
        return self.qformer(states, mask, features, queries=self.num_queries, wanted=wanted)[0]

    def fused_pass(
        self, features: Tensor | SeenImages, tokens: TextTokens, query_set: QuerySet = "reference"
    ) -> tuple[Tensor, Tensor]:
        """Bidirectional pass -> (queries (B, Q, D), CLS (B, D)), Z_R of Eq. 9: ITM, composed queries, soft prompts of phase 2."""
        out = self._joint(features, tokens, query_set, "bidirectional", self.num_queries + 1)
        return out[:, : self.num_queries], out[:, self.num_queries]

    def fused_queries(self, features: Tensor | SeenImages, tokens: TextTokens, query_set: QuerySet = "reference") -> Tensor:
        """The queries (B, Q, D) of :meth:`fused_pass` alone: the last layer leaves the text out, which nothing reads there."""
        return self._joint(features, tokens, query_set, "bidirectional", self.num_queries)

    def language_pass(self, features: Tensor | SeenImages, tokens: TextTokens) -> Tensor:
        """BLIP-2's multimodal causal pass (not in the paper), CLS replaced by ``[DEC]`` -> text states (B, T, D).

        Queries see queries alone in it, so that theirs is the image pass with q_R: of what that has kept (:meth:`look`) the text is read by itself.
        """
        seen = features if isinstance(features, SeenImages) else self.look(features)[1]
        states = self.embedded(tokens, begun=True)
        mask = visibility(self.num_queries, tokens.mask, "causal")[:, self.num_queries :]
        return self.qformer(states, additive_mask(mask, states.dtype), seen, behind=True)[0]

    def encode(self, batch: PairBatch | TripletBatch | EditBatch) -> Encoding:
        """One shared encoding per step: phase 1 for pairs, phase 2 for triplets and for edits (garment or sketch with its text).

        Raises:
            TypeError: a batch that carries neither.
        """
        if isinstance(batch, PairBatch):
            features = self.image_features(batch.images)
            queries, seen = self.look(features)
            return Encoding(features, self.look_up(self.tokenize(batch.texts)), queries, None, seen)
        if isinstance(batch, TripletBatch | EditBatch):
            images = batch.references if isinstance(batch, TripletBatch) else batch.images
            features, tokens = self.image_features(images), self.look_up(self.tokenize(batch.texts))
            queries, cls = self.fused_pass(features, tokens)
            return Encoding(features, tokens, queries, cls)
        raise TypeError(f"cannot encode a {type(batch).__name__}: expected a PairBatch (phase 1), TripletBatch or EditBatch")


def _repeated(texts: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """
    >>> _repeated(["a", "b", "a"]), _repeated(["a", "b"])
    (([0, 1], [0, 1, 0]), None)
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    if len(numbers) == len(texts):
        return None
    return [texts.index(text) for text in numbers], [numbers[text] for text in texts]


def _vocabulary(asked: int | None, known: int) -> int:
    """Words that are embedded: those of the tokenizer, or as many as were asked for."""
    if asked is not None and asked < known:
        raise ValueError(f"vocab_size is {asked:,}, the tokenizer has {known:,} entries: name at least as many")
    return asked or known
