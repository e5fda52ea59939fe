"""Diffusion head: Q-Former queries -> adapter -> cross-attention context of a Stable Diffusion U-Net (§3.1.2, §3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from unifashion_pl.backbone import Encoding, QFormerBackbone
from unifashion_pl.data.samples import PairBatch, TrainBatch, TripletBatch
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder, build_scheduler, training_schedule
from unifashion_pl.tasks.base import TaskModule


class ResidualMLP(nn.Module):
    """x + Dropout(W2 QuickGELU(W1 LN(x))), the adapter of the released phase-1 class (from BLIP-Diffusion, arXiv 2305.14720)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        if width != out:
            raise ValueError(f"the residual adapter keeps its width, got {width} -> {out}: use adapter='linear'")
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dense1, self.dense2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dense1(self.norm(x))
        return x + self.dropout(self.dense2(hidden * torch.sigmoid(1.702 * hidden)))


class DiffusionModule(TaskModule):
    """L_q2I of Eqs. 7 and 12, and sampling.

    Letters: B batch, Q queries, D their width, N context tokens, C context width, H × W pixels, h × w latents.

    Args:
        denoiser, vae, text_encoder: the generator's parts; no text encoder is needed for ``context="tsa"``.
        query_width, context_width: D and C.
        adapter: ``linear`` (§3.1.2) or ``residual_mlp`` (released phase-1 class).
        context: ``tsa+text`` = adapted queries beside the text encoder's states (Figs. 2, 3), or one of them alone.
        drop_context: probability that a sample's whole context becomes the null token (classifier-free guidance).
        drop_queries: probability that the query part alone becomes null tokens, which trains text -> image.
        drop_scope: draw per ``sample``, or once per ``batch`` as the released code does.
        size: (H, W) of generated pictures.
    """

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        vae: ImageVAE,
        text_encoder: PromptEncoder | None = None,
        query_width: int = 768,
        context_width: int = 768,
        adapter: Literal["linear", "residual_mlp"] = "linear",
        context: Literal["tsa+text", "tsa", "text"] = "tsa+text",
        drop_context: float = 0.2,
        drop_queries: float = 0.1,
        drop_scope: Literal["sample", "batch"] = "sample",
        size: tuple[int, int] = (512, 384),
        backbone: QFormerBackbone | None = None,
        learning_rate: float = 1e-4,
    ) -> None:
        super().__init__(backbone, learning_rate)
        if "text" in context and text_encoder is None:
            raise ValueError(f"context={context!r} needs a text_encoder; use context='tsa' to do without")
        self.denoiser, self.vae, self.text_encoder = denoiser, vae, text_encoder
        self.adapter = nn.Linear(query_width, context_width) if adapter == "linear" else ResidualMLP(query_width, context_width)
        self.null_context = nn.Parameter(torch.randn(1, 1, context_width))
        self.context = context
        self.drop_context, self.drop_queries, self.drop_scope = drop_context, drop_queries, drop_scope
        self.size = (int(size[0]), int(size[1]))
        self.schedule = training_schedule()

    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        """``q2i``: mean squared error of the predicted noise of the image (Eq. 7) or the target image (Eq. 12).

        Raises:
            ValueError: the batch has no pixels at generation size.
        """
        if not isinstance(batch, PairBatch | TripletBatch):
            return {}
        if batch.pixels is None or tuple(batch.pixels.shape[-2:]) != self.size:
            found = None if batch.pixels is None else tuple(batch.pixels.shape[-2:])
            raise ValueError(f"the diffusion head needs pictures of {self.size}, got {found}: set the data module's pixel_size")
        latents = self.vae.encode(batch.pixels, sample=True)
        noise = torch.randn_like(latents)
        steps = torch.randint(0, int(self.schedule.config.num_train_timesteps), (len(batch),), device=latents.device)
        noisy = self.schedule.add_noise(latents, noise, steps)
        context = self.drop(self.build_context(encoding.queries, batch.prompts))
        return {"q2i": F.mse_loss(self.denoiser(noisy, steps, context).float(), noise.float())}

    def build_context(self, queries: Tensor | None, prompts: Sequence[str]) -> Tensor:
        """(B, N, C): adapted queries (null tokens where there are none), then the text encoder's states."""
        parts = []
        if "tsa" in self.context:
            tokens = self.null_context.expand(len(prompts), 1, -1) if queries is None else self.adapter(queries)
            if queries is not None and self.training and self.drop_queries and "text" in self.context:
                tokens = torch.where(self._drawn(len(prompts), self.drop_queries), self.null_context, tokens)
            parts.append(tokens)
        if "text" in self.context:
            assert self.text_encoder is not None
            parts.append(self.text_encoder(list(prompts)))
        return torch.cat(parts, 1)

    def drop(self, context: Tensor) -> Tensor:
        """Replace the whole context of some samples by the null token, in training only."""
        if not (self.training and self.drop_context):
            return context
        return torch.where(self._drawn(context.shape[0], self.drop_context), self.null_context, context)

    def _drawn(self, batch: int, probability: float) -> Tensor:
        """(B, 1, 1) bool."""
        size = batch if self.drop_scope == "sample" else 1
        return (torch.rand(size, 1, 1, device=self.null_context.device) < probability).expand(batch, 1, 1)

    @torch.inference_mode()
    def generate(
        self,
        queries: Tensor | None,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampler: str = "fast",
        steps: int | None = None,
        guidance: float = 5.0,
        progress: bool = False,
    ) -> Tensor:
        """Paint pictures from N(0, I).

        Args:
            queries: (B, Q, D) soft prompts, None = from text alone.
            prompts: B texts, "" allowed. seeds: B seeds; a seed's noise does not depend on its place in a batch.
            sampler, steps: see :mod:`unifashion_pl.generation.schedules`; ``paper`` is the paper's PLMS.
            guidance: eps_u + s (eps_c - eps_u) in one batched call; 1.0 makes no unconditional one.

        Returns:
            uint8 (B, 3, H, W).

        Raises:
            ValueError: numbers of queries, prompts and seeds differ.
        """
        if len(seeds) != len(prompts) or (queries is not None and len(queries) != len(prompts)):
            found = None if queries is None else len(queries)
            raise ValueError(f"got {found} query sets, {len(prompts)} prompts and {len(seeds)} seeds: they belong together one by one")
        was_training = self.training
        self.eval()
        try:
            return self._sample(queries, prompts, seeds, build_scheduler(sampler, steps), guidance, progress)
        finally:
            self.train(was_training)

    def _sample(
        self, queries: Tensor | None, prompts: Sequence[str], seeds: Sequence[int], scheduler: Any, guidance: float, progress: bool
    ) -> Tensor:
        context = self.build_context(queries, prompts)
        guided = guidance != 1.0
        if guided:
            context = torch.cat([self.null_context.expand_as(context), context])
        shape = (int(self.denoiser.unet.config.out_channels), self.size[0] // self.vae.factor, self.size[1] // self.vae.factor)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds])
        latents = noise.to(context) * scheduler.init_noise_sigma
        for step in tqdm(scheduler.timesteps, desc="painting", disable=not progress, leave=False):
            inputs = scheduler.scale_model_input(torch.cat([latents, latents]) if guided else latents, step)
            eps = self.denoiser(inputs, step.expand(len(inputs)).to(inputs.device), context)
            if guided:
                empty, full = eps.chunk(2)
                eps = empty + guidance * (full - empty)
            latents = scheduler.step(eps, step, latents).prev_sample
        return self.vae.decode(latents)
