"""A small model with a real backbone and retrieval head, whose other heads show what they are given; and five pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from small import images, small_backbone
from torch import Tensor, nn

from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule


class Captioner(nn.Module):
    def generate(self, queries: Tensor, styles: list[str], **settings: object) -> list[str]:
        return [f"{style} {float(q[0, 0]):.6f} {sorted(settings)}" for q, style in zip(queries, styles)]


class Painter(nn.Module):
    text_encoder = None

    def generate(self, queries: Tensor | None, prompts: list[str], *, seeds: list[int], **_: object) -> Tensor:
        out = torch.stack([images(1, 8, seed)[0] for seed in seeds])
        if queries is not None:
            out[:, 0, 0, 0] = 255
        return out


@pytest.fixture
def model() -> UniFashionModule:
    torch.manual_seed(0)
    made = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8))
    made.caption_head, made.diffusion_head = Captioner(), Painter()  # type: ignore[assignment]
    return made.eval()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.fromarray(images(1, 2, seed=i)[0].permute(1, 2, 0).numpy()).resize((40, 40)).save(path)
    return paths
