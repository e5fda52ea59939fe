"""BLIP-2 in LAVIS' and transformers' names: the imported model computes what transformers' class computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import TEXTS, images

from unifashion_pl.module import UniFashionModule
from unifashion_pl.weights.blip2 import map_hf, map_lavis, map_tower
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.ledger import Ledger, Report
from unifashion_pl.weights.loading import load_imported


@pytest.fixture(scope="module")
def peer() -> Any:
    return peers.blip2()


@pytest.fixture
def lavis_file(peer: Any, tmp_path: Path) -> Path:
    torch.save(
        {"model": peers.to_lavis(peer.state_dict()), "optimizer": {"state": {}}, "epoch": 9}, tmp_path / "blip2_pretrained.pth"
    )
    return tmp_path / "blip2_pretrained.pth"


@pytest.fixture
def hf_folder(peer: Any, tmp_path: Path) -> Path:
    peer.save_pretrained(tmp_path / "hub", max_shard_size="100KB")
    assert len(list((tmp_path / "hub").glob("*.safetensors"))) > 1
    return tmp_path / "hub"


@torch.no_grad()
def assert_equal_to_peer(model: UniFashionModule, peer: Any) -> None:
    """Tower, Q-Former in image, text and fused passes, ITC and ITM against transformers."""
    backbone, head = model.backbone, model.retrieval_head
    assert head is not None
    pictures, tokens = images(3, peers.SIDE), backbone.tokenize(TEXTS[:3])
    pixels = (pictures.float() - backbone.vision.mean) / backbone.vision.std
    near = {"atol": 1e-5, "rtol": 0}
    features = backbone.image_features(pictures)
    torch.testing.assert_close(features, peer.vision_model(pixels).last_hidden_state, **near)

    given = {"pixel_values": pixels, "input_ids": tokens.ids, "attention_mask": tokens.mask.long()}
    cosines = head.score(head.text_embeddings(backbone, TEXTS[:3]), head.image_embeddings(backbone, pictures))
    torch.testing.assert_close(cosines, peer(**given).logits_per_text, **near)
    logits = peer(**given, use_image_text_matching_head=True).logits_per_image
    torch.testing.assert_close(head.match(backbone, features, tokens), logits, **near)

    queries = peer.query_tokens.expand(3, -1, -1)
    image = peer.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
    torch.testing.assert_close(backbone.image_pass(features), image, **near)
    words = peer.embeddings(input_ids=tokens.ids)
    text = peer.qformer(query_embeds=words, query_length=0, attention_mask=tokens.mask.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(backbone.text_pass(tokens), text, **near)
    unimodal, _ = backbone.joint_pass(features, tokens, mode="unimodal")
    torch.testing.assert_close(unimodal, image, **near)
    causal, states = backbone.joint_pass(features, tokens, mode="causal")
    torch.testing.assert_close(causal, image, **near)
    both = peer.embeddings(input_ids=tokens.ids[:, :1], query_embeds=queries)
    first = peer.qformer(query_embeds=both, query_length=peers.QUERIES, encoder_hidden_states=features).last_hidden_state
    joint, joint_text = backbone.joint_pass(features, tokens.__class__(tokens.ids[:, :1], tokens.mask[:, :1]))
    torch.testing.assert_close(torch.cat([joint, joint_text], 1), first, **near)
    assert states.shape == (3, tokens.ids.shape[1], peers.HIDDEN)


def test_transformers_folder_in_shards_computes_the_same(hf_folder: Path, peer: Any, tmp_path: Path) -> None:
    report = import_weights(hf_folder, tmp_path / "out")
    assert report.kind == "blip2-hf"
    assert report.counts()["split"] == 2
    assert set(report.absent) == {"backbone.target_query_tokens", "retrieval_head.temperature", "retrieval_head.lm_head"}
    model = peers.our_model()
    before = model.retrieval_head.lm_head.bias.clone()  # type: ignore[union-attr]
    load_imported(model, tmp_path / "out")
    assert_equal_to_peer(model, peer)
    assert torch.equal(model.backbone.target_query_tokens, model.backbone.query_tokens)
    assert torch.equal(model.retrieval_head.lm_head.bias, before)  # type: ignore[union-attr]


def test_lavis_file_computes_the_same_and_brings_temperature_and_lm_head(lavis_file: Path, peer: Any, tmp_path: Path) -> None:
    report = import_weights(lavis_file, tmp_path / "out")
    assert report.kind == "blip2-lavis"
    assert list(report.absent) == ["backbone.target_query_tokens"]
    model = peers.our_model()
    load_imported(model, tmp_path / "out")
    assert_equal_to_peer(model, peer)
    source = peers.to_lavis(peer.state_dict())
    head = model.retrieval_head
    assert head is not None
    assert head.temperature.item() == source["temp"].item()
    assert torch.equal(head.lm_head.dense.weight, source["Qformer.cls.predictions.transform.dense.weight"])  # type: ignore[union-attr]
    assert torch.equal(head.lm_head.norm.bias, source["Qformer.cls.predictions.transform.LayerNorm.bias"])  # type: ignore[union-attr]


def test_both_names_give_the_same_tensors_in_their_own_dtype(peer: Any, tmp_path: Path) -> None:
    state = {name: t.half() if name.startswith("vision_model.encoder") else t for name, t in peer.state_dict().items()}
    save_file(state, tmp_path / "hub.safetensors")
    torch.save(peers.to_lavis(state), tmp_path / "lavis.pth")
    for name in ("hub.safetensors", "lavis.pth"):
        import_weights(tmp_path / name, tmp_path / Path(name).stem)
    hub, lavis = (load_file(tmp_path / name / "model.safetensors") for name in ("hub", "lavis"))
    assert hub.keys() < lavis.keys()
    assert all(torch.equal(hub[name], lavis[name]) and hub[name].dtype == lavis[name].dtype for name in hub)
    assert hub["backbone.vision.model.blocks.0.attn.qkv.weight"].dtype == torch.float16


def test_a_file_without_its_frozen_tower_takes_it_from_another_file(peer: Any, tmp_path: Path) -> None:
    state = peer.state_dict()
    whole = peers.to_lavis(state)
    torch.save({"model": peers.to_lavis(state, tower=False)}, tmp_path / "q.pth")
    tower = {n.removeprefix("visual_encoder."): t for n, t in whole.items() if n.startswith("visual_encoder.")}
    block = {n.replace("blocks.1.", "blocks.39."): t for n, t in tower.items() if n.startswith("blocks.1.")}
    torch.save({**tower, **block, "norm.weight": torch.ones(3), "head.bias": torch.ones(3)}, tmp_path / "eva_vit_g.pth")
    report = import_weights(tmp_path / "q.pth", tmp_path / "bare")
    assert "eva_vit_g.pth" in report.absent["backbone.vision"]
    report = import_weights(tmp_path / "q.pth", tmp_path / "out", tower=tmp_path / "eva_vit_g.pth")
    assert "backbone.vision" not in report.absent
    assert sum(entry.action == "dropped" and "block 40" in entry.reason for entry in report.entries) == 13
    model = peers.our_model()
    load_imported(model, tmp_path / "out")
    assert_equal_to_peer(model, peer)
    bare = peers.our_model()
    own = bare.backbone.vision.model.pos_embed.clone()
    assert "backbone.vision" in load_imported(bare, tmp_path / "bare").absent
    assert torch.equal(bare.backbone.vision.model.pos_embed, own)
    assert torch.equal(bare.backbone.query_tokens, model.backbone.query_tokens)


def test_full_size_names_on_the_meta_device() -> None:
    hub = peers.blip2(full_size=True).state_dict()
    lavis = peers.to_lavis(hub)
    assert len(hub) == 809
    assert len(lavis) == 857
    assert sum(name.startswith("visual_encoder.") for name in lavis) == 511
    plans = {"hub": Ledger(hub), "lavis": Ledger({n: t for n, t in lavis.items() if ".decoder." not in n})}
    map_hf(plans["hub"])
    map_lavis(plans["lavis"])
    assert not plans["hub"].left
    assert not plans["lavis"].left
    added = plans["lavis"].tensors.keys() - plans["hub"].tensors.keys()
    assert len(plans["hub"].tensors) == 809 + 39
    assert {name.split(".")[1] for name in added} == {"lm_head", "temperature"}
    assert len(added) + len(["position_ids", "decoder.weight", "decoder.bias"]) == 9
    tower = Ledger({n.removeprefix("visual_encoder."): t for n, t in lavis.items() if n.startswith("visual_encoder.")})
    map_tower(tower)
    assert tower.tensors.keys() < plans["lavis"].tensors.keys()
    assert len(tower.tensors) == 511


def test_full_size_names_fit_our_classes() -> None:
    from unifashion_pl.weights.blip2 import check_blip2

    plan = Ledger(peers.blip2(full_size=True).state_dict())
    map_hf(plan)
    assert set(check_blip2(plan.tensors, "hub")) == {
        "backbone.target_query_tokens",
        "retrieval_head.temperature",
        "retrieval_head.lm_head",
    }
    with torch.device("meta"):
        import timm

        tower = timm.create_model("eva_giant_patch14_clip_224", depth=39, num_classes=0).state_dict()
    shapes = {f"backbone.vision.model.{n}": t.shape for n, t in tower.items() if not n.startswith("norm.")}
    assert shapes == {n: t.shape for n, t in plan.tensors.items() if n.startswith("backbone.vision.")}
    assert sum(t.numel() for n, t in plan.tensors.items() if n.startswith("backbone.vision.")) == 985_894_528


def test_an_untied_decoder_costs_the_lm_head_and_nothing_else(peer: Any, tmp_path: Path) -> None:
    state = peers.to_lavis(peer.state_dict())
    state["Qformer.cls.predictions.decoder.weight"] = state["Qformer.cls.predictions.decoder.weight"] + 1
    torch.save(state, tmp_path / "x.pth")
    report = import_weights(tmp_path / "x.pth", tmp_path / "out")
    assert "retrieval_head.lm_head" in report.absent
    assert {e.reason for e in report.entries if "cls.predictions" in e.sources[0]} == {
        "the decoder differs from the word embeddings, to which the decoder of our LM head is tied"
    }


def test_keys_with_a_bias_are_another_tower(peer: Any, tmp_path: Path) -> None:
    state = {**peer.state_dict()}
    name = "vision_model.encoder.layers.1.self_attn.qkv.bias"
    state[name] = state[name] + 0.5
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="bias of the keys is not zero"):
        import_weights(tmp_path / "x.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_report_accounts_for_every_tensor_and_reads_back(lavis_file: Path, peer: Any, tmp_path: Path) -> None:
    report = import_weights(lavis_file, tmp_path / "out")
    source = peers.to_lavis(peer.state_dict())
    spent = [name for entry in report.entries for name in entry.sources]
    assert sorted(spent) == sorted(source)
    targets = {name for entry in report.entries for name in entry.targets}
    assert targets == load_file(tmp_path / "out" / "model.safetensors").keys()
    assert Report.read(tmp_path / "out") == report
    raw = json.loads((tmp_path / "out" / "report.json").read_text())
    assert raw["counts"]["dropped"] == 3
    assert len(raw["sha256"]["blip2_pretrained.pth"]) == 64


@pytest.mark.parametrize(
    "lost", ["Qformer.bert.encoder.layer.1.output_query.dense.weight", "visual_encoder.blocks.0.attn.v_bias", "query_tokens"]
)
def test_half_a_file_names_what_is_missing_and_writes_nothing(peer: Any, tmp_path: Path, lost: str) -> None:
    state = peers.to_lavis(peer.state_dict())
    del state[lost]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=lost.split(".")[-2] if "." in lost else lost):
        import_weights(tmp_path / "x.pth", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]
