"""The retrieval head's losses on pairs and triplets."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from plainform import PlainForm
from small import TEXTS, pair_batch, small_backbone, triplet_batch
from torch import Tensor

from unifashion_pl import similarity
from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.backbone.qformer import QuerySet, TextTokens
from unifashion_pl.data.samples import PairBatch, TripletBatch
from unifashion_pl.losses import itc_loss
from unifashion_pl.tasks import RetrievalModule


def head(**kwargs: object) -> RetrievalModule:
    torch.manual_seed(0)
    return RetrievalModule(hidden_size=32, embed_dim=16, **kwargs)  # type: ignore[arg-type]


def test_pair_losses_are_itc_and_itm() -> None:
    backbone, module = small_backbone().eval(), head()
    batch = pair_batch()
    losses = module.losses(backbone, batch, backbone.encode(batch))
    assert set(losses) == {"itc", "itm"}
    z, c = module.image_embeddings(backbone, batch.images), module.text_embeddings(backbone, batch.texts)
    torch.testing.assert_close(losses["itc"], itc_loss(c, z, 0.07), atol=1e-5, rtol=0)
    with_lm = head(lm_vocab=len(backbone.tokenizer))
    assert with_lm.losses(backbone, batch, backbone.encode(batch))["lm"] > 0


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
def test_matching_takes_each_pair_and_the_hardest_wrong_image_and_text(kind: str) -> None:
    """L_ITM of Eqs. 5 and 10, one pass a pair: (C, I), or (t, I_T) with the targets' queries; wrong ones by loops over the similarities."""
    backbone, module = small_backbone().eval(), head(negatives="argmax")
    with torch.no_grad():
        backbone.target_query_tokens.add_(0.1 * torch.randn(4, 32))
    batch = pair_batch(products=torch.tensor([0, 1, 2, 2])) if kind == "pairs" else triplet_batch()
    loss = module.losses(backbone, batch, backbone.encode(batch))["itm" if kind == "pairs" else "cir_itm"]
    if isinstance(batch, TripletBatch):
        texts, seen, queries, ids = module.compose(backbone, batch.references, batch.texts), batch.targets, "target", range(4)
    else:
        texts, seen, queries, ids = module.text_embeddings(backbone, batch.texts), batch.images, "reference", [0, 1, 2, 2]
    alike = module.score(texts, module.image_embeddings(backbone, seen, queries)).tolist()  # type: ignore[arg-type]
    right = [(i, i) for i in range(4)]
    wrong = [(max((alike[i][j], j) for j in range(4) if ids[j] != ids[i])[1], i) for i in range(4)]
    wrong += [(j, max((alike[i][j], i) for i in range(4) if ids[j] != ids[i])[1]) for j in range(4)]
    features = backbone.image_features(seen)
    errors = []
    for image, text in right + wrong:
        tokens = backbone.tokenize([batch.texts[text]])
        unmatched, matched = module.match(backbone, features[image][None], tokens, queries)[0].double().tolist()  # type: ignore[arg-type]
        label = matched if (image, text) in right else unmatched
        errors.append(math.log(math.exp(unmatched) + math.exp(matched)) - label)
    assert float(loss.detach()) == pytest.approx(sum(errors) / 12, abs=1e-5)


