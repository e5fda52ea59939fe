"""Policies of try-on and design: what trains at which size, that it gets a gradient, and starting from a model without a garment branch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small import CLIP_TEXT, UNET, VAE, pair_batch, small_backbone, triplet_batch, tryon_batch
from torch import nn

from unifashion_pl import UniFashionModule
from unifashion_pl.callbacks import LearntAverage
from unifashion_pl.freezing import apply_policy, part_of
from unifashion_pl.generation import SD1_UNET, Denoiser, ImageVAE, PromptEncoder, UNetLora
from unifashion_pl.tasks import DiffusionModule, EditSettings
from unifashion_pl.weights.checkpoint import load_weights

BRANCH, BLOCKS = 174_688_640, 179_778_560
TSA, NULL, CONV_IN = 590_592, 768, 37_760
UNET_SIZE, DECODER = 859_546_884, 510_808_004


def full_size(garment: Any = "branch", lora: UNetLora | None = None) -> UniFashionModule:
    """Stable Diffusion's U-Net on meta tensors beside a small Q-Former."""
    with torch.device("meta"):
        head = DiffusionModule(
            denoiser=Denoiser(config=SD1_UNET, in_channels=13, garment=garment, lora=lora),
            vae=ImageVAE(config=VAE),
            text_encoder=PromptEncoder(config={**CLIP_TEXT, "hidden_size": 768}),
        )
    return UniFashionModule(small_backbone(), diffusion=head, policy="adapters")


def trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_presets_train_what_the_published_sizes_say() -> None:
    model = full_size()
    expected = {
        "editing_control": BRANCH + BLOCKS + NULL + TSA + CONV_IN,
        "editing_decoder": BRANCH + BLOCKS + NULL + TSA + CONV_IN + DECODER,
        "editing_all": BRANCH + BLOCKS + NULL + TSA + UNET_SIZE,
        "adapters": NULL + TSA,
        "released_vton": BRANCH + BLOCKS + NULL,
        "panels": 49_574_080,
    }
    for policy, count in expected.items():
        apply_policy(model, policy)
        assert trained(model) == count, policy


def test_the_unread_end_of_a_released_copy_and_lora_s_base_stay_frozen() -> None:
    model = full_size("branch_full")
    apply_policy(model, "released_vton")
    assert trained(model) == BRANCH + BLOCKS + NULL
    model = full_size(None, UNetLora())
    names = apply_policy(model, "lora")
    assert {part_of(name) for name in names} == {"tsa_diffusion", "unet_lora"}
    assert apply_policy(model, "phase1_diffusion").isdisjoint(n for n in names if "lora_" in n)


def small(policy: str = "editing_control", garment: Any = "branch", **changes: Any) -> UniFashionModule:
    torch.manual_seed(0)
    lora = UNetLora(rank=2, alpha=2) if policy == "lora" else None
    denoiser = Denoiser(config=UNET, in_channels=13, garment=garment, lora=lora)
    settings = EditSettings(tasks={"tryon": 1, "design": 1, "text": 1})
    head = DiffusionModule(
        denoiser=denoiser, vae=ImageVAE("tiny"), text_encoder=PromptEncoder(config=CLIP_TEXT), query_width=32, size=(32, 24),
        editing=settings,
    )  # fmt: skip
    return UniFashionModule(small_backbone(), diffusion=head, policy=policy, **changes)


def opened(model: UniFashionModule) -> UniFashionModule:
    garment = model.diffusion_head.denoiser.garment  # type: ignore[union-attr]
    if garment is not None:
        with torch.no_grad():
            for conv in (garment.hint, *garment.zero_convs):
                conv.weight.normal_(std=0.3)  # type: ignore[union-attr, operator]
    return model


@pytest.mark.parametrize(
    ("policy", "garment"),
    [
        ("editing_control", "branch"),
        ("editing_control", "branch_full"),
        ("editing_decoder", "branch"),
        ("editing_all", "branch"),
        ("adapters", "branch"),
        ("tryon_qformer", "branch"),
        ("released_vton", "branch_full"),
        ("lora", "branch"),
        ("panels", "panels"),
    ],
)
def test_every_trainable_parameter_has_a_gradient_after_a_step_of_try_on(policy: str, garment: str) -> None:
    model = opened(small(policy, garment)).train()
    losses = model.compute_losses(tryon_batch())
    assert set(losses) == {"q2i"}
    losses["q2i"].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    if policy == "tryon_qformer":
        assert model.backbone.query_tokens.grad is not None
        assert model.backbone.query_tokens.grad.any()
    if policy == "editing_control":
        conv_in = model.diffusion_head.denoiser.unet.conv_in.weight.grad  # type: ignore[union-attr]
        assert conv_in is not None
        assert conv_in.any()


def test_pairs_triplets_and_try_on_train_together(tmp_path: Path) -> None:
    pixels = tryon_batch().pixels
    batch = {"pairs": pair_batch(pixels=pixels), "triplets": triplet_batch(pixels=pixels), "tryon": tryon_batch()}
    model = opened(small())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = L.Trainer(
        max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=tmp_path, callbacks=[LearntAverage(decay=0.5)],
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader([batch, batch], batch_size=None))  # type: ignore[arg-type]
    assert {f"train/{stream}/q2i" for stream in batch} <= set(trainer.callback_metrics)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= model.trainable_names
    assert any(name.startswith("diffusion_head.denoiser.garment.encoder.") for name in moved)


def test_training_starts_from_a_model_without_a_branch(tmp_path: Path) -> None:
    def built(denoiser: dict[str, object]) -> UniFashionModule:
        overrides = {f"diffusion.init_args.denoiser.init_args.{name}": value for name, value in denoiser.items()}
        return UniFashionModule.from_config(
            "tiny.yaml", {"policy": "editing_control", "retrieval": None, "caption": None, **overrides}
        )

    folder = built({}).save_pretrained(tmp_path / "plain")
    model = built({"in_channels": 13, "garment": "branch"})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    load_weights(model, str(folder))
    state, plain = model.state_dict(), UniFashionModule.from_pretrained(folder).state_dict()
    prefix = "diffusion_head.denoiser."
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items() if name != f"{prefix}unet.conv_in.weight")
    for name in ("time_embedding.linear_1.weight", "down_blocks.0.resnets.0.conv1.weight"):
        assert torch.equal(state[f"{prefix}garment.encoder.{name}"], plain[f"{prefix}unet.{name}"])
    assert not state[f"{prefix}unet.conv_in.weight"][:, 4:].any()
    again = UniFashionModule.from_pretrained(model.save_pretrained(tmp_path / "garment"))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in state.items())


def test_try_on_without_a_diffusion_head_is_refused() -> None:
    model = small()
    model.diffusion_head = None
    with pytest.raises(TypeError, match="cannot train on a TryOnBatch: try-on needs a diffusion head"):
        model.compute_losses(tryon_batch())


def test_patterns_of_policies_match_something() -> None:
    model = small("editing_decoder", "branch_full")
    from unifashion_pl.freezing import POLICIES

    names = [name for name, _ in model.named_parameters()]
    for policy in POLICIES.values():
        for pattern in policy.within:
            assert any(fnmatchcase(name, pattern) for name in names), pattern
