"""The passes of the Q-Former: equalities between passes, leaks through masks, and transformers' own retrieval model."""

from __future__ import annotations

import pytest
import torch
from small import TEXTS, images, pair_batch, small_backbone, triplet_batch
from torch import Tensor
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2QFormerModel

from unifashion_pl.backbone import QFormerBackbone, TextTokens
from unifashion_pl.backbone.masks import visibility
from unifashion_pl.tasks import RetrievalModule


def features(backbone: QFormerBackbone, n: int = 4) -> Tensor:
    return backbone.image_features(images(n))


def transformers_qformer(backbone: QFormerBackbone) -> Blip2QFormerModel:
    """Its own class with our weights under the same names."""
    theirs = Blip2QFormerModel(backbone.qformer.config).eval()
    theirs.load_state_dict(backbone.qformer.state_dict())
    return theirs


def test_visibility_follows_the_table() -> None:
    mask = torch.tensor([[True, True, False]])
    expected = {
        "unimodal": ["11000", "11000", "00110", "00110", "00110"],
        "bidirectional": ["11110", "11110", "11110", "11110", "11110"],
        "causal": ["11000", "11000", "11100", "11110", "11110"],
    }
    for mode, rows in expected.items():
        seen = visibility(2, mask, mode)[0]  # type: ignore[arg-type]
        assert ["".join(str(int(v)) for v in row) for row in seen] == rows, mode


def test_unimodal_pass_equals_the_two_separate_passes(backbone: QFormerBackbone) -> None:
    seen, tokens = features(backbone), backbone.tokenize(TEXTS)
    queries, text = backbone.joint_pass(seen, tokens, mode="unimodal")
    torch.testing.assert_close(queries, backbone.image_pass(seen), atol=2e-6, rtol=0)
    torch.testing.assert_close(text[:, 0], backbone.text_pass(tokens), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("mode", "leaks"), [("unimodal", False), ("causal", False), ("bidirectional", True)])
def test_text_reaches_the_queries_only_where_the_mask_lets_it(backbone: QFormerBackbone, mode: str, leaks: bool) -> None:
    seen, tokens = features(backbone, 1), backbone.tokenize(TEXTS[:1])
    other = TextTokens(tokens.ids.clone(), tokens.mask)
    other.ids[0, 2] = backbone.tokenize(["blue"]).ids[0, 1]
    a = backbone.joint_pass(seen, tokens, mode=mode)  # type: ignore[arg-type]
    b = backbone.joint_pass(seen, other, mode=mode)  # type: ignore[arg-type]
    assert bool((a[0] - b[0]).abs().max() > 1e-6) is leaks
    before_changes = (a[1][:, :2] - b[1][:, :2]).abs().max() > 1e-6
    assert bool(before_changes) is (mode != "causal")


def test_padding_changes_no_valid_output(backbone: QFormerBackbone) -> None:
    seen = features(backbone, 2)
    alone = backbone.fused_pass(seen[:1], backbone.tokenize(TEXTS[2:3]))
    padded = backbone.fused_pass(seen, backbone.tokenize([TEXTS[2], TEXTS[1] + " is long black plain"]))
    torch.testing.assert_close(alone[0], padded[0][:1], atol=2e-6, rtol=0)
    torch.testing.assert_close(alone[1], padded[1][:1], atol=2e-6, rtol=0)


def test_soft_prompts_are_the_image_pass_of_pairs_and_the_fused_pass_of_triplets() -> None:
    """q of Eqs. 6 and 7, q_R of Eqs. 11 and 12: from transformers' own modules, whose plain padding mask lets all see all."""
    backbone = small_backbone().eval()
    with torch.no_grad():
        backbone.target_query_tokens.add_(1.0)  # no soft prompt comes from it
    pairs, triplets = pair_batch(), triplet_batch()
    tokens = backbone.tokenize(triplets.texts)
    queries, theirs = backbone.query_tokens.expand(4, -1, -1), transformers_qformer(backbone)
    alone = theirs(query_embeds=queries, encoder_hidden_states=backbone.image_features(pairs.images))
    both = torch.cat([queries, backbone.embeddings.word_embeddings(tokens.ids)], 1)
    both[:, 4:] += backbone.embeddings.position_embeddings(torch.arange(tokens.ids.shape[1]))
    kept = torch.cat([torch.ones(4, 4), tokens.mask], 1)
    fused = theirs(
        query_embeds=both,
        query_length=4,
        attention_mask=kept,
        encoder_hidden_states=backbone.image_features(triplets.references),
    ).last_hidden_state
    first, second = backbone.encode(pairs), backbone.encode(triplets)
    torch.testing.assert_close(first.queries, alone.last_hidden_state, atol=2e-6, rtol=0)
    assert first.cls is None
    torch.testing.assert_close(second.queries, fused[:, :4], atol=2e-6, rtol=0)
    assert second.cls is not None
    torch.testing.assert_close(second.cls, fused[:, 4], atol=2e-6, rtol=0)


