"""A model over a published encoder: before training it is that encoder, afterwards it has learned on top; its parts, texts and files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import encoder_peers as encoders
import pytest
import torch
import torch.nn.functional as F
import yaml
from small import images, pair_batch, triplet_batch

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone import PublishedText, PublishedVision, QFormerBackbone, VisionTower
from unifashion_pl.export.graphs import check_exportable
from unifashion_pl.inference.encode import fingerprint
from unifashion_pl.tasks import RetrievalModule
from unifashion_pl.weights.importing import import_weights

TEXTS = ["a red dress", "blue shirt with black"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.save(encoders.transformers_encoder(folder / "source", "siglip", encoders.gemma_words), folder / "peer.pt")
    import_weights(folder / "source", folder / "imported")
    return folder


def build(source: Path, **changes: Any) -> UniFashionModule:
    torch.manual_seed(changes.pop("seed", 0))
    side = {"init_args": {"source": str(source / "imported")}}
    sizes = {
        "num_queries": 4,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 64,
        "dropout": 0.0,
        "initializer_range": 0.2,
    }
    room = "unifashion_pl.backbone"
    backbone = {
        **sizes,
        "vision": {"class_path": f"{room}.PublishedVision", **side},
        "text_tower": {"class_path": f"{room}.PublishedText", **side},
    }
    section = {
        "backbone": {"class_path": f"{room}.QFormerBackbone", "init_args": backbone},
        "retrieval": {"class_path": "unifashion_pl.tasks.RetrievalModule", "init_args": {"hidden_size": 32, "embed_dim": 32}},
        "policy": "phase1_retrieval",
        **changes,
    }
    path = source / "config.yaml"
    path.write_text(yaml.safe_dump({"model": section}))
    return UniFashionModule.from_config(path).eval()


@pytest.fixture(scope="module")
def model(source: Path) -> UniFashionModule:
    return build(source)


@pytest.fixture(scope="module")
def peer(source: Path, model: UniFashionModule) -> tuple[torch.Tensor, torch.Tensor]:
    whole = torch.load(source / "peer.pt", weights_only=False)
    ids = model.backbone.text_tower.tokenize(TEXTS)
    return encoders.published(whole, images(3), ids, **encoders.HALF)


@torch.no_grad()
def test_before_training_it_is_the_published_encoder(model: UniFashionModule, peer: tuple[torch.Tensor, torch.Tensor]) -> None:
    head, backbone = model.retrieval_head, model.backbone
    of_images, of_texts = peer
    for queries in ("reference", "target"):
        tokens = head.image_embeddings(backbone, images(3), queries)
        assert tokens.shape == (3, 4, 32)
        assert (tokens - of_images[:, None]).abs().max() < 1e-6
    texts = head.text_embeddings(backbone, TEXTS)
    assert (texts - of_texts).abs().max() < 1e-6
    assert (head.score(texts, tokens) - of_texts @ of_images.T).abs().max() < 1e-6
    composed = head.compose(backbone, images(3)[:2], TEXTS)
    assert (composed - F.normalize(of_images[:2] + of_texts, dim=-1)).abs().max() < 1e-6
    assert model.learned == {"retrieval", "composed"}
    scale = backbone.text_tower.logit_scale
    assert torch.allclose(head.temperature, torch.exp(-scale))


def test_cached_features_give_the_same_vectors(model: UniFashionModule) -> None:
    with torch.no_grad():
        features = model.backbone.vision(images(3))
        found = [model.retrieval_head.image_embeddings(model.backbone, given) for given in (images(3), features)]
    assert torch.equal(*found)


def test_it_learns_on_top(source: Path) -> None:
    """Pairs move images and texts, and nothing of the encoder; composed queries stay the published sum until triplets come."""
    model = build(source).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = pair_batch(images=images(4), texts=["a red dress", "blue shirt", "long black skirt", "white photo"])
    composed = model.compose(list(images(4)), batch.texts)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(25):
        loss = model.compute_losses(batch)["itc"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3
    after = model.state_dict()
    frozen = [
        name for name in before if name.startswith(("backbone.vision.", "backbone.text_tower.")) or "compose_proj" in name
    ]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["retrieval_head.vision_proj.weight"], after["retrieval_head.vision_proj.weight"])
    assert torch.allclose(composed, model.compose(list(images(4)), batch.texts), atol=1e-6)


def test_triplets_train_a_projection_of_their_own(source: Path) -> None:
    model = build(source, policy="phase2_composed").train()
    losses = model.compute_losses(triplet_batch(references=images(4), targets=images(4, seed=2)))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert set(losses) == {"cir_itc", "cir_caption", "cir_itm"}
    unreached = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unreached
    assert model.retrieval_head.compose_proj.weight.grad.abs().max() > 0


def test_a_saved_model_needs_no_import(source: Path, model: UniFashionModule, tmp_path: Path) -> None:
    shutil.copytree(source / "imported", tmp_path / "imported")
    moved = build_at(tmp_path, source)
    moved.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "imported")
    again = UniFashionModule.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.encode_text(TEXTS), model.encode_text(TEXTS))
    assert torch.equal(again.encode_image(list(images(2))), model.encode_image(list(images(2))))
    assert again.learned == model.learned
    assert again.backbone.reading_of("платье").says


def build_at(folder: Path, source: Path) -> UniFashionModule:
    (folder / "config.yaml").touch()
    return build(folder)


def test_fingerprints(source: Path, model: UniFashionModule, tmp_path: Path) -> None:
    """Untrained models of one encoder are one model, whatever their queries; another encoder is another."""
    assert fingerprint(build(source, seed=5)) == fingerprint(model)
    encoders.transformers_encoder(tmp_path / "source", "siglip", encoders.gemma_words, scale=0.1)
    import_weights(tmp_path / "source", tmp_path / "imported")
    assert fingerprint(build_at(tmp_path, source)) != fingerprint(model)
    other = build(source)
    with torch.no_grad():
        other.retrieval_head.vision_proj.weight[0, 0] = 1e-3
    assert fingerprint(other) != fingerprint(model)


def test_many_languages_are_read_and_what_is_not_is_said(model: UniFashionModule) -> None:
    read = model.backbone.reading_of
    assert read("rotes Kleid").says
    assert not read("rotes Kleid").unknown
    assert read("платье").says
    assert not read("платье").unknown
    strange = read("赤いドレス")
    assert not strange.says
    assert strange.unknown
    with pytest.raises(ValueError, match="can be read by this model's tokenizer"):
        model.gallery(list(images(2))).search(text="赤いドレス")
    with pytest.warns(UserWarning, match="the text tower reads 12"):
        model.encode_text(["red " * 30])


def test_parts_of_two_encoders_do_not_go_together(source: Path, tmp_path: Path) -> None:
    encoders.transformers_encoder(tmp_path / "source", "clip", encoders.clip_words)
    import_weights(tmp_path / "source", tmp_path / "imported")
    text = PublishedText(str(tmp_path / "imported"))
    for vision in (PublishedVision(str(source / "imported")), VisionTower("resnet10t", image_size=32)):
        with pytest.raises(ValueError, match="the vision tower of the same encoder"):
            QFormerBackbone(vision, text_tower=text)
    backbone = QFormerBackbone(
        PublishedVision(str(tmp_path / "imported")), text_tower=text, hidden_size=32, num_layers=1, num_heads=2
    )
    with pytest.raises(ValueError, match="set embed_dim to 24"):
        RetrievalModule(hidden_size=32, embed_dim=32, backbone=backbone)
    head = RetrievalModule(hidden_size=32, embed_dim=24, backbone=backbone)
    with pytest.raises(RuntimeError, match="was given none"):
        head.project_images(backbone.image_pass(backbone.image_features(images(1))))


def test_another_size_of_pictures(source: Path) -> None:
    """Position embeddings are interpolated, as of any tower."""
    larger = PublishedVision(str(source / "imported"), image_size=48)
    assert larger.pool(larger(images(2, 48))).shape == (2, 32)


def test_no_import_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no image–text encoder at"):
        PublishedText(str(tmp_path))


def test_an_export_of_it_is_refused(model: UniFashionModule) -> None:
    with pytest.raises(RuntimeError, match="text_tower"):
        check_exportable(model)
