"""Models of our own that diffusers writes and loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import painter

from unifashion_pl.export.components import UniFashionConditioning, UniFashionGarment
from unifashion_pl.export.diffusers_folder import conditioning_of, garment_of


def test_the_garment_branch_is_written_and_loaded(tmp_path: Path) -> None:
    denoiser: Any = painter().diffusion_head.denoiser  # type: ignore[union-attr]
    garment_of(denoiser.garment, denoiser.unet).save_pretrained(tmp_path)
    loaded: Any = UniFashionGarment.from_pretrained(tmp_path)
    state, wanted = loaded.branch.state_dict(), denoiser.garment.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    given, times = torch.randn(3, 13, 8, 8), torch.tensor([5, 400, 900])
    context, cloth = torch.randn(3, 4, denoiser.context_width), torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        all_rows = loaded(denoiser.unet, given, times, context, cloth)
        some = loaded(denoiser.unet, given, times, context, cloth, torch.tensor([0, 2]))
        plain = denoiser.unet(given, times, context).sample
    assert torch.allclose(some[[0, 2]], all_rows[[0, 2]], atol=1e-5)
    assert torch.allclose(some[1], plain[1], atol=1e-5)
    assert not torch.allclose(all_rows[1], plain[1], atol=1e-3)


def test_the_context_is_the_head_s(tmp_path: Path) -> None:
    head: Any = painter().diffusion_head
    head.num_queries.fill_(4)
    conditioning_of(head).save_pretrained(tmp_path)
    loaded: Any = UniFashionConditioning.from_pretrained(tmp_path)
    assert (loaded.config.num_queries, tuple(loaded.config.size)) == (4, (32, 24))
    texts = ["red", "a blue dress"]
    with torch.no_grad():
        states = head.text_encoder(texts)
        for queries in (torch.randn(2, 4, 32), None):
            context = head.build_context(queries, texts)
            assert loaded(2, queries, states) == pytest.approx(context)
        assert torch.equal(loaded.null(context)[1, 2], head.null_context[0, 0])


@pytest.mark.parametrize("adapter", ["residual_mlp", None])
def test_other_contexts(adapter: Any) -> None:
    made: Any = UniFashionConditioning(16, 16, adapter, num_queries=3)
    states = torch.randn(2, 5, 16)
    assert made(2, torch.randn(2, 3, 16), states).shape == (2, 8 if adapter else 5, 16)
    assert torch.equal(made(2, None, states)[:, -5:], states)
