"""The garment branch: it changes nothing at first, is gated per sample, has the published sizes, and every part of it learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from small import UNET
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unifashion_pl.generation import SD1_UNET, Denoiser, GarmentBranch, UNetLora
from unifashion_pl.generation.attention_losses import grid_of, probabilities, recorded
from unifashion_pl.generation.garment import denoise, places

#: Three levels, two layers each, attention everywhere but at the lowest: Stable Diffusion's form.
DEEP: dict[str, object] = {
    **UNET,
    "layers_per_block": 2,
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
T = torch.tensor([3, 700])


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS, PERSON, POSE, GARMENT = (random(2, 4, 8, 4, seed=i) for i in range(4))
KEEP, CONTEXT = random(2, 1, 8, 4, seed=5).sigmoid(), random(2, 5, 24, seed=6)
CONDITIONS = {"person": PERSON, "keep": KEEP, "pose": POSE}


def denoiser(garment: str | None = "branch", config: dict[str, object] = DEEP, **kwargs: Any) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(config=config, in_channels=kwargs.pop("in_channels", 13), garment=garment, **kwargs).eval()  # type: ignore[arg-type]


def opened(model: Denoiser, scale: float = 0.3) -> Denoiser:
    """With random zero convolutions, as after training."""
    torch.manual_seed(1)
    assert model.garment is not None
    with torch.no_grad():
        for conv in (model.garment.hint, *model.garment.zero_convs):
            conv.weight.normal_(std=scale)  # type: ignore[union-attr, operator]
    return model


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
@pytest.mark.parametrize("config", [UNET, DEEP])
@pytest.mark.parametrize(("garment", "positions"), [("branch", False), ("branch", True), ("branch_full", False)])
def test_at_first_the_branch_changes_nothing_at_all(config: dict[str, object], garment: str, positions: bool) -> None:
    model = denoiser(garment, config, garment_positions=positions)
    plain = denoiser(None, config)
    plain.unet.load_state_dict(model.unet.state_dict())
    expected = plain(LATENTS, T, CONTEXT, **CONDITIONS)
    assert torch.equal(model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT), expected)
    assert torch.equal(model(LATENTS, T, CONTEXT, **CONDITIONS), expected)


@torch.no_grad()
def test_a_full_copy_gives_what_the_truncated_one_gives() -> None:
    full, short = opened(denoiser("branch_full")), denoiser("branch")
    missing, unused = short.load_state_dict(full.state_dict(), strict=False)
    assert missing == []
    lowest = ("garment.encoder.mid_block.", "garment.encoder.down_blocks.2.", "garment.encoder.down_blocks.1.downsamplers.")
    assert unused
    assert all(name.startswith(lowest) for name in unused)
    a, b = (m(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT) for m in (full, short))
    assert torch.equal(a, b)


@torch.no_grad()
def test_the_copy_s_features_are_those_of_controlnet_s_encoder_before_its_zero_convolutions() -> None:
    """diffusers' ControlNet copies the same encoder; with identities for its zero convolutions it hands over the same features."""
    model = denoiser()
    assert model.garment is not None
    theirs = ControlNetModel.from_unet(model.unet, conditioning_channels=4).eval()
    theirs.controlnet_cond_embedding = nn.Conv2d(4, 16, 3, padding=1)
    theirs.controlnet_cond_embedding.load_state_dict(opened(model).garment.hint.state_dict())  # type: ignore[union-attr]
    for conv in theirs.controlnet_down_blocks:
        nn.init.dirac_(conv.weight)
    given = model.assemble(LATENTS, PERSON, KEEP, POSE)
    expected = theirs(given, T, CONTEXT, GARMENT, return_dict=False)[0]
    ours = model.garment.features(given, model.unet.get_time_embed(given, T), CONTEXT, GARMENT)
    assert len(ours) == 6
    for mine, other in zip(ours, expected):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_zero_hint_convolution_hides_the_garment() -> None:
    model = opened(denoiser())
    assert model.garment is not None
    nn.init.zeros_(model.garment.hint.weight)
    a, b = (model(LATENTS, T, CONTEXT, **CONDITIONS, garment=g) for g in (GARMENT, -GARMENT))
    assert torch.equal(a, b)
    c, d = (opened(model)(LATENTS, T, CONTEXT, **CONDITIONS, garment=g) for g in (GARMENT, -GARMENT))
    assert (c - d).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("garment", ["branch", "panels"])
