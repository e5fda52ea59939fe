"""Networks behind image metrics, from local weight files only: Inception for FID and KID, LPIPS, CLIP.

Nothing is downloaded. A missing file is a clear error; callers show the metric as not available and never put another network's
number under the same name.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unifashion_pl.arguments import choice
from unifashion_pl.data.index import fingerprint
from unifashion_pl.metrics.images import resize

#: Of torch-fidelity's network, all behind its own resize.
INCEPTION_BLOCKS = (
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_1 Conv2d_3b_1x1 Conv2d_4a_3x3 MaxPool_2 Mixed_5b Mixed_5c Mixed_5d "
    "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c AvgPool"
)
LPIPS_BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
CLIP_TOKENS = 77


class WeightsMissing(FileNotFoundError):
    """A metric cannot be computed because a weight file is not on this machine."""


def local_file(path: str | Path | None, what: str, sha256: str | None = None) -> Path:
    """The path of a weight file, checked.

    Raises:
        WeightsMissing: it is not there; the message says what it is for.
        ValueError: its hash is another one.
    """
    if path is None or not Path(path).exists():
        where = f"{path} does not exist" if path is not None else "no path was given"
        raise WeightsMissing(f"{what} needs local weights, nothing is downloaded: {where}")
    if sha256 is not None and (found := fingerprint(Path(path))["sha256"]) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}")
    return Path(path)


class InceptionFeatures(nn.Module):
    """2048 pooled features of the 2015 Inception network.

    Args:
        weights: ``inception-2015-12-05.pt`` (TorchScript, as clean-fid uses it) or
            ``weights-inception-2015-12-05-6726825d.pth`` (state dict; needs the ``torch-fidelity`` package).
        mode: resizing, see :func:`unifashion_pl.metrics.images.resize`. It happens here, the network's own is passed by.
        sha256: expected hash of the file.
    """

    def __init__(self, weights: str | Path | None, mode: str = "clean", sha256: str | None = None) -> None:
        super().__init__()
        path = local_file(weights, "FID and KID", sha256)
        self.mode = mode
        scripted = path.suffix == ".pt"
        self.layers = torch.jit.load(str(path), map_location="cpu").layers if scripted else _fidelity_inception(path)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> InceptionFeatures:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) -> features (B, 2048) float32."""
        pixels = (resize(images, self.mode) - 128) / 128
        return self.layers(pixels).flatten(1).float()


def _fidelity_inception(path: Path) -> nn.Module:
    if importlib.util.find_spec("torch_fidelity") is None:
        raise WeightsMissing(f"{path.name} needs the torch-fidelity package for its network (pip install torch-fidelity)")
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    return nn.Sequential(*(getattr(network, name) for name in INCEPTION_BLOCKS.split()))


class Lpips(nn.Module):
    """LPIPS distance; the linear heads come with torchmetrics, the backbone must be a local torchvision state dict.

    Args:
        backbone: path of the ImageNet weights of the backbone (e.g. ``alexnet-owt-7be5be79.pth``).
        net: ``alex``, ``vgg`` or ``squeeze``; part of the metric's name, values are not comparable.
        sha256: expected hash of the file.
    """

    def __init__(self, backbone: str | Path | None, net: str = "alex", sha256: str | None = None) -> None:
        super().__init__()
        path = local_file(backbone, f"LPIPS ({LPIPS_BACKBONES[choice(net, 'net', LPIPS_BACKBONES)]})", sha256)
        from torchmetrics.functional.image.lpips import _LPIPS

        self.name = f"LPIPS({net})"
        self.network = _LPIPS(net=net, pnet_rand=True)  # type: ignore[arg-type]
        load_slices(self.network.net, torch.load(path, map_location="cpu", weights_only=True))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..1 -> distances (B,)."""
        values: Tensor = self.network(generated * 2 - 1, real * 2 - 1)
        return values.flatten()


def load_slices(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load ``features.<i>.*`` of a torchvision state dict into ``slice<k>.<i>.*`` (SqueezeNet: ``slices.<k>.<i>.*``).

    Raises:
        ValueError: a tensor is missing.
    """
    own = {name: re.sub(r"^slices?\.?\d+\.", "features.", name) for name, _ in network.named_parameters()}
    if missing := [source for source in own.values() if source not in state]:
        raise ValueError(f"backbone weights lack {', '.join(missing[:3])}")
    network.load_state_dict({name: state[source] for name, source in own.items()})


class ClipCosines(nn.Module):
    """Cosine between images and texts from a local CLIP folder (transformers format).

    Args:
        folder: the model folder.
        name: what stands in the protocol string, e.g. ``openai-vit-l14/full``.
    """

    def __init__(self, folder: str | Path | None, name: str = "openai-vit-l14/full") -> None:
        super().__init__()
        path = local_file(folder, "CLIP-S")
        from transformers import AutoProcessor, CLIPModel

        self.name = name
        self.model = CLIPModel.from_pretrained(path, local_files_only=True)
        self.processor = AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """uint8 images (B, 3, H, W) and B texts (cut at 77 tokens) -> cosines (B,)."""
        device = next(self.model.parameters()).device
        inputs = self.processor(
            text=list(texts),
            images=list(images.cpu()),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=CLIP_TOKENS,
        ).to(device)
        seen = embedding(self.model.get_image_features(pixel_values=inputs["pixel_values"]))
        read = embedding(self.model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]))
        return F.cosine_similarity(seen.float(), read.float(), dim=-1)


def embedding(output: Any) -> Tensor:
    """The projected embedding, whether transformers returns it bare or inside an output object."""
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found
