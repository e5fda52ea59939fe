"""kill -9, twenty times at random moments, also in the middle of saving: what is there in the end is what one undisturbed run makes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from kills import killed_until_done

from unifashion_pl import UniFashionModule

KILLS = 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fit(tmp_path: Path) -> None:
    saver = {"dirpath": ".", "filename": "last", "enable_version_counter": False, "every_n_train_steps": 1}
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 60,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": ".", "name": "", "version": ""},
            },
            "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saver}],
        },
        "data": {"init_args": {"batch_size": 6, "size": "tiny", "root": str(tmp_path / "cache")}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = ["fit", "--config", "phase1.yaml", "--config", str(tmp_path / "config.yaml"), "--resume"]
    assert killed_until_done(line, tmp_path / "whole", 0, 0, 0) == 0
    assert killed_until_done(line, tmp_path / "killed", KILLS, 1, 3.0) == KILLS
    whole, killed = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=False)["state_dict"] for name in ("whole", "killed")
    )
    assert all(torch.equal(tensor, killed[name]) for name, tensor in whole.items())
    assert (tmp_path / "killed/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()
    assert not list((tmp_path / "killed").rglob("*.part"))


def content(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(pattern))}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_shards(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    killed_until_done(
        ["data", "wardrobe", "--out", str(raw), "--size", "tiny", "--products", "300", "--workers", "2"], tmp_path, 3, 0, 5
    )
    assert not list(tmp_path.glob(".raw.*.part"))
    for name, kills in (("whole", 0), ("killed", KILLS)):
        line = ["data", "shards", "fashiongen", "--root", str(raw / "fashiongen"), "--out", "shards", "--workers", "2"]
        assert killed_until_done(line, tmp_path / name, kills, 1, 0.15) == kills
    assert content(tmp_path / "killed/shards", "*.*") == content(tmp_path / "whole/shards", "*.*")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_predict(tmp_path: Path) -> None:
    config = {
        "trainer": {"accelerator": "cpu", "logger": False, "callbacks": [], "enable_progress_bar": False},
        "model": {
            "init_from": "tiny",
            "painter": {"class_path": "unifashion_pl.evaluation.Painter", "init_args": {"out": "out", "steps": 8}},
        },
        "data": {"init_args": {"size": "tiny", "root": str(tmp_path / "cache"), "eval_batch_size": 3}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = ["predict", "--config", "tryon.yaml", "--config", str(tmp_path / "config.yaml")]
    killed_until_done(line, tmp_path / "whole", 0, 0, 0)
    assert killed_until_done(line, tmp_path / "killed", KILLS, 1, 0.1) == KILLS
    whole = content(tmp_path / "whole/out", "*.*")
    assert len(whole) > 10
    assert content(tmp_path / "killed/out", "*.*") == whole


#: For every line of its input a child that saves two models in turn, until it is killed.
SAVER = """
import itertools, os, signal, sys
from unifashion_pl import UniFashionModule
model = UniFashionModule.from_config("phase1.yaml", {"policy": "phase1_retrieval", "caption": None, "diffusion": None})
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    if child := os.fork():
        print(child, flush=True)
        continue
    for number in itertools.count():
        model.backbone.query_tokens.data.fill_(float(number % 2))
        model.save_pretrained("saved", data=("even", "odd")[number % 2])
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_save_pretrained(tmp_path: Path) -> None:
    chance, seen, folder = random.Random(0), set(), tmp_path / "saved"
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert saver.stdin is not None
    assert saver.stdout is not None
    for _ in range(KILLS):
        print(file=saver.stdin, flush=True)
        child = int(saver.stdout.readline())
        while not folder.exists():
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
        tokens = UniFashionModule.from_pretrained(folder).backbone.query_tokens
        said = "odd" if "odd" in (folder / "README.md").read_text() else "even"
        assert set(tokens.detach().flatten().tolist()) == {float(said == "odd")}
        seen.add(said)
    assert seen == {"odd", "even"}
    saver.stdin.close()
    assert saver.wait(timeout=60) == 0
    UniFashionModule.from_pretrained(folder).save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
