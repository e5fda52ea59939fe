"""Where on a picture a token of the gallery saw what was asked for."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor

from unifashion_pl.arguments import OneImage
from unifashion_pl.backbone.qformer import QuerySet
from unifashion_pl.gallery.segments import Floats
from unifashion_pl.inference.requests import head_of, pixels_for
from unifashion_pl.interface import FashionModel
from unifashion_pl.tasks.eval_mode import evaluating


def heat_map(model: FashionModel, picture: OneImage, vector: Tensor | Floats, within: str, token: int) -> Floats:
    """(side, side) in 0..1: how much each place of a picture raised a query token's product with a vector.

    Gradient times input of the tower's tokens, summed over their width, as Grad-CAM does for feature maps; what lowered it is 0. A first
    token that stands for the whole picture (CLS) has no place and is left out.

    Args:
        vector: (E,), of the request. within: ``reference`` or ``target``. token: as a hit names it.

    Raises:
        ValueError: a tower whose tokens lie on no square grid.
    """
    head, backbone = head_of(model, "retrieval"), model.backbone
    with evaluating(model), torch.no_grad():
        features = backbone.image_features(pixels_for(model, [picture]))
    with evaluating(model), torch.enable_grad():
        seen = features.detach().requires_grad_()
        tokens = head.project_images(backbone.image_pass(seen, cast(QuerySet, within)))
        score = tokens[0, token] @ torch.as_tensor(vector, dtype=tokens.dtype, device=tokens.device)
        (slope,) = torch.autograd.grad(score, seen)
    heat = (slope * seen).detach().sum(-1)[0].clamp(min=0).float().cpu().numpy()
    side = math.isqrt(len(heat))
    if side * side != len(heat) and side * side + 1 != len(heat):
        raise ValueError(f"the tower gives {len(heat)} tokens, which are no square grid: there is no map of them")
    square = heat[-side * side :].reshape(side, side)
    return np.asarray(square / max(float(square.max()), 1e-12), np.float32)
