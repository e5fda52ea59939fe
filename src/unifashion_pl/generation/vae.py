"""The image autoencoder: a pretrained part that stays frozen, in the paper as in the tiny model."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.parts import rebuild
from unifashion_pl.parts.mapped import unfilled
from unifashion_pl.parts.rebuild import config_folder, load_part
from unifashion_pl.parts.tensors import floating
from unifashion_pl.parts.trust import Fields

#: Classes of diffusers that a source may name.
KINDS = ("AutoencoderKL", "AutoencoderTiny")


class ImageVAE(nn.Module):
    """An ``AutoencoderKL`` or ``AutoencoderTiny`` of diffusers between uint8 pictures and scaled latents. It never trains here and stays in eval mode.

    Letters: B batch, H x W pixels, f the down-sampling factor (8 in Stable Diffusion, 4 in ``tiny``).

    Args:
        source: hub id of a pipeline, folder of one or of a VAE, or ``tiny`` (shipped; made for 64 x 64 pictures of the wardrobe by
            ``checkpoints/train_tiny_vae.py``).
        config: instead of ``source``, arguments of ``AutoencoderKL`` for random weights.
        dtype: of the parameters, e.g. ``bfloat16`` on a GPU.
        cache: keep the posteriors of so many training pictures in the host's memory, so that later epochs need not encode them
            again (float32 at 512 x 384: 98 kB each). Exact; worth it where pictures come back unchanged. Each step hashes all its pixels
            on the host; posteriors from disk (:mod:`unifashion_pl.data.latents`) need neither, and are not looked up here.

    Attributes:
        model: the diffusers model.
        factor: f.
        scale, shift: latents less ``shift`` are multiplied by ``scale``, so that their variance is about 1 (0.18215 and 0 in Stable Diffusion).

    Raises:
        ValueError: not four latent channels, a normalisation per channel, or a source of another class.
    """

    part = "vae"

    def __init__(self, source: str = "tiny", *, config: Fields | None = None, dtype: str = "float32", cache: int = 0) -> None:
        super().__init__()
        self.model: Any = _load(source, floating(dtype)) if config is None else _build(config, floating(dtype))
        self.pretrained = config is None
        self._shipped = source == "tiny"
        if self.model.config.latent_channels != 4:
            raise ValueError(f"the VAE has {self.model.config.latent_channels} latent channels, the denoiser reads 4")
        config_ = self.model.config
        levels = config_.get("block_out_channels") or config_["encoder_block_out_channels"]
        self.factor: int = 2 ** (len(levels) - 1)
        self.scale: float = config_.scaling_factor
        self.shift: float = config_.get("shift_factor") or 0.0
        if odd := [name for name in ("latents_mean", "latents_std") if config_.get(name) is not None]:
            raise ValueError(f"the VAE has {' and '.join(odd)}, a normalisation per channel that is not known here")
        self.cache = cache
        self._known: dict[tuple[torch.Size, bytes], Tensor] = {}
        self.requires_grad_(False).eval()

    def blueprint(self) -> dict[str, bytes]:
        """The config of a VAE from a source."""
        return {"config.json": self.model.to_json_string().encode()} if self.pretrained and not self._shipped else {}

    def train(self, mode: bool = True) -> ImageVAE:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor, *, sample: bool = False) -> Tensor:
        """uint8 pictures (B, 3, H, W), or what :meth:`moments` made of them before -> scaled latents (B, 4, H/f, W/f).

        Args:
            sample: draw from the posterior (training), if the autoencoder has one; else its mode, so that equal inputs give equal latents.

        Raises:
            ValueError: sides that are no multiples of f, or pictures that are not uint8.
        """
        if pixels.is_floating_point():
            moments = self._made_before(pixels)
        else:
            moments = self._remembered(pixels) if sample and self.cache else self.moments(pixels)
        mean, *std = moments.chunk(moments.shape[1] // 4, 1)
        latents = mean + std[0] * torch.randn(mean.shape, device=mean.device, dtype=mean.dtype) if sample and std else mean
        return (latents - self.shift) * self.scale

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """Mean and standard deviation of the posterior (B, 8, H/f, W/f); of an autoencoder without one its latents (B, 4, H/f, W/f).

        Raises:
            ValueError: sides that are no multiples of f, or pictures that are not uint8.
        """
        if pixels.dtype != torch.uint8:
            raise ValueError(f"pictures are {pixels.dtype}, expected torch.uint8 in 0..255")
        if pixels.shape[-2] % self.factor or pixels.shape[-1] % self.factor:
            raise ValueError(f"pictures are {tuple(pixels.shape[-2:])}, expected sides that are multiples of {self.factor}")
        out = self.model.encode(pixels.to(self.model.dtype, memory_format=torch.contiguous_format) / 127.5 - 1)
        if not hasattr(out, "latent_dist"):
            latents: Tensor = out.latents
            return latents.contiguous()
        # noise is drawn in the order of memory, which should not hang on how a decoder laid out the picture
        return torch.cat([out.latent_dist.mean, out.latent_dist.std], 1).contiguous()

    def _made_before(self, moments: Tensor) -> Tensor:
        channels = self.model.config.latent_channels
        if moments.shape[1] not in (channels, 2 * channels):
            raise ValueError(
                f"pictures are {moments.dtype}, expected torch.uint8 in 0..255, or posteriors of {2 * channels} channels (found {moments.shape[1]})"
            )
        return moments.to(self.model.dtype)

    def size_of(self, pixels: Tensor) -> tuple[int, int]:
        """(H, W) of pictures, also where their posteriors are given."""
        factor = self.factor if pixels.is_floating_point() else 1
        return (pixels.shape[-2] * factor, pixels.shape[-1] * factor)

    def _remembered(self, pixels: Tensor) -> Tensor:
        """:meth:`moments`, computed once per picture while there is room; pictures are known by a hash of their bytes."""
        keys = [(x.shape, blake2b(x.numpy().tobytes(), digest_size=16).digest()) for x in pixels.cpu()]
        found = {key: self._known[key].to(pixels.device) for key in set(keys) if key in self._known}
        new = {key: i for i, key in enumerate(keys) if key not in found}
        if new:
            made = dict(zip(new, self.moments(pixels[list(new.values())])))
            found |= made
            room = max(0, self.cache - len(self._known))
            self._known |= {key: made[key].cpu() for key in list(made)[:room]}
        return torch.stack([found[key] for key in keys])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) -> uint8 pictures (B, 3, h f, w f).

        Raises:
            ArgumentError: what was painted is NaN or infinite, which as a picture would look like one.
        """
        pixels = self.model.decode((latents / self.scale + self.shift).to(self.model.dtype), return_dict=False)[0]
        check_finite(pixels)
        return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def check_finite(pixels: Tensor) -> None:
    """
    Raises:
        ArgumentError: see :meth:`ImageVAE.decode`.
    """
    if not pixels.isfinite().all():
        raise ArgumentError("what was painted is NaN or infinite: look at the model's weights, or its dtype")


def _build(config: dict[str, Any], dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL

    model: Any = AutoencoderKL(**config)
    nn.Module.to(model, dtype)
    return model


def _load(source: str, dtype: torch.dtype) -> Any:
    """A source's VAE; of a saved model, which brings its own tensors, only as its config describes it."""
    import diffusers

    folder = config_folder(ImageVAE.part, source, "vae")
    with rebuild.reading_source(ImageVAE.part, source):
        config = load_part(diffusers.AutoencoderKL, folder or source, "vae", load="load_config")
        if config.get("_class_name") not in KINDS:
            raise ValueError(f"the VAE of {folder or source} is a {config.get('_class_name')!r}, expected {' or '.join(KINDS)}")
        kind: Any = getattr(diffusers, config["_class_name"])
        if folder is None:
            return rebuild.load_model(kind, source, "vae", torch_dtype=dtype)
    return unfilled(lambda: kind.from_config(config), dtype)
