"""Image metrics: Fréchet and kernel distance between feature sets, SSIM, LPIPS and CLIP-S values, resizing as others do it.

Distances are computed in float64 from features; where the features come from is another matter (``image_nets``). FID is biased
upward for few images (fewer than 2048 make the covariance singular), so compare it only at equal n; the kernel distance is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unifashion_pl.arguments import choice
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.metrics.tables import KeyedMetric

RESIZE_MODES = ("clean", "tm-antialias", "legacy")
INCEPTION_SIDE = 299
_SSIM_BORDER = 5


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) with n - 1, float64, of features (N, D)."""
    rows = features.double()
    centred = rows - rows.mean(0)
    return rows.mean(0), centred.T @ centred / (len(rows) - 1)


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """|m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½) of two feature sets (N, D), (M, D); never negative beyond rounding.

    Raises:
        ValueError: fewer than two images in a set.
    """
    if min(len(real), len(generated)) < 2:
        raise ValueError(f"a Fréchet distance needs two images on both sides, got {len(real)} and {len(generated)}")
    (mean_a, cov_a), (mean_b, cov_b) = moments(real), moments(generated)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def squared_mmd(real: Tensor, generated: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³ of two equally large sets (M, D); may be negative."""
    x, y = generated.double(), real.double()
    m, d = x.shape
    within = (x @ x.T / d + 1) ** 3 + (y @ y.T / d + 1) ** 3
    across = (x @ y.T / d + 1) ** 3
    return float((within.sum() - within.diagonal().sum()) / (m * (m - 1)) - 2 * across.sum() / m**2)


def kernel_distance(real: Tensor, generated: Tensor, subset_size: int = 1000, subsets: int = 100, seed: int = 0) -> float:
    """KID (raw, tables show × 1000): mean squared MMD over random subsets of min(subset_size, n) images.

    Subsets are drawn by an own generator, so the value depends on nothing but the features and ``seed``.

    Raises:
        ValueError: fewer than two images in a set.
    """
    size = min(subset_size, len(real), len(generated))
    if size < 2:
        raise ValueError(f"a kernel distance needs two images on both sides, got {len(real)} and {len(generated)}")
    if size == len(real) == len(generated):
        return squared_mmd(real, generated)
    generator = np.random.default_rng(seed)
    total = 0.0
    for _ in range(subsets):
        own = generator.choice(len(generated), size, replace=False)
        other = generator.choice(len(real), size, replace=False)
        total += squared_mmd(real[torch.from_numpy(other)], generated[torch.from_numpy(own)])
    return total / subsets


def resize(images: Tensor, mode: str = "clean", side: int = INCEPTION_SIDE) -> Tensor:
    """Squash images to side × side as the Inception pipelines do.

    Args:
        images: (B, 3, H, W) uint8.
        mode: ``clean`` (PIL bicubic per channel in float, clipped, not rounded: clean-fid), ``tm-antialias`` (bilinear with
            antialias: torchmetrics >= 1.8) or ``legacy`` (bilinear of TensorFlow 1: torch-fidelity, torchmetrics <= 1.7).

    Returns:
        (B, 3, side, side) float32 in 0..255.
    """
    if choice(mode, "resize", RESIZE_MODES) == "clean":
        return torch.stack([_resize_clean(image, side) for image in images.cpu()]).to(images.device)
    if mode == "tm-antialias":
        return F.interpolate(images.float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return _resize_legacy(images.float(), side)


def _resize_clean(image: Tensor, side: int) -> Tensor:
    channels = [Image.fromarray(c.numpy().astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC) for c in image]
    return torch.from_numpy(np.stack([np.asarray(c) for c in channels]).clip(0, 255))


def _resize_legacy(images: Tensor, side: int) -> Tensor:
    """Bilinear without half-pixel centres."""

    def axis(size: int) -> tuple[Tensor, Tensor, Tensor]:
        grid = torch.arange(side, device=images.device, dtype=torch.float32) * (size / side)
        low = grid.floor().long()
        return low, (low + 1).clamp(max=size - 1), grid - low

    top, bottom, down = axis(images.shape[-2])
    left, right, across = axis(images.shape[-1])
    rows = images[..., top, :] + (images[..., bottom, :] - images[..., top, :]) * down[:, None]
    return rows[..., left] + (rows[..., right] - rows[..., left]) * across


def ssim(generated: Tensor, real: Tensor, border: str = "reflected") -> Tensor:
    """SSIM per image, Gaussian window of 11, sigma 1.5, data range 1.

    Args:
        generated, real: (B, C, H, W) float in 0..1.
        border: ``reflected`` averages all pixels (torchmetrics >= 1.4.2), ``cut`` leaves out 5 pixels at each side (scikit-image
            and older torchmetrics).

    Returns:
        (B,) values.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if border not in ("reflected", "cut"):
        raise ValueError(f"border={border!r}; expected reflected or cut")
    _, maps = structural_similarity_index_measure(generated, real, data_range=1.0, reduction="none", return_full_image=True)
    inner = slice(_SSIM_BORDER, -_SSIM_BORDER) if border == "cut" else slice(None)
    return maps[..., inner, inner].mean(dim=(1, 2, 3))


def clip_s(cosines: Sequence[float] | Tensor) -> float:
    """CLIP-S of a set: 100 × mean cosine; the mean, not each image, is clamped at 0.

    >>> round(clip_s([0.3, -0.1, 0.25]), 6)
    15.0
    """
    values = torch.as_tensor(cosines, dtype=torch.float64)
    return max(0.0, 100 * float(values.mean()))


class ImageDistances(KeyedMetric):
    """Fréchet and kernel distance between real and generated images, from their features.

    Args:
        network: name of the feature network. Only ``inception-2015-12-05`` earns the names FID and KID; any other gives
            ``frechet/<network>`` and ``kernel/<network>``.
        subset_size, subsets, seed: see :func:`kernel_distance`.
        protocol: task / resize / real images / repaint / start noise, for the records.

    ``compute`` returns ``{"FID": raw, "KID": raw, "n_real": ..., "n_generated": ...}``; ``{}`` if either side is empty everywhere.
    """

    def __init__(
        self,
        network: str = "inception-2015-12-05",
        subset_size: int = 1000,
        subsets: int = 100,
        seed: int = 0,
        protocol: str = "vitonhd_unpaired/clean/gt-native/repaint-off/noise-normal",
        **kwargs: Any,
    ) -> None:
        super().__init__("real", "generated", **kwargs)
        self.network, self.protocol = network, protocol
        self.subset_size, self.subsets, self.seed = subset_size, subsets, seed

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two numbers."""
        inception = self.network == "inception-2015-12-05"
        return ("FID", "KID") if inception else (f"frechet/{self.network}", f"kernel/{self.network}")

    def update(self, ids: Sequence[str], features: Tensor, real: bool) -> None:
        """Add features (B, D) of B images; an id counts once per side."""
        self._store("real" if real else "generated", list(ids), {}, {"features": features})

    def compute(self) -> dict[str, float]:
        """Both distances, computed on rank 0 in float64 and shared."""
        team = self._team()
        real = team.rows(team.own(self._local("real")))
        generated = team.rows(team.own(self._local("generated")))
        if not len(real) or not len(generated):
            return {}
        pair = real.tensors["features"], generated.tensors["features"]
        values = team.guarded(lambda: self._distances(*pair) if team.rank == 0 else None)
        counts = {"n_real": float(len(real)), "n_generated": float(len(generated))}
        return {**dict(zip(self.names, team.objects(values)[0] or ())), **counts}

    def _distances(self, real: Tensor, generated: Tensor) -> tuple[float, float]:
        if not bool(real.isfinite().all() and generated.isfinite().all()):
            raise ValueError("image features are not finite")
        return frechet_distance(real, generated), kernel_distance(real, generated, self.subset_size, self.subsets, self.seed)

    def records(self, **context: Any) -> list[ResultRecord]:
        """Both numbers; their interval is the spread over generation seeds, made elsewhere."""
        values = self.compute()
        facts = {"implementation": f"float64 moments, features {self.network}", **context}
        n = int(values.get("n_generated", 0))
        return [ResultRecord(name, values[name], "raw", n, self.protocol, **facts) for name in self.names if name in values]


class MeanImageScore(KeyedMetric):
    """Mean of one value per image (SSIM, LPIPS) or CLIP-S of cosines, over all ranks, each id once.

    Args:
        name: key of the result, e.g. ``SSIM`` or ``LPIPS(alex)``.
        reduce: values (N,) -> number; None = mean, ``clip_s`` for CLIP-S.
    """

    def __init__(self, name: str, reduce: Callable[[Tensor], float] | None = None, **kwargs: Any) -> None:
        super().__init__("scores", **kwargs)
        self.name = name
        self.reduce_values = reduce

    def update(self, ids: Sequence[str], values: Tensor) -> None:
        """Add B values, (B,)."""
        self._store("scores", list(ids), {}, {"value": values})

    def compute(self) -> dict[str, float]:
        """``{name: value, "n": images}``; ``{}`` if there are none."""
        team = self._team()
        rows = team.rows(team.own(self._local("scores")))
        if not len(rows):
            return {}
        values = rows.tensors["value"]
        mean = float(values.double().mean()) if self.reduce_values is None else self.reduce_values(values)
        return {self.name: mean, "n": float(len(rows))}

    def per_image(self) -> list[dict[str, Any]]:
        """This process's values by id."""
        rows = self._local("scores")
        return [{"id": i, self.name: float(v)} for i, v in zip(rows.ids, rows.tensors.get("value", ()))]
