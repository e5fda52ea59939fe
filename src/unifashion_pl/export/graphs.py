"""The retrieval side as graphs that need no code of ours: images, texts, and both, traced by ``torch.export``.

Pixels come as bytes and are normalised inside. Batch and text length are free. What a graph computes is what the heads' own functions compute:
nothing of a model is written a second time here. Letters: B batch, S image side, Q tokens, E width, T text tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from unifashion_pl.arguments import ArgumentError, choice
from unifashion_pl.backbone.qformer import QuerySet, TextTokens
from unifashion_pl.backbone.vision import VisionTower
from unifashion_pl.inference.exported import APPEARANCE, PARTS
from unifashion_pl.inference.requests import head_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task, lacks

#: Part -> the task that a model has to have learned for it; images are embedded by any.
NEEDS: dict[str, Task | None] = {"image": None, "text": "retrieval", "compose": "composed"}
#: Rows and tokens of the example that is traced: no two lengths alike, and none that torch takes for a constant.
ROWS, TOKENS = 3, 7
#: Free lengths of a graph.
MOST_ROWS = 1 << 15
SETS = cast(tuple[QuerySet, ...], get_args(QuerySet))


class _Part(nn.Module):
    """Backbone and retrieval head in one module; outputs are float32 whatever the parameters are."""

    def __init__(self, model: FashionModel) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, head_of(model, "retrieval")


class ImagePart(_Part):
    """uint8 images (B, 3, S, S) -> (B, Q, E) of each query set, and the appearance (B, 1, K) of a model that has one; unit vectors."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        seen = self.backbone.vision(images)
        features = self.backbone.image_features(seen)
        found = [self.head.project_images(self.backbone.image_pass(features, name)).float() for name in SETS]
        if self.backbone.appearance is not None:
            found.append(self.backbone.appearance(seen)[:, None].float())
        return tuple(found)


class TextPart(_Part):
    """Tokens (B, T) and their mask (B, T), int64 -> (B, E) unit vectors."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        cls = self.backbone.text_pass(TextTokens(input_ids, attention_mask.bool()))
        return (self.head.project_texts(cls).float(),)


class ComposePart(_Part):
    """Reference images (B, 3, S, S) and modifying texts (B, T) -> (B, E) unit vectors, for galleries of the target set."""

    def forward(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        tokens = TextTokens(input_ids, attention_mask.bool())
        _, cls = self.backbone.fused_pass(self.backbone.image_features(images), tokens)
        return (self.head.project_texts(cls).float(),)


MODULES: dict[str, Callable[[FashionModel], _Part]] = {"image": ImagePart, "text": TextPart, "compose": ComposePart}
INPUTS = {
    "image": ("images",),
    "text": ("input_ids", "attention_mask"),
    "compose": ("images", "input_ids", "attention_mask"),
}
OUTPUTS: dict[str, tuple[str, ...]] = {"image": SETS, "text": ("text",), "compose": ("composed",)}


def outputs_of(model: FashionModel, name: str) -> dict[str, list[int]]:
    """A part's outputs in their order, and their shapes behind the batch."""
    width, backbone = int(head_of(model, "retrieval").text_proj.out_features), model.backbone
    found = {out: [backbone.num_queries, width] if name == "image" else [width] for out in OUTPUTS[name]}
    if name == "image" and backbone.appearance is not None:
        found[APPEARANCE] = [1, backbone.appearance.width]
    return found


