"""UniFashion's diffusion head (arXiv 2408.11305) as a pipeline of diffusers: text -> image, composed generation, try-on and design.

Letters: B pictures, H x W pixels, h x w latents, Q queries of width D, N tokens of context of width C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

#: What stands in the person's picture where it is repainted.
GREY = 128
#: One picture, several, or uint8 (B, 3, H, W).
Pictures = Image.Image | Sequence[Image.Image] | Tensor


class UniFashionPipeline(DiffusionPipeline):
    """U-Net, autoencoder, scheduler and text encoder of diffusers and transformers, with the model's own context and garment branch.

    ``scheduler`` may be exchanged as in any pipeline: its ``prediction_type`` says what the U-Net predicts, and every scheduler is given noise.
    """

    model_cpu_offload_seq = "text_encoder->conditioning->unet->vae"  # type: ignore[assignment]
    _exclude_from_cpu_offload = ["garment_branch"]
    _optional_components = ["text_encoder", "tokenizer", "garment_branch"]
    unet: Any
    vae: Any
    scheduler: Any
    conditioning: Any
    text_encoder: Any
    tokenizer: Any
    garment_branch: Any

    def __init__(
        self,
        unet: Any,
        vae: Any,
        scheduler: Any,
        conditioning: Any,
        text_encoder: Any = None,
        tokenizer: Any = None,
        garment_branch: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            conditioning=conditioning,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            garment_branch=garment_branch,
        )
        self.levels = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] = "",
        *,
        queries: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        person: Pictures | None = None,
        mask: Pictures | None = None,
        pose: Pictures | None = None,
        garment: Pictures | None = None,
        sketch: Pictures | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        garment_guidance: float = 1.0,
        garment_until: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Paint a picture per prompt, or per row of ``queries`` or ``prompt_embeds``.

        Args:
            prompt: texts; "" in try-on.
            queries: (B, Q, D) outputs of the model's Q-Former for the garment, sketch or reference picture with the text; None = from text alone.
            prompt_embeds: (B, N, C), the whole context, instead of prompt and queries.
            person: who is repainted, in the size ``conditioning.config.edit_size``; with ``mask``: white (True, 1) = repaint.
            pose: DensePose or skeleton in that size.
            garment: its photo (try-on), or ``sketch``: light strokes on black (design); in that size.
            guidance_scale: by the context; None = 1.0 in try-on, else the model's own. 1 = none.
            garment_guidance: by what the garment branch sees.
            garment_until: the garment is read in this first part of the steps.
            generator: one, or one a picture: ``[torch.Generator().manual_seed(seed)]`` gives what the model paints with ``seed``.
            latents: (B, 4, h, w) noise to start from.
            output_type: ``pil``, ``pt`` (uint8 (B, 3, H, W)), ``np`` (B, H, W, 3) in 0..1, or ``latent``.

        Raises:
            ValueError: inputs that do not go together, or pictures of another size.
        """
        device = self._execution_device
        context = self._context(prompt, queries, prompt_embeds, device)
        shown = self._conditions(len(context), person, mask, pose, garment, sketch, device)
        scale = self._scale(guidance_scale, prompt_embeds is not None or queries is not None, person, garment)
        size = self.conditioning.config.size if person is None else self.conditioning.config.edit_size
        shape = (len(context), 4, *(side // 2 ** (len(self.levels) - 1) for side in size))
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}, expected {shape}")
        scales = (scale, garment_guidance, garment_until)
        latents = self._sampled(latents.to(device).float(), num_inference_steps, context, shown, scales)
        self.maybe_free_model_hooks()
        images: Any = latents if output_type == "latent" else self._decoded(latents, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _sampled(
        self, noise: Tensor, steps: int, context: Tensor, shown: dict[str, Tensor], scales: tuple[float, float, float]
    ) -> Tensor:
        """From noise to latents, both (B, 4, h, w); ``scales`` of the context and of the garment, and the part of the steps that reads it."""
        scale, garment_scale, until = scales
        # multistep rules are meant for noise, into which the pipeline turns what the U-Net predicts
        scheduler = type(self.scheduler).from_config(self.scheduler.config, prediction_type="epsilon")
        scheduler.set_timesteps(steps)
        latents = noise * scheduler.init_noise_sigma
        bare = {name: value for name, value in shown.items() if name != "garment"}
        with self.progress_bar(total=len(scheduler.timesteps)) as bar:
            for t in scheduler.timesteps:
                looks = bare if t < scheduler.config.num_train_timesteps * (1 - until) else shown
                given = scheduler.scale_model_input(latents, t)
                eps = self._guided(given, t.to(noise.device), context, looks, scale, garment_scale)
                latents = scheduler.step(eps.float(), t, latents).prev_sample
                bar.update()
        return latents

    def _context(self, prompt: str | list[str], queries: Tensor | None, embeds: Tensor | None, device: Any) -> Tensor:
        """(B, N, C)."""
        if embeds is not None:
            if queries is not None:
                raise ValueError("prompt_embeds are the whole context: leave queries out, or give queries and prompt")
            return embeds.to(device, self.unet.dtype)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        rows = len(texts) if queries is None else len(queries)
        texts = texts * rows if len(texts) == 1 else texts
        if len(texts) != rows:
            raise ValueError(f"{len(texts)} prompts and {rows} rows of queries: expected equally many")
        width = self.conditioning.config.query_width
        if queries is not None and (queries.ndim != 3 or queries.shape[-1] != width):
            raise ValueError(
                f"queries have shape {tuple(queries.shape)}, expected (B, Q, {width}), outputs of the model's Q-Former"
            )
        states = None
        if self.text_encoder is not None:
            length = self.text_encoder.config.max_position_embeddings
            read = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            states = self.text_encoder(input_ids=read.input_ids.to(device)).last_hidden_state
        elif queries is None:
            raise ValueError("this model reads no text: it cannot paint without queries")
        queries = None if queries is None else queries.to(device, self.unet.dtype)
        out: Tensor = self.conditioning(rows, queries, states)
        return out

    def _conditions(
        self,
        rows: int,
        person: Pictures | None,
        mask: Pictures | None,
        pose: Pictures | None,
        garment: Pictures | None,
        sketch: Pictures | None,
        device: Any,
    ) -> dict[str, Tensor]:
        """What the U-Net reads beside latents and context: ``person``, ``keep``, ``pose`` and ``garment``, each (B, …, h, w)."""
        extra = {"mask": mask, "pose": pose, "garment": garment, "sketch": sketch}
        if person is None:
            if named := [name for name, value in extra.items() if value is not None]:
                raise ValueError(f"{' and '.join(named)} without a person: name person and mask, too")
            return {}
        if self.unet.config.in_channels == 4:
            raise ValueError("this model's U-Net reads no person, mask or pose: it paints from prompts and queries alone")
        if mask is None:
            raise ValueError("person without a mask: white (True) is repainted")
        if garment is not None and sketch is not None:
            raise ValueError("garment and sketch: name the photo (try-on) or the sketch (design)")
        repaint = self._pixels("mask", mask, rows, device)[:, :1] >= GREY
        pixels = self._pixels("person", person, rows, device).masked_fill(repaint, GREY)
        out = {"person": self._encoded(pixels)}
        out["keep"] = F.interpolate((~repaint).float(), out["person"].shape[-2:], mode="bilinear", antialias=False)
        if pose is not None:
            out["pose"] = self._encoded(self._pixels("pose", pose, rows, device))
        look, name = (garment, "garment") if sketch is None else (sketch, "sketch")
        if look is not None and (self.garment_branch is not None or self.conditioning.config.panels):
            out["garment"] = self._encoded(self._pixels(name, look, rows, device))
        return out

    def _pixels(self, name: str, pictures: Pictures, rows: int, device: Any) -> Tensor:
        """uint8 (B, 3, H, W); one picture stands for all rows."""
        if isinstance(pictures, Tensor):
            found = pictures.to(torch.uint8) * 255 if pictures.dtype == torch.bool else pictures
            found = found.expand(-1, 3, -1, -1) if found.ndim == 4 and found.shape[1] == 1 else found
        else:
            listed = [pictures] if isinstance(pictures, Image.Image) else pictures
            arrays = [torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) for picture in listed]
            if len({array.shape for array in arrays}) != 1:
                raise ValueError(f"{name}: pictures of several sizes, {sorted({tuple(array.shape[1:]) for array in arrays})}")
            found = torch.stack(arrays)
        height, width = self.conditioning.config.edit_size
        if found.dtype != torch.uint8 or found.ndim != 4 or tuple(found.shape[1:]) != (3, height, width):
            kind = f"{found.dtype} {tuple(found.shape)}"
            raise ValueError(
                f"{name} is {kind}, expected uint8 (B, 3, {height}, {width}); of a PIL picture: "
                f"PIL.ImageOps.pad(picture, ({width}, {height}), color='white'), masks, poses and sketches with color='black'"
            )
        if len(found) not in (1, rows):
            raise ValueError(f"{len(found)} pictures of {name} for {rows} rows")
        return found.expand(rows, -1, -1, -1).to(device)

    def _encoded(self, pixels: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) float32, by the posterior's mode."""
        out = self.vae.encode(pixels.to(self.vae.dtype) / 127.5 - 1)
        mean = out.latent_dist.mean if hasattr(out, "latent_dist") else out.latents
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        scaled: Tensor = ((mean - shift) * self.vae.config.scaling_factor).float()
        return scaled

    def _scale(self, scale: float | None, composed: bool, person: Any, garment: Any) -> float:
        if scale is not None:
            return float(scale)
        if person is not None and garment is not None:
            return 1.0
        own = self.conditioning.config.guidance
        return float(own) if own is not None else 5.0 if composed or person is not None else 7.5

    def _guided(
        self, latents: Tensor, t: Tensor, context: Tensor, shown: dict[str, Tensor], scale: float, garment_scale: float
    ) -> Tensor:
        """eps (B, 4, h, w), guided by the context against none and by the garment against none, as one call."""
        garment = "garment" in shown
        away = [(scale, False, garment)] if scale != 1 else []
        away += [(garment_scale, True, False)] if garment and garment_scale != 1 else []
        variants = [(1.0 + sum(s - 1 for s, _, _ in away), True, garment), *((1 - s, full, look) for s, full, look in away)]
        contexts = torch.cat([context if full else self.conditioning.null(context) for _, full, _ in variants])
        rows = {name: value.repeat(len(variants), 1, 1, 1) for name, value in shown.items()}
        has = [look for _, _, look in variants for _ in range(len(latents))]
        eps = self._noise(latents.repeat(len(variants), 1, 1, 1), t, contexts, rows, has)
        return torch.stack([weight * part for (weight, _, _), part in zip(variants, eps.chunk(len(variants)))]).sum(0)

    def _noise(self, latents: Tensor, t: Tensor, context: Tensor, shown: dict[str, Tensor], has: list[bool]) -> Tensor:
        """eps (R, 4, h, w) of R rows, of which those that ``has`` names read the garment."""
        given = self._assembled(latents, shown.get("person"), shown.get("keep"), shown.get("pose")).to(self.unet.dtype)
        times, context = t.expand(len(latents)), context.to(self.unet.dtype)
        own = torch.tensor([i for i, there in enumerate(has) if there], device=latents.device, dtype=torch.long)
        if not len(own):
            out = self._plain(given, times, context)
        elif self.garment_branch is not None:
            rows = None if all(has) else own
            out = self.garment_branch(self.unet, given, times, context, shown["garment"].to(given.dtype), rows)
        else:
            out = self._plain(given, times, context) if len(own) < len(has) else torch.empty_like(latents)
            out = out.index_copy(
                0, own, self._beside(given[own], times[own], context[own], shown["garment"][own]).to(out.dtype)
            )
        if self.scheduler.config.prediction_type == "epsilon":
            return out.float()
        signal = self.scheduler.alphas_cumprod.to(latents.device)[times].view(-1, 1, 1, 1)
        return signal.sqrt() * out.float() + (1 - signal).sqrt() * latents

    def _plain(self, given: Tensor, times: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.unet(given, times, encoder_hidden_states=context, return_dict=False)[0]
        return out

    def _beside(self, given: Tensor, times: Tensor, context: Tensor, garment: Tensor) -> Tensor:
        """The person's half of a picture in which the garment stands to the right."""
        other = self._assembled(garment, garment, torch.ones_like(garment[:, :1]), None).to(given.dtype)
        return self._plain(torch.cat([given, other], -1), times, context)[..., : given.shape[-1]]

    def _assembled(self, latents: Tensor, person: Tensor | None, keep: Tensor | None, pose: Tensor | None) -> Tensor:
        """Conditions behind the noisy latents, zeros for what is absent: channels 0-3 latents, 4-7 person, 8 keep, 9-12 pose."""
        if self.unet.config.in_channels == 4:
            return latents
        parts = [
            latents.new_zeros(len(latents), channels, *latents.shape[-2:]) if part is None else part
            for part, channels in ((person, 4), (keep, 1), (pose, 4))
        ]
        return torch.cat([latents, *parts], 1)

    def _decoded(self, latents: Tensor, output_type: str) -> Any:
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        pixels = self.vae.decode((latents / self.vae.config.scaling_factor + shift).to(self.vae.dtype), return_dict=False)[0]
        if not pixels.isfinite().all():
            raise ValueError("what was painted is NaN or infinite: try another dtype")
        found = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        if output_type == "pt":
            return found
        arrays = found.permute(0, 2, 3, 1).numpy()
        return arrays / 255 if output_type == "np" else [Image.fromarray(array) for array in arrays]
