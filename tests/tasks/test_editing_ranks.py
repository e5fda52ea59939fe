"""Try-on on two processes: rows without a garment on one rank alone, and shards that train as copies do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ranks import Entry, trained
from small import editor, opened, tryon_batch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from unifashion_pl import UniFashionModule
from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.provenance import whole
from unifashion_pl.sharding import shard
from unifashion_pl.tasks import EditSettings


def built(rank: int) -> UniFashionModule:
    """Rank 1 never sees a garment."""
    model = opened(editor("editing_all")).train()
    assert model.diffusion_head is not None
    model.diffusion_head.editing = EditSettings(drop_pose=0.5, drop_garment=float(rank))
    return model


def batch(_seed: int) -> TryOnBatch:
    return tryon_batch()


def work(rank: int, store: str, out: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    plain, sharded = built(rank), built(rank)
    # plain DDP, without a search for unused parameters: a branch that one rank skipped would be an error or a hang
    expected = trained(plain, nn.parallel.DistributedDataParallel(Entry(plain, "tryon")), batch, rank, 0.02)
    shard(sharded, init_device_mesh("cpu", (2,)))
    found = trained(sharded, Entry(sharded, "tryon"), batch, rank, 0.02)
    difference = max(
        float((whole(a.detach()) - b.detach()).abs().max()) for a, b in zip(sharded.parameters(), plain.parameters())
    )
    torch.save({"expected": expected, "found": found, "difference": difference}, f"{out}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_train_the_branch_by_ddp_and_in_shards(tmp_path: Path) -> None:
    mp.start_processes(work, (str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2, start_method="spawn")
    for rank in (torch.load(tmp_path / f"out.{rank}") for rank in range(2)):
        assert rank["found"] == pytest.approx(rank["expected"], rel=2e-4)
        assert rank["difference"] < 1e-4
        assert rank["expected"][0] != rank["expected"][2]