def test_a_closed_gate_is_the_plain_unet_and_a_zero_hint_is_not(garment: str) -> None:
    model = denoiser(garment)
    if model.garment is not None:
        opened(model)
    plain = model(LATENTS, T, CONTEXT, **CONDITIONS)
    both = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT)
    first = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT, gate=torch.tensor([1.0, 0.0]))
    none = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT, gate=torch.zeros(2))
    zero_hint = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=torch.zeros_like(GARMENT))
    assert torch.equal(none, plain)
    torch.testing.assert_close(first[1], plain[1], atol=0 if garment == "branch" else 1e-5, rtol=0)
    torch.testing.assert_close(first[0], both[0], atol=0 if garment == "branch" else 1e-5, rtol=0)
    assert (both - plain).abs().amax((1, 2, 3)).min() > 1e-3
    assert (zero_hint - plain).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("garment", "positions"), [("branch", False), ("branch", True), ("panels", False)])
def test_garments_are_read_for_the_rows_alone_that_are_said_to_have_one(garment: str, positions: bool) -> None:
    """Against the branch run for all and multiplied by the gate: the same to the last bit where it is closed."""
    model = denoiser(garment, garment_positions=positions)
    if model.garment is not None:
        opened(model)
    three = [torch.cat([x, x[:1].flip(-1)]) for x in (LATENTS, T, CONTEXT, *CONDITIONS.values(), GARMENT)]
    latents, time, context, *given, shown = three
    conditions = dict(zip(CONDITIONS, given))

    def eps(rows: list[int] | None, gate: list[float]) -> Tensor:
        known = None if rows is None else torch.tensor(rows, dtype=torch.long)
        return model(latents, time, context, **conditions, garment=shown, gate=torch.tensor(gate), rows=known)

    for rows in ([1], [0, 2], []):
        gate = [float(i in rows) for i in range(3)]
        known, asked = eps(rows, gate), eps(None, gate)
        closed = [i for i in range(3) if i not in rows]
        assert torch.equal(known[closed], asked[closed]) or garment == "panels"
        torch.testing.assert_close(known, asked, atol=1e-5, rtol=1e-5)
    assert torch.equal(eps([], [0.0] * 3), model(latents, time, context, **conditions))
    moved = (eps([1], [0.0, 1.0, 0.0]) - eps([], [0.0] * 3)).abs().amax((1, 2, 3)) > 1e-4
    assert moved.tolist() == [False, True, False]


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return int(counter.get_total_flops())


def test_a_closed_gate_costs_nothing_at_stable_diffusion_s_size() -> None:
    """512 x 384: 1,075.5 GFLOP an evaluation, 582.7 without a garment; in between by the rows that have one."""
    with torch.device("meta"):
        model = Denoiser(config=SD1_UNET, in_channels=13, garment="branch").eval()
        z, t, context = torch.empty(2, 4, 64, 48), torch.zeros(2, dtype=torch.long), torch.empty(2, 109, 768)
        given = {"person": z, "pose": z, "keep": z[:, :1], "garment": z}
        rows = [torch.empty(n, dtype=torch.long) for n in (0, 1)]
    none, one = (flops(lambda own=own: model(z, t, context, **given, rows=own)) for own in rows)  # type: ignore[misc]
    both = flops(lambda: model(z, t, context, **given))
    assert none == flops(lambda: model(z, t, context, person=z, pose=z, keep=z[:, :1]))
    assert none / 2e9 == pytest.approx(582.7, abs=0.1)
    assert both / 2e9 == pytest.approx(1075.5, abs=0.1)
    assert 2 * one == none + both


