"""Attention that knows where cells lie: against a closed form, plain softmax, and diffusers' own transformer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel
from torch import Tensor, nn

from unifashion_pl.generation.placed_attention import PlacedLinear, PlacedTransformer, centres

#: Both pictures have 6 x 4 cells; of 64 channels in two heads the first, of 12 the garment. A head is wide enough for all 20 waves.
GRID, CHANNELS, HEADS, READ = (6, 4), 64, 2, 12


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def transformer(logit: float = 10.0) -> PlacedTransformer:
    torch.manual_seed(0)
    return PlacedTransformer(
        HEADS, CHANNELS // HEADS, CHANNELS, num_layers=1, cross_attention_dim=READ, norm_num_groups=4, logit=logit
    ).eval()


CELLS, GARMENT = random(2, CHANNELS, *GRID, seed=1), random(2, 24, READ, seed=2)


@pytest.mark.parametrize("logit", PlacedLinear.LOGITS)
@pytest.mark.parametrize("heads", [1, 2])
def test_with_positions_a_cell_first_looks_where_its_coordinates_say(heads: int, logit: float) -> None:
    """Against the closed form: the match of two cells is the logit times the mean cosine of their distances in half waves."""
    plain, placed = nn.Linear(12, 64), nn.Linear(7, 64)
    asks, answers = PlacedLinear(plain, 64 // heads, logit), PlacedLinear(placed, 64 // heads, logit)
    cells, garment = random(2, 24, 12, seed=1), random(2, 24, 7, seed=2)
    waves = np.pi * np.array(PlacedLinear.WAVES)
    y, x = np.divmod(np.arange(24), 4)
    keys = np.stack([(x + 0.5) / 4, (y + 0.5) / 6], -1)
    own = centres((6, 4))[None]
    np.testing.assert_allclose(own[0].numpy(), keys, atol=1e-6)
    moved = torch.rand(2, 24, 2, generator=torch.Generator().manual_seed(3))
    for at in (own, moved):
        q, k = asks(cells, at) - plain(cells), answers(garment, own) - placed(garment)
        q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
        logits = (q @ k.transpose(-1, -2) / (64 / heads) ** 0.5).detach().numpy()
        distances = at.expand(2, -1, -1).numpy()[:, :, None] - keys
        expected = np.cos(distances[..., None] * waves).mean((-2, -1)) * logit
        for head in range(heads):
            np.testing.assert_allclose(logits[:, head], expected, atol=1e-4)
        if at is own:
            assert (expected.argmax(-1) == np.arange(24)).all()


def test_centres_are_those_of_a_picture_s_cells_row_by_row() -> None:
    assert centres((2, 4)).tolist() == [[x, y] for y in (0.25, 0.75) for x in (0.125, 0.375, 0.625, 0.875)]
    assert centres((1, 1)).tolist() == [[0.5, 0.5]]
    # the mean of four cells is the centre of the cell that they fill in a picture half as large
    fine = centres((6, 4)).view(3, 2, 2, 2, 2).mean((1, 3)).flatten(0, 1)
    torch.testing.assert_close(fine, centres((3, 2)))


@torch.no_grad()
@pytest.mark.parametrize("found", [False, True])
def test_what_is_read_and_where_it_looked_are_those_of_a_softmax_by_hand(found: bool) -> None:
    model = transformer()
    attention = model.transformer_blocks[0].attn2
    hidden, keys = random(2, 24, CHANNELS, seed=3), centres(GRID)[None]
    queries = torch.rand(2, 24, 2, generator=torch.Generator().manual_seed(4)) if found else keys
    read, looked = attention(hidden, encoder_hidden_states=GARMENT, queries=queries, keys=keys)

    q, k, v = attention.to_q(hidden, queries), attention.to_k(GARMENT, keys), attention.to_v(GARMENT)
    width = CHANNELS // HEADS
    outs, places = [], []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[..., part] @ k[..., part].mT / width**0.5, -1)
        outs.append(weights @ v[..., part])
        places.append(weights @ keys)
    torch.testing.assert_close(read, attention.to_out[0](torch.cat(outs, -1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(looked, torch.stack(places).mean(0), atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_its_coordinates_it_is_diffusers_transformer() -> None:
    model = transformer()
    plain = Transformer2DModel(HEADS, CHANNELS // HEADS, CHANNELS, num_layers=1, cross_attention_dim=READ, norm_num_groups=4)
    state = model.state_dict()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if ".places." not in name})
    assert {name.split(".")[3] for name in state if ".places." in name} == {"to_q", "to_k"}
    expected = plain.eval()(CELLS, encoder_hidden_states=GARMENT).sample
    placed, looked = model(CELLS, GARMENT, None)
    assert (placed - expected).abs().max() > 1e-3
    assert looked.shape == (2, 2, *GRID)
    for name, parameter in model.named_parameters():
        if ".places." in name:
            parameter.zero_()
    torch.testing.assert_close(model(CELLS, GARMENT, None)[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cell_looks_near_the_place_that_was_found_for_it() -> None:
    """Sent to the picture's other side, every cell looks there; None is its own place, also where a coarser grid found it."""
    model = transformer(PlacedLinear.LOGITS[1])
    for layer in (model.transformer_blocks[0].attn2.to_q, model.transformer_blocks[0].attn2.to_k):
        layer.weight.zero_()  # coordinates alone
    own = centres(GRID).T.unflatten(1, GRID)[None].expand(2, -1, -1, -1)
    away = own.flip(-1)
    at_home, there = model(CELLS, GARMENT, None)[1], model(CELLS, GARMENT, away)[1]
    assert torch.equal(model(CELLS, GARMENT, own)[1], at_home)
    assert (at_home - own).abs().mean() < 0.05
    torch.testing.assert_close(there, at_home.flip(-1), atol=1e-5, rtol=0)
    coarse = centres((3, 2)).T.unflatten(1, (3, 2))[None].expand(2, -1, -1, -1)
    finer = F.interpolate(coarse, GRID, mode="bilinear")
    assert torch.equal(model(CELLS, GARMENT, coarse)[1], model(CELLS, GARMENT, finer)[1])
