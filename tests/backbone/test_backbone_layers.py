"""The Q-Former's own layers against transformers' class; what a pass keeps for the next; one graph under torch.compile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small import TEXTS, images, pair_batch, small_backbone, triplet_batch
from torch import Tensor, nn
from transformers import Blip2QFormerModel

from unifashion_pl.backbone import QFormerBackbone, TextTokens
from unifashion_pl.backbone.layers import QFormer
from unifashion_pl.backbone.masks import additive_mask, visibility
from unifashion_pl.tasks import RetrievalModule

#: Texts of several lengths.
UNEVEN = ["red", TEXTS[1], "plain black", TEXTS[3]]
EXACT = {"atol": 1e-11, "rtol": 0.0}


def theirs_of(backbone: QFormerBackbone) -> Blip2QFormerModel:
    theirs = Blip2QFormerModel(backbone.qformer.config).to(backbone.query_tokens.dtype)
    theirs.load_state_dict(backbone.qformer.state_dict())
    return theirs.train(backbone.training)


def double(**changes: object) -> tuple[QFormerBackbone, Tensor, TextTokens]:
    """In fp64, with the features of four images and texts of several lengths."""
    backbone = small_backbone(**changes).double().eval()
    features = torch.randn(4, 9, backbone.vision.width, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    return backbone, features, backbone.tokenize(UNEVEN)


def test_it_starts_with_the_weights_of_transformers_class() -> None:
    config = small_backbone().qformer.config
    torch.manual_seed(1)
    ours = QFormer(config).state_dict()
    torch.manual_seed(1)
    theirs = Blip2QFormerModel(config).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


@pytest.mark.parametrize("mode", ["unimodal", "bidirectional", "causal"])
def test_passes_equal_transformers_class(mode: str) -> None:
    backbone, features, tokens = double()
    mask = additive_mask(visibility(4, tokens.mask, mode), torch.double)  # type: ignore[arg-type]
    both = backbone.embeddings(input_ids=tokens.ids, query_embeds=backbone.queries_of("target", 4))
    expected = theirs_of(backbone)(
        query_embeds=both, query_length=4, attention_mask=mask, encoder_hidden_states=features
    ).last_hidden_state
    queries, text = backbone.joint_pass(features, tokens, "target", mode)  # type: ignore[arg-type]
    torch.testing.assert_close(queries, expected[:, :4], **EXACT)
    torch.testing.assert_close(text[tokens.mask], expected[:, 4:][tokens.mask], **EXACT)
    if mode == "unimodal":
        torch.testing.assert_close(backbone.image_pass(features, "target"), expected[:, :4], **EXACT)
        torch.testing.assert_close(backbone.text_pass(tokens), expected[:, 4], **EXACT)
    if mode == "bidirectional":
        fused, cls = backbone.fused_pass(features, tokens, "target")
        torch.testing.assert_close(fused, expected[:, :4], **EXACT)
        torch.testing.assert_close(cls, expected[:, 4], **EXACT)
        torch.testing.assert_close(backbone.fused_queries(features, tokens, "target"), fused, **EXACT)


def test_dropout_falls_where_transformers_class_has_it() -> None:
    backbone, features, _ = double(dropout=0.3)
    whole = theirs_of(backbone.train())
    torch.manual_seed(3)
    ours = backbone.image_pass(features)
    torch.manual_seed(3)
    theirs = whole(query_embeds=backbone.queries_of("reference", 4), encoder_hidden_states=features)
    torch.testing.assert_close(ours, theirs.last_hidden_state, **EXACT)
    assert float((ours - backbone.eval().image_pass(features)).detach().abs().max()) > 0.1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_seen_images_stand_for_their_features_in_any_order_and_number(checkpointing: bool) -> None:
    """Outputs and every gradient, of a pass over some of the images, one of them twice, and of the language pass."""
    backbone, features, tokens = double(gradient_checkpointing=checkpointing, dropout=0.0)
    backbone.train()
    rows = torch.tensor([2, 0, 2])
    found: list[tuple[Tensor, ...]] = []
    for keep in (True, False):
        backbone.zero_grad()
        given = features.clone().requires_grad_()
        queries, seen = backbone.look(given)
        fused = backbone.fused_pass(seen[rows] if keep else given[rows], tokens[rows])[1]
        once_more = seen[torch.tensor([3, 2])][torch.tensor([1, 0, 1])] if keep else given[[2, 3, 2]]
        again = backbone.fused_queries(once_more, tokens[rows])
        if keep:
            said = backbone.language_pass(seen, tokens)
        else:
            begun = torch.cat([torch.full((4, 1), backbone.begin_id), tokens.ids[:, 1:]], 1)
            said = backbone.joint_pass(given, TextTokens(begun, tokens.mask), mode="causal")[1]
        outputs = (queries, fused, again, said[tokens.mask])
        torch.cat([out.flatten() for out in outputs]).square().sum().backward()
        learned = [p.grad for p in backbone.parameters() if p.grad is not None]
        found.append((*outputs, given.grad, *learned))  # type: ignore[arg-type]
    assert len(found[0]) == len(found[1]) > 50
    for ours, plain in zip(*found):
        torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-9)
    assert len(seen) == 4
    assert len(seen[rows]) == 3


class Counted:
    """How many rows (of images, or of one image's tokens) go through some linear layers."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.rows = [0] * len(layers)
        for number, layer in enumerate(layers):
            layer.register_forward_hook(self.hook(number))

    def hook(self, number: int) -> Callable[..., None]:
        def count(_module: nn.Module, given: tuple[Tensor], _out: Tensor) -> None:
            self.rows[number] += len(given[0])

        return count


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
def test_a_step_projects_each_image_once(kind: str) -> None:
    backbone = small_backbone()
    head = RetrievalModule(hidden_size=32, embed_dim=16, lm_vocab=len(backbone.tokenizer))
    crossing = [layer.crossattention.attention for layer in backbone.qformer.encoder.layer if layer.has_cross_attention]
    projections = Counted([part for attention in crossing for part in (attention.key, attention.value)])
    tower, own = Counted([backbone.vision]), Counted([backbone.qformer.encoder.layer[1].intermediate_query.dense])
    batch = pair_batch() if kind == "pairs" else triplet_batch()
    assert {"lm", "cir_itm"} & head.losses(backbone, batch, backbone.encode(batch)).keys()
    distinct = 4 if kind == "pairs" else 8
    assert projections.rows == [distinct] * len(projections.rows) != []
    assert tower.rows == [distinct]
    assert own.rows == [distinct + 3 * 4]  # the image pass (and the composed query), three for matching, none for language


@pytest.mark.parametrize(("kind", "sets"), [("pairs", 1), ("triplets", 2)])
def test_a_step_looks_up_the_words_of_each_set_of_texts_once(kind: str, sets: int) -> None:
    """Each look-up has a gradient of the table's size; triplets have captions beside their texts."""
    backbone = small_backbone()
    head = RetrievalModule(hidden_size=32, embed_dim=16, lm_vocab=len(backbone.tokenizer))
    looked_up = Counted([backbone.embeddings.word_embeddings])
    batch = pair_batch() if kind == "pairs" else triplet_batch()
    head.losses(backbone, batch, backbone.encode(batch))
    assert looked_up.rows == [4 * sets]


def test_words_that_are_looked_up_stand_for_their_texts_in_every_pass() -> None:
    """Outputs, and the gradient of the table, with some texts in another order."""
    backbone, features, tokens = double()
    seen, rows = backbone.look(features)[1], torch.tensor([2, 0, 2, 1])
    found: list[tuple[Tensor, ...]] = []
    for given in (tokens, backbone.look_up(tokens)):
        backbone.zero_grad()
        told = backbone.language_pass(seen, given)[tokens.mask]
        outputs = (backbone.text_pass(given), backbone.fused_pass(features, given[rows])[1], told)
        torch.cat([out.flatten() for out in outputs]).square().sum().backward(retain_graph=True)
        grad = backbone.embeddings.word_embeddings.weight.grad
        assert grad is not None
        found.append((*outputs, grad.clone()))
    assert found[0][-1][backbone.begin_id].abs().max() > 0
    for plain, ours in zip(*found):
        torch.testing.assert_close(ours, plain, **EXACT)
    assert backbone.look_up(given) is given


@pytest.mark.filterwarnings("ignore:.*")
def test_passes_are_one_graph_each() -> None:
    backbone = small_backbone(num_layers=2).train()
    features, tokens = backbone.image_features(images(4)).detach(), backbone.tokenize(UNEVEN)
    seen = backbone.look(features)[1]
    rows = torch.tensor([1, 0, 3, 2])
    passes: dict[str, Callable[[], object]] = {
        "look": lambda: backbone.look(features),
        "text": lambda: backbone.text_pass(tokens),
        "matching": lambda: backbone.fused_queries(seen[rows], tokens, "target"),
        "language": lambda: backbone.language_pass(seen, tokens),
    }
    for name, call in passes.items():
        torch._dynamo.reset()
        told = torch._dynamo.explain(call)()
        assert (name, told.graph_break_count, told.graph_count) == (name, 0, 1), told.break_reasons