@torch.no_grad()
def test_each_place_starts_where_the_one_before_looked() -> None:
    """``found`` is the mean of the keys' coordinates under the probabilities; a print at the place found is what comes back."""
    model = opened(denoiser(garment_positions=True))
    branch = model.garment
    assert branch is not None
    with recorded(branch, range(len(branch.places))) as looks:
        model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT)
    h, w = LATENTS.shape[-2:]
    assert torch.equal(looks[0].queries, looks[0].keys)  # type: ignore[arg-type]
    for k in range(1, len(branch.places)):
        keys, asked = looks[k - 1].keys, looks[k].queries
        assert keys is not None
        assert asked is not None
        there = probabilities(looks[k - 1]) @ keys
        grid, finer = (grid_of(look.hidden.shape[1], (h, w)) for look in (looks[k - 1], looks[k]))
        expected = F.interpolate(there.transpose(1, 2).unflatten(2, grid), finer, mode="bilinear").flatten(2).transpose(1, 2)
        torch.testing.assert_close(asked, expected, atol=1e-5, rtol=0)
    assert finer == (h, w)


@torch.no_grad()
def test_positions_are_read_and_a_branch_trained_without_gets_new_ones() -> None:
    model = opened(denoiser(garment_positions=True))
    before = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT)
    added = [name for name in model.state_dict() if ".places." in name]
    assert len(added) == 2 * len(model.garment.places)  # type: ignore[union-attr]
    plain = {name: tensor for name, tensor in model.state_dict().items() if name not in added}
    model.load_state_dict(model.completed(plain))
    assert torch.equal(model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT), before)
    for name in added:
        model.get_parameter(name).zero_()
    assert (model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT) - before).abs().max() > 1e-4
    without = opened(denoiser())
    without.load_state_dict(plain)
    torch.testing.assert_close(
        model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT), without(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT)
    )


def test_places_and_sizes_at_stable_diffusion_s_widths() -> None:
    with torch.device("meta"):
        model = Denoiser(config=SD1_UNET, in_channels=13, garment="branch")
        branch: Any = model.garment
        full = GarmentBranch(model.unet, extent="full")
        given = torch.empty(1, 13, 64, 48)
        features = branch.features(given, torch.empty(1, 320), torch.empty(1, 109, 768), torch.empty(1, 4, 64, 48))
        seen: list[tuple[int, ...]] = []
        for conv in branch.zero_convs:
            conv.register_forward_hook(lambda _m, given, _o: seen.append(tuple(given[0].shape[1:])))
        denoise(
            model.unet, branch, given, torch.zeros(1, dtype=torch.long), torch.empty(1, 109, 768), given[:, :4],
            torch.empty(1, 1, 1, 1),
        )  # fmt: skip
    rows = [
        (1, 0, 16, 12, 1280, 8, 1280), (1, 1, 16, 12, 1280, 7, 1280), (1, 2, 16, 12, 1280, 6, 640),
        (2, 0, 32, 24, 1280, 5, 640), (2, 1, 32, 24, 640, 4, 640), (2, 2, 32, 24, 640, 3, 320),
        (3, 0, 64, 48, 640, 2, 320), (3, 1, 64, 48, 320, 1, 320), (3, 2, 64, 48, 320, 0, 320),
    ]  # fmt: skip
    found = [(p.block, p.layer, *size, p.channels, p.feature, p.feature_channels) for p, (_, *size) in zip(branch.places, seen)]
    assert found == rows
    assert {p.heads for p in branch.places} == {8}
    assert [(f.shape[1], *f.shape[2:]) for f in features] == [
        (320, 64, 48), (320, 64, 48), (320, 64, 48), (320, 32, 24), (640, 32, 24), (640, 32, 24),
        (640, 16, 12), (1280, 16, 12), (1280, 16, 12),
    ]  # fmt: skip
    assert count(branch.encoder) + count(branch.hint) == 174_688_640
    assert count(branch.hint) == 4 * 320 * 9 + 320
    assert count(branch.blocks) + count(branch.zero_convs) == 179_778_560
    assert count(full.encoder) + count(full.hint) == 348_750_720
    assert count(full) == 528_529_280
    own_attention = sum(p.numel() for name, p in model.unet.named_parameters() if ".attn1." in name)
    assert own_attention == 49_574_080


