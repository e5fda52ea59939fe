"""Posteriors of a frozen autoencoder, kept beside training shards, so that training the diffusion head need not encode pictures.

A folder of latents has the form of one of features (:mod:`unifashion_pl.data.features`, which also reads it) and is made by the same
:func:`~unifashion_pl.data.make_features.write_features`. An image has C numbers of each latent cell: mean and standard deviation of the
posterior, so that every step draws from it anew, as it would from pixels. Samples of try-on have one of each picture that is encoded.

Letters: C channels (8; of an autoencoder without posterior 4), h x w latent cells, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unifashion_pl.data.assemble import kept_name
from unifashion_pl.data.features import FeatureSource
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.transforms import GREYED

FOLDER = "latents"
#: Kind of training shards -> the pictures that the diffusion head paints or is shown (:mod:`unifashion_pl.data.painted`).
PAINTED = {
    "pairs": ("image",),
    "triplets": ("target",),
    "tryon": ("person", GREYED, "densepose", "garment", "sketch"),
}
MAKE = "`unifashion data latents --shards FOLDER --model MODEL`"


class Posteriors(nn.Module):
    """An autoencoder as what features are made by: uint8 pictures (B, 3, H, W) -> (B, C, h·w).

    Args:
        vae: :class:`unifashion_pl.generation.ImageVAE`.
    """

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    @property
    def model(self) -> Any:
        """The autoencoder by whose class it is known."""
        return self.vae.model

    def forward(self, pixels: Tensor) -> Tensor:
        moments: Callable[[Tensor], Tensor] = self.vae.moments  # type: ignore[assignment]
        return moments(pixels).flatten(2)


class LatentSource(FeatureSource):
    """Shards whose samples carry posteriors of an autoencoder; the arguments are those of :class:`FeatureSource`.

    Args:
        source: shards, or shards with vision features.
    """

    what, make, part = "latents", MAKE, "autoencoder"

    def __init__(self, source: ShardSource | FeatureSource, folder: str | Path) -> None:
        super().__init__(source, folder)
        self.features, self.latents = source.features, self.found.identity.hash

    def keep(self, name: str) -> str:
        return kept_name(name)
