"""The best of an image's tokens: values and gradients against one product and its maximum, what is kept, and what surrounds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unifashion_pl import similarity
from unifashion_pl.similarity import max_sim

#: Texts, images, tokens, width: one tile, several of each direction, a rest, more tokens than a byte counts, and than 16 bits sort.
SHAPES = [(5, 7, 3, 8), (300, 70, 4, 16), (3, 130, 32, 8), (4, 3, 300, 8), (3, 65, 600, 4), (1, 1, 2, 3)]
#: Nothing on one side or on both, with one token and with several.
EMPTY = [(0, 3, 2, 4), (3, 0, 2, 4), (0, 0, 2, 4), (0, 3, 1, 4), (3, 0, 1, 4)]


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1).to(dtype).requires_grad_()


def plain(text: Tensor, image: Tensor) -> Tensor:
    return torch.einsum("ne,mqe->nmq", text, image).amax(-1)


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(similarity, "_CPU_TILE", 64)
        monkeypatch.setattr(similarity, "_IMAGES", 2)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("N", "M", "Q", "E"), SHAPES)
def test_values_and_gradients_are_those_of_the_maximum_of_one_product(N: int, M: int, Q: int, E: int) -> None:
    """In fp32 to 1e-6 of the gradient's norm."""
    text, image = unit(N, E), unit(M, Q, E, seed=1)
    weights = torch.randn(N, M, generator=torch.Generator().manual_seed(2))
    found, expected = max_sim(text, image), plain(text, image)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    ours, theirs = (torch.autograd.grad((one * weights).sum(), (text, image)) for one in (found, expected))
    for one, other in zip(ours, theirs):
        assert (one - other).norm() <= 1e-6 * other.norm()


@pytest.mark.parametrize(("N", "M", "Q", "E"), EMPTY)
def test_of_nothing_there_is_nothing_and_its_gradient_is_zero(N: int, M: int, Q: int, E: int) -> None:
    text, image = unit(N, E), unit(M, Q, E)
    assert max_sim(text.detach(), image.detach()).shape == (N, M)
    found = torch.autograd.grad(max_sim(text, image).sum(), (text, image))
    assert [(grad.shape, bool(grad.any())) for grad in found] == [((N, E), False), ((M, Q, E), False)]


def test_it_is_numpys() -> None:
    text, image = unit(6, 8, dtype=torch.float64), unit(9, 5, 8, seed=1, dtype=torch.float64)
    products = np.einsum("ne,mqe->nmq", text.detach().numpy(), image.detach().numpy())
    np.testing.assert_allclose(max_sim(text, image).detach().numpy(), products.max(-1), atol=1e-12)
    assert torch.autograd.gradcheck(max_sim, (text, image))
    assert torch.autograd.gradcheck(lambda t: max_sim(t, image.detach()), text)
    assert torch.autograd.gradcheck(lambda z: max_sim(text.detach(), z), image)


@pytest.mark.usefixtures("tiles")
def test_of_equal_products_the_first_has_the_whole_gradient() -> None:
    """As with argmax; amax shares it among them. The texts' gradient is the same."""
    text, token = unit(3, 8), unit(2, 1, 8, seed=1)
    image = token.detach().expand(2, 4, 8).clone().requires_grad_()
    found = torch.autograd.grad(max_sim(text, image).sum(), (text, image))
    shared = torch.autograd.grad(plain(text, image).sum(), (text, image))
    torch.testing.assert_close(found[0], shared[0])
    torch.testing.assert_close(found[1][:, 0], shared[1].sum(1))
    assert found[1][:, 1:].abs().max() == 0
    assert shared[1][:, 1:].abs().min() > 0


@pytest.mark.parametrize("tokens", [1, 3])
def test_gradients_of_gradients_do_not_pass_for_zero(tokens: int) -> None:
    text, image = unit(3, 8), unit(4, tokens, 8, seed=1)
    (grad,) = torch.autograd.grad(max_sim(text, image).square().sum(), text, create_graph=True)
    if tokens == 1:  # one product, of torch's own
        grad.sum().backward()
    else:
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


@pytest.mark.parametrize("tokens", [1, 3])
def test_autocast_changes_nothing(tokens: int) -> None:
    text, image = unit(4, 8), unit(5, tokens, 8, seed=1)
    expected = torch.autograd.grad(max_sim(text, image).sum(), (text, image))
    with torch.autocast("cpu", torch.bfloat16):
        found = max_sim(text, image)
        assert (text @ text.T).dtype == torch.bfloat16
        assert found.dtype == torch.float32
    grads = torch.autograd.grad(found.sum(), (text, image))
    assert torch.equal(found, max_sim(text, image))
    assert all(map(torch.equal, grads, expected))
    assert max_sim(text.bfloat16(), image).dtype == torch.float32
    half = max_sim(text.bfloat16(), image.bfloat16())
    half.sum().backward()
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain(text, image), atol=0.02, rtol=0)


class Sizes(TorchDispatchMode):
    """Elements of the largest tensor that an operation makes."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            self.most = max(self.most, one.numel() if isinstance(one, Tensor) else 0)
        return made


def test_the_products_of_all_pairs_never_exist_at_once() -> None:
    text, image = unit(1024, 4), unit(256, 32, 4, seed=1)
    with Sizes() as ours:
        max_sim(text, image).sum().backward()
    with Sizes() as theirs:
        plain(text, image)
    assert theirs.most == 1024 * 256 * 32
    assert ours.most <= max(similarity._CPU_TILE, 1024 * 256)


def test_compiled_code_gives_the_same() -> None:
    text, image = unit(4, 8), unit(5, 3, 8, seed=1)
    compiled = torch.compile(lambda t, z: 2 * max_sim(t, z), backend="eager")
    found, expected = compiled(text, image), 2 * max_sim(text, image)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(y.sum(), (text, image)) for y in (found, expected))):
        torch.testing.assert_close(one, other)