def step(model: Denoiser) -> dict[str, Tensor | None]:
    model.train().zero_grad()
    out = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT)
    (out - PERSON).square().mean().backward()
    assert model.garment is not None
    return {name: p.grad for name, p in model.garment.named_parameters()}


def test_at_first_the_outer_zero_convolutions_alone_learn_then_everything() -> None:
    model = denoiser()
    first = step(model)
    moved = {name for name, grad in first.items() if grad is not None and grad.any()}
    assert moved == {name for name in first if name.startswith("zero_convs.")}
    second = step(opened(model))
    assert [name for name, grad in second.items() if grad is None or not grad.any()] == []
    assert model.unet.conv_in.weight.grad is not None
    assert model.unet.conv_in.weight.grad.any()


def test_the_unread_end_of_a_full_copy_has_no_gradient() -> None:
    silent = {name for name, grad in step(opened(denoiser("branch_full"))).items() if grad is None}
    assert {name.split(".")[1] for name in silent} == {"mid_block", "down_blocks"}
    assert all("mid_block" in name or name.split(".")[2] == "2" or "downsamplers" in name for name in silent)


def test_a_batch_without_garments_leaves_zero_gradients_while_the_branch_trains() -> None:
    model = opened(denoiser()).train()
    model(LATENTS, T, CONTEXT).square().mean().backward()
    assert model.garment is not None
    gradients = [p.grad for p in model.garment.parameters()]
    assert all(grad is not None and not grad.any() for grad in gradients)
    frozen = opened(denoiser()).train()
    assert frozen.garment is not None
    frozen.garment.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(frozen(LATENTS, T, CONTEXT), model(LATENTS, T, CONTEXT))


