"""How ``checkpoints/tiny`` was made: the bare configs with more epochs, then half precision.

    python checkpoints/train_tiny.py [--phase1-epochs N] [--phase2-steps N] [--work FOLDER]

It writes ``config.json``, ``model.safetensors`` and ``results.json`` (its test results) into ``checkpoints/tiny``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import torch

from unifashion_pl import UniFashionModule
from unifashion_pl.cli import main as unifashion

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase1-epochs", type=int, default=6)
    parser.add_argument("--phase2-steps", type=int, default=180)
    parser.add_argument("--keep-phase1", action="store_true", help="go on from the phase 1 that stands in --work")
    parser.add_argument("--work", type=Path, default=Path("tiny-work"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)
    if not args.keep_phase1:
        unifashion(["fit", "--config", "phase1.yaml", "--trainer.max_epochs", str(args.phase1_epochs)])
    unifashion(
        ["fit", "--config", "phase2.yaml", "--trainer.max_steps", str(args.phase2_steps), "--model.init_from", "runs/phase1"]
    )
    ckpt = "runs/phase2/checkpoints/last.ckpt"
    unifashion(["test", "--config", "phase2.yaml", "--ckpt_path", ckpt])
    UniFashionModule.from_pretrained(ckpt).save_pretrained(HERE / "tiny", torch.float16)
    shutil.copy("runs/phase2/test/results.json", HERE / "tiny" / "results.json")


if __name__ == "__main__":
    main()
