"""How ``checkpoints/tiny`` was made: the bare configs with more epochs, then half precision.

    python checkpoints/train_tiny.py [--phase1-epochs N] [--phase2-steps N] [--tryon-steps N] [--work FOLDER] [--keep phase1|phase2|tryon]

It writes ``config.json``, ``model.safetensors`` and ``results.json`` (its test results) into ``checkpoints/tiny``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from unifashion_pl import UniFashionModule
from unifashion_pl.cli import main as unifashion

HERE = Path(__file__).resolve().parent
STAGES = ("phase1", "phase2", "tryon")
CARD = {"data": "the toy wardrobe (drawn garments), seed 0", "licence": "apache-2.0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase1-epochs", type=int, default=6)
    parser.add_argument("--phase2-steps", type=int, default=180)
    parser.add_argument("--tryon-steps", type=int, default=0, help="0: without try-on, as the shipped model")
    parser.add_argument("--keep", choices=STAGES, help="go on behind this stage, which stands in --work")
    parser.add_argument("--work", type=Path, default=Path("tiny-work"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)
    done = 0 if args.keep is None else STAGES.index(args.keep) + 1
    if done < 1:
        unifashion(["fit", "--config", "phase1.yaml", "--trainer.max_epochs", str(args.phase1_epochs)])
    if done < 2:
        steps = ["--trainer.max_steps", str(args.phase2_steps)]
        unifashion(["fit", "--config", "phase2.yaml", *steps, "--model.init_from", "runs/phase1"])
    if done < 3 and args.tryon_steps:
        steps = ["--trainer.max_steps", str(args.tryon_steps)]
        unifashion(["fit", "--config", "tryon.yaml", *steps, "--model.init_from", "runs/phase2"])
    ckpt = "runs/phase2/checkpoints/last.ckpt"
    unifashion(["test", "--config", "phase2.yaml", "--ckpt_path", ckpt])
    if args.tryon_steps:
        # the Q-Former stood still in the last stage: retrieval and captions are phase 2's, the diffusion head is the last stage's
        parts = {"policy": "phase2_composed", "init_from": [["runs/phase2", "runs/tryon"]]}
        model = UniFashionModule.from_config("tiny_edits.yaml", parts)
    else:
        model = UniFashionModule.from_pretrained(ckpt)
    model.save_pretrained(HERE / "tiny", torch.float16, results="runs/phase2/test/results.json", **CARD)


if __name__ == "__main__":
    main()
