"""What a training needs at least, and the refusal of one that cannot fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from unifashion_pl.memory import check_memory, needed


def test_too_little_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    with torch.device("meta"):
        model = torch.nn.Linear(2**16, 2**15, bias=False)  # 8 GiB of weights, 24 GiB of gradients and states
    assert needed(model) == (8 * 2**30, 24 * 2**30)
    with pytest.raises(
        RuntimeError, match=r"too little memory: .* 32\.0 GiB before any activation, a card has 16\.0 GiB\. Shard"
    ):
        check_memory(model, torch.device("cuda", 0))
    check_memory(model, torch.device("cuda", 0), ranks=2)
    check_memory(model.requires_grad_(False), torch.device("cuda", 0))
    check_memory(model, torch.device("cpu"))
