"""What a diffusion head has beside the classes of diffusers, as models that diffusers writes and loads: the garment branch and the context.

An exported folder holds these classes and what they are made of in files of its own (:mod:`unifashion_pl.export.diffusers_folder`).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from unifashion_pl.generation.garment import GarmentBranch, denoise
from unifashion_pl.tasks.conditioning import ResidualMLP


class UniFashionGarment(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The garment branch: a copy of a U-Net's encoder that reads a garment, and the places where the U-Net's decoder looks at it.

    Args:
        unet: the config of the U-Net that it was made for.
        extent, heads, positions: of the branch.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        unet: dict[str, Any],
        extent: Literal["truncated", "full"] = "truncated",
        heads: int | None = None,
        positions: bool = False,
    ) -> None:
        super().__init__()
        self.branch = GarmentBranch(UNet2DConditionModel.from_config(unet), extent=extent, heads=heads, positions=positions)

    def forward(
        self, unet: Any, given: Tensor, timesteps: Tensor, context: Tensor, garment: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """What the U-Net predicts (B, 4, h, w) with the garment read in its decoder.

        Args:
            given: (B, in_channels, h, w), the U-Net's input. timesteps: (B,). context: (B, N, C).
            garment: (B, 4, h, w) latents of its photo or sketch.
            rows: (K,) int64, ascending: the rows that have a garment; None = all.
        """
        gate = given.new_ones(len(given), 1, 1, 1)
        return denoise(unet, self.branch, given, timesteps, context, garment, gate, rows)


class UniFashionConditioning(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """From the Q-Former's queries and the text encoder's states to the U-Net's context; and what the pipeline has to know of the model.

    Args:
        query_width, context_width: D and C.
        adapter: ``linear``, ``residual_mlp``, or None: the context has no queries.
        num_queries: Q, as many null tokens stand for absent queries.
        size, edit_size: (H, W) of painted pictures, and of persons that are repainted.
        guidance: the model's own scale; None = 5.0 with queries and 7.5 from text alone.
        panels: the garment is read from a second panel beside the person.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        query_width: int,
        context_width: int,
        adapter: Literal["linear", "residual_mlp"] | None = "linear",
        num_queries: int = 1,
        size: tuple[int, int] = (512, 384),
        edit_size: tuple[int, int] = (512, 384),
        guidance: float | None = None,
        panels: bool = False,
    ) -> None:
        super().__init__()
        made = ResidualMLP(context_width) if adapter == "residual_mlp" else nn.Linear(query_width, context_width)
        self.projection = None if adapter is None else made
        self.null_context = nn.Parameter(torch.zeros(1, 1, context_width))

    def forward(self, rows: int, queries: Tensor | None, states: Tensor | None) -> Tensor:
        """Queries (B, Q, D) or None, states of the prompts (B, L, C) or None -> context (B, Q + L, C); B = ``rows``."""
        parts = []
        if self.projection is not None:
            null = self.null_context.expand(rows, self.config["num_queries"], -1)
            parts.append(null if queries is None else self.projection(queries))
        if states is not None:
            parts.append(states.to(self.null_context.dtype))
        return torch.cat(parts, 1)

    def null(self, context: Tensor) -> Tensor:
        """What stands for no context at all, in the shape of ``context``."""
        return self.null_context.to(context.dtype).expand_as(context)
