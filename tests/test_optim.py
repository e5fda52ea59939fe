"""Schedules against PyTorch's and the published values."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unifashion_pl.freezing import PARTS
from unifashion_pl.optim import (
    PRESETS,
    GroupSchedule,
    OptimSettings,
    build_optimizer,
    laid_as,
    one_cycle,
    parameter_groups,
)


@pytest.mark.parametrize(("total", "warmup"), [(2100, 0.1), (100, 0.3), (7, 0.5)])
def test_one_cycle_is_pytorchs(total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-5, total_steps=total, pct_start=warmup, div_factor=100, final_div_factor=1e4, cycle_momentum=False
    )
    for step in range(total):
        assert 2e-5 * one_cycle(step, total, warmup) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6, abs=1e-15)
        optimizer.step()
        if step < total - 1:
            theirs.step()


def test_published_points_of_the_schedule_and_of_beta1() -> None:
    seen: dict[str, dict[int, tuple[float, float]]] = {}
    for name in ("retrieval", "retrieval_released"):
        preset = PRESETS[name]
        optimizer = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": preset.lr, "betas": preset.betas}])
        scheduler = GroupSchedule(optimizer, [preset], 2100)
        seen[name] = {}
        for step in range(2100):
            group = optimizer.param_groups[0]
            seen[name][step] = (group["lr"], group["betas"][0])
            optimizer.step()
            scheduler.step()
    for step, lr in ((0, 2e-7), (209, 2e-5), (2099, 2e-11)):
        assert seen["retrieval"][step][0] == pytest.approx(lr, rel=1e-6)
    assert {beta for _, beta in seen["retrieval"].values()} == {0.9}
    for step, beta in ((0, 0.95), (209, 0.85), (2099, 0.95)):
        assert seen["retrieval_released"][step][1] == pytest.approx(beta)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known are retrieval"):
        OptimSettings(qformer="adamw")


def test_a_vision_tower_follows_the_qformer_unless_it_has_a_rate_of_its_own() -> None:
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"vision": nn.Linear(2, 2), "qformer": nn.Linear(2, 2)})})
    for settings, rates in (
        (OptimSettings(qformer_lr=1e-3), {"vision": 1e-3, "qformer": 1e-3}),
        (OptimSettings(qformer_lr=1e-3, vision_lr=4e-3), {"vision": 4e-3, "qformer": 1e-3}),
    ):
        groups, presets = parameter_groups(model, settings)
        assert {g["name"].split("/")[0]: g["lr"] for g in groups} == rates
        assert [g["name"] for g in groups] == [f"{side}{tail}" for side in rates for tail in ("", "/no_decay")]
        assert {p.shape for p in presets} == {"one_cycle"}


def test_schedule_state_is_plain_and_restores_the_step() -> None:
    optimizer = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": 2e-5}])
    scheduler = GroupSchedule(optimizer, [PRESETS["retrieval"]], 100)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    state = scheduler.state_dict()
    assert all(isinstance(v, int | float | list | bool | type(None)) for v in state.values())
    again = GroupSchedule(
        torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": 2e-5}]), [PRESETS["retrieval"]], 100
    )
    again.load_state_dict(state)
    assert again.last_epoch == 7
    assert again.get_last_lr() == scheduler.get_last_lr()


def test_every_part_has_a_side_and_adapters_learn_as_what_they_stand_on() -> None:
    assert (PARTS["lora"].side, PARTS["unet_lora"].side, PARTS["target_queries"].side) == ("llm", "diffusion", "qformer")


def two_sides() -> nn.ModuleDict:
    parts = {
        "backbone": nn.ModuleDict({"qformer": nn.Linear(2, 2)}),
        "diffusion_head": nn.ModuleDict({"adapter": nn.Linear(2, 2)}),
    }
    return nn.ModuleDict(parts)


def test_groups_of_older_checkpoints_load_under_their_present_names() -> None:
    optimizer = build_optimizer(two_sides(), OptimSettings(), 10)["optimizer"]
    names = [group["name"] for group in optimizer.param_groups]
    assert names == ["qformer", "qformer/no_decay", "diffusion", "diffusion/no_decay"]
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["name"] = group["name"].split("/")[0]
    again = build_optimizer(two_sides(), OptimSettings(), 10)["optimizer"]
    again.load_state_dict(state)
    assert [group["name"] for group in again.param_groups] == names


@pytest.mark.parametrize("steps", [float("inf"), -1])
def test_a_schedule_that_needs_an_end_says_so_and_a_constant_rate_does_not(steps: float) -> None:
    with pytest.raises(ValueError, match=r"\(one_cycle, warm-up 0.1\).*set max_steps or max_epochs.*retrieval_constant"):
        build_optimizer(two_sides(), OptimSettings(), steps)
    endless = OptimSettings(qformer="retrieval_constant", diffusion="diffusion", qformer_lr=1e-3)
    scheduler = build_optimizer(two_sides(), endless, steps)["lr_scheduler"]["scheduler"]
    for _ in range(5):
        scheduler.optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [1e-3, 1e-3, 1e-4, 1e-4]
    assert all(value is None or isinstance(value, int | float | list | bool) for value in scheduler.state_dict().values())


def test_another_peak_moves_the_whole_schedule() -> None:
    scheduler = build_optimizer(two_sides(), OptimSettings(), 10)["lr_scheduler"]["scheduler"]
    factor = scheduler.get_last_lr()[0] / 2e-5
    scheduler.set_peak(1.0)
    group = scheduler.optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(factor)
    scheduler.optimizer.step()
    scheduler.step()
    assert group["lr"] == pytest.approx(one_cycle(1, 10, 0.1))
    assert OptimSettings(vision_lr=4.0, llm="llm_released").at(0.5).preset("vision").lr == 0.5


def moved(scheduler: GroupSchedule, steps: int) -> GroupSchedule:
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
    return scheduler


def test_a_resumed_schedule_has_the_length_the_peak_and_the_betas_that_are_asked_for_now() -> None:
    released = OptimSettings(qformer="retrieval_released")
    before = build_optimizer(two_sides(), released, 10)
    moved(before["lr_scheduler"]["scheduler"], 6)
    asked = replace(released, qformer_lr=1e-3, weight_decay=0.2)
    straight, resumed = (build_optimizer(two_sides(), asked, 20) for _ in range(2))
    moved(straight["lr_scheduler"]["scheduler"], 6)
    resumed["optimizer"].load_state_dict(before["optimizer"].state_dict())
    resumed["lr_scheduler"]["scheduler"].load_state_dict(before["lr_scheduler"]["scheduler"].state_dict())
    for _ in range(14):
        for own, other in zip(straight["optimizer"].param_groups, resumed["optimizer"].param_groups):
            assert {name: other[name] for name in ("lr", "betas", "weight_decay", "name")} == {
                name: own[name] for name in ("lr", "betas", "weight_decay", "name")
            }
        moved(straight["lr_scheduler"]["scheduler"], 1)
        moved(resumed["lr_scheduler"]["scheduler"], 1)


def test_a_peak_that_was_found_outlives_a_resume() -> None:
    before = build_optimizer(two_sides(), OptimSettings(), 10)["lr_scheduler"]["scheduler"]
    before.set_peak(0.5)
    again = build_optimizer(two_sides(), OptimSettings(), 10)["lr_scheduler"]["scheduler"]
    again.load_state_dict(before.state_dict())
    assert again.base_lrs == [0.5] * 4


def test_another_optimiser_and_another_schedule() -> None:
    settings = OptimSettings(
        qformer_lr=0.5,
        weight_decay=0.25,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=7.0, momentum=0.9),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    )
    made = build_optimizer(two_sides(), settings, 10)
    group, plain = made["optimizer"].param_groups[:2]
    assert isinstance(made["optimizer"], torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"], plain["weight_decay"]) == (0.5, 0.9, 0.25, 0.0)
    assert "betas" not in group
    made["optimizer"].step()
    made["lr_scheduler"]["scheduler"].step()
    assert group["lr"] == 0.25
    with pytest.raises(ValueError, match=r"optim.betas is set, which the optimiser that optim.optimizer names does not have"):
        build_optimizer(two_sides(), replace(settings, betas=(0.9, 0.95)), 10)
    waiting = replace(settings, scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/shop/mean"))
    assert build_optimizer(two_sides(), waiting, 10)["lr_scheduler"]["monitor"] == "val/shop/mean"
    with pytest.raises(ValueError, match="name lightning.pytorch.cli.ReduceLROnPlateau with a monitor"):
        build_optimizer(two_sides(), replace(settings, scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau), 10)
    own = OptimSettings(betas=(0.8, 0.9), eps=1e-6)
    assert {(g["betas"], g["eps"]) for g in parameter_groups(two_sides(), own)[0]} == {((0.8, 0.9), 1e-6)}


def stepped(
    settings: OptimSettings, steps: int, state: dict[str, Any] | None = None
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network behind steps of one gradient, clipped as Lightning does it; ``state`` is another optimiser's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    told = build_optimizer(model, settings, 20)
    optimizer, schedule = told["optimizer"], told["lr_scheduler"]["scheduler"]
    if state is not None:
        optimizer.load_state_dict(state)
    for step in range(steps):
        model(torch.randn(2, 5, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model, optimizer


def test_a_fused_step_is_the_step() -> None:
    (fused, its), (plain, other) = (stepped(OptimSettings(fused=fused, qformer_lr=1e-2), 5) for fused in (None, False))
    assert [group["fused"] for group in its.param_groups] == [True] * len(its.param_groups)
    assert [group["fused"] for group in other.param_groups] == [None] * len(other.param_groups)
    start = stepped(OptimSettings(), 0)[0]
    for one, two, before in zip(fused.parameters(), plain.parameters(), start.parameters()):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)
        assert (one - before).abs().max() > 1e-4


@pytest.mark.parametrize("first", [True, False])
def test_a_state_of_the_other_kernels_goes_on(first: bool) -> None:
    """A run that began on a CPU and goes on on a GPU, or the other way: numbers of steps lie where the kernels read them."""
    state = stepped(OptimSettings(fused=first, qformer_lr=1e-2), 3)[1].state_dict()
    state = {**state, "state": {i: {**one, "step": one["step"].double()} for i, one in state["state"].items()}}
    kept = deepcopy(state)
    model, optimizer = stepped(OptimSettings(fused=not first, qformer_lr=1e-2), 2, state)
    assert {bool(group["fused"]) for group in optimizer.param_groups} == {not first}
    assert {(float(one["step"]), one["step"].dtype) for one in optimizer.state.values()} == {(5.0, torch.float32)}
    same = stepped(OptimSettings(fused=first, qformer_lr=1e-2), 2, kept)[0]
    for one, two in zip(model.parameters(), same.parameters()):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("fused", [True, False, None])
def test_a_state_of_another_memory_layout_goes_on(fused: bool | None) -> None:
    """Moments that were saved in rows, for convolutions that are ``channels_last`` now, and the other way round: a CPU's kernel sees no strides."""

    def convolution(layout: torch.memory_format, steps: range, state: dict[str, Any] | None = None) -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = nn.Conv2d(5, 4, 3).to(memory_format=layout)
        optimizer = build_optimizer(model, OptimSettings(fused=fused, qformer_lr=1e-2, weight_decay=0.0), 20)["optimizer"]
        if state is not None:
            optimizer.load_state_dict(deepcopy(state))
        for step in steps:
            gradient = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(step))
            model.weight.grad = laid_as(gradient, model.weight)
            optimizer.step()
        return model.weight.detach().clone(memory_format=torch.contiguous_format), optimizer

    rows, channels = torch.contiguous_format, torch.channels_last
    for first, then in ((rows, channels), (channels, rows)):
        state = convolution(first, range(3))[1].state_dict()
        found, optimizer = convolution(then, range(3, 6), state)
        same = convolution(first, range(3, 6), state)[0]
        torch.testing.assert_close(found, same, atol=1e-6, rtol=1e-6)
        usual = {group["fused"] for group in optimizer.param_groups}
        assert usual == ({True} if fused or (fused is None and then is rows) else {None})


