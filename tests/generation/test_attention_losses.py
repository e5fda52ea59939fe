"""Losses on attention: the numbers that they have to give, probabilities against those of the layer itself."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from small import UNET

from unifashion_pl.generation.attention_losses import flow_error, grid_of, probabilities, recorded, shape_error, total_variation
from unifashion_pl.generation.garment import GarmentBranch

GRID = (4, 3)
FULL = torch.ones(2, 1, 16, 12, dtype=torch.bool)
EYE = torch.eye(12).expand(2, -1, -1)


def test_one_shared_row_has_no_variation_and_the_identity_one_step_per_direction() -> None:
    shared = torch.rand(1, 1, 12).softmax(-1).expand(2, 12, -1)
    assert float(total_variation(shared, GRID, FULL)) == pytest.approx(0, abs=1e-6)
    assert float(total_variation(EYE, GRID, FULL)) == 2.0
    assert float(total_variation(EYE, GRID, ~FULL)) == 0.0
    half = FULL.clone()
    half[:, :, 4:] = False
    assert float(total_variation(EYE, GRID, half)) == 1.0  # one row of cells: neighbours to the right alone


def test_variation_equals_a_loop_over_neighbours() -> None:
    attention = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0)).softmax(-1)
    mask = torch.rand(2, 1, 4, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    totals, counts = [0.0, 0.0], [0, 0]
    for b in range(2):
        centre = {
            (y, x): sum(float(attention[b, y * 3 + x, j]) * torch.tensor([j // 3, j % 3]) for j in range(12))
            for y in range(4) for x in range(3)
        }  # fmt: skip
        for way, (dy, dx) in enumerate(((1, 0), (0, 1))):
            for y in range(4 - dy):
                for x in range(3 - dx):
                    if mask[b, 0, y, x] and mask[b, 0, y + dy, x + dx]:
                        totals[way] += float((centre[y, x] - centre[y + dy, x + dx]).abs().sum())  # type: ignore[union-attr]
                        counts[way] += 1
    expected = totals[0] / counts[0] + totals[1] / counts[1]
    assert float(total_variation(attention, GRID, mask)) == pytest.approx(expected, rel=1e-5)


def test_looking_at_one_s_own_place_carries_the_garment_as_it_is() -> None:
    """Smooth pictures, so that the flow's bilinear enlargement inside the outermost cells is exact."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    smooth = (torch.stack([y * 10, x * 15, y + x]).round().to(torch.uint8)).expand(2, -1, -1, -1)
    inner = FULL.clone()
    inner[..., :2, :], inner[..., -2:, :], inner[..., :2], inner[..., -2:] = False, False, False, False
    assert float(flow_error(EYE, GRID, smooth, smooth, inner)) < 1e-5
    assert float(flow_error(EYE.flip(1), GRID, smooth, smooth, inner)) > 0.05
    assert float(flow_error(EYE, GRID, smooth, smooth.flip(-1), inner)) > 0.05
    assert float(flow_error(EYE, GRID, smooth, smooth, ~FULL)) == 0
    white, black = torch.full((2, 3, 16, 12), 255, dtype=torch.uint8), torch.zeros(2, 3, 16, 12, dtype=torch.uint8)
    assert float(flow_error(EYE, GRID, white, black, FULL)) == pytest.approx(4.0)


def test_an_outline_is_wrong_where_outside_looks_inside() -> None:
    """The map to the middle, which the flow error likes, against the share of the picture that it gets wrong."""
    both = torch.tensor([True, True])
    shapes = torch.zeros(2, 1, 16, 12, dtype=torch.bool)
    shapes[..., 4:12, 3:9] = True
    middle = torch.zeros(2, 12, 12)
    middle[..., [4, 7]] = 0.5
    outside = 1 - float(shapes.float().mean())
    assert float(shape_error(middle, GRID, shapes, shapes, both)) == pytest.approx(4 * outside)
    assert float(shape_error(middle, GRID, shapes, ~FULL, torch.tensor([False, True]))) == pytest.approx(4.0)
    assert float(shape_error(middle, GRID, shapes, ~FULL, ~both)) == 0
    # a photo that is all garment on a person all in garment, and its own place with straight edges between cells
    assert float(shape_error(EYE, GRID, FULL, FULL, both)) == 0
    lower = FULL.clone()
    lower[..., :8, :] = False
    assert float(shape_error(EYE, GRID, lower, lower, both)) < 0.02
    assert float(shape_error(EYE, GRID, lower, lower.flip(-2), both)) == pytest.approx(4.0, abs=0.02)


@torch.no_grad()
def test_recorded_probabilities_are_those_that_the_layer_used() -> None:
    torch.manual_seed(0)
    branch = GarmentBranch(UNet2DConditionModel(**UNET)).eval()
    h = torch.randn(2, branch.places[1].channels, 4, 6)
    features = [torch.randn(2, place.feature_channels, 4, 6) for place in reversed(branch.places)]
    layer = branch.blocks[1].transformer_blocks[0].attn2  # type: ignore[union-attr, index]
    out: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _a, result: out.append(result))  # type: ignore[union-attr, operator]
    with recorded(branch, [1]) as looks:
        branch.read(1, h, features, torch.ones(2, 1, 1, 1))
    handle.remove()
    hidden, tokens = looks[1].hidden, looks[1].tokens
    values = layer.to_v(tokens).unflatten(-1, (layer.heads, -1)).transpose(1, 2)  # type: ignore[union-attr, operator, arg-type]
    q, k = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (layer.to_q(hidden), layer.to_k(tokens)))  # type: ignore[union-attr, operator, arg-type]
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    again = layer.to_out[0]((weights @ values).transpose(1, 2).flatten(2))  # type: ignore[union-attr, operator, index]
    torch.testing.assert_close(again, out[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(probabilities(looks[1]), weights.mean(1), atol=1e-6, rtol=0)
    soft = probabilities(looks[1], 1000.0)
    torch.testing.assert_close(soft, torch.full_like(soft, 1 / 24), atol=1e-3, rtol=0)
    with recorded(branch, []) as nothing:
        branch.read(1, h, features, torch.ones(2, 1, 1, 1))
    assert nothing == {}


def test_grids_are_found_from_the_number_of_cells() -> None:
    assert [grid_of(n, (64, 48)) for n in (3072, 768, 192)] == [(64, 48), (32, 24), (16, 12)]
