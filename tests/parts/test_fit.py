"""Two state dicts are compared by names, shapes and kinds of numbers; every difference is named."""

from __future__ import annotations

import pytest
import torch

from unifashion_pl.parts.fit import differences, load_exactly, require_fit


def like(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same names and shapes, without memory."""
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}


STATE = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(3), "steps": torch.tensor(3)}


def test_equal_names_and_shapes_are_no_difference_whatever_their_values_and_precision() -> None:
    assert not differences(STATE, like(STATE))
    assert not differences(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}, STATE
    )
    require_fit(STATE, like(STATE), "here", "never")


def test_each_sort_of_difference_is_counted_apart() -> None:
    found = {**STATE, "a.bias": torch.zeros(4), "steps": torch.tensor(3.0), "more": torch.zeros(1)}
    del found["a.weight"]
    apart = differences(found, STATE)
    assert (apart.missing, apart.extra) == (["a.weight"], ["more"])
    assert apart.other == {"a.bias": "file (4,), expected (3,)", "steps": "file () floats, expected () integers"}
    assert bool(apart)
    assert not differences({"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)}, optional=["b"])


def test_the_sentence_has_place_differences_and_cure_and_three_examples_of_many() -> None:
    with pytest.raises(ValueError) as caught:
        require_fit({}, {f"t{i}": torch.zeros(1) for i in range(9)}, "a.pt does not fit", "Take another file")
    assert str(caught.value) == (
        "a.pt does not fit: 9 tensors missing ['t0', 't1', 't2'], 0 left over [], 0 of another shape []. Take another file"
    )


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model = torch.nn.Linear(2, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for state in ({"weight": torch.ones(3, 2)}, {"weight": torch.ones(3, 2), "bias": torch.ones(2)}):
        with pytest.raises(ValueError, match="a.pt does not fit this model: .*another config"):
            load_exactly(model, state, "a.pt")
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    load_exactly(model, {"weight": torch.ones(3, 2)}, "a.pt", optional=["bias"])
    assert torch.equal(model.weight, torch.ones(3, 2))
    assert torch.equal(model.bias, before["bias"])