@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*")
def test_adamw_is_fused_where_everything_lies_on_devices_of_a_kind() -> None:
    """On torch's fake CUDA tensors, where a step that waited for a value could not run."""
    with FakeTensorMode():
        on_gpu = nn.Linear(2, 2, device="cuda")
        optimizer = build_optimizer(on_gpu, OptimSettings(), 20)["optimizer"]
        assert {group["fused"] for group in optimizer.param_groups} == {True}
        for parameter in on_gpu.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert {state["step"].device.type for state in optimizer.state.values()} == {"cuda"}
        off = build_optimizer(on_gpu, OptimSettings(fused=False), 20)["optimizer"]
        mixed = build_optimizer(nn.ModuleList([on_gpu, nn.Linear(2, 2)]), OptimSettings(), 20)["optimizer"]
    assert {group["fused"] for one in (off, mixed) for group in one.param_groups} == {None}


def test_fused_belongs_to_adamw() -> None:
    with pytest.raises(ValueError, match=r"optim\.fused is a setting of AdamW"):
        build_optimizer(nn.Linear(2, 2), OptimSettings(fused=True, optimizer=torch.optim.SGD), 20)


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_lightning_clips_the_gradients_of_a_fused_adamw(precision: str) -> None:
    """It refuses optimisers that unscale gradients by themselves."""
    model, optimizer = stepped(OptimSettings(fused=True), 0)
    model(torch.ones(2, 5)).sum().backward()
    scaler = None if precision == "bf16" else torch.amp.GradScaler("cpu")
    MixedPrecision("bf16-mixed" if scaler is None else "16-mixed", "cpu", scaler).clip_gradients(optimizer, 1e-3)
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
