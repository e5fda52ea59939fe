"""All scores of generated images in one metric: FID, KID, CLIP-S, LPIPS, SSIM (Table 3 of the paper has the first three)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unifashion_pl.metrics.image_nets import ClipCosines, InceptionFeatures, Lpips
from unifashion_pl.metrics.images import ImageDistances, MeanImageScore, clip_s, ssim
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.records import ResultRecord

#: Argument of :class:`ImageScores`, the numbers that depend on it, what it is.
NEEDS = (
    ("inception", ("FID", "KID"), "needs the weights of the FID Inception network"),
    ("lpips", ("LPIPS",), "needs ImageNet weights of an AlexNet or VGG"),
    ("clip", ("CLIP-S",), "needs the folder of a CLIP model"),
)


class ImageScores(nn.Module):
    """FID and KID against real images, CLIP-S against texts, LPIPS and SSIM against the truth of each image.

    SSIM needs no weights. The others are computed if their local weights are named and are None else; nothing is downloaded. Right
    under DDP: an id counts once, whatever ranks and padding.

    Args:
        inception: weights of :class:`~unifashion_pl.metrics.image_nets.InceptionFeatures`, for FID and KID.
        lpips: ImageNet weights of the backbone ``lpips_net``, see :class:`~unifashion_pl.metrics.image_nets.Lpips`.
        clip: folder of a CLIP model, see :class:`~unifashion_pl.metrics.image_nets.ClipCosines`.
        resize: ``clean``, ``tm-antialias`` or ``legacy``, before the Inception network.
        task: what the images are, e.g. ``vitonhd_paired``, or a protocol; the resizing goes behind it.
        subset_size, subsets, seed: of KID's draws, equal on all ranks.

    Raises:
        WeightsMissing: a named file is not there.
    """

    def __init__(
        self,
        *,
        inception: str | Path | None = None,
        lpips: str | Path | None = None,
        lpips_net: str = "alex",
        clip: str | Path | None = None,
        resize: str = "clean",
        task: str | Protocol = "paired",
        subset_size: int = 1000,
        subsets: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.under = (Protocol.parse(task) if isinstance(task, str) else task).beyond(resize)
        self.protocol = str(self.under)
        self.features = InceptionFeatures(inception, resize) if inception is not None else None
        self.perceptual = Lpips(lpips, lpips_net) if lpips is not None else None
        self.cosines = ClipCosines(clip, Path(clip).name) if clip is not None else None
        self.distances = ImageDistances(subset_size=subset_size, subsets=subsets, seed=seed, protocol=self.protocol)
        self.means = {"SSIM": MeanImageScore("SSIM")}
        if self.perceptual is not None:
            self.means["LPIPS"] = MeanImageScore(self.perceptual.name)
        if self.cosines is not None:
            self.means["CLIP-S"] = MeanImageScore("CLIP-S", clip_s)

    def update(
        self, ids: Sequence[str], generated: Tensor, real: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> None:
        """Add B generated images.

        Args:
            generated: uint8 (B, 3, H, W).
            real: the truth of each image, uint8 of the same shape; None in unpaired settings, see :meth:`update_real`.
            texts: what each image was painted from, for CLIP-S.

        Raises:
            ValueError: other shapes, or not one id, truth and text per image.
        """
        ids = list(ids)
        if generated.ndim != 4 or generated.shape[1] != 3 or len(ids) != len(generated):
            raise ValueError(f"got {len(ids)} ids for images {tuple(generated.shape)}; expected one id per image (B, 3, H, W)")
        if real is not None and real.shape != generated.shape:
            raise ValueError(
                f"real images are {tuple(real.shape)}, generated ones {tuple(generated.shape)}; expected equal shapes"
            )
        if texts is not None and len(texts) != len(ids):
            raise ValueError(f"got {len(texts)} texts for {len(ids)} images; expected one per image")
        if self.features is not None:
            self.distances.update(ids, self.features(generated), real=False)
        if self.cosines is not None and texts is not None:
            self.means["CLIP-S"].update(ids, self.cosines(generated, texts))
        if real is None:
            return
        self.update_real(ids, real)
        pair = generated.float() / 255, real.float() / 255
        self.means["SSIM"].update(ids, ssim(*pair))
        if self.perceptual is not None:
            self.means["LPIPS"].update(ids, self.perceptual(*pair))

    def update_real(self, ids: Sequence[str], real: Tensor) -> None:
        """Add real images, uint8 (B, 3, H, W), to the set that FID and KID compare with."""
        if self.features is not None:
            self.distances.update(list(ids), self.features(real), real=True)

    def compute(self) -> dict[str, float | None]:
        """``FID, KID`` (raw), ``CLIP-S`` (100 × cosine), ``LPIPS(net), SSIM`` in 0..1; None = not computed. A collective."""
        metrics = [*self.means.values(), *([self.distances] if self.features is not None else [])]
        found = {name: value for metric in metrics for name, value in metric.compute().items()}
        lpips = next((name for name in found if name.startswith("LPIPS")), "LPIPS")
        return {name: found.get(name) for name in ("FID", "KID", "CLIP-S", lpips, "SSIM")}

    def records(self, *, absent: bool = False, n: int | None = None, **context: Any) -> list[ResultRecord]:
        """One record per number that was computed.

        Args:
            absent: also a record without value per number whose weights were not named, which says which ones it needs.
            n: pictures that such a record would be of; default: that of the numbers that there are.
            context: further fields of the records.
        """
        records = self.distances.records() if self.features is not None else []
        for name, metric in self.means.items():
            if values := metric.compute():
                clip = self.cosines.name.split("/") if name == "CLIP-S" and self.cosines is not None else []
                under = str(self.under.beyond(*clip))
                records.append(ResultRecord(metric.name, values[metric.name], "raw", int(values["n"]), under))
        n = records[-1].n if n is None and records else n
        networks = {"inception": self.features, "lpips": self.perceptual, "clip": self.cosines}
        for argument, names, need in NEEDS if absent and n else ():
            if networks[argument] is None:
                why = f"not measured: {need} (image_weights: {{{argument}: …}})"
                records += [ResultRecord(name, None, "raw", n or 0, self.protocol, implementation=why) for name in names]
        return [record.with_context(**context) for record in records]

    def reset(self) -> None:
        """Forget all images."""
        self.distances.reset()
        for metric in self.means.values():
            metric.reset()
