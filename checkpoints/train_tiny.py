"""How ``checkpoints/tiny`` was made: the bare configs with more epochs, then half precision.

    python checkpoints/train_tiny.py [--phase1-epochs N] [--phase2-steps N] [--tryon-steps N …] [--work FOLDER] [--keep phase1|phase2|tryon]

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
from unifashion_pl.metrics.records import read_records, write_records

HERE = Path(__file__).resolve().parent
STAGES = ("phase1", "phase2", "tryon")
CARD = {"data": "the toy wardrobe (drawn garments), seed 0", "licence": "apache-2.0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase1-epochs", type=int, default=6)
    parser.add_argument("--phase2-steps", type=int, default=180)
    parser.add_argument(
        "--tryon-steps", type=int, nargs="+", default=[4500, 7000], help="one number a round; each starts from the last"
    )
    parser.add_argument(
        "--keep", choices=STAGES, help="go on behind this stage of --work, or of the shipped model if --work has none"
    )
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
    if Path("runs/phase2").exists():
        composed, results = "runs/phase2", Path("runs/phase2/test/results.json")
        unifashion(["test", "--config", "phase2.yaml", "--ckpt_path", f"{composed}/checkpoints/last.ckpt"])
    else:
        composed, results = "tiny", HERE / "tiny/results.json"
    start = composed
    for number, steps in enumerate(args.tryon_steps if done < 3 else (), 1):
        unifashion(["fit", "--config", "tryon.yaml", "--trainer.max_steps", str(steps), "--model.init_from", start])
        if number < len(args.tryon_steps):
            start = f"runs/tryon-{number}"
            shutil.rmtree(start, ignore_errors=True)
            Path("runs/tryon").rename(start)
    ckpt = ["--ckpt_path", "runs/tryon/checkpoints/last.ckpt"]
    unifashion(["test", "--config", "tryon.yaml", *ckpt, "--data.pairs", "false", "--model.evaluator.max_edits", "null"])
    edits = [record for record in read_records("runs/tryon/test/results.json") if record.protocol.startswith("vitonhd/")]
    kept = [record for record in read_records(results) if not record.protocol.startswith("vitonhd/")]
    write_records("results.json", [*kept, *edits])
    # the Q-Former stood still in the last stage: retrieval and captions are phase 2's, the diffusion head is the last stage's
    parts = {"policy": "phase2_composed", "init_from": [[composed, "runs/tryon"]]}
    model = UniFashionModule.from_config("tiny_edits.yaml", parts)
    model.save_pretrained(HERE / "tiny", torch.float16, results="results.json", **CARD)


if __name__ == "__main__":
    main()
