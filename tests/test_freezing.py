"""What trains: every policy against its table and the published sizes, gradients wherever something trains, what stays out of checkpoints."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from small import CLIP_TEXT, VAE, editor, opened, small_backbone, streams, tiny, tryon_batch
from torch import nn

from unifashion_pl import UniFashionModule
from unifashion_pl.freezing import PARTS, POLICIES, apply_policy, counts, drop_unbuilt, left_out, part_of, set_frozen_to_eval
from unifashion_pl.generation import SD1_UNET, Denoiser, ImageVAE, PromptEncoder, UNetLora
from unifashion_pl.tasks import DiffusionModule

BRANCH, BLOCKS = 174_688_640, 179_778_560
TSA, NULL, CONV_IN = 590_592, 768, 37_760
UNET_SIZE, DECODER = 859_546_884, 510_808_004


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return tiny()


def trainable_parts(model: UniFashionModule) -> set[str]:
    return {part_of(n) or "?" for n, p in model.named_parameters() if p.requires_grad}


EXPECTED = {
    "phase1_retrieval": {"encoder", "projections"},
    "phase1_generative": {"tsa_llm", "lora", "tsa_diffusion", "unet"},
    "phase1_llm": {"tsa_llm", "lora"},
    "phase1_diffusion": {"tsa_diffusion", "unet"},
    "phase1_adapters": {"tsa_llm", "tsa_diffusion"},
    "phase1_joint": {"encoder", "projections", "tsa_llm", "lora", "tsa_diffusion", "unet"},
    "phase2_composed": {"encoder", "target_queries", "projections"},
    "phase2_adapters_diffusion": {"encoder", "target_queries", "projections", "tsa_llm", "tsa_diffusion", "unet"},
    # The model here has neither garment branch nor LoRA on its U-Net; the tests of editing below have them.
    "editing_control": {"tsa_diffusion", "unet"},
    "editing_decoder": {"tsa_diffusion", "unet"},
    "editing_all": {"tsa_diffusion", "unet"},
    "adapters": {"tsa_diffusion"},
    "tryon_qformer": {"encoder"},
    "released_vton": {"tsa_diffusion"},
    "lora": {"tsa_diffusion"},
    "panels": {"unet"},
    "released_cls": {"encoder", "projections"},
    "released_rerank": {"encoder", "target_queries", "projections"},
}


def test_every_parameter_belongs_to_a_part(model: UniFashionModule) -> None:
    parts = {part_of(name) for name, _ in model.named_parameters()}
    assert None not in parts
    assert parts <= set(PARTS)
    assert set(EXPECTED) == set(POLICIES)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_policy_trains_what_it_names_and_every_trainable_parameter_gets_a_gradient(
    model: UniFashionModule, policy: str
) -> None:
    apply_policy(model, policy)
    model.policy = policy
    assert trainable_parts(model) == EXPECTED[policy]
    model.train()
    model.zero_grad()
    stream = "pairs" if policy.startswith(("phase1", "released_cls")) else "triplets"
    losses = model.compute_losses(streams()[stream])  # type: ignore[arg-type]
    torch.stack(list(losses.values())).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("policy", "without", "weights"),
    [
        ("phase1_joint", (), {"itg": 0.0}), ("phase1_joint", (), {"itg": 0.0, "q2i": 0.0}), ("phase1_joint", ("retrieval",), {}),
        ("phase1_joint", (), {"cross": 0.0, "q2i": 0.0}), ("phase2_composed", ("retrieval",), {}), ("phase2_composed", (), {"cross": 0.0}),
    ],
)  # fmt: skip
def test_what_no_loss_reaches_does_not_train(policy: str, without: tuple[str, ...], weights: dict[str, float]) -> None:
    """Plain DDP waits in vain for a gradient that never comes; captions may be absent from a rank's whole batch."""
    model = tiny(policy=policy, loss_weights=weights, **dict.fromkeys(without)).train()
    batch = streams()["pairs" if policy == "phase1_joint" else "triplets"]
    for captions in (batch.captions, [""] * len(batch.captions)):  # type: ignore[attr-defined]
        model.zero_grad()
        batch.captions = captions  # type: ignore[attr-defined]
        losses = model.compute_losses(batch)  # type: ignore[arg-type]
        torch.stack(list(losses.values())).sum().backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert "encoder" in {part_of(name) for name in model.trainable_names}
    if "itg" in losses:
        assert float(losses["itg"]) == 0.0


def test_unknown_names_are_errors_that_list_the_known_ones(model: UniFashionModule) -> None:
    with pytest.raises(ValueError, match="known are phase1_retrieval"):
        apply_policy(model, "phase3")
    with pytest.raises(ValueError, match="also_train: unknown part 'tower'"):
        apply_policy(model, "phase1_joint", also_train=["tower"])
    with pytest.raises(ValueError, match="freezes everything that could learn"):
        apply_policy(model, "phase1_adapters", active=["cross"])


