"""The U-Net's input channels, its two ways of being made, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from small import UNET
from torch import Tensor

from unifashion_pl.generation import SD1_UNET, Denoiser
from unifashion_pl.generation.denoiser import UNetLora, widen_input
from unifashion_pl.generation.samplers import PROCESS

T = torch.tensor([3, 700])


def denoiser(in_channels: int | None = None, **kwargs: object) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(config=UNET, in_channels=in_channels, **kwargs).eval()  # type: ignore[arg-type]


def noise(channels: int, seed: int, n: int = 2) -> Tensor:
    return torch.randn(n, channels, 4, 6, generator=torch.Generator().manual_seed(seed))


LATENTS, PERSON, KEEP, POSE = noise(4, 0), noise(4, 1), noise(1, 2), noise(4, 3)
CONTEXT = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(4))


def save_unet(folder: Path, in_channels: int) -> UNet2DConditionModel:
    torch.manual_seed(1)
    unet = UNet2DConditionModel(**{**UNET, "in_channels": in_channels}).eval()
    unet.save_pretrained(folder)
    return unet


@pytest.mark.parametrize(("channels", "parameters"), [(4, 859_520_964), (13, 859_546_884)])
def test_the_published_unet_has_its_number_of_parameters(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        model = Denoiser(config=SD1_UNET, in_channels=channels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert (model.in_channels, model.context_width, model.multiple) == (channels, 768, 8)


def test_four_channels_are_the_unet_itself() -> None:
    model = denoiser()
    assert model.in_channels == 4
    with torch.no_grad():
        expected = model.unet(LATENTS, T, encoder_hidden_states=CONTEXT).sample
        assert torch.equal(model(LATENTS, T, CONTEXT), expected)


def test_thirteen_channels_are_latents_person_keep_and_pose() -> None:
    model = denoiser(13)
    given = torch.cat([LATENTS, PERSON, KEEP, POSE], 1)
    with torch.no_grad():
        expected = model.unet(given, T, encoder_hidden_states=CONTEXT).sample
        assert torch.equal(model(LATENTS, T, CONTEXT, person=PERSON, keep=KEEP, pose=POSE), expected)
    assert expected.shape == LATENTS.shape


@pytest.mark.parametrize(("absent", "channels"), [("person", slice(4, 8)), ("keep", slice(8, 9)), ("pose", slice(9, 13))])
def test_absent_channels_are_zeros(absent: str, channels: slice) -> None:
    model = denoiser(13)
    conditions = {"person": PERSON, "keep": KEEP, "pose": POSE}
    full = model.assemble(LATENTS, **conditions)
    without = model.assemble(LATENTS, **{**conditions, absent: None})  # type: ignore[arg-type]
    assert not without[:, channels].any()
    full[:, channels] = 0
    assert torch.equal(without, full)
    with torch.no_grad():
        moved = model(LATENTS, T, CONTEXT, **conditions) - model(LATENTS, T, CONTEXT, **{**conditions, absent: None})
    assert moved.abs().max() > 1e-4
    assert torch.equal(model.assemble(LATENTS, None, None, None), torch.cat([LATENTS, torch.zeros(2, 9, 4, 6)], 1))


def test_a_source_is_frozen_and_a_config_is_not(tmp_path: Path) -> None:
    unet = save_unet(tmp_path, 4)
    model = Denoiser(source=str(tmp_path)).eval()
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in denoiser().parameters())
    with torch.no_grad():
        assert torch.equal(model(LATENTS, T, CONTEXT), unet(LATENTS, T, encoder_hidden_states=CONTEXT).sample)


def test_a_pipeline_s_folder_gives_its_unet(pipeline_folder: Path) -> None:
    whole = Denoiser(source=str(pipeline_folder)).state_dict()
    part = Denoiser(source=str(pipeline_folder / "unet")).state_dict()
    assert all(torch.equal(whole[name], part[name]) for name in whole.keys() | part.keys())


def test_widening_from_four_channels_changes_nothing_yet(tmp_path: Path) -> None:
    save_unet(tmp_path, 4)
    narrow, wide = (Denoiser(source=str(tmp_path), in_channels=n).eval() for n in (4, 13))
    assert wide.in_channels == wide.unet.config.in_channels == 13
    assert not any(p.requires_grad for p in wide.parameters())
    with torch.no_grad():
        eps = wide(LATENTS, T, CONTEXT, person=PERSON, keep=KEEP, pose=POSE)
        torch.testing.assert_close(eps, narrow(LATENTS, T, CONTEXT), atol=1e-5, rtol=0)


def test_widening_from_nine_channels_adds_a_pose_without_effect(tmp_path: Path) -> None:
    unet = save_unet(tmp_path, 9)
    model = Denoiser(source=str(tmp_path), in_channels=13).eval()
    with torch.no_grad():
        expected = unet(torch.cat([LATENTS, PERSON, KEEP], 1), T, encoder_hidden_states=CONTEXT).sample
        for pose in (None, POSE):
            eps = model(LATENTS, T, CONTEXT, person=PERSON, keep=KEEP, pose=pose)
            torch.testing.assert_close(eps, expected, atol=1e-5, rtol=0)


def test_new_columns_learn_in_a_trainable_unet() -> None:
    model = denoiser()
    widen_input(model.unet, 13)
    model.in_channels = 13
    model(LATENTS, T, CONTEXT, pose=POSE).square().mean().backward()
    grad = model.unet.conv_in.weight.grad
    assert grad[:, 9:].abs().max() > 0
    assert not grad[:, 4:9].any()


def test_the_context_gets_a_gradient_through_a_frozen_unet() -> None:
    model = denoiser().requires_grad_(False)
    context = CONTEXT.clone().requires_grad_()
    model(LATENTS, T, context).square().mean().backward()
    assert (context.grad.abs().amax(2) > 0).all()  # type: ignore[union-attr]


def test_sizes_that_are_multiples_come_back_as_they_went_in() -> None:
    model = denoiser()
    assert model.multiple == 2
    with torch.no_grad():
        for h, w in ((2, 2), (6, 10)):
            assert model(torch.zeros(1, 4, h, w), T[:1], CONTEXT[:1]).shape == (1, 4, h, w)


def test_eps_has_the_dtype_of_the_latents() -> None:
    model = denoiser()
    with torch.no_grad():
        full = model(LATENTS, T, CONTEXT)
        low = model.to(torch.bfloat16)(LATENTS, T, CONTEXT)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, atol=0.1, rtol=0.1)


def test_channels_last_is_the_same_model() -> None:
    plain, last = denoiser(13, garment="branch"), denoiser(13, garment="branch", channels_last=True)
    assert last.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    last.load_state_dict(plain.state_dict())
    assert last.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        given = {"person": PERSON, "keep": KEEP, "pose": POSE, "garment": PERSON}
        torch.testing.assert_close(
            last(LATENTS, T, CONTEXT, **given), plain(LATENTS, T, CONTEXT, **given), atol=1e-5, rtol=1e-4
        )


def test_checkpointing_gives_the_same_gradients() -> None:
    grads = []
    for checkpointing in (False, True):
        model = denoiser(gradient_checkpointing=checkpointing).train()
        assert model.unet.is_gradient_checkpointing is checkpointing
        model(LATENTS, T, CONTEXT).square().mean().backward()
        grads.append(model.unet.conv_in.weight.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-5)


def low(trains: str, **kwargs: object) -> tuple[Denoiser, Denoiser]:
    """The same denoiser in float32 and with what stays frozen in bf16; names with ``trains`` in them train."""
    out = []
    for dtype in ("float32", "bfloat16"):
        model = denoiser(13, dtype=dtype, **kwargs)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trains in name)
        model.cast_frozen()
        out.append(model)
    return out[0], out[1]


def test_what_stays_frozen_may_be_bf16_and_what_trains_is_not() -> None:
    _, model = low("conv_in", garment="branch")
    types = {name: p.dtype for name, p in model.named_parameters()}
    assert {t for n, t in types.items() if n.startswith("garment.") or n.startswith("unet.conv_in.")} == {torch.float32}
    assert {t for n, t in types.items() if n.startswith("unet.") and "conv_in" not in n} == {torch.bfloat16}
    assert model.dtype == torch.bfloat16
    _, whole = low("")
    assert {p.dtype for p in whole.parameters()} == {torch.float32}  # a U-Net that trains loses nothing


@pytest.mark.parametrize(("trains", "kwargs"), [("garment.", {"garment": "branch"}), ("lora_", {"lora": UNetLora(4, 4)})])
def test_gradients_of_a_bf16_unet_are_those_of_float32(trains: str, kwargs: dict[str, object]) -> None:
    grads = []
    for model in low(trains, **kwargs):
        for conv in model.garment.zero_convs if model.garment is not None else ():
            torch.nn.init.constant_(conv.weight, 0.05)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.02)
        context = CONTEXT.clone().requires_grad_()
        garment = PERSON if model.garment is not None else None
        eps = model.train()(LATENTS, T, context, person=PERSON, pose=POSE, garment=garment)
        assert eps.dtype == torch.float32
        (eps - KEEP).square().mean().backward()
        learnt = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
        assert {p.grad.dtype for p in learnt} == {torch.float32}  # type: ignore[union-attr]
        grads.append(torch.cat([context.grad.flatten(), *(p.grad.flatten() for p in learnt)]))  # type: ignore[union-attr]
    assert grads[0].shape == grads[1].shape
    assert torch.cosine_similarity(grads[0], grads[1], dim=0) > 0.99
    assert float(grads[1].norm() / grads[0].norm()) == pytest.approx(1, rel=0.05)


def test_a_garment_branch_checkpoints_with_its_unet() -> None:
    grads = []
    for checkpointing in (False, True):
        model = denoiser(13, garment="branch", gradient_checkpointing=checkpointing).train()
        assert model.garment is not None
        parts = [model.garment, *model.unet.modules(), *model.garment.encoder.modules()]
        assert {m.gradient_checkpointing for m in parts if hasattr(m, "gradient_checkpointing")} == {checkpointing}
        for conv in model.garment.zero_convs:
            torch.nn.init.constant_(conv.weight, 0.05)  # type: ignore[arg-type]
        model(LATENTS, T, CONTEXT, garment=PERSON).square().mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-4)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either source .* or config"):
        Denoiser()
    with pytest.raises(ValueError, match="either source .* or config"):
        Denoiser(source="somewhere", config=UNET)
    with pytest.raises(ValueError, match="9 input channels, expected 4 .* or 13"):
        denoiser(9)
    save_unet(tmp_path, 13)
    with pytest.raises(ValueError, match="13 channels, which cannot be narrowed to 4"):
        Denoiser(source=str(tmp_path), in_channels=4)
    with pytest.raises(ValueError, match="cannot read keep, pose: build it with 13"):
        denoiser()(LATENTS, T, CONTEXT, keep=KEEP, pose=POSE)
    with pytest.raises(ValueError, match=r"keep has shape \(2, 4, 4, 6\), expected \(2, 1, 4, 6\)"):
        denoiser(13)(LATENTS, T, CONTEXT, keep=PERSON)
    with pytest.raises(ValueError, match=r"person has shape \(1, 4, 4, 6\), expected \(2, 4, 4, 6\)"):
        denoiser(13)(LATENTS, T, CONTEXT, person=PERSON[:1])


@torch.no_grad()
def test_v_is_turned_into_the_noise_as_diffusers_does() -> None:
    """The U-Net's output read as v gives the eps, and the picture, of diffusers' own v-prediction."""
    plain, model = denoiser(13), denoiser(13, prediction="v")
    conditions = {"person": PERSON, "keep": KEEP, "pose": POSE}
    v, eps = plain(LATENTS, T, CONTEXT, **conditions), model(LATENTS, T, CONTEXT, **conditions)
    theirs = {
        kind: DDIMScheduler(**{**PROCESS, "prediction_type": kind}, clip_sample=False) for kind in ("epsilon", "v_prediction")
    }
    for scheduler in theirs.values():
        scheduler.set_timesteps(1000)
    for row, t in enumerate(T.tolist()):
        clean = theirs["v_prediction"].step(v[row], t, LATENTS[row]).pred_original_sample
        ours = theirs["epsilon"].step(eps[row], t, LATENTS[row]).pred_original_sample
        torch.testing.assert_close(ours, clean, atol=1e-4, rtol=1e-4)


def test_weights_say_what_they_predict_and_a_config_can_overrule_them() -> None:
    v = {f"head.{name}": tensor for name, tensor in denoiser(prediction="v").state_dict().items()}
    older = {name: tensor for name, tensor in v.items() if not name.endswith("predicts_v")}
    for prediction, state, expected in ((None, v, 1), (None, older, 0), ("epsilon", v, 0), ("v", older, 1), ("v", v, 1)):
        model = denoiser(prediction=prediction)
        model.load_state_dict({name.removeprefix("head."): t for name, t in model.completed(state, "head.").items()})
        assert int(model.predicts_v) == expected
    resumed = denoiser(prediction="v")
    resumed.load_state_dict({name.removeprefix("head."): tensor for name, tensor in older.items()})  # as Lightning resumes
    assert int(resumed.predicts_v) == 1
    with pytest.raises(ValueError, match=r"unknown prediction 'x0'; known are epsilon, v"):
        denoiser(prediction="x0")


def test_a_pipelines_scheduler_says_what_its_unet_predicts(tmp_path: Path) -> None:
    """Stable Diffusion 2.x at 768 predicts v; nothing in its U-Net's own folder says so."""
    save_unet(tmp_path / "unet", 4)
    assert int(Denoiser(source=str(tmp_path)).predicts_v) == 0
    DDIMScheduler(**{**PROCESS, "prediction_type": "v_prediction"}).save_pretrained(tmp_path / "scheduler")
    model = Denoiser(source=str(tmp_path))
    assert int(model.predicts_v) == 1
    assert model.prediction is None
    assert int(Denoiser(source=str(tmp_path), prediction="epsilon").predicts_v) == 0
    assert int(Denoiser(source=str(tmp_path / "unet")).predicts_v) == 0
    for change in ({"prediction_type": "sample"}, {"beta_end": 0.02}):
        DDIMScheduler(**{**PROCESS, **change}).save_pretrained(tmp_path / "scheduler")
        with pytest.raises(ValueError, match=r"was trained for .* name the folder of its U-Net alone"):
            Denoiser(source=str(tmp_path))


@pytest.mark.parametrize("content", ['{"prediction_type": "v_pred', "[]"])
def test_a_damaged_scheduler_is_no_scheduler_for_eps(content: str, tmp_path: Path) -> None:
    UNet2DConditionModel(**UNET).save_pretrained(tmp_path / "unet")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"its scheduler_config\.json"):
        Denoiser(source=str(tmp_path))


@pytest.mark.parametrize("shape", [(), (4,), None])
def test_a_first_convolution_of_no_channels_is_left_to_be_refused(shape: tuple[int, ...] | None) -> None:
    denoiser = Denoiser(config=UNET, in_channels=13, garment="branch")
    state = {n: t for n, t in denoiser.state_dict().items() if n.startswith("unet.")}
    first = state.pop("unet.conv_in.weight")
    given = state if shape is None else {**state, "unet.conv_in.weight": torch.ones(shape)}
    found = denoiser.completed(given).get("unet.conv_in.weight")
    assert found is None if shape is None else found is not None and found.shape != first.shape