def chosen_parts(model: FashionModel, asked: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The parts that are exported, and why others are not.

    Args:
        asked: names; None = all that the model has learned.

    Raises:
        ArgumentError: an unknown name, or nothing.
        RuntimeError: a part was asked for that the model has not learned, or it has no retrieval head.
    """
    head_of(model, "retrieval")
    if asked is not None and not asked:
        raise ArgumentError(f"no part is named: expected some of {', '.join(PARTS)}")
    unlearned = {
        name: said for name, task in NEEDS.items() if task is not None and model.learned and (said := lacks(model, task))
    }
    wanted = [*PARTS] if asked is None else [name for name in PARTS if name in {choice(one, "part", PARTS) for one in asked}]
    if asked is not None and (refused := [unlearned[name] for name in wanted if name in unlearned]):
        raise RuntimeError(f"{refused[0]}. To export it all the same, set model.learned = None in Python")
    left = {name: unlearned.get(name, "it was not asked for when the model was exported") for name in PARTS}
    kept = [name for name in wanted if asked is not None or name not in unlearned]
    return kept, {name: why for name, why in left.items() if name not in kept}


def check_exportable(model: FashionModel) -> None:
    """
    Raises:
        RuntimeError: parameters that are not all there or not in numbers, as of sharded or quantised models; a published encoder's text tower.
    """
    if model.backbone.text_tower is not None:
        raise RuntimeError(
            "this model reads texts by a published encoder's own text tower (backbone.text_tower), whose ids exports do not take yet: "
            "search with the model itself"
        )
    for name, parameter in model.state_dict().items():
        kind = type(parameter).__name__
        if not isinstance(parameter, Tensor) or parameter.is_meta or kind not in ("Tensor", "Parameter"):
            raise RuntimeError(
                f"{name} is a {kind} without numbers of its own: load the whole model on one device, then export it"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of torch about its own tracing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def prepared(model: FashionModel, dtype: str) -> FashionModel:
    """The model with parameters of one type: itself, or a copy. Pixels are normalised in 32 bits, as everywhere.

    Args:
        dtype: fp32, fp16, or int8, which is made of fp32's graph.
    """
    kind = torch.float16 if dtype == "fp16" else torch.float32
    parts = model.backbone, cast(nn.Module, model.retrieval_head)
    if all(parameter.dtype == kind for part in parts for parameter in part.parameters()):
        return model
    copy: Any = SimpleNamespace(
        backbone=deepcopy(parts[0]).to(kind), retrieval_head=deepcopy(parts[1]).to(kind), device=model.device
    )
    if isinstance(tower := copy.backbone.vision, VisionTower):
        own = model.backbone.vision
        tower.mean, tower.std = own.mean.clone(), own.std.clone()
    if copy.backbone.appearance is not None:
        copy.backbone.appearance.float()
    return cast(FashionModel, copy)


def traced(model: FashionModel, name: str) -> Any:
    """The ``torch.export.ExportedProgram`` of a part, in eval mode.

    Raises:
        RuntimeError: a part that torch cannot trace, as of a head or tower of somebody's own; with torch's reason.
    """
    backbone = model.backbone
    side, device = backbone.vision.image_size, model.device
    batch = torch.export.Dim("batch", min=1, max=MOST_ROWS)
    length = torch.export.Dim("tokens", min=2, max=backbone.max_text_tokens)
    ones = torch.ones(ROWS, min(TOKENS, backbone.max_text_tokens - 1), dtype=torch.long, device=device)
    examples = {
        "images": torch.zeros(ROWS, 3, side, side, dtype=torch.uint8, device=device),
        "input_ids": ones,
        "attention_mask": ones.clone(),
    }
    free = {"images": {0: batch}, "input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}}
    module = cast(nn.Module, MODULES[name](model)).eval()
    given = INPUTS[name]
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(
                module, tuple(examples[one] for one in given), dynamic_shapes={one: free[one] for one in given}, strict=False
            )
    except Exception as error:  # torch raises errors of many kinds, its own and those of what it traces
        said = " ".join(str(error).split())[:400]
        raise RuntimeError(f"the part {name} cannot be exported: torch.export says {said}") from error


def onnx_program(program: Any, name: str, opset: int, outputs: Sequence[str]) -> Any:
    """A traced part as ONNX, its inputs named as in :data:`INPUTS`."""
    with torch.no_grad(), _quiet():
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=opset,
            input_names=list(INPUTS[name]),
            output_names=list(outputs),
            verbose=False,
        )
    assert made is not None
    return made
