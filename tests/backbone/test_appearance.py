"""The projection against the formula in numpy, and what it is for: directions in which copies of a photo stay the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unifashion_pl.backbone.appearance import SHRINKAGE, Appearance


def test_directions_are_those_of_discriminant_analysis_in_numpy() -> None:
    draw = torch.Generator().manual_seed(0)
    photos = torch.randn(60, 12, generator=draw) * torch.linspace(0.5, 3, 12)
    copies = photos + torch.randn(2, 60, 12, generator=draw) * torch.linspace(2, 0.1, 12)
    made = Appearance(12, 4)
    made.learn(photos, copies)
    known, apart = photos.numpy().astype(np.float64), (copies - photos).numpy().astype(np.float64).reshape(-1, 12)
    within = apart.T @ apart / len(apart)
    within += SHRINKAGE * np.trace(within) / 12 * np.eye(12)
    between = np.cov(known.T, bias=True)
    values, vectors = np.linalg.eig(np.linalg.inv(within) @ between)  # the generalised eigenproblem, another way to the same
    best = vectors.real[:, np.argsort(-values.real)[:4]]
    found = made.projection.double().numpy()
    for row, axis in zip(found, best.T):
        assert abs(row @ axis) / np.linalg.norm(row) / np.linalg.norm(axis) == pytest.approx(1, abs=1e-4)
    scale = found @ within @ found.T  # alike in all directions: none counts more because copies differ less there
    assert np.allclose(scale, scale[0, 0] * np.eye(4), atol=1e-4 * scale[0, 0])
    assert np.allclose(made.mean.numpy(), known.mean(0), atol=1e-5)


def test_a_copy_is_near_where_plain_features_are_misled() -> None:
    draw = torch.Generator().manual_seed(1)
    photos = torch.randn(40, 16, generator=draw)
    light = torch.zeros(16)
    light[0] = 30.0  # what a change of light does to all
    made = Appearance(16, 8)
    made.learn(photos, photos + light * torch.rand(3, 40, 1, generator=draw))
    others = torch.randn(40, 1, 16, generator=draw)
    darker = others + 0.7 * light
    found = (made(darker) @ made(others).T).argmax(1)
    assert torch.equal(found, torch.arange(40))
    norms = made(darker).norm(dim=1)
    assert torch.allclose(norms, torch.ones(40), atol=1e-5)


def test_evidence_is_one_for_the_same_and_next_to_nothing_far_away() -> None:
    made = Appearance(4, 2)
    made.reach.fill_(0.1)
    assert made.evidence(torch.tensor([1.0, 0.9, 0.0])).tolist() == pytest.approx([1, np.exp(-1), np.exp(-10)], rel=1e-4)


def test_what_cannot_be_learnt_from_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the width"):
        Appearance(4, 0)
    with pytest.raises(ValueError, match="two photos or more"):
        Appearance(4, 2).learn(torch.zeros(1, 4), torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="two photos or more"):
        Appearance(4, 2).learn(torch.zeros(3, 4), torch.zeros(1, 2, 4))


def test_few_photos_leave_the_other_directions_at_zero() -> None:
    made = Appearance(6, 5)
    made.learn(torch.eye(3, 6), torch.eye(3, 6)[None] + 0.01)
    assert made.projection[3:].eq(0).all()
    assert torch.isfinite(made.projection).all()