def test_target_queries_start_as_the_reference_queries_and_can_be_tied() -> None:
    backbone = small_backbone()
    assert torch.equal(backbone.query_tokens, backbone.target_query_tokens)
    tied = small_backbone(tie_target_queries=True)
    assert not hasattr(tied, "target_query_tokens")
    assert tied.queries_of("target", 2).data_ptr() == tied.query_tokens.data_ptr()


def test_wrong_image_size_and_type_say_what_to_do(backbone: QFormerBackbone) -> None:
    with pytest.raises(ValueError, match="image_size to 32"):
        backbone.image_features(images(1, 48))
    with pytest.raises(ValueError, match="normalisation happens inside"):
        backbone.image_features(images(1).float())


def test_similarities_and_match_logits_equal_transformers_blip2() -> None:
    """Blip2ForImageTextRetrieval as an independent reference, fed with our weights and our image tokens."""
    backbone = small_backbone().eval()
    head = RetrievalModule(hidden_size=32, embed_dim=16).eval()
    width = backbone.vision.width
    vision = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    theirs = Blip2ForImageTextRetrieval(
        Blip2Config(
            vision_config=vision,
            qformer_config={**backbone.qformer.config.to_dict(), "num_attention_heads": 2},
            text_config={
                "model_type": "opt",
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "ffn_dim": 16,
            },
            num_query_tokens=4,
            image_text_hidden_size=16,
        )
    ).eval()
    theirs.qformer.load_state_dict(backbone.qformer.state_dict())
    theirs.embeddings.load_state_dict(backbone.embeddings.state_dict())
    theirs.query_tokens.data.copy_(backbone.query_tokens)
    theirs.vision_projection.load_state_dict(head.vision_proj.state_dict())
    theirs.text_projection.load_state_dict(head.text_proj.state_dict())
    assert head.itm_head is not None
    theirs.itm_head.load_state_dict(head.itm_head.state_dict())

    seen, tokens = features(backbone), backbone.tokenize(TEXTS)
    theirs.vision_model.forward = lambda **_: (seen,)
    inputs = {"pixel_values": torch.zeros(4, 3, 28, 28), "input_ids": tokens.ids, "attention_mask": tokens.mask.long()}
    with torch.no_grad():
        itc = theirs(**inputs, use_image_text_matching_head=False, return_dict=False)[0]
        itm = theirs(**inputs, use_image_text_matching_head=True, return_dict=False)[0]
        ours = head.score(head.text_embeddings(backbone, TEXTS), head.image_embeddings(backbone, images(4)))
        match = head.match(backbone, seen, tokens)
    torch.testing.assert_close(ours.T, itc, atol=1e-5, rtol=0)
    torch.testing.assert_close(match, itm, atol=1e-5, rtol=0)


def test_in_training_a_share_of_an_images_tokens_is_not_shown() -> None:
    """Those that are shown are the tower's own, of every image others, drawn anew; evaluation sees all."""
    model = small_backbone(token_dropout=0.5)
    whole = model.eval().image_features(images(4))
    assert torch.equal(whole, small_backbone().eval().image_features(images(4)))
    tokens = whole.shape[1]
    model.train().vision.eval()  # as freezing does: batch norms stay what they are
    shown = [model.image_features(images(4)) for _ in range(8)]
    seen: set[tuple[int, int]] = set()
    for found in shown:
        assert found.shape[1] == tokens // 2
        same = (found[:, :, None] - whole[:, None]).abs().amax(-1) < 1e-5
        assert same.any(2).all()
        seen |= {(i, int(place)) for i, places in enumerate(same.float().argmax(2)) for place in places}
    assert len(seen) > 4 * tokens * 0.9
    cached = model.vision(images(4))
    assert model.image_features(cached).shape == shown[0].shape
    nearly = small_backbone(token_dropout=0.999).train()
    assert nearly.image_features(images(2)).shape[1] == 1
    with pytest.raises(ValueError, match="token_dropout is 1, expected a share"):
        small_backbone(token_dropout=1)
