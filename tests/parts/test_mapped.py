"""Loading holds a model once: files are read tensor by tensor, and what lies beside the weights is not read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unifashion_pl.parts.mapped import Pages, taken, unfilled
from unifashion_pl.parts.tensors import load_tensors, read_content, saved_on

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux alone")
#: Makes a model of some 300 MB with AdamW's two states beside it, then loads it in each way and prints what each needed at most.
MEASURE = """
import gc, json, re, sys, warnings
from pathlib import Path
import lightning as L, torch
from unifashion_pl import UniFashionModule
from unifashion_pl.resume import WholeCheckpointIO
from unifashion_pl.weights.loading import load_weights

warnings.simplefilter("ignore")
torch.set_num_threads(1)
folder = Path(sys.argv[1])
tower = {"name": "eva_giant_patch14_clip_224", "image_size": 28, "dtype": "bfloat16",
         "timm_kwargs": {"depth": 8, "embed_dim": 704, "num_heads": 8, "img_size": 28}}
sizes = {"hidden_size": 768, "num_layers": 4, "num_heads": 12, "intermediate_size": 3072}
vision = {"class_path": "unifashion_pl.backbone.VisionTower", "init_args": tower}
config = json.dumps({"model": {
    "backbone": {"class_path": "unifashion_pl.backbone.QFormerBackbone", "init_args": {"vision": vision, **sizes}},
    "retrieval": {"class_path": "unifashion_pl.tasks.RetrievalModule", "init_args": {"hidden_size": 768}},
    "policy": "phase1_retrieval"}})

def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def peak(work):
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    made = work()
    after = memory("VmHWM")
    del made
    gc.collect()
    return after - before

def restored():
    model = new()
    held = memory("VmRSS")
    content = WholeCheckpointIO(mapped=True).load_checkpoint(folder / "a.ckpt")
    model.on_load_checkpoint(content)
    model.load_state_dict(content["state_dict"])
    return model

def started(source):
    model = new()
    load_weights(model, str(source))
    return model

def new():
    return UniFashionModule.from_config([config])

if not (folder / "a.ckpt").exists():
    model = new()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "a.ckpt")
    content = torch.load(folder / "a.ckpt", weights_only=True)
    content["optimizer_states"] = [{"state": {i: {name: torch.ones_like(t, dtype=torch.float32) for name in ("exp_avg", "exp_avg_sq")}
                                              for i, t in enumerate(content["state_dict"].values())}}]
    torch.save(content, folder / "a.ckpt")
    model.save_pretrained(folder / "saved")
    sys.exit()
UniFashionModule.from_pretrained("tiny")  # what is imported late
model = UniFashionModule.from_pretrained(folder / "a.ckpt")
size = sum(t.nbytes for t in model.state_dict().values())
del model
ways = {"from_pretrained .ckpt": lambda: UniFashionModule.from_pretrained(folder / "a.ckpt"),
        "from_pretrained folder": lambda: UniFashionModule.from_pretrained(folder / "saved"),
        "load_from_checkpoint": lambda: UniFashionModule.load_from_checkpoint(folder / "a.ckpt"),
        "trainer": restored, "new": new,
        "init_from .ckpt": lambda: started(folder / "a.ckpt"), "init_from folder": lambda: started(folder / "saved")}
print(json.dumps({"size": size, "file": (folder / "a.ckpt").stat().st_size, **{name: peak(way) for name, way in ways.items()}}))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    folder = tmp_path_factory.mktemp("large")
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for _ in range(2):  # written by one process, read by another
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder)], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["from_pretrained .ckpt", "from_pretrained folder", "load_from_checkpoint"])
def test_loading_for_inference_holds_the_model_once(measured: dict[str, int], way: str) -> None:
    assert measured["size"] > 290e6
    assert measured["file"] > 3 * measured["size"]
    assert measured[way] < 1.3 * measured["size"], measured


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["trainer", "init_from .ckpt", "init_from folder"])
def test_a_model_that_is_there_needs_no_second_memory_for_its_weights(measured: dict[str, int], way: str) -> None:
    """A random tower is built in float32 before it is cast, which is more than what loading needs."""
    assert measured[way] < max(1.3 * measured["size"], measured["new"] + 0.1 * measured["size"]), measured


def resident(name: str) -> int:
    """KiB of the resident pages of mapped files of this name."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            here = line.endswith(name)
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@LINUX
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_was_copied_does_not_stay(tmp_path: Path, name: str) -> None:
    tensors = {"weight": torch.randn(1000, 1000), "bias": torch.randn(1000)}
    save_file(tensors, tmp_path / name) if name.endswith("safetensors") else torch.save(tensors, tmp_path / name)
    state, model = load_tensors(tmp_path / name), nn.Linear(1000, 1000)
    assert float(state["weight"].sum()) == float(tensors["weight"].sum())
    assert resident(name) > 3000
    model.load_state_dict(taken(model, state))
    assert resident(name) < 500
    assert all(torch.equal(own, tensors[name]) for name, own in model.state_dict().items())
    assert torch.equal(state["weight"], tensors["weight"])  # it is read again


def test_only_what_fits_is_taken_and_the_rest_is_left_to_be_refused() -> None:
    model = nn.Linear(2, 2)
    other = {"weight": torch.ones(3, 3), "bias": torch.ones(2, dtype=torch.float16), "more": torch.ones(1)}
    found = taken(model, other)
    assert found["weight"] is other["weight"]
    assert found["more"] is other["more"]
    assert model.bias.tolist() == [1.0, 1.0]
    assert found["bias"].dtype == torch.float32
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(found, strict=False)


def test_pages_of_other_memory_are_never_dropped(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(5000)}, tmp_path / "a.pt")
    content, own = read_content(tmp_path / "a.pt"), torch.full((5000,), 7.0)
    Pages().drop(own)
    assert own.eq(7).all()
    pages = Pages()
    del content
    pages.drop(own)
    assert own.eq(7).all()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.register_buffer("steps", torch.arange(3))
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)


def test_an_unfilled_module_has_shapes_types_ties_and_buffers_and_draws_nothing() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = unfilled(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), torch.bfloat16)
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta or p.any() for p in found.parameters())
    assert found[1].running_var.eq(1).all()
    tied = unfilled(Tied)
    assert tied.one.weight is tied.other.weight
    assert tied.steps.tolist() == [0, 1, 2]
    assert not tied.frozen.requires_grad
    assert tied.one.bias.requires_grad
    torch.manual_seed(0)
    torch.randn(2)
    assert not torch.equal(torch.get_rng_state(), before)  # of Tied alone


def test_modules_of_other_threads_are_left_alone() -> None:
    made: list[Any] = []

    def build() -> nn.Module:
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
        return nn.Linear(2, 2)

    unfilled(build)
    assert made[0].weight.any()


def test_on_the_meta_device_nothing_gets_memory() -> None:
    with torch.device("meta"):
        assert all(p.is_meta for p in unfilled(lambda: nn.Linear(2, 2)).parameters())


def test_the_device_of_a_checkpoint_is_known_without_moving_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "cpu.ckpt")
    assert saved_on(tmp_path / "cpu.ckpt") == "cpu"
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "gpu.ckpt")
    assert saved_on(tmp_path / "gpu.ckpt") == "cuda:0"
    assert read_content(tmp_path / "gpu.ckpt")["state_dict"]["a"].tolist() == [1, 1]
