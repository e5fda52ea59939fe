"""The benchmark of the contrastive loss at a size for a test: its forms agree, its lines hold what was measured."""

from __future__ import annotations

import contrastive
import pytest
import torch


def test_the_three_forms_agree() -> None:
    given = contrastive.inputs(12)
    found = contrastive.step("ours", given)
    for peer in ("released", "amax"):
        assert max(contrastive.difference(found, contrastive.step(peer, given))) <= 1e-6
    doubled = tuple(2 * one for one in found)
    assert contrastive.difference(doubled, found) == pytest.approx((1.0, 1.0))


def test_lines_of_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(
        contrastive, "memory", lambda form, batch: (asked.append((form, batch)), {"ours": 2.0}.get(form, 8.0))[1]
    )
    threads = torch.get_num_threads()
    lines = contrastive.goals("tiny", rounds=1)
    assert torch.get_num_threads() == threads
    assert asked == [("ours", 16), ("released", 16), ("amax", 16)]
    assert [line.goal.rsplit(", ", 1)[1] for line in lines] == ["time", "memory"] * 2
    assert [line.ratio for line in lines[1::2]] == [4.0, 4.0]
    assert lines[1].ours == "2 MiB"
    assert lines[1].peer == "released 8 MiB"
    assert all(line.ratio > 0 and line.met is None and "gradients" in line.equal for line in lines)


def test_another_loss_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contrastive.FORMS, "ours", lambda *given: 1.001 * contrastive.amax(*given))
    with pytest.raises(AssertionError, match="batch 16: the loss differs"):
        contrastive.goals("tiny")


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own() -> None:
    assert contrastive.memory("released", 48) > 2 * contrastive.memory("ours", 48)
