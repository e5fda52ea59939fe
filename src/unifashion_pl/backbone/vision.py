"""The image encoder: any timm model whose features become tokens (B, P, W)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unifashion_pl.backbone.pretrained import load_vision_weights
from unifashion_pl.names import unknown
from unifashion_pl.parts import rebuild
from unifashion_pl.parts.mapped import unfilled
from unifashion_pl.parts.tensors import floating
from unifashion_pl.parts.trust import Fields

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: Arguments of ``timm.create_model`` that read files: only ``weights`` does that here.
READING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


class VisionTower(nn.Module):
    """A timm image encoder whose last feature map or token sequence is handed on unpooled.

    Another kind of tower is a subclass that sets ``image_size``, ``width`` and ``model`` and has a :meth:`forward` of its own.

    The paper's tower is EVA-CLIP ViT-g/14: ``VisionTower("eva_giant_patch14_clip_224", image_size=224, timm_kwargs={"depth": 39})``;
    its last block and final norm are not used (BLIP-2), hence ``final_norm=False``.

    Args:
        name: timm model name; ``hf-hub:owner/name`` for one that is described on the hub.
        image_size: side S of the square input in pixels. Published position embeddings of another size are interpolated.
        timm_kwargs: further arguments of ``timm.create_model``, none that name files. Published weights of more blocks than ``depth`` lose
            the last ones.
        weights: "none" (random), "timm" (timm's pretrained weights; needs the network once) or the path of a local file or of a folder
            of ``unifashion weights import``, see :func:`unifashion_pl.backbone.pretrained.load_vision_weights`.
        dtype: of the tower's parameters, e.g. ``bfloat16`` for a frozen one on a GPU.
        gradient_checkpointing: recompute activations in the backward pass; for a tower that trains.
        final_norm: keep timm's final norm layer.
        positions: add a fixed 2-D sine-cosine embedding (as DETR does) to the feature maps of convolutional towers, without which the
            Q-Former, which sees a set of tokens, hardly learns shapes; None = to feature maps yes, to token sequences, which carry
            their own, no.
        mean, std: normalisation of pixels scaled to 0..1, applied here so that batches can stay uint8.
        stages: numbers of earlier stages of a convolutional tower, 1 = timm's first, 0 = the pixels themselves. Their maps, averaged to the
            places of the last one, stand beside it in the channels: what the last one has forgotten, colour above all.

    Raises:
        ValueError: ``timm_kwargs`` would read files, timm does not know the name or the arguments, or the tower has no such stages.
    """

    part = "vision"

    depth: int | None = None
    pretrained = False
    _described = False

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        image_size: int,
        timm_kwargs: Fields | None = None,
        weights: str = "none",
        final_norm: bool = False,
        positions: bool | None = None,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
        dtype: str = "float32",
        gradient_checkpointing: bool = False,
        stages: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.image_size = image_size
        if reading := [key for key in READING if key in (timm_kwargs or {})]:
            raise ValueError(f"timm_kwargs may not hold {', '.join(reading)}: name the tower's weights by `weights`")
        self._described = name.startswith("hf-hub:")
        folder = rebuild.blueprint_of(self.part) if self._described else None
        start = "none" if rebuild.brings_tensors(self.part) else weights
        options = {"num_classes": 0, **(timm_kwargs or {})}
        self.depth = options.get("depth")
        source = start if start not in ("none", "timm") else name if start == "timm" or self._described else None
        with rebuild.reading_source(self.part, source):
            make = partial(_timm_model, f"local-dir:{folder}" if folder else name, start == "timm", options)
            filled = start == "timm" or (start == "none" and not rebuild.brings_tensors(self.part))
            self.model: Any = make() if filled else unfilled(make, floating(dtype))
            self._settle(options, final_norm)  # what a tower is built as comes before any file is compared with it
            if start not in ("none", "timm"):
                load_vision_weights(self.model, start, self.depth)
        self.pretrained = weights != "none"
        self.model.to(floating(dtype))
        if gradient_checkpointing:
            self.model.set_grad_checkpointing()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.positions = positions
        self.stages = tuple(stages)
        self.width = int(self.model.num_features) + sum(self._stage_widths(name))
        convolutions = sum(isinstance(module, nn.Conv2d) for module in self.model.modules())
        #: Of pixels on their way in: 1.5 times as fast through many convolutions with colours side by side, through a ViT's one with them apart.
        self.layout = torch.channels_last if convolutions > 1 else torch.contiguous_format

    def _settle(self, options: Mapping[str, Any], final_norm: bool) -> None:
        """Give the model its last shape: no block, norm or position that :meth:`forward` does not use."""
        if not final_norm and isinstance(getattr(self.model, "norm", None), nn.Module):
            self.model.norm = nn.Identity()
        sized = "img_size" in options or options.get("dynamic_img_size")
        built = getattr(getattr(self.model, "patch_embed", None), "img_size", None)
        if built not in (None, (self.image_size, self.image_size)) and not sized and hasattr(self.model, "set_input_size"):
            self.model.set_input_size(img_size=(self.image_size, self.image_size))

    def _stage_widths(self, name: str) -> list[int]:
        """Channels of each of :attr:`stages`.

        Raises:
            ValueError: the tower has no such stages.
        """
        if not self.stages:
            return []
        known = getattr(self.model, "feature_info", None)
        maps = [] if known is None or hasattr(self.model, "patch_embed") else [int(one["num_chs"]) for one in known]
        if not maps or not hasattr(self.model, "forward_intermediates"):
            raise ValueError(f"stages are {[*self.stages]}, but {name} has no maps of earlier stages: leave them empty")
        widths = [3, *maps]
        wrong = [one for one in self.stages if not isinstance(one, int) or not 0 <= one < len(widths)]
        if wrong or len(set(self.stages)) < len(self.stages):
            raise ValueError(
                f"stages are {[*self.stages]}, expected different numbers of 0 (the pixels) to {len(maps)} for {name}, whose stages have "
                f"{', '.join(map(str, maps))} channels"
            )
        return [widths[one] for one in self.stages]

    def blueprint(self) -> dict[str, bytes]:
        """What the hub says of the model: its architecture and arguments."""
        if not self._described:
            return {}
        known = {"architecture": self.model.pretrained_cfg["architecture"], "model_args": self.model._model_args}
        return {"config.json": json.dumps(known).encode()}

    @property
    def _no_split_modules(self) -> list[str]:
        """Class names of a ViT's blocks, see :func:`unifashion_pl.sharding.blocks_of`."""
        return sorted({type(block).__name__ for block in getattr(self.model, "blocks", ())} - {"Sequential"})

    @property
    def dtype(self) -> torch.dtype:
        """Of the tower's parameters."""
        parameter: Tensor = next(self.model.parameters())
        return parameter.dtype

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, S, S) -> tokens (B, P, W).

        Raises:
            ValueError: images of another size or type than the tower was built for.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, self.image_size, self.image_size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, the vision tower expects (B, 3, {self.image_size}, {self.image_size}): "
                f"set the data module's image_size to {self.image_size}"
            )
        if images.dtype != torch.uint8:
            raise ValueError(
                f"images are {images.dtype}, expected torch.uint8 in 0..255: normalisation happens inside the tower"
            )
        pixels = (images.to(self.mean.dtype, memory_format=self.layout) - self.mean) / self.std
        pixels = pixels.to(self.dtype)
        features, earlier = self._seen(pixels)
        if features.ndim != 4:
            return features
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        if self.positions is not False:
            _, width, height, across = features.shape
            features = features + sincos_positions(width, height, across, features.device).to(features.dtype)
        grid = (features.shape[-2], features.shape[-1])
        beside = [F.adaptive_avg_pool2d(one, grid) for one in earlier]
        return torch.cat([features, *beside], 1).flatten(2).transpose(1, 2)

    def _seen(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last map and those of :attr:`stages`. All but the pixels have a mean square of 1 in each image: published stages differ tenfold."""
        asked = sorted(one - 1 for one in self.stages if one)
        last: Tensor
        found: list[Tensor] = []
        if asked:
            last, found = self.model.forward_intermediates(pixels, indices=asked)
        else:
            last = self.model.forward_features(pixels)
        scaled = [
            one * one.float().pow(2).mean((1, 2, 3), keepdim=True).clamp(min=1e-12).rsqrt().to(one.dtype) for one in found
        ]
        maps = dict(zip(asked, scaled)) | {-1: pixels}
        return last, [maps[one - 1] for one in self.stages]


def _timm_model(name: str, pretrained: bool, arguments: dict[str, Any]) -> Any:
    """Raises ValueError for a name that timm does not know, and for arguments that its model does not take."""
    if ":" not in name and not timm.is_model(name):  # with a colon it is a place: hf-hub:owner/name
        raise ValueError(unknown("timm model", name, timm.list_models()) + " (`timm.list_models()`)")
    depth = arguments.get("depth") if pretrained else None
    try:
        model: Any = timm.create_model(
            name, pretrained, **{k: v for k, v in arguments.items() if k != "depth" or depth is None}
        )
        if depth is not None:  # timm loads published weights into the published depth alone
            model.blocks = model.blocks[:depth]
        return model
    except TypeError as error:
        raise ValueError(
            f"timm cannot build {name} with timm_kwargs {arguments}: {error}. They are arguments of that architecture: leave out what "
            "was meant for another one (timm_kwargs: null)"
        ) from error


def sincos_positions(width: int, height: int, across: int, device: torch.device | None = None) -> Tensor:
    """(width, height, across): half of the channels encode the row, half the column, as sines and cosines of falling frequency.

    Places are fractions of the map's side, so that the embedding means the same at any resolution; frequencies fall from two periods
    across the map to a fiftieth of one.
    """
    quarter = width // 4
    rates = 4 * torch.pi / 100 ** (torch.arange(quarter, device=device) / max(1, quarter))

    def waves(steps: int) -> Tensor:
        angle = rates[:, None] * (torch.arange(steps, device=device) + 0.5) / steps
        return torch.cat([angle.sin(), angle.cos()])

    out = torch.zeros(width, height, across, device=device)
    out[: 2 * quarter] = waves(height)[:, :, None]
    out[2 * quarter : 4 * quarter] = waves(across)[:, None, :]
    return out