@pytest.mark.parametrize("positions", [False, True])
def test_checkpointing_recomputes_each_forward_pass_with_its_own_features_and_places(positions: bool) -> None:
    """Two passes of different sizes before one backward, as pairs and persons have them."""
    gradients = []
    wide = (random(1, 4, 8, 8, seed=21), T[:1], CONTEXT[:1], random(1, 4, 8, 8, seed=22))
    for checkpointing in (False, True):
        model = opened(denoiser(config=UNET, gradient_checkpointing=checkpointing, garment_positions=positions)).train()
        total = torch.zeros(())
        for latents, time, context, garment in ((LATENTS, T, CONTEXT, GARMENT), (LATENTS, T, CONTEXT, -2 * GARMENT), wide):
            total = total + model(latents, time, context, garment=garment).square().mean()
        total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_model_can_be_copied_between_a_forward_pass_and_its_backward() -> None:
    """As averages of the weights do, also after a first training."""
    model = opened(denoiser(garment_positions=True)).train()
    out = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT), out)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch() -> None:
    model = opened(denoiser())
    both = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT)
    alone = model(
        LATENTS[1:], T[1:], CONTEXT[1:], **{name: value[1:] for name, value in CONDITIONS.items()}, garment=GARMENT[1:]
    )
    torch.testing.assert_close(alone[0], both[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_context_is_a_set_of_tokens() -> None:
    """Equal tokens count as one, and their order does not matter, beside a garment too."""
    model = opened(denoiser())

    def eps(context: Tensor) -> Tensor:
        return model(LATENTS, T, context, **CONDITIONS, garment=GARMENT)

    torch.testing.assert_close(eps(CONTEXT[:, :1].expand(-1, 77, -1)), eps(CONTEXT[:, :1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(eps(CONTEXT.flip(1)), eps(CONTEXT), atol=1e-5, rtol=0)
    assert (eps(CONTEXT[:, :1]) - eps(CONTEXT)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("garment", ["branch", "panels"])
def test_it_is_one_graph(garment: str) -> None:
    """The whole denoiser: with ``fullgraph`` a break is an error."""
    if garment == "panels":
        model = denoiser("panels", config=UNET)
    else:
        model = opened(denoiser(config=UNET, garment_positions=True, prediction="v"))
    given: dict[str, Tensor] = {**CONDITIONS, "garment": GARMENT, "gate": torch.tensor([1.0, 0.0])}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for rows in (None, torch.tensor([0])):
        eps = model(LATENTS, T, CONTEXT, **given, rows=rows)
        torch.testing.assert_close(compiled(LATENTS, T, CONTEXT, **given, rows=rows), eps, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_panel_is_seen_through_self_attention_alone() -> None:
    """CatVTON's way: the person's half of a U-Net twice as wide."""
    model = denoiser("panels")
    panel = torch.cat([GARMENT, GARMENT, torch.ones(2, 1, 8, 4), torch.zeros(2, 4, 8, 4)], 1)
    wide = torch.cat([model.assemble(LATENTS, PERSON, KEEP, POSE), panel], -1)
    expected = model.unet(wide, T, encoder_hidden_states=CONTEXT).sample[..., :4]
    assert torch.equal(model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT), expected)
    narrow = denoiser("panels", in_channels=4)
    expected = narrow.unet(torch.cat([LATENTS, GARMENT], -1), T, encoder_hidden_states=CONTEXT).sample[..., :4]
    assert torch.equal(narrow(LATENTS, T, CONTEXT, garment=GARMENT), expected)


@pytest.mark.parametrize("garment", ["branch", "panels"])
def test_it_trains_under_autocast(garment: str) -> None:
    """As ``--trainer.precision bf16-mixed``, rows with and without a garment in one batch."""
    model = denoiser(garment, config=UNET, garment_positions=garment == "branch").train()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT, gate=torch.tensor([1.0, 0.0]))
    exact = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT, gate=torch.tensor([1.0, 0.0]))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, exact, atol=0.05, rtol=0)
    out.square().mean().backward()
    assert model.unet.conv_in.weight.grad.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("channels", [4, 9])
def test_a_simpler_state_is_completed(channels: int) -> None:
    torch.manual_seed(3)
    unet = UNet2DConditionModel(**{**DEEP, "in_channels": channels}).eval()
    model = denoiser("branch", lora=UNetLora(rank=2, alpha=2))
    state = {f"head.unet.{name}": tensor for name, tensor in unet.state_dict().items()} | {"other": torch.zeros(1)}
    done = model.completed(state, "head.")
    assert "other" in done
    model.load_state_dict({name.removeprefix("head."): tensor for name, tensor in done.items() if name != "other"})
    given = torch.cat([LATENTS, PERSON, KEEP], 1)[:, :channels]
    expected = unet(given, T, encoder_hidden_states=CONTEXT).sample
    eps = model(LATENTS, T, CONTEXT, **CONDITIONS, garment=GARMENT)
    torch.testing.assert_close(eps, expected, atol=1e-5, rtol=0)
    assert model.garment is not None
    assert torch.equal(model.garment.encoder.time_embedding.linear_1.weight, unet.time_embedding.linear_1.weight)
    assert torch.equal(model.garment.encoder.conv_in.weight[:, :channels], unet.conv_in.weight)
    again = model.completed({f"head.{name}": tensor for name, tensor in model.state_dict().items()}, "head.")
    assert again.keys() == {f"head.{name}" for name in model.state_dict()}
    assert all(torch.equal(again[f"head.{name}"], tensor) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_a_hint_that_starts_from_the_latents_columns_changes_nothing_either() -> None:
    torch.manual_seed(3)
    unet = UNet2DConditionModel(**DEEP).eval()
    model = denoiser("branch", garment_hint="latents", garment_heads=1)
    done = model.completed({f"head.unet.{name}": tensor for name, tensor in unet.state_dict().items()}, "head.")
    model.load_state_dict({name.removeprefix("head."): tensor for name, tensor in done.items()})
    assert model.garment is not None
    assert torch.equal(model.garment.hint.weight, unet.conv_in.weight[:, :4])
    assert {place.heads for place in model.garment.places} == {1}
    eps = model(LATENTS, T, CONTEXT, garment=GARMENT)
    torch.testing.assert_close(eps, unet(LATENTS, T, encoder_hidden_states=CONTEXT).sample, atol=1e-5, rtol=0)
    features = [
        model.garment.features(
            LATENTS.new_zeros(len(LATENTS), 13, *LATENTS.shape[2:]), T.new_zeros(len(T), 16).float(), CONTEXT, g
        )[0]
        for g in (GARMENT, 2 * GARMENT)
    ]
    assert not torch.equal(*features)
    with pytest.raises(ValueError, match="unknown start of the hint"):
        denoiser("branch", garment_hint="copy")


@torch.no_grad()
def test_a_state_that_reads_persons_paints_alike_from_context_alone_where_none_are_read() -> None:
    rich, plain = denoiser("branch"), denoiser(None, in_channels=4)
    assert rich.garment is not None
    for conv in (rich.unet.conv_in, rich.garment.hint, *rich.garment.zero_convs):
        conv.weight.normal_(std=0.1)  # type: ignore[union-attr, operator]
    done = plain.completed({f"head.{name}": tensor for name, tensor in rich.state_dict().items()}, "head.")
    plain.load_state_dict({name.removeprefix("head."): tensor for name, tensor in done.items()})
    torch.testing.assert_close(plain(LATENTS, T, CONTEXT), rich(LATENTS, T, CONTEXT), atol=1e-5, rtol=0)
    unread = denoiser(None)  # reads persons, but no garment: leaving the branch out would change what it paints
    kept = unread.completed({f"head.{name}": tensor for name, tensor in rich.state_dict().items()}, "head.")
    assert any(name.startswith("head.garment.") for name in kept)


def test_lora_starts_without_effect_and_stands_on_the_attentions_alone() -> None:
    plain, model = denoiser(None), denoiser(None, lora=UNetLora(rank=2, alpha=4))
    with torch.no_grad():
        torch.testing.assert_close(model(LATENTS, T, CONTEXT), plain(LATENTS, T, CONTEXT), atol=1e-6, rtol=0)
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert names
    assert all(".attn1.to_" in name or ".attn2.to_" in name for name in names)
    with torch.device("meta"):
        big = Denoiser(config=SD1_UNET, lora=UNetLora())
    layers = [m for name, m in big.named_modules() if ".attn" in name and isinstance(m, nn.Linear) and "lora" not in name]
    adapters = sum(p.numel() for name, p in big.named_parameters() if "lora_" in name)
    assert adapters == sum(32 * (layer.in_features + layer.out_features) for layer in layers)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="unknown way to read garments 'ip'; known are branch, branch_full, panels"):
        denoiser("ip")
    with pytest.raises(ValueError, match="reads no garment: build the Denoiser with garment='branch'"):
        denoiser(None)(LATENTS, T, CONTEXT, garment=GARMENT)
    model = denoiser()
    with pytest.raises(ValueError, match=r"garment has shape \(1, 4, 8, 4\), expected \(2, 4, 8, 4\)"):
        model(LATENTS, T, CONTEXT, garment=GARMENT[:1])
    odd = torch.zeros(2, 4, 6, 4)
    with pytest.raises(ValueError, match=r"latents are \(6, 4\), expected multiples of 4"):
        model(odd, T, CONTEXT, garment=odd)
    flat = {**UNET, "block_out_channels": [16], "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["UpBlock2D"]}
    with pytest.raises(ValueError, match="at least two levels"):
        places(UNet2DConditionModel(**flat))
    with pytest.raises(ValueError, match="this one has {'class_embed_type': 'timestep'}"):
        places(UNet2DConditionModel(**{**UNET, "class_embed_type": "timestep"}))
    with pytest.raises(ValueError, match="unknown extent 'half'"):
        GarmentBranch(UNet2DConditionModel(**UNET), extent="half")  # type: ignore[arg-type]
