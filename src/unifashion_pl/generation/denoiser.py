"""The U-Net that predicts noise, and the assembly of its input channels."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unifashion_pl.arguments import choice
from unifashion_pl.generation.garment import GarmentBranch, Hint, denoise
from unifashion_pl.generation.samplers import alphas_cumprod, prediction_of, signal_of
from unifashion_pl.parts import rebuild
from unifashion_pl.parts.mapped import unfilled
from unifashion_pl.parts.rebuild import config_folder, load_part
from unifashion_pl.parts.tensors import floating
from unifashion_pl.parts.trust import Fields

#: Fields in which Stable Diffusion 1.x's U-Net differs from the defaults of diffusers: 859,520,964 parameters with 4 channels.
SD1_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}

LATENT_CHANNELS = 4
CHANNELS = (4, 13)
GARMENT_WAYS = ("branch", "branch_full", "panels")
#: (K,) int64, the rows that have a garment; None = not known.
Rows = Tensor | None


@dataclass
class UNetLora:
    """LoRA on the U-Net's attentions, for a phase 1 that leaves the U-Net itself alone.

    Attributes:
        rank: inner width r. alpha: the update is scaled by alpha / rank.
    """

    rank: int = 32
    alpha: int = 32


class Denoiser(nn.Module):
    """A U-Net over latents with 4 or 13 input channels. With 13 it also reads what is to be kept of a person:

    ======== ============================================================ ============
    channels content                                                       absent
    ======== ============================================================ ============
    0-3      noisy latents z_t                                             never
    4-7      latents of the person with the repaint region greyed          zeros
    8        mask, **1 = keep, 0 = repaint** (users: the opposite)         zeros
    9-12     latents of the pose image                                     zeros
    ======== ============================================================ ============

    The first nine are Paint-by-Example's, in its order.

    A garment (photo or sketch) is read in one of two ways: by the paper's garment branch (:class:`GarmentBranch`), or, as in CatVTON
    (arXiv 2407.15886), from a second panel beside the person that the U-Net's own self-attention sees. Our panel differs from CatVTON's in
    holding clean latents: it is all kept, so that there is nothing to predict in it.

    Args:
        source: hub id of a pipeline, folder of one or of a U-Net, or ``tiny`` (shipped; made by
            ``checkpoints/train_tiny_sd.py``); its parameters come frozen.
        config: instead of ``source``, fields of ``UNet2DConditionModel`` (see :data:`SD1_UNET`): random, trainable weights.
        in_channels: 4 (generation only) or 13 (editing too); None = as source or config have it. A source with fewer is widened
            with zero columns; nine are taken to be in Paint-by-Example's order, which Stable Diffusion's own inpainting U-Net
            does not follow.
        gradient_checkpointing: recompute activations in the backward pass.
        garment: how garments are read: None, ``branch``, ``branch_full`` (which also holds the unread end of a released checkpoint's copy), or
            ``panels``.
        garment_heads, garment_hint, garment_positions: of the branch, see :class:`~unifashion_pl.generation.garment.GarmentBranch`.
        lora: adapters on the U-Net's attentions, or None.
        dtype: of what stays frozen in the U-Net, e.g. ``bfloat16`` on a GPU; what trains is float32. It is applied by
            :meth:`cast_frozen`, since only a freeze policy says what stays.
        channels_last: keep convolutions in channels-last memory, which many CPUs and bf16 GPUs are faster with.
        prediction: what the U-Net itself gives: ``epsilon`` (Stable Diffusion 1.x), or ``v`` = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z_0
            (arXiv 2202.00512; Stable Diffusion 2.x at 768). :meth:`forward` returns eps either way. A narrow U-Net cannot repeat noise
            exactly, and at late timesteps what it misses is more than the picture; with ``v`` the noise is taken from its input.
            None = what the weights that are loaded were trained for (:attr:`predicts_v`; of a pipeline its scheduler's config says it), else
            epsilon. A value holds whatever they were trained for: training goes over from one to the other within a few hundred steps.

    Attributes:
        unet: the diffusers model.
        garment: the garment branch, or None.
        panels: whether garments are read from a second panel.
        context_width: C, width of the context tokens.
        predicts_v: 1 or 0, kept in checkpoints, because it belongs to the weights.

    Raises:
        ValueError: not exactly one of source and config, neither 4 nor 13 channels, or an unknown way to read garments.
    """

    part = "unet"
    #: The decoder's blocks layer by layer, as the garment branch walks them.
    _no_split_modules = (
        *("CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn"),
        *("ResnetBlock2D", "Transformer2DModel", "PlacedTransformer", "Upsample2D"),
    )

    def __init__(
        self,
        *,
        source: str | None = None,
        config: Fields | None = None,
        in_channels: int | None = None,
        gradient_checkpointing: bool = False,
        garment: Literal["branch", "branch_full", "panels"] | None = None,
        garment_heads: int | None = None,
        garment_hint: Hint = "zero",
        garment_positions: bool = False,
        lora: UNetLora | None = None,
        dtype: str = "float32",
        channels_last: bool = False,
        prediction: Literal["epsilon", "v"] | None = None,
    ) -> None:
        super().__init__()
        self.frozen_dtype = floating(dtype)
        self._source = source
        if garment is not None:
            choice(garment, "way to read garments", GARMENT_WAYS)
        if (source is None) == (config is None):
            raise ValueError("give a Denoiser either source (folder or hub id) or config (arguments of UNet2DConditionModel)")
        self.unet: Any = _load_unet(source) if source is not None else _new_unet(config or {}, in_channels)
        self.in_channels: int = in_channels or self.unet.config.in_channels
        if self.in_channels not in CHANNELS:
            raise ValueError(f"the U-Net has {self.in_channels} input channels, expected 4 (generation) or 13 (editing too)")
        if self.unet.config.in_channels != self.in_channels:
            widen_input(self.unet, self.in_channels)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.context_width: int = self.unet.config.cross_attention_dim
        self.prediction = prediction
        self.predicts_v: Tensor
        kind = choice(prediction or ("epsilon" if source is None else trained_for(source)), "prediction", ("epsilon", "v"))
        self.register_buffer("predicts_v", torch.tensor(int(kind == "v")))
        self.alpha_bar: Tensor
        self.register_buffer("alpha_bar", alphas_cumprod(), persistent=False)
        self.panels = garment == "panels"
        extent: Literal["truncated", "full"] = "full" if garment == "branch_full" else "truncated"
        branch = garment in ("branch", "branch_full")
        self.garment_hint: Hint = garment_hint
        options: dict[str, Any] = {"heads": garment_heads, "hint": garment_hint, "positions": garment_positions}
        self.garment = GarmentBranch(self.unet, extent=extent, **options) if branch else None
        if lora is not None:  # after the copy was made, which trains as a whole
            _add_lora(self.unet, lora)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def blueprint(self) -> dict[str, bytes]:
        """The config of a U-Net from a source, as wide as it is now."""
        return {"config.json": self.unet.to_json_string().encode()} if self._source not in (None, "tiny") else {}

    def cast_frozen(self) -> None:
        """Put the U-Net's frozen parameters into ``dtype``, in place; those that train and the garment branch stay as they are.

        :class:`unifashion_pl.UniFashionModule` does it behind its freeze policy, after weights are loaded, so that a U-Net that
        goes on training loses no digits. From then on a U-Net of two types computes in ``dtype``, whatever the trainer's precision.
        """
        for parameter in self.unet.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(self.frozen_dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What the U-Net computes in: the type of its time embedding, which trains and stays frozen with the U-Net as a whole."""
        parameter: Tensor = self.unet.time_embedding.linear_1.weight
        return parameter.dtype

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """For a bf16 U-Net with float32 parts; nothing for one of a single float type."""
        mixed = self.dtype != torch.float32 and any(p.dtype != self.dtype for p in self.parameters())
        return torch.autocast(device.type, self.dtype) if mixed else nullcontext()

    @property
    def reads_garments(self) -> bool:
        """Whether :meth:`forward` takes a garment."""
        return self.panels or self.garment is not None

    @property
    def multiple(self) -> int:
        """Height and width of the latents have to be multiples of this, so that the decoder meets the encoder's sizes."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        context: Tensor,
        *,
        person: Tensor | None = None,
        keep: Tensor | None = None,
        pose: Tensor | None = None,
        garment: Tensor | None = None,
        gate: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Noisy latents (B, 4, h, w), timesteps (B,), context (B, N, C) -> eps (B, 4, h, w) in the latents' dtype.

        While a garment branch trains it runs for every batch, so that in DDP each of its parameters has a gradient on every rank;
        rows without a garment are the plain U-Net's all the same.

        Args:
            person: (B, 4, h, w) latents of the person, the repaint region greyed.
            keep: (B, 1, h, w) in 0..1, 1 = keep, 0 = repaint.
            pose: (B, 4, h, w) latents of the pose image.
            garment: (B, 4, h, w) latents of the garment's photo or sketch.
            gate: (B,), 1 = the row has a garment, 0 = none; None = all have one.
            rows: (K,) int64, ascending: those whose gate is not 0, for whom it is known (sampling): garments are read for these alone, K = 0
                is the plain U-Net. None = the branch runs for all, and the gate multiplies what it found, which gives the same.

        Raises:
            ValueError: a condition that this U-Net cannot read, or one of a wrong shape.
        """
        given = self.assemble(latents, person, keep, pose)
        if garment is not None:
            self._check_garment(garment, latents)
        given, context = given.to(self.dtype), context.to(self.dtype)
        with self._autocast(latents.device):
            out = self._predict(given, timesteps, context, garment, gate, rows).to(latents.dtype)
        signal = signal_of(timesteps, self.alpha_bar)
        eps = (signal.sqrt() * out + (1 - signal).sqrt() * latents).to(latents.dtype)
        return torch.where(self.predicts_v > 0, eps, out)  # a branch on a tensor would break torch.compile's graph

    def _predict(
        self, given: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor | None, gate: Tensor | None, rows: Rows
    ) -> Tensor:
        """The input assembled (B, in_channels, h, w) -> what the U-Net predicts (eps or v), plain or with the garment."""
        if self.garment is not None and self.training and self.garment.trains:
            rows = None
            if garment is None:
                garment, gate = torch.zeros_like(given[:, :LATENT_CHANNELS]), given.new_zeros(len(given))
        if garment is None or (rows is not None and not len(rows)):
            return self._plain(given, timesteps, context)
        if self.garment is None:
            return self._panels(given, timesteps, context, garment.to(given.dtype), None if gate is None else gate > 0, rows)
        gates = (given.new_ones(len(given)) if gate is None else gate.to(given.dtype)).view(-1, 1, 1, 1)
        return denoise(self.unet, self.garment, given, timesteps, context, garment.to(given.dtype), gates, rows)

    def _plain(self, given: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        eps: Tensor = self.unet(given, timesteps, encoder_hidden_states=context, return_dict=False)[0]
        return eps

    def _panels(
        self, given: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor, has: Tensor | None, rows: Tensor | None
    ) -> Tensor:
        """Rows that have a garment (all if None) beside it, the others alone."""
        if rows is None:
            if has is None:
                return self._beside(given, timesteps, context, garment)
            if torch.compiler.is_compiling():  # which rows are which would break the graph
                both = self._beside(given, timesteps, context, garment), self._plain(given, timesteps, context)
                return torch.where(has.view(-1, 1, 1, 1), *both)
            rows = has.nonzero()[:, 0]
        others = torch.ones(len(given), device=given.device).index_fill(0, rows, 0)
        alone = others.argsort(descending=True, stable=True)[: len(given) - len(rows)]  # without asking the device how many
        parts = [self._beside(given[rows], timesteps[rows], context[rows], garment[rows])] if len(rows) else []
        if len(alone):
            parts.append(self._plain(given[alone], timesteps[alone], context[alone]))
        return torch.cat(parts)[torch.cat([rows, alone]).argsort()]

    def _beside(self, given: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor) -> Tensor:
        """The person's half of a picture in which the garment stands to the right."""
        person, keep = (None, None) if self.in_channels == LATENT_CHANNELS else (garment, torch.ones_like(garment[:, :1]))
        both = torch.cat([given, self.assemble(garment, person, keep, None)], -1)
        return self._plain(both, timesteps, context)[..., : given.shape[-1]]

    def _check_garment(self, garment: Tensor, latents: Tensor) -> None:
        if not self.reads_garments:
            raise ValueError("this U-Net reads no garment: build the Denoiser with garment='branch' (the paper's) or 'panels'")
        if garment.shape != latents.shape:
            raise ValueError(f"garment has shape {tuple(garment.shape)}, expected {tuple(latents.shape)} like the latents")
        if any(side % self.multiple for side in latents.shape[-2:]):
            raise ValueError(f"latents are {tuple(latents.shape[-2:])}, expected multiples of {self.multiple} beside a garment")

    def completed(self, state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """A state dict of a simpler denoiser (4 or 9 channels, no garment branch, no LoRA), with what this one has beyond it.

        The first convolution gets zero columns, the branch's encoder is a copy of the state's own U-Net, and the rest is as it was
        initialised; so are the positions of a branch that was trained without. ``predicts_v`` is the state's unless :attr:`prediction`
        says otherwise. The other way round, a denoiser of 4 channels takes a
        state of 13 without the columns of person, mask and pose and without garment branch: it paints from context alone, which the two
        do alike. What does not fit otherwise is left as it is, to be refused by whoever loads it.

        Args:
            prefix: of this denoiser's names in ``state``.
        """
        state, own = dict(state), self.state_dict()
        first = state.get(f"{prefix}unet.conv_in.weight")
        if first is not None and first.shape[1:2] == (13,) and self.in_channels == LATENT_CHANNELS:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{prefix}garment.")}
            state[f"{prefix}unet.conv_in.weight"] = first[:, :LATENT_CHANNELS]
        plain = {name.replace(".base_layer.", "."): name for name in own if name.startswith("unet.")}
        unet = {n: state.pop(prefix + n) for n in plain if prefix + n in state}
        first = unet.get("unet.conv_in.weight")
        if first is not None and first.ndim == 4 and first.shape[1] in (4, 9) and self.in_channels == 13:
            unet["unet.conv_in.weight"] = torch.cat(
                [first, first.new_zeros(len(first), 13 - first.shape[1], *first.shape[2:])], 1
            )
        state |= {prefix + plain[n]: tensor for n, tensor in unet.items()}
        state |= {prefix + n: own[n] for n in own if ".lora_" in n and prefix + n not in state}
        if unet and (self.prediction is not None or f"{prefix}predicts_v" not in state):
            state[f"{prefix}predicts_v"] = own["predicts_v"]
        if unet and any(name.startswith(f"{prefix}garment.") for name in state):
            state |= {prefix + n: own[n] for n in own if ".places." in n and prefix + n not in state}
        elif unet:
            for name in (n for n in own if n.startswith("garment.")):
                state[prefix + name] = unet.get(name.replace("garment.encoder.", "unet."), own[name])
            if self.garment is not None and self.garment_hint == "latents" and first is not None and first.ndim == 4:
                state[f"{prefix}garment.hint.weight"] = first[:, :LATENT_CHANNELS]
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Checkpoints from before :attr:`predicts_v` go on with what this denoiser was built for."""
        state_dict.setdefault(f"{prefix}predicts_v", self.predicts_v.clone())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def assemble(self, latents: Tensor, person: Tensor | None, keep: Tensor | None, pose: Tensor | None) -> Tensor:
        """Conditions behind the noisy latents, zeros for what is absent -> (B, in_channels, h, w)."""
        conditions = {"person": (person, LATENT_CHANNELS), "keep": (keep, 1), "pose": (pose, LATENT_CHANNELS)}
        if self.in_channels == LATENT_CHANNELS:
            if given := [name for name, (value, _) in conditions.items() if value is not None]:
                raise ValueError(f"this U-Net has 4 input channels and cannot read {', '.join(given)}: build it with 13")
            return latents
        B, _, h, w = latents.shape
        parts = [latents]
        for name, (value, channels) in conditions.items():
            part = latents.new_zeros(B, channels, h, w) if value is None else value.to(latents.dtype)
            if part.shape != (B, channels, h, w):
                raise ValueError(f"{name} has shape {tuple(part.shape)}, expected {(B, channels, h, w)} like the latents")
            parts.append(part)
        return torch.cat(parts, 1)


def widen_input(unet: Any, channels: int) -> None:
    """Append zero columns to a U-Net's first convolution: the new channels have no effect until they are trained.

    Raises:
        ValueError: the U-Net has more channels than asked for.
    """
    old = unet.conv_in
    if old.in_channels > channels:
        raise ValueError(f"the U-Net reads {old.in_channels} channels, which cannot be narrowed to {channels}")
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, device=old.weight.device)
    new = new.to(old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)  # type: ignore[union-attr]
    unet.conv_in = new.requires_grad_(old.weight.requires_grad)
    unet.register_to_config(in_channels=channels)


def _add_lora(unet: Any, settings: UNetLora) -> None:
    from peft import LoraConfig

    layers = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=layers))


def _load_unet(source: str) -> Any:
    from diffusers import UNet2DConditionModel

    folder = config_folder(Denoiser.part, source, "unet")
    if folder is not None:  # of a saved model, which brings its own tensors
        config = UNet2DConditionModel.load_config(folder)
        return unfilled(lambda: UNet2DConditionModel.from_config(config)).requires_grad_(False)
    with rebuild.reading_source(Denoiser.part, source):
        return rebuild.load_model(UNet2DConditionModel, source, "unet").requires_grad_(False)


def trained_for(source: str) -> str:
    """What a pipeline's U-Net predicts, see :func:`~unifashion_pl.generation.samplers.prediction_of`; ``epsilon`` of a U-Net by itself."""
    from diffusers import DDIMScheduler

    if config_folder(Denoiser.part, source, "unet") is not None:
        return "epsilon"  # the saved model's own `predicts_v` takes its place
    try:
        config = load_part(DDIMScheduler, source, "scheduler", load="load_config")
    except OSError as error:
        if any((Path(source) / folder / "scheduler_config.json").is_file() for folder in ("scheduler", "")):
            raise ValueError(
                f"{source}: its scheduler_config.json, which says what its U-Net predicts, cannot be read: {error}"
            ) from error
        if not Path(source).exists() and source != "tiny":
            warnings.warn(f"{source} has no scheduler_config.json at hand: its U-Net is taken to predict eps", stacklevel=3)
        return "epsilon"
    return prediction_of(config, source)


def _new_unet(config: dict[str, Any], in_channels: int | None) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**(config if in_channels is None else {**config, "in_channels": in_channels}))