@pytest.mark.parametrize("batch", [pair_batch(), triplet_batch()])
def test_similarities_are_computed_once_a_step(batch: PairBatch | TripletBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matching draws its negatives by those of the loss; captions against composed queries have one vector each."""
    shapes: list[torch.Size] = []
    best = similarity._best
    monkeypatch.setattr(
        similarity, "_best", lambda text, image, *which: (shapes.append(image.shape), best(text, image, *which))[1]
    )
    backbone = small_backbone()
    losses = head().losses(backbone, batch, backbone.encode(batch))
    assert len(losses) > 1
    assert shapes == [(4, 4, 16)]


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
def test_losses_and_gradients_equal_the_plain_form(kind: str) -> None:
    """Of transformers' class, which projects images anew in each pass; texts of several lengths, padded further there."""
    backbone = small_backbone(initializer_range=0.2).double().eval()
    module = head(negatives="argmax", temperature=0.2, lm_vocab=len(backbone.tokenizer)).double().eval()
    with torch.no_grad():
        backbone.target_query_tokens.add_(0.1 * torch.randn(4, 32))
    features = torch.randn(2, 4, 9, backbone.vision.width, dtype=torch.double)
    texts, captions, same = (
        ["red", TEXTS[1], "plain black", TEXTS[3]],
        ["a long red dress", "blue", "skirt", "top"],
        [7, 1, 7, 2],
    )
    tokens, said = (backbone.tokenize(one) for one in (texts, captions))
    padded = [F.pad(x, (0, 3)) for x in (tokens.ids, tokens.mask, said.ids, said.mask)]
    batch: PairBatch | TripletBatch
    if kind == "pairs":
        batch = pair_batch(images=features[0], texts=texts, products=torch.tensor(same))
        expected = PlainForm(backbone, module).pairs(features[0], padded[0], padded[1], same, lm=True)
    else:
        ids = torch.tensor(same)
        batch = triplet_batch(references=features[0], targets=features[1], texts=texts, captions=captions, target_ids=ids)
        expected = PlainForm(backbone, module).triplets(*features, (padded[0], padded[1]), (padded[2], padded[3]), same)
    found = module.losses(backbone, batch, backbone.encode(batch))
    assert found.keys() == expected.keys()
    learned = {n: p for part in (backbone, module) for n, p in part.named_parameters() if not n.startswith("vision.")}
    for name, loss in expected.items():
        assert float((found[name] - loss).detach().abs()) < 1e-6, name
        ours, plain = (
            torch.autograd.grad(one, [*learned.values()], retain_graph=True, allow_unused=True) for one in (found[name], loss)
        )
        largest = max(float(g.abs().max()) for g in plain if g is not None)
        assert largest > 0.1
        for parameter, a, b in zip(learned, ours, plain):
            zero = torch.zeros(())
            apart = ((zero if a is None else a) - (zero if b is None else b)).abs().max()
            assert float(apart) < 1e-6 * largest, (name, parameter)


def test_triplet_losses_are_the_three_terms_of_equation_10() -> None:
    backbone, module = small_backbone().eval(), head()
    batch = triplet_batch()
    losses = module.losses(backbone, batch, backbone.encode(batch))
    assert set(losses) == {"cir_itc", "cir_caption", "cir_itm"}
    e = module.compose(backbone, batch.references, batch.texts)
    z = module.image_embeddings(backbone, batch.targets, "target")
    c = module.text_embeddings(backbone, batch.captions)
    torch.testing.assert_close(losses["cir_itc"], itc_loss(e, z, 0.07), atol=1e-5, rtol=0)
    torch.testing.assert_close(losses["cir_caption"], itc_loss(e, c[:, None], 0.07), atol=1e-5, rtol=0)


def test_samples_without_caption_take_no_part_in_the_caption_term() -> None:
    backbone, module = small_backbone().eval(), head()
    some = triplet_batch(captions=["A red dress.", "", "A skirt.", ""])
    full = triplet_batch(captions=["A red dress.", "anything else", "A skirt.", "at all"])
    kept = torch.tensor([0, 2])
    e = module.compose(backbone, full.references, full.texts)[kept]
    c = module.text_embeddings(backbone, ["A red dress.", "A skirt."])
    loss = module.losses(backbone, some, backbone.encode(some))["cir_caption"]
    torch.testing.assert_close(loss, itc_loss(e, c[:, None], 0.07), atol=1e-5, rtol=0)
    none = triplet_batch(captions=[""] * 4)
    assert float(module.losses(backbone, none, backbone.encode(none))["cir_caption"].detach()) == 0


def test_target_queries_and_encoder_get_gradients_from_every_term() -> None:
    backbone, module = small_backbone().eval(), head()
    batch = triplet_batch()
    losses = module.losses(backbone, batch, backbone.encode(batch))
    for name in ("cir_itc", "cir_itm"):
        grad = torch.autograd.grad(losses[name], backbone.target_query_tokens, retain_graph=True)[0]
        assert grad.abs().max() > 0, name
    for name, loss in losses.items():
        grad = torch.autograd.grad(loss, backbone.embeddings.word_embeddings.weight, retain_graph=True)[0]
        assert grad.abs().max() > 0, name


def test_one_sample_has_no_negatives_and_still_trains() -> None:
    backbone, module = small_backbone().eval(), head()
    batch = pair_batch(1)
    losses = module.losses(backbone, batch, backbone.encode(batch))
    assert float(losses["itc"].detach()) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(losses["itm"])


def test_matching_without_its_head_is_an_error() -> None:
    backbone, module = small_backbone().eval(), head(itm=False)
    with pytest.raises(RuntimeError, match="itm=False"):
        module.match(backbone, torch.zeros(1, 4, 16), backbone.tokenize(TEXTS[:1]))


def test_alone_it_trains_under_lightning_and_without_a_backbone_it_says_so() -> None:
    module = head(backbone=small_backbone(), learning_rate=1e-3)
    before = module.vision_proj.weight.detach().clone()
    trainer = L.Trainer(
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    loader = torch.utils.data.DataLoader([{"pairs": pair_batch()}] * 2, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    assert not torch.equal(before, module.vision_proj.weight)
    with pytest.raises(RuntimeError, match="pass backbone="):
        head().training_step({"pairs": pair_batch()}, 0)


def test_matching_only_some_samples_takes_three_passes_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, module = small_backbone().eval(), head(itm_samples=2)
    rows: list[int] = []
    original = backbone.fused_queries
    monkeypatch.setattr(backbone, "fused_queries", lambda f, t, q: (rows.append(len(f)), original(f, t, q))[1])
    batch = pair_batch()
    module.losses(backbone, batch, backbone.encode(batch))
    assert rows == [6]


def test_matching_by_captions_leaves_out_samples_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty text would be its own positive and its own negative."""
    torch.manual_seed(0)
    backbone, module = small_backbone(), head(itm_text="caption")
    seen: list[list[list[int]]] = []
    match = module.match

    def looked(backbone: QFormerBackbone, features: Tensor, tokens: TextTokens, query_set: QuerySet) -> Tensor:
        seen.append([row[mask].tolist() for row, mask in zip(tokens.ids, tokens.mask)])
        return match(backbone, features, tokens, query_set)

    monkeypatch.setattr(module, "match", looked)
    batch = triplet_batch(captions=["Red.", "", "Blue dress.", "Green top."])
    losses = module.losses(backbone, batch, backbone.encode(batch))
    known = [backbone.tokenize([caption]).ids[0].tolist() for caption in batch.captions if caption]
    assert len(seen[0]) == 9
    assert all(row in known for row in seen[0])
    assert float(losses["cir_itm"].detach()) > 0
    nothing = triplet_batch(captions=[""] * 4)
    silent = module.losses(backbone, nothing, backbone.encode(nothing))["cir_itm"]
    assert float(silent.detach()) == 0
    silent.backward()
    assert module.itm_head is not None
    assert all(p.grad is not None for p in module.itm_head.parameters())


def test_equal_texts_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors and gradients are those of reading every one, and texts that are all different are read as they come."""
    backbone, head = small_backbone(dropout=0.0).train(), RetrievalModule(hidden_size=32, embed_dim=16)
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[0], TEXTS[2]]
    tokens, weights = backbone.tokenize(texts), torch.randn(6, 16)

    def gradients(vectors: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((vectors * weights).sum(), [*backbone.qformer.parameters()], allow_unused=True))

    every = head.project_texts(backbone.text_pass(tokens))
    expected, read = gradients(every), []
    own = backbone.text_pass
    monkeypatch.setattr(backbone, "text_pass", lambda tokens: read.append(tokens.ids.shape[0]) or own(tokens))
    found = head.text_vectors(backbone, tokens)
    torch.testing.assert_close(found, every, atol=1e-6, rtol=1e-5)
    for one, other in zip(gradients(found), expected):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    head.text_vectors(backbone, backbone.tokenize(TEXTS[:3]))
    assert read == [3, 3]
