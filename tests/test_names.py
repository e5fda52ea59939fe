"""Names under torch.compile, and sentences about names that do not exist."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from unifashion_pl.names import SHOWN, keep_names_plain, plain, quoted, unknown


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        keep_names_plain(self)
        self.tower = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.tied = self.tower[0]


def compiled(*names: str) -> Part:
    part = Part()
    for name in names:
        owner = part.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], torch.compile(part.get_submodule(name), backend="eager"))
    return part


@pytest.mark.parametrize("names", [("tower",), ("tower.0",), ("tower", "tied")])
def test_states_do_not_depend_on_what_is_compiled(names: tuple[str, ...]) -> None:
    wanted, part = Part().state_dict(), compiled(*names)
    assert any("_orig_mod" in name for name, _ in part.named_parameters(remove_duplicate=False))
    assert set(part.state_dict()) == set(wanted)
    for given in (wanted, {f"tower._orig_mod.{n[6:]}" if n.startswith("tower.") else n: t for n, t in wanted.items()}):
        for target in (Part(), part, copy.deepcopy(part)):
            target.load_state_dict(given)
            assert all(torch.equal(tensor, wanted[name]) for name, tensor in target.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        part.load_state_dict({n: t for n, t in wanted.items() if n != "tower.1.bias"})


def test_inside_another_module_too() -> None:
    class Outer(nn.Module):
        def __init__(self, first: nn.Module, inner: Part) -> None:
            super().__init__()
            keep_names_plain(self)
            self.first: Any = first
            self.inner: Any = inner

    outer = Outer(torch.compile(nn.Linear(2, 2), backend="eager"), compiled("tower"))  # type: ignore[arg-type]
    state = outer.state_dict()
    assert set(state) == {"first.weight", "first.bias", *(f"inner.{name}" for name in Part().state_dict())}
    Outer(nn.Linear(2, 2), Part()).load_state_dict(state)
    outer.load_state_dict(state)


def test_a_name_without_likenesses_is_told_the_known_ones() -> None:
    assert plain("a._orig_mod.b._orig_mod.c") == "a.b.c"
    assert unknown("sampler", "zzz", ["ddim", "paper"]) == "unknown sampler 'zzz'; known are ddim, paper"
    many = [f"net{i}" for i in range(40)]
    assert unknown("model", "NET7", many).startswith("unknown model 'NET7' (did you mean net7 or ")
    assert unknown("model", "zzz", many) == "unknown model 'zzz'; 40 are known"


def test_of_what_others_wrote_a_message_has_the_beginning() -> None:
    assert quoted("x" * SHOWN) == repr("x" * SHOWN)
    assert quoted("x" * (SHOWN + 1)) == repr("x" * SHOWN + " …")
    assert quoted(None) == "None"
    assert len(quoted(list(range(1_000_000)))) <= SHOWN + 2
    assert unknown("column", "price" * 1_000_000, ["price"]) == f"unknown column {quoted('price' * 21)}; known are price"
