"""Losses against numpy written from the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unifashion_pl.losses import contrast, drawn_negatives, hard_negatives, itc_loss, itm_loss, lm_loss, max_sim


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def reference_itc(text: Tensor, image: Tensor, temp: float, ids: list[int] | None = None) -> float:
    """Eq. 3 by loops: softmax over images for each text and over texts for each image, equal ids left out."""
    t, z = text.double().numpy(), image.double().numpy()
    B = len(t)
    sim = np.array([[max(float(t[i] @ z[j, q]) for q in range(z.shape[1])) for j in range(B)] for i in range(B)]) / temp
    keep = np.array([[i == j or ids is None or ids[i] != ids[j] for j in range(B)] for i in range(B)])
    total = 0.0
    for i in range(B):
        total -= sim[i, i] - math.log(sum(math.exp(sim[i, j]) for j in range(B) if keep[i, j]))
        total -= sim[i, i] - math.log(sum(math.exp(sim[j, i]) for j in range(B) if keep[j, i]))
    return total / B / 2


@pytest.mark.parametrize("ids", [None, [0, 0, 1, 2, 2], [0, 1, 2, 3, 4]])
def test_itc_is_equation_3(ids: list[int] | None) -> None:
    text, image = unit(5, 8), unit(5, 3, 8, seed=1)
    loss = itc_loss(text, image, 0.2, ids=None if ids is None else torch.tensor(ids))
    assert float(loss) == pytest.approx(reference_itc(text, image, 0.2, ids), abs=1e-5)
    assert float(itc_loss(text, image, 0.2, reduction="sum")) == pytest.approx(2 * reference_itc(text, image, 0.2), abs=1e-5)


def test_itc_of_equal_embeddings_is_log_batch_and_zero_without_negatives() -> None:
    text = unit(1, 8).expand(6, 8)
    image = text[:, None].expand(6, 2, 8)
    assert float(itc_loss(text, image)) == pytest.approx(math.log(6), abs=1e-5)
    assert float(itc_loss(text, image, ids=torch.zeros(6, dtype=torch.long))) == pytest.approx(0, abs=1e-6)
    assert float(itc_loss(text[:1], image[:1])) == pytest.approx(0, abs=1e-6)


def test_invalid_rows_count_neither_as_anchor_nor_as_negative() -> None:
    text, image = unit(5, 8), unit(5, 3, 8, seed=1)
    valid = torch.tensor([True, False, True, True, False])
    assert float(itc_loss(text, image, valid=valid)) == pytest.approx(reference_itc(text[valid], image[valid], 0.07), abs=1e-5)
    nothing = itc_loss(text.requires_grad_(), image, valid=torch.zeros(5, dtype=torch.bool))
    nothing.backward()
    assert float(nothing) == 0
    assert text.grad is not None
    assert torch.isfinite(text.grad).all()


def test_multi_positive_and_smoothing_are_cross_entropy_with_soft_targets() -> None:
    text, image = unit(4, 8), unit(4, 3, 8, seed=1)
    ids = torch.tensor([0, 0, 1, 2])
    same = (ids[:, None] == ids[None]).float()
    logits = max_sim(text, image) / 0.1
    soft = 0.9 * same / same.sum(1, keepdim=True) + 0.1 / 4
    expected = (F.cross_entropy(logits, soft) + F.cross_entropy(logits.T, soft)) / 2
    loss = itc_loss(text, image, 0.1, ids=ids, multi_positive=True, label_smoothing=0.1)
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_similarities_come_with_the_loss() -> None:
    text, image = unit(4, 8).requires_grad_(), unit(4, 3, 8, seed=1)
    loss, similarities = contrast(text, image, 0.1, ids=torch.tensor([0, 0, 1, 2]))
    torch.testing.assert_close(similarities, torch.einsum("ne,mqe->nmq", text, image).amax(-1).detach())
    assert torch.equal(loss, itc_loss(text, image, 0.1, ids=torch.tensor([0, 0, 1, 2])))
    assert loss.requires_grad
    assert not similarities.requires_grad


def test_max_sim_keeps_its_axes_for_one_sample() -> None:
    text, image = unit(1, 8), unit(1, 32, 8, seed=1)
    assert max_sim(text, image).shape == (1, 1)
    assert float(max_sim(text, image)) == pytest.approx(float((image[0] @ text[0]).max()), abs=1e-6)


def test_hard_negatives_come_from_the_anchors_row() -> None:
    scores = torch.tensor([[9.0, 1.0, 5.0], [8.0, 9.0, 0.0], [0.0, 7.0, 9.0]])
    anchors, negatives = hard_negatives(scores, how="argmax")
    assert anchors.tolist() == [0, 1, 2]
    assert negatives.tolist() == [2, 0, 1]
    anchors, negatives = hard_negatives(scores.T, how="argmax")
    assert negatives.tolist() == [1, 2, 0]


@pytest.mark.parametrize("how", ["multinomial", "argmax"])
def test_negatives_are_never_the_diagonal_nor_an_equal_id(how: str) -> None:
    ids = torch.tensor([0, 0, 1, 1, 2])
    scores = torch.full((5, 5), -1000.0).fill_diagonal_(1000.0)
    for seed in range(20):
        anchors, negatives = hard_negatives(scores, ids, how=how, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
        assert (ids[anchors] != ids[negatives]).all()
    anchors, negatives = hard_negatives(scores[:1, :1], how=how)  # type: ignore[arg-type]
    assert anchors.numel() == negatives.numel() == 0


def test_rows_without_a_negative_are_told_and_take_no_part_in_matching() -> None:
    scores, ids = torch.eye(3), torch.tensor([4, 4, 4])
    assert drawn_negatives(scores, ids)[1].tolist() == [False] * 3
    negatives, found = drawn_negatives(scores, torch.tensor([4, 4, 5]), how="argmax")
    assert found.all()
    assert negatives.tolist()[:2] == [2, 2]
    logits = torch.tensor([[0.0, 2.0], [9.0, -9.0]], requires_grad=True)
    loss = itm_loss(logits, torch.tensor([True, False]), torch.tensor([True, False]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)
    assert logits.grad is not None
    assert logits.grad[1].tolist() == [0, 0]


def test_multinomial_draws_follow_the_softmax() -> None:
    scores = torch.tensor([[0.0, math.log(3.0), 0.0]]).expand(3, 3).clone()
    draws = torch.stack([hard_negatives(scores, generator=torch.Generator().manual_seed(s))[1] for s in range(2000)])
    assert float((draws[:, 0] == 1).float().mean()) == pytest.approx(0.75, abs=0.03)


def test_itm_and_lm_losses() -> None:
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert float(itm_loss(logits, torch.tensor([True, False]))) == pytest.approx(expected, abs=1e-6)
    ids, mask = torch.tensor([[3, 1, 2, 0]]), torch.tensor([[True, True, True, False]])
    states = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    log_p = states.log_softmax(-1)[0]
    expected_lm = -(log_p[0, 1] + log_p[1, 2]) / 2
    for given in (states, states[:, :-1]):
        assert float(lm_loss(given, ids, mask, label_smoothing=0.0)) == pytest.approx(float(expected_lm), abs=1e-6)


def test_itc_is_exact_under_autocast() -> None:
    """At small temperatures logits of bf16 are half a unit apart."""
    text, image = unit(16, 32, seed=1), unit(16, 4, 32, seed=2)
    exact = itc_loss(text, image, 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert (text @ text.T).dtype == torch.bfloat16
        assert torch.equal(itc_loss(text, image, torch.tensor(0.01)), exact)
    assert itc_loss(text.bfloat16(), image.bfloat16(), 0.01).dtype == torch.float32
