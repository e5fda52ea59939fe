"""By what the same photo is known again, cropped, tilted or darker: what the tower itself sees, before anything is learnt of texts.

Query tokens bring together what texts call the same, so that of ten red dresses any may come before the very one that was asked with. What the
frozen tower saw still tells them apart; a projection that is learnt of a catalogue's photos and changed copies of them keeps what
stays the same between copies (linear discriminant analysis with a class for each photo, as Fisher's and Rao's).
Letters: N photos, P image tokens, W their width, K width of an appearance vector.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Share of the mean variance that is added to each direction's of changed copies, of which few are seen.
SHRINKAGE = 1.0


class Appearance(nn.Module):
    """A projection of the tower's pooled features, and how much it counts in a search by image. Nothing of it trains by gradients.

    Args:
        features: W. width: K.

    Attributes:
        mean, projection: (W,) and (K, W), zero until :meth:`learn`.
        weight: of the appearance beside the similarity of query tokens; 0 = none was chosen.
        reach: how far below 1 a cosine may be and still count: see :meth:`evidence`.
    """

    mean: Tensor
    projection: Tensor
    weight: Tensor
    reach: Tensor

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"appearance is {width}, expected the width of its vectors, at least 1, or null")
        self.width = width
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("projection", torch.zeros(width, features))
        self.register_buffer("weight", torch.tensor(0.0))
        self.register_buffer("reach", torch.tensor(1.0))

    @staticmethod
    def pooled(features: Tensor) -> Tensor:
        """The tower's tokens (B, P, W) -> their mean (B, W) in fp32."""
        return features.float().mean(1)

    def forward(self, features: Tensor) -> Tensor:
        """The tower's tokens (B, P, W) -> unit vectors (B, K)."""
        return self.project(self.pooled(features))

    def project(self, pooled: Tensor) -> Tensor:
        """(B, W) -> unit vectors (B, K)."""
        return F.normalize((pooled - self.mean) @ self.projection.T, dim=-1)

    def evidence(self, cosines: Tensor) -> Tensor:
        """What a search adds, times ``weight``: exp((cosine - 1) / reach), 1 for the same picture and next to nothing far from it."""
        return ((cosines - 1) / self.reach).exp()

    def learn(self, photos: Tensor, copies: Tensor) -> None:
        """Take the K directions along which photos differ most where changed copies of one differ as much as anywhere.

        Args:
            photos: pooled features (N, W).
            copies: (C, N, W) of C changed copies of each.

        Raises:
            ValueError: fewer than two photos, or copies of others.
        """
        if photos.ndim != 2 or len(photos) < 2 or copies.shape[1:] != photos.shape:
            raise ValueError(
                f"got photos {tuple(photos.shape)} and copies {tuple(copies.shape)}, expected (N, W) of two photos or more and (C, N, W)"
            )
        known, changed = photos.double(), (copies.double() - photos.double()).flatten(0, 1)
        within = changed.T @ changed / len(changed)
        spread, axes = torch.linalg.eigh(within)
        floor = SHRINKAGE * spread.mean() + torch.finfo(torch.float32).tiny
        even = (axes / (spread.clamp(min=0) + floor).sqrt()) @ axes.T
        mean = known.mean(0)
        between = (known - mean) @ even
        _, _, directions = torch.linalg.svd(between, full_matrices=False)
        found = cast(Tensor, directions[: self.width] @ even)
        found = found / found.norm(dim=1).mean().clamp(min=1e-30)
        self.mean.copy_(mean)
        self.projection.zero_()
        self.projection[: len(found)] = found.to(self.projection)