def leaving_out(**overrides: object) -> UniFashionModule:
    return tiny(caption=None, **{"leave_out": ["vae", "clip_text"], "policy": "phase2_composed", **overrides})


def test_what_may_be_left_out() -> None:
    with pytest.raises(ValueError, match="random weights that nothing but a checkpoint"):
        leaving_out(leave_out=["vision"], also_train=[])
    with pytest.raises(ValueError, match="which trains"):
        leaving_out(also_train=["clip_text"])
    with pytest.raises(ValueError, match="leave_out: unknown part with published weights 'encoder'"):
        leaving_out(leave_out=["encoder"])


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
    model = opened(editor(policy, garment)).train()
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


def test_patterns_of_policies_match_something() -> None:
    model = editor("editing_decoder", "branch_full")
    names = [name for name, _ in model.named_parameters()]
    for policy in POLICIES.values():
        for pattern in policy.within:
            assert any(fnmatchcase(name, pattern) for name in names), pattern


def test_a_name_belongs_to_the_first_part_that_matches_whatever_was_compiled() -> None:
    names = {
        "caption_head.language_model.base.layers.0.q_proj.lora_A.default.weight": "lora",
        "caption_head.language_model.base.layers.0.q_proj.weight": "llm",
        "diffusion_head.denoiser.unet.mid_block.attentions.0.lora_B.weight": "unet_lora",
        "diffusion_head.denoiser._orig_mod.unet._orig_mod.conv_in.weight": "unet",
        "retrieval_head.temperature": "projections",
        "retrieval_head.lm_head.transform.weight": "lm_head",
        "backbone.target_query_tokens": "target_queries",
        "backbone.query_tokens": "encoder",
    }
    assert {name: part_of(name) for name in names} == names
    assert part_of("evaluator.weight") is None
    assert part_of("backbone.vision") is None


def test_an_older_name_of_a_part_is_taken(model: UniFashionModule) -> None:
    older, newer = (apply_policy(model, "adapters", [name], ["cross", "q2i"]) for name in ("heads", "projections"))
    assert older == newer
    assert {part_of(name) for name in newer} == {"tsa_diffusion", "projections"}


def test_a_parameter_that_no_part_owns_is_refused() -> None:
    built = nn.Module()
    built.stray = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"owns 2 parameters, e\.g\. \['stray\.weight', 'stray\.bias'\]"):
        apply_policy(built, "adapters")


def test_a_tensor_of_two_names_is_counted_once() -> None:
    built = nn.Module()
    built.retrieval_head = nn.Module()
    built.retrieval_head.text_proj, built.retrieval_head.vision_proj = nn.Linear(3, 2), nn.Linear(3, 2)
    built.retrieval_head.vision_proj.weight = built.retrieval_head.text_proj.weight
    built.retrieval_head.text_proj.bias.requires_grad_(False)
    built.other = nn.Linear(5, 1, bias=False)
    assert counts(built) == {"projections": (6 + 2, 2), "?": (5, 0)}


def test_frozen_modules_alone_go_to_eval_mode() -> None:
    """A batch norm without gradients keeps its statistics, one of a module that trains in part does not."""
    frozen = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).requires_grad_(False)
    partly = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    partly[0].requires_grad_(False)
    both = nn.ModuleDict({"frozen": frozen, "partly": partly, "empty": nn.Dropout(0.5)}).train()
    assert set_frozen_to_eval(both) is both
    modes = {name: part.training for name, part in both.named_modules()}
    assert {name for name, training in modes.items() if not training} == {
        "frozen",
        "frozen.0",
        "frozen.1",
        "frozen.2",
        "partly.0",
    }
    x = torch.randn(8, 2)
    assert torch.equal(frozen(x), frozen(x))
    assert not frozen[1].num_batches_tracked
    partly(x)
    assert partly[1].num_batches_tracked == 1


def test_heads_that_were_not_built_leave_a_state_and_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    built = nn.Module()
    built.retrieval_head = nn.Linear(1, 1)
    state: dict[str, Any] = dict.fromkeys(
        ["retrieval_head.weight", "caption_head.adapter.bias", "caption_head.x", "diffusion_head.y", "backbone.z"]
    )
    drop_unbuilt(built, state)
    assert sorted(state) == ["backbone.z", "retrieval_head.weight"]
    assert capsys.readouterr().out == "weights: not built here, left out: caption_head, diffusion_head\n"
    drop_unbuilt(built, state)
    assert len(state) == 2
    assert capsys.readouterr().out == ""


def test_what_is_left_out_is_all_of_the_parts_named(model: UniFashionModule) -> None:
    assert left_out(model) == set()
    model.leave_out = ("vae", "clip_text")
    try:
        found = left_out(model)
    finally:
        model.leave_out = ()
    assert found == {n for n in model.state_dict() if n.startswith(("diffusion_head.vae.", "diffusion_head.text_encoder."))}
    assert found
