"""The retrieval losses of a step as LAVIS and transformers compute them: the independent form of ours, in tests and beside it in ``step.py``.

Every pass is a call of transformers' ``Blip2QFormerModel`` on whole sequences, so that an image's keys and values are projected in each pass that
sees it: four times in a step of pairs. The negatives for matching are the hardest, by a loop. Parameters are those of our modules, one tensor with
two readers: their ``grad`` is what either form's backward pass left.

Letters: B batch, P image tokens, W their width, Q queries, T text tokens, D hidden width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Blip2QFormerModel

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.tasks import RetrievalModule

#: Label smoothing of BLIP-2's language loss.
SMOOTHING = 0.1


class PlainForm:
    """Losses of pairs and triplets over the parameters of ``backbone`` and ``head``."""

    def __init__(self, backbone: QFormerBackbone, head: RetrievalModule) -> None:
        self.backbone, self.head = backbone, head
        with torch.device("meta"):
            self.qformer = Blip2QFormerModel(backbone.qformer.config)
        self.qformer.load_state_dict(dict(backbone.qformer.named_parameters()), assign=True)
        self.qformer.train(backbone.qformer.training)

    def pairs(self, features: Tensor, ids: Tensor, mask: Tensor, same: Sequence[int], lm: bool = False) -> dict[str, Tensor]:
        """``itc, itm[, lm]`` of Eq. 5: tower outputs (B, P, W), token ids and mask (B, T), equal numbers are no negatives of each other."""
        seen, queries = self.backbone.ln_vision(features), self.backbone.query_tokens
        images = self.images(seen, queries)
        logits = self.similarities(self.texts(ids, mask), images)
        losses = {"itc": contrast(logits, same), "itm": self.matching(seen, ids, mask, queries, logits, same)}
        if lm:
            losses["lm"] = self.language(seen, ids, mask, queries)
        return losses

    def triplets(
        self,
        references: Tensor,
        targets: Tensor,
        texts: tuple[Tensor, Tensor],
        captions: tuple[Tensor, Tensor],
        same: Sequence[int],
    ) -> dict[str, Tensor]:
        """``cir_itc, cir_caption, cir_itm`` of Eq. 10; ``texts`` and ``captions`` are ids and mask."""
        reference, target = self.backbone.ln_vision(references), self.backbone.ln_vision(targets)
        queries = self.backbone.target_query_tokens
        fused = self.fused(reference, *texts, self.backbone.query_tokens)
        composed = F.normalize(self.head.text_proj(fused[:, queries.shape[1]]), dim=-1)
        logits = self.similarities(composed, self.images(target, queries))
        return {
            "cir_itc": contrast(logits, same),
            "cir_caption": contrast(self.texts(*captions) @ composed.T / self.head.temperature, same),
            "cir_itm": self.matching(target, *texts, queries, logits, same),
        }

    def images(self, seen: Tensor, queries: Tensor) -> Tensor:
        """(B, P, W) -> unit vectors (B, Q, E)."""
        out = self.qformer(query_embeds=queries.expand(len(seen), -1, -1), encoder_hidden_states=seen).last_hidden_state
        return F.normalize(self.head.vision_proj(out), dim=-1)

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) -> unit vectors (B, E)."""
        words = self.embedded(ids)
        out = self.qformer(query_embeds=words, query_length=0, attention_mask=mask.long()).last_hidden_state
        return F.normalize(self.head.text_proj(out[:, 0]), dim=-1)

    def embedded(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        embeddings = self.backbone.embeddings
        return F.embedding(ids, embeddings.word_embeddings.weight) + embeddings.position_embeddings.weight[: ids.shape[1]]

    def fused(self, seen: Tensor, ids: Tensor, mask: Tensor, queries: Tensor) -> Tensor:
        """Queries and text in one sequence, all see all -> (B, Q + T, D)."""
        Q = queries.shape[1]
        both = torch.cat([queries.expand(len(ids), -1, -1), self.embedded(ids)], 1)
        kept = torch.cat([torch.ones(len(ids), Q, dtype=torch.long), mask.long()], 1)
        return self.qformer(
            query_embeds=both, query_length=Q, attention_mask=kept, encoder_hidden_states=seen
        ).last_hidden_state

    def similarities(self, texts: Tensor, images: Tensor) -> Tensor:
        """(B, E) and (B, Q, E) -> logits (B texts, B images)."""
        return torch.einsum("te,iqe->tiq", texts, images).amax(-1) / self.head.temperature

    def matching(self, seen: Tensor, ids: Tensor, mask: Tensor, queries: Tensor, logits: Tensor, same: Sequence[int]) -> Tensor:
        """Cross-entropy over the pairs, each text with its hardest wrong image and each image with its hardest wrong text (Eq. 4)."""
        assert self.head.itm_head is not None
        rows, found = range(len(ids)), logits.tolist()
        others = [[j for j in rows if same[j] != same[i]] for i in rows]
        pairs = [(i, i) for i in rows]
        pairs += [(max(others[i], key=lambda j: found[i][j]), i) for i in rows if others[i]]
        pairs += [(j, max(others[j], key=lambda i: found[i][j])) for j in rows if others[j]]
        images, texts = torch.tensor(pairs).T
        out = self.fused(seen[images], ids[texts], mask[texts], queries)[:, : queries.shape[1]]
        labels = torch.tensor([int(image == text) for image, text in pairs])
        return F.cross_entropy(self.head.itm_head(out).mean(1), labels)

    def language(self, seen: Tensor, ids: Tensor, mask: Tensor, queries: Tensor) -> Tensor:
        """Next words in one pass over queries and text under BLIP-2's causal mask: transformers' Q-Former keeps no keys and values."""
        assert self.head.lm_head is not None
        (B, T), Q = ids.shape, queries.shape[1]
        begun = torch.cat([torch.full((B, 1), self.backbone.tokenizer.convert_tokens_to_ids("[DEC]")), ids[:, 1:]], 1)
        hidden = torch.ones(B, 1, Q + T, Q + T, dtype=torch.bool)
        hidden[:, :, :Q, :Q] = hidden[:, :, Q:, :Q] = False
        hidden[:, :, Q:, Q:] = ~mask[:, None, None, :] | torch.ones(T, T, dtype=torch.bool).triu(1)
        both = torch.cat([queries.expand(B, -1, -1), self.embedded(begun)], 1)
        additive = torch.zeros(hidden.shape, dtype=both.dtype).masked_fill(hidden, torch.finfo(both.dtype).min)
        states = self.qformer(
            query_embeds=both, query_length=Q, attention_mask=additive, encoder_hidden_states=seen
        ).last_hidden_state[:, Q:]
        words = self.head.lm_head(states, self.backbone.embeddings.word_embeddings.weight)
        labels = torch.where(mask, ids, -100)[:, 1:]
        return F.cross_entropy(words[:, :-1].flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)


def contrast(logits: Tensor, same: Sequence[int]) -> Tensor:
    """Eq. 3 in both directions; other rows of an equal number are left out."""
    number, own = torch.tensor(same), torch.arange(len(same))
    logits = logits.masked_fill((number[:, None] == number) & (own[:, None] != own), float("-inf"))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
