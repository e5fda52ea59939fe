"""The Q-Former's layers (BLIP-2, arXiv 2301.12597, §3.1): transformers' modules under their names, in passes that repeat no projection.

What a pass over images has projected stays good for the passes after it: keys and values of an image do not depend on the queries and words that look at it,
and under the masks of §3.1.1 and of BLIP-2's causal pass queries see queries alone. transformers' own ``Blip2QFormerModel`` keeps nothing, and would
project an image anew for each text that it is matched with.

Letters: B rows, N distinct images, P image tokens, W their width, Q queries, S positions of the sequence [queries | text], D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2PreTrainedModel, Blip2QFormerAttention, Blip2QFormerLayer


class Keys(NamedTuple):
    """Keys and values of one layer, (N, n, D) each, heads beside one another."""

    keys: Tensor
    values: Tensor

    def rows(self, rows: Tensor | None) -> Keys:
        """Those of the images ``rows`` (B,); None = all, in order."""
        return self if rows is None else Keys(self.keys.index_select(0, rows), self.values.index_select(0, rows))


@dataclass
class SeenImages:
    """What a pass over N images has projected: passes over the same images read it in the place of the features.

    ``seen[rows]`` are the images ``rows`` (B,), in that order and as often as they come, without a copy: layers take the rows when they need them.

    Attributes:
        images: keys and values of the images, one entry a layer, None in layers that do not look at images.
        queries: of the queries in self-attention, one entry a layer; of the query set that looked first.
        rows: (B,) int64, which of the N images; None = all, in order.
    """

    images: list[Keys | None] = field(default_factory=list)
    queries: list[Keys] = field(default_factory=list)
    rows: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> SeenImages:
        return replace(self, rows=rows if self.rows is None else self.rows.index_select(0, rows))

    def __len__(self) -> int:
        return len(self.queries[0].keys) if self.rows is None else len(self.rows)


class QFormerLayer(Blip2QFormerLayer):
    """A layer of transformers' Q-Former, which takes keys and values that an earlier pass has projected and hands on its own."""

    def forward(  # type: ignore[override]  # the pass calls it, which is ours too
        self,
        states: Tensor,
        mask: Tensor | None = None,
        image: Tensor | Keys | None = None,
        before: Keys | None = None,
        *,
        rows: Tensor | None = None,
        queries: int = 0,
        wanted: int | None = None,
    ) -> tuple[Tensor, Keys, Keys | None]:
        """One layer over the sequence [queries | text].

        Args:
            states: (B, S, D).
            mask: additive, floating, 4-D: over what is seen, ``before`` first; None = all see all.
            image: tokens (B, P, W), or what this layer has made of them; unused where the layer does not look at images.
            before: keys and values that stand before the sequence's own in self-attention.
            rows: (B,), whose image of ``image`` and ``before`` each row looks at; None = its own.
            queries: how many leading positions look at the image and take the queries' feed-forward network.
            wanted: outputs of so many leading positions are wanted, at least those of the queries; None = all.

        Returns:
            states (B, ``wanted``, D), this layer's own keys and values in self-attention, those of the image.
        """
        own = projected(self.attention, states)
        seen = own
        if before is not None:
            before = before.rows(rows)
            seen = Keys(torch.cat([before.keys, own.keys], 1), torch.cat([before.values, own.values], 1))
        if wanted is not None:
            states, mask = states[:, :wanted], mask if mask is None or mask.shape[2] == 1 else mask[:, :, :wanted]
        states = attended(self.attention, states, seen, mask)
        if not queries:
            return self.feed_forward_chunk(states), own, None
        looking, of_image = states[:, :queries], None
        if self.has_cross_attention:
            of_image = projected(self.crossattention, image) if isinstance(image, Tensor) else cast(Keys, image)
            looking = attended(self.crossattention, looking, of_image.rows(rows), None)
        looking = self.feed_forward_chunk_query(looking)
        if states.shape[1] > queries:
            looking = torch.cat([looking, self.feed_forward_chunk(states[:, queries:])], 1)
        return looking, own, of_image


def projected(attention: Blip2QFormerAttention, states: Tensor) -> Keys:
    """What an attention may look at: (B, n, D or W) -> keys and values (B, n, D)."""
    return Keys(attention.attention.key(states), attention.attention.value(states))


def attended(attention: Blip2QFormerAttention, states: Tensor, seen: Keys, mask: Tensor | None) -> Tensor:
    """States (B, n, D) after looking at ``seen`` (B, m, D), with residual and norm."""
    inner = attention.attention

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (inner.num_attention_heads, inner.attention_head_size)).transpose(1, 2)

    dropout = inner.attention_dropout if attention.training else 0.0
    found = F.scaled_dot_product_attention(
        heads(inner.query(states)), heads(seen.keys), heads(seen.values), attn_mask=mask, dropout_p=dropout, scale=inner.scaling
    )
    return attention.output(found.transpose(1, 2).flatten(2), states)


class QFormer(Blip2PreTrainedModel):
    """BLIP-2's Q-Former: names, shapes, start values and numbers of transformers' ``Blip2QFormerModel``."""

    config: Blip2QFormerConfig  # type: ignore[assignment]  # as transformers has it
    _no_split_modules = ["QFormerLayer"]  # BLIP-2's own list has pieces of a layer

    def __init__(self, config: Blip2QFormerConfig) -> None:
        super().__init__(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList([QFormerLayer(config, number) for number in range(config.num_hidden_layers)])}
        )
        self.post_init()

    def get_input_embeddings(self) -> None:  # type: ignore[override]  # as transformers' class
        """None: it is given embeddings."""

    def forward(
        self,
        states: Tensor,
        mask: Tensor | None = None,
        image: Tensor | SeenImages | None = None,
        *,
        queries: int = 0,
        behind: bool = False,
        wanted: int | None = None,
        keep: bool = False,
    ) -> tuple[Tensor, SeenImages | None]:
        """One pass.

        Args:
            states: (B, S, D) embeddings of the sequence [queries | text].
            mask: see :mod:`unifashion_pl.backbone.masks`; None = all see all.
            image: tokens (B, P, W), or what an earlier pass has made of them, B of its rows.
            queries: how many leading positions are queries.
            behind: the sequence stands behind the queries of ``image`` and sees them.
            wanted: outputs of so many leading positions are wanted, at least those of the queries; None = all.
            keep: hand on what this pass has projected.

        Returns:
            (B, ``wanted``, D), and what was projected if it is kept.
        """
        states = self.dropout(self.layernorm(states.to(self.layernorm.weight.dtype)))
        known = image if isinstance(image, SeenImages) else None
        if isinstance(image, Tensor):
            image = image.to(states.dtype)
        kept = SeenImages()
        layers = cast(nn.ModuleList, self.encoder["layer"])
        for number, layer in enumerate(layers):
            states, own, of_image = layer(
                states,
                mask,
                known.images[number] if known is not None else image,
                known.queries[number] if known is not None and behind else None,
                rows=None if known is None else known.rows,
                queries=queries,
                wanted=wanted if number == len(layers) - 1 else None,
            )
            if keep:
                kept.images.append(of_image)
                kept.queries.append(own)
        return states, kept if keep else None
