"""Loss and gradient on two processes equal those of one process with the whole batch."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from unifashion_pl.losses import itc_loss

CASES: list[dict[str, object]] = [
    {},
    {"ids": [0, 1, 2, 0, 4, 1]},
    {"ids": [0, 1, 2, 0, 4, 1], "multi_positive": True, "label_smoothing": 0.1},
    {"valid": [True, False, True, True, False, True]},
    {"valid": [False, False, False, True, True, True], "ids": [0, 1, 2, 0, 4, 1]},
    {"reduction": "sum"},
]


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text, self.image, self.temperature = nn.Linear(5, 8), nn.Linear(5, 24), nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor, rows: slice, case: dict[str, object]) -> Tensor:
        text = F.normalize(self.text(x), dim=-1)
        image = F.normalize(self.image(x).view(-1, 3, 8), dim=-1)
        tensors = {k: torch.tensor(v)[rows] if isinstance(v, list) else v for k, v in case.items()}
        return itc_loss(text, image, self.temperature, **tensors)  # type: ignore[arg-type]


def data() -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def work(rank: int, store: str, out: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results = []
    reduced: list[int] = []
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda x, *args: (reduced.append(x.numel()), all_reduce(x, *args))[1]
    for case in CASES:
        model = nn.parallel.DistributedDataParallel(Towers())
        rows = slice(rank * 3, rank * 3 + 3)
        loss = model(data()[rows], rows, case)
        loss.backward()
        value = loss.detach().clone()
        all_reduce(value)
        results.append((value / 2, [p.grad for p in model.parameters()]))
    if rank == 0:
        torch.save((results, max(reduced)), out)
    del model, loss  # DDP's reducer, which the graph holds too, must not outlive the group
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path / "store"), str(tmp_path / "out.pt")), nprocs=2)
    results, reduced = torch.load(tmp_path / "out.pt", weights_only=True)
    assert reduced == 6  # counts of each text; of the vectors' gradients a rank is sent its own rows alone
    for case, (value, grads) in zip(CASES, results):
        model = Towers()
        loss = model(data(), slice(None), case)
        loss.backward()
        assert float(value) == pytest.approx(float(loss.detach()), abs=1e-6), case
        for parameter, grad in zip(model.parameters(), grads):
            torch.testing.assert_close(parameter.grad, grad, atol=1e-6, rtol=1e-5)
