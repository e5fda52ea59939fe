"""Diffusion head: an adapter carries the Q-Former's outputs into the context of a latent diffusion U-Net (Eqs. 7 and 12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from unifashion_pl import arguments
from unifashion_pl.backbone import Encoding, QFormerBackbone
from unifashion_pl.data.samples import EditBatch, PairBatch, TrainBatch, TripletBatch, TryOnBatch
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.generation.attention_losses import recorded
from unifashion_pl.generation.prompts import warn_if_cut
from unifashion_pl.generation.samplers import (
    TRAIN_STEPS,
    add_noise,
    draw_timesteps,
    guided,
    released_start,
    sample,
    scale_of,
    signal_of,
    start_noise,
    training_noise,
)
from unifashion_pl.tasks import editing
from unifashion_pl.tasks.base import TaskModule
from unifashion_pl.tasks.conditioning import build_adapter, checked_text_encoder, null_token
from unifashion_pl.tasks.editing import EditSettings
from unifashion_pl.tasks.eval_mode import evaluating


class DiffusionModule(TaskModule):
    """Adapter, text encoder, autoencoder and U-Net over the Q-Former's query outputs.

    Letters: B batch, Q queries, D width of the Q-Former, C width of the context, L tokens of a prompt, H x W pixels. The context of
    the U-Net is [adapted queries | CLIP text], (B, Q + L, C), as Figs. 2 and 3 draw it; Eqs. 7 and 12 print the adapted queries alone
    (``context="tsa"``).

    Training drops conditions at random, so that the model can do without them: ``drop_context`` replaces a sample's whole context
    by the learnt null token (classifier-free guidance), ``drop_queries`` its query part alone (generation from text). A head that
    is frozen as a whole (phase 2) is in eval mode and always sees the full context.

    One model paints four things: reconstruction or text -> image (pairs), composed generation (triplets), try-on and design
    (persons). What a row lacks is absent in the way of :class:`~unifashion_pl.generation.Denoiser`: zeros, or a closed gate.

    Args:
        denoiser: U-Net with 4 or 13 input channels; pairs and triplets leave the nine channels of editing and the garment empty.
        vae: frozen autoencoder.
        text_encoder: None or unused when ``context`` is ``tsa``.
        query_width, context_width: D and C; None = as wide as the U-Net's context, and anything else is refused.
        adapter: ``linear`` (§3.1.2) or ``residual_mlp`` (released phase-1 class; D has to equal C).
        context: ``tsa+text``, ``tsa`` (queries alone) or ``text`` (released editing code: queries take no part).
        drop_context, drop_queries: probabilities; 0.2 is the released code's (App. A has "a fixed probability"), 0.1 ours.
        drop_scope: one draw per ``sample``, or per ``batch`` and rank (released code).
        size: (H, W) of the generated images, multiples of what autoencoder and U-Net halve.
        edit_size: (H, W) of repainted persons; None = ``size``, as in the paper.
        guidance: default of :meth:`generate`; None = 5.0 with queries and 7.5 from text alone, as is usual with Stable Diffusion
            (the paper gives none).
        null_start: start of the learnt null token: ``random`` N(0, 1) (released code), or ``empty_prompt``, the mean state of the empty
            prompt, which is what a pretrained U-Net knows as no condition.
        max_samples: learn from the first n images of a batch, where contrastive batches are larger than the U-Net can pay for;
            None = all. Of try-on batches always all.
        snr_gamma: draw timesteps in proportion to min(SNR, gamma) / SNR (Min-SNR, arXiv 2303.09556), so that a short training spends
            itself on what a picture shows rather than on its grain; None = all alike, as the paper.
        noise_offset: of :func:`~unifashion_pl.generation.samplers.training_noise`, so that colours are taken from the conditions and
            not read off the noise; 0 = white noise, as the paper.
        editing: how try-on and design are learned.

    Attributes:
        num_queries: Q of the last training step, kept in checkpoints: so many null tokens stand for absent queries.

    Raises:
        ValueError: parts that do not fit each other, with the fix.
    """

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        vae: ImageVAE,
        text_encoder: PromptEncoder | None = None,
        query_width: int = 768,
        context_width: int | None = None,
        adapter: Literal["linear", "residual_mlp"] = "linear",
        context: Literal["tsa+text", "tsa", "text"] = "tsa+text",
        drop_context: float = 0.2,
        drop_queries: float = 0.1,
        drop_scope: Literal["sample", "batch"] = "sample",
        size: tuple[int, int] = (512, 384),
        edit_size: tuple[int, int] | None = None,
        guidance: float | None = None,
        null_start: Literal["random", "empty_prompt"] = "random",
        max_samples: int | None = None,
        snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        editing: EditSettings | None = None,
        backbone: QFormerBackbone | None = None,
        learning_rate: float = 1e-4,
    ) -> None:
        super().__init__(backbone, learning_rate)
        arguments.choice(context, "context", ("tsa+text", "tsa", "text"))
        self.drop_scope = arguments.choice(drop_scope, "drop_scope", ("sample", "batch"))
        width = denoiser.context_width
        if context_width not in (None, width):
            raise ValueError(f"context_width is {context_width}, the U-Net's cross_attention_dim is {width}")
        self.denoiser = denoiser
        self.vae = vae
        self.text_encoder = checked_text_encoder(text_encoder, width) if "text" in context else None
        self.adapter = build_adapter(adapter, query_width, width) if "tsa" in context else None
        self.null_context = nn.Parameter(null_token(null_start, width, self.text_encoder))
        self.num_queries: Tensor
        self.register_buffer("num_queries", torch.tensor(1))
        self.max_samples = max_samples
        self.snr_gamma = snr_gamma
        self.noise_offset = noise_offset
        self.editing = editing or EditSettings()
        if denoiser.garment is None and self.editing.looks:
            raise ValueError(
                "tv_weight, flow_weight and shape_weight are losses on the garment branch, which this denoiser has not: set them to 0, or "
                "garment: branch"
            )
        self.drop_context = drop_context
        self.drop_queries = drop_queries
        self.size = (size[0], size[1])
        self.guidance = guidance
        self.edit_size = self.size if edit_size is None else (edit_size[0], edit_size[1])
        multiple = vae.factor * denoiser.multiple
        for name, sides in (("size", self.size), ("edit_size", self.edit_size)):
            if any(side % multiple for side in sides):
                raise ValueError(f"{name} is {sides}, expected multiples of {multiple} for this model")

    def prepare(self, batch: TrainBatch) -> TrainBatch:
        """Try-on samples as rows to be painted, each with a task drawn from :attr:`editing`; other batches as they are."""
        return editing.edit_batch(batch, self.editing.draw(len(batch))) if isinstance(batch, TryOnBatch) else batch

    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        """``q2i`` of the batch's images given ``encoding.queries`` (B, Q, D) and its prompts; of edits also ``tv``, ``flow`` and
        ``shape`` if weighted.

        Raises:
            ValueError: the batch carries no images at generation size, or of another size.
        """
        if not isinstance(batch, PairBatch | TripletBatch | EditBatch):
            return {}
        size = self.edit_size if isinstance(batch, EditBatch) else self.size
        found = None if batch.pixels is None else self.vae.size_of(batch.pixels)
        if batch.pixels is None or found != size:
            raise ValueError(f"the diffusion head paints {size} and the batch's pixels are {found}: set pixel_size of the data")
        if isinstance(batch, EditBatch):
            return self.edit_losses(encoding.queries, batch)
        n = self.max_samples
        return {"q2i": self.diffusion_loss(encoding.queries[:n], batch.prompts[:n], batch.pixels[:n])}

    def diffusion_loss(self, queries: Tensor, prompts: list[str], pixels: Tensor) -> Tensor:
        """Mean squared error between noise and prediction (of v: a U-Net that predicts v) at random timesteps: L_q2I (Eqs. 7, 12, 15).

        The equations print a squared norm; its mean over the elements, as in published code, is what the sums of Eqs. 8 and 13 hold here.

        Args:
            queries: (B, Q, D).
            pixels: (B, 3, H, W) uint8, the images to be painted, or their posteriors.
        """
        self.num_queries.fill_(queries.shape[1])
        return self.latent_loss(queries, prompts, self.vae.encode(pixels, sample=True).float())

    def latent_loss(self, queries: Tensor | None, prompts: list[str], latents: Tensor) -> Tensor:
        """:meth:`diffusion_loss` after the autoencoder: scaled latents (B, 4, H/f, W/f) float32."""
        noise, timesteps, noisy = self._noised(latents)
        context = self.build_context(queries, prompts, drop=self.training)
        return self._error(self.denoiser(noisy, timesteps, context), noise, timesteps)

    def edit_losses(self, queries: Tensor, batch: EditBatch) -> dict[str, Tensor]:
        """``q2i`` of persons to be repainted, their own picture being the target; optionally ``tv``, ``flow`` and ``shape``.

        Args:
            queries: (B, Q, D), of garment or sketch with the text.
        """
        self.num_queries.fill_(queries.shape[1])
        noise, timesteps, noisy = self._noised(self.vae.encode(editing.encodable(batch, "person"), sample=True).float())
        conditions = editing.encode_conditions(self.vae, self.denoiser, batch, sample=True)
        if self.training:
            conditions = editing.drop_conditions(conditions, self.editing)
        conditions["context"] = self.build_context(queries, batch.texts, drop=self.training, has_queries=batch.has_image)
        places = editing.attention_places(self.denoiser, self.editing)
        with recorded(self.denoiser.garment, sorted({*places[0], *places[1]})) as looks:
            eps = self.denoiser(noisy, timesteps, **conditions)
        with torch.autocast(noisy.device.type, enabled=False):  # in bf16 neighbouring cells have equal coordinates
            extra = editing.attention_losses(looks, places, batch, conditions, timesteps, self.editing)
        return {"q2i": self._error(eps, noise, timesteps), **extra}

    def _error(self, eps: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Mean squared error of what the U-Net gives: of eps, or of v, whose error is that of eps over sqrt(alpha_bar)."""
        weights = torch.where(self.denoiser.predicts_v > 0, 1 / signal_of(timesteps, self.denoiser.alpha_bar), 1.0)
        return (weights * (eps.float() - noise).square()).mean()

    def _noised(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, timesteps (B,), and the latents at them."""
        noise = training_noise(latents, self.noise_offset)
        timesteps = draw_timesteps(latents.shape[0], self.denoiser.alpha_bar, self.snr_gamma, self.denoiser.predicts_v)
        return noise, timesteps, add_noise(latents, noise, timesteps, self.denoiser.alpha_bar)

    def build_context(
        self, queries: Tensor | None, prompts: list[str], *, drop: bool = False, has_queries: Tensor | None = None
    ) -> Tensor:
        """Queries (B, Q, D) and B prompts -> context (B, N, C), N = Q + L, Q or L. Absent queries are as many null tokens.

        Args:
            drop: replace what the draws of training say by the null token.
            has_queries: (B,) bool, rows whose queries are not absent; None = all.
        """
        parts: list[Tensor] = []
        if self.adapter is not None:
            tokens = self._null(len(prompts), int(self.num_queries)) if queries is None else self.adapter(queries)
            keep = self._keep(len(prompts), self.drop_queries if drop and self.text_encoder is not None else 0.0)
            if has_queries is not None:
                keep = keep & has_queries.view(-1, 1, 1)
            parts.append(torch.where(keep, tokens, self.null_context.to(tokens.dtype)))
        if self.text_encoder is not None:
            states = self.text_encoder(prompts)
            parts.append(states.to(parts[0].dtype) if parts else states)
        context = torch.cat(parts, 1)
        keep = self._keep(len(prompts), self.drop_context if drop else 0.0)
        return torch.where(keep, context, self.null_context.to(context.dtype))

    def _null(self, rows: int, tokens: int) -> Tensor:
        return self.null_context.expand(rows, tokens, -1)

    def _keep(self, rows: int, probability: float) -> Tensor:
        """(B, 1, 1) bool, False = drop. Always a draw and a ``where``, so that in DDP every parameter has a gradient on every rank."""
        draws = 1 if self.drop_scope == "batch" else rows
        return (torch.rand(draws, 1, 1, device=self.null_context.device) >= probability).expand(rows, 1, 1)

    @torch.no_grad()
    def generate(
        self,
        queries: Tensor | None,
        prompts: list[str],
        *,
        seeds: Sequence[int],
        sampler: str = "paper",
        steps: int | None = None,
        guidance: float | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Paint one image per prompt; the same seed gives the same image whatever the batch.

        Args:
            queries: (B, Q, D) outputs of the Q-Former, or None: from text alone.
            prompts: B captions, or modifying texts beside composed queries.
            seeds: B seeds of the start noise.
            sampler: key of :data:`unifashion_pl.generation.SAMPLERS`.
            steps: None = the preset's.
            guidance: 1.0 = none (half the work).
            progress: show a bar over the steps.

        Returns:
            (B, 3, H, W) uint8.

        Raises:
            ValueError: unequal numbers, unknown sampler, or nothing to paint from.
        """
        self._check_request(queries, prompts, seeds)
        if not prompts:
            return torch.zeros(0, 3, *self.size, dtype=torch.uint8, device=self.null_context.device)
        with evaluating(self):
            latents = self.generate_latents(queries, prompts, seeds, sampler, steps, guidance, progress)
            return self.vae.decode(latents)

    @torch.no_grad()
    def generate_latents(
        self,
        queries: Tensor | None,
        prompts: list[str],
        seeds: Sequence[int],
        sampler: str = "paper",
        steps: int | None = None,
        guidance: float | None = None,
        progress: bool = False,
    ) -> Tensor:
        """:meth:`generate` before the autoencoder: (B, 4, H/f, W/f) float32."""
        usual = self.usual_guidance("caption" if queries is None else "composed")
        scale = usual if guidance is None else scale_of(guidance, "guidance")
        context = self.build_context(queries, prompts)
        absent = [(scale, {"context": self._null(*context.shape[:2]).to(context.dtype)})]
        noise = self._noise(seeds, self.size)
        return sample(
            guided(self.denoiser, {"context": context}, absent), noise, sampler=sampler, steps=steps, progress=progress
        )

    @torch.no_grad()
    def paint(
        self,
        queries: Tensor,
        batch: EditBatch,
        *,
        seeds: Sequence[int],
        sampler: str = "paper",
        steps: int | None = None,
        guidance: float | None = None,
        garment_guidance: float = 1.0,
        garment_until: float = 1.0,
        start: Literal["noise", "released"] = "noise",
        progress: bool = False,
    ) -> Tensor:
        """Repaint persons: try-on and design; the same seed gives the same picture whatever the batch.

        Args:
            queries: (B, Q, D), of garment or sketch with the text.
            batch: B rows, all at ``edit_size``.
            seeds, sampler, steps, progress: as in :meth:`generate`.
            guidance: by the context, garment kept. None = 1.0 if all rows show a garment's photo (try-on), else the head's own or 5.0.
            garment_guidance: by what the garment branch sees, context kept.
            garment_until: the garment branch is read in this first part of the steps (0.2 for sketches in arXiv 2304.02051).
            start: ``noise``, or ``released``: the released code starts from the true picture, noised (see
                :func:`~unifashion_pl.generation.samplers.released_start`).

        Returns:
            (B, 3, H, W) uint8, the whole picture as painted (nothing pasted back).

        Raises:
            ValueError: unequal numbers, another size, or unknown sampler or start.
        """
        self._check_request(queries, batch.texts, seeds)
        if tuple(batch.pixels.shape[-2:]) != self.edit_size:
            raise ValueError(f"persons are {tuple(batch.pixels.shape[-2:])}, this head paints {self.edit_size}")
        arguments.choice(start, "start", ("noise", "released"))
        until = arguments.number(garment_until, "garment_until")
        if not 0 <= until <= 1:
            raise ValueError(f"garment_until is {until:g}, expected 0 to 1, the part of the steps in which the garment is read")
        if guidance is None:  # only then is it read back from the device what the rows show
            scale = self.usual_guidance("tryon" if bool(batch.has_photo.all()) else "design")
        else:
            scale = scale_of(guidance, "guidance")
        garment_scale = scale_of(garment_guidance, "garment_guidance")
        with evaluating(self):
            known = editing.known_of(batch)
            conditions = editing.sampling_conditions(self.vae, self.denoiser, batch, known)
            context = self.build_context(queries, batch.texts, has_queries=batch.has_image)
            null = self._null(*context.shape[:2]).to(context.dtype)
            conditions["context"] = context
            noise = self._noise(seeds, self.edit_size)
            if start == "released":
                noise = released_start(noise, self.vae.encode(batch.pixels).float(), self.denoiser.alpha_bar)
            shown, bare = (
                editing.guided_rows(self.denoiser, conditions, has, (scale, null), garment_scale)
                for has in (known.garments, [False] * len(batch))
            )
            below = None if until >= 1 else (TRAIN_STEPS * (1 - until), bare)
            return self.vae.decode(sample(shown, noise, sampler=sampler, steps=steps, progress=progress, below=below))

    def usual_guidance(self, kind: str) -> float:
        """The scale where none is named: 1.0 for ``tryon``, as published code has it; else the head's own, 7.5 for ``caption`` (as is
        usual with Stable Diffusion) or 5.0 (Paint-by-Example's; the paper gives none).
        """
        if kind == "tryon":
            return 1.0
        return self.guidance if self.guidance is not None else 7.5 if kind == "caption" else 5.0

    def _noise(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        return start_noise(seeds, (4, *(side // self.vae.factor for side in size)), self.null_context.device)

    def _check_request(self, queries: Tensor | None, prompts: list[str], seeds: Sequence[int]) -> None:
        rows = len(prompts) if queries is None else len(queries)
        if not len(prompts) == len(seeds) == rows:
            raise ValueError(f"{len(prompts)} prompts, {len(seeds)} seeds, {rows} rows of queries: expected equally many")
        if queries is None and self.text_encoder is None:
            raise ValueError("this head reads no text (context='tsa'): it cannot paint without queries")
        if self.text_encoder is not None:
            warn_if_cut(self.text_encoder, prompts)
