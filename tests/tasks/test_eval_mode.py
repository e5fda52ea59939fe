"""Evaluation mode for a while: every module's own mode comes back, whatever happens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unifashion_pl.tasks.eval_mode import evaluating


def mixed() -> nn.Sequential:
    """Trains, but for a frozen part that stays in eval mode."""
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Dropout(0.5)).train()
    model[0].eval()
    model[0][0].train()
    return model


def modes(*models: nn.Module) -> list[bool]:
    return [part.training for model in models for part in model.modules()]


def test_all_parts_are_in_eval_mode_inside_and_as_they_were_after() -> None:
    first, second = mixed(), nn.Dropout(0.5).train()
    before = modes(first, second)
    assert len(set(before)) == 2
    with evaluating(first, second):
        assert not any(modes(first, second))
        x = torch.randn(4, 2)
        assert torch.equal(first(x), first(x))
        assert torch.equal(second(x), x)
        with evaluating(second):
            pass
        assert not second.training
    assert modes(first, second) == before


def test_modes_come_back_after_an_error() -> None:
    model = mixed()
    before = modes(model)
    with pytest.raises(ZeroDivisionError), evaluating(model):
        _ = 1 / 0
    assert modes(model) == before


def test_a_module_s_own_train_is_not_called() -> None:
    """It may do more than to set a mode: of a task's head, it looks through all of its parameters."""

    class Own(nn.Linear):
        def train(self, mode: bool = True) -> Own:
            raise AssertionError

    model = Own(2, 2)
    with evaluating(model):
        assert not model.training
    assert model.training


def test_gradients_are_left_to_the_caller() -> None:
    model = nn.Linear(2, 1)
    with evaluating(model):
        model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad is not None


def test_a_model_in_eval_mode_is_looked_at_once_and_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: attributes that are set, and walks that make names."""
    model = mixed().eval()
    shared = nn.Sequential(model[1], model[1], nn.Identity()).eval()
    done: list[str] = []
    usual = nn.Module.__setattr__
    monkeypatch.setattr(nn.Module, "__setattr__", lambda part, name, value: done.append(name) or usual(part, name, value))
    monkeypatch.setattr(nn.Module, "named_modules", lambda *_, **__: done.append("walk"))
    with evaluating(model, shared):
        assert not any(part.training for part in (model, model[0], model[0][0], model[0][1], model[1], shared))
        model[0].training = True  # somebody inside
    assert done == ["training", "training"]  # theirs, and taken back
    assert not model[0].training
    model.training = True
    done.clear()
    with evaluating(model):
        assert done == ["training"]
    assert done == ["training"] * 2


def test_parts_that_are_no_module_are_taken_by_what_they_say() -> None:
    class Pair:
        first, second = nn.Sequential(nn.Dropout(0.5)).train(), nn.Dropout(0.5).train()

        def modules(self):  # type: ignore[no-untyped-def]
            return iter((self.first, self.second))

    pair = Pair()
    with evaluating(pair):
        assert modes(pair.first, pair.second) == [False] * 3
    assert modes(pair.first, pair.second) == [True] * 3
