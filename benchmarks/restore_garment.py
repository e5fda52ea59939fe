"""Real photos through the garment branch: a garment is hidden in its photo, and painted from another look at it.

    python benchmarks/restore_garment.py --clothing FOLDER --picture restored.png        # at most 40 minutes; 7 (--minutes) show it

FOLDER holds the CC0 clothing photos as ``clothing-*.tar`` and ``clothing.csv`` (image, label, split). A flood fill finds the garment, a
box over most of it is greyed, and the branch sees the same photo turned, smaller and shifted, so that nothing can be copied from the same
place. The context is empty: what is painted of the hidden garment can come from the branch alone. The U-Net and the autoencoder are the
shipped toys, which saw drawings only; all of the U-Net trains, the autoencoder stays.

Printed, over held-out photos and inside the box: mean error of the pixels, and of the box's mean colour (CIE Lab, ΔE), painted before and after
training, with the garment withheld, with another's garment, and what the autoencoder alone loses. The branch has learned to carry a
garment from elsewhere if "after" is better than "withheld" and "another's". Either way this is no try-on, as nobody wears anything here,
and at this size no detail is left.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor
from tqdm import tqdm

from unifashion_pl.data.samples import EditBatch
from unifashion_pl.data.transforms import PixelTransform
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.person.sketch import garment_mask, plausible
from unifashion_pl.tasks import DiffusionModule, EditSettings

GREY = 128
QUERIES, WIDTH = 1, 96


def load(clothing: Path, split: str, most: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Photos (N, 3, H, W) uint8 and boxes of their garments (N, 4) in pixels: left, top, right, bottom; unclear ones are left out."""
    with (clothing / "clothing.csv").open(encoding="utf-8") as file:
        wanted = {row["image"] for row in csv.DictReader(file) if row["split"] == split}
    fit = PixelTransform(size)
    photos, boxes = [], []
    bar = tqdm(total=most, desc=f"photos ({split})", unit="photo")
    for path in sorted(clothing.glob("clothing-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if len(photos) == most:
                    break
                if Path(member.name).name not in wanted:
                    continue
                content = tar.extractfile(member)
                assert content is not None
                pixels = fit(Image.open(io.BytesIO(content.read())))
                mask = garment_mask(Image.fromarray(pixels.movedim(0, -1).numpy()))
                if plausible(mask):
                    rows, columns = np.nonzero(mask)
                    boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                    photos.append(pixels)
                    bar.update()
    return torch.stack(photos), torch.tensor(np.array(boxes, int))


def seen(photo: Tensor, rng: random.Random) -> Tensor:
    """Another look at a photo: turned by up to 12 degrees, smaller, shifted; its border's colour around."""
    picture = Image.fromarray(photo.movedim(0, -1).numpy())
    fill = tuple(int(v) for v in np.median(np.asarray(picture)[[0, -1]].reshape(-1, 3), 0))
    scale, angle = rng.uniform(0.8, 1.0), np.deg2rad(rng.uniform(-12, 12))
    w, h = picture.size
    shift = rng.uniform(-0.08, 0.08) * w, rng.uniform(-0.08, 0.08) * h
    c, s = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = w / 2 + shift[0], h / 2 + shift[1]
    back = (c, s, w / 2 - c * x - s * y, -s, c, h / 2 + s * x - c * y)
    turned = picture.transform(picture.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR, fillcolor=fill)
    return torch.from_numpy(np.array(turned)).movedim(-1, 0)


def rows(photos: Tensor, boxes: Tensor, rng: random.Random) -> EditBatch:
    """Photos with a box over 75 to 100 % of the garment's sides to be painted, and the other look for the branch."""
    n, _, height, width = photos.shape
    masks = torch.zeros(n, 1, height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist()):
        w, h = (max(4, round(rng.uniform(0.75, 1.0) * side)) for side in (right - left, bottom - top))
        x, y = rng.randint(left, max(left, right - w)), rng.randint(top, max(top, bottom - h))
        mask[:, y : y + h, x : x + w] = True
    yes, no = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    return EditBatch(
        images=photos[:, :, :1, :1],
        has_image=no,
        texts=[""] * n,
        pixels=photos,
        masks=masks,
        pose=torch.zeros_like(photos),
        has_pose=no,
        garments=torch.stack([seen(photo, rng) for photo in photos]),
        has_garment=yes,
        has_photo=yes,
        worn=masks,
    )


def painted(head: DiffusionModule, batch: EditBatch, steps: int) -> Tensor:
    """(B, 3, H, W) uint8, pasted back."""
    queries = torch.zeros(len(batch), QUERIES, WIDTH)
    made = head.paint(queries, batch, seeds=range(len(batch)), sampler="fast", steps=steps)
    return torch.where(batch.masks, made, batch.pixels)


def errors(made: Tensor, batch: EditBatch) -> tuple[float, float]:
    """Inside the boxes: mean absolute difference of pixels (0..255), mean distance of mean colours (ΔE 1976)."""
    pixel, colour = [], []
    for a, b, mask in zip(made, batch.pixels, batch.masks[:, 0]):
        mine, true = (x.movedim(0, -1)[mask].float().numpy() for x in (a, b))
        pixel.append(np.abs(mine - true).mean())
        colour.append(np.linalg.norm(rgb2lab(mine / 255).mean(0) - rgb2lab(true / 255).mean(0)))
    return float(np.mean(pixel)), float(np.mean(colour))


def train(head: DiffusionModule, photos: Tensor, boxes: Tensor, args: argparse.Namespace) -> tuple[int, float]:
    """Until the steps or the minutes are over; returns both."""
    parameters = [p.requires_grad_() for p in head.denoiser.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr)
    # few boxes and looks per photo, so that they come back and the autoencoder's cache spares it nearly all work
    rng, start, step, running = random.Random(0), time.monotonic(), 0, 1.0
    drawn = [rows(photos, boxes, random.Random(number)) for number in range(args.looks)]
    queries = torch.zeros(args.batch, QUERIES, WIDTH)
    head.train()
    with tqdm(total=args.steps, desc="training", unit="step") as bar:
        while step < args.steps and (spent := (time.monotonic() - start) / 60) < args.minutes:
            done = max(step / args.steps, spent / args.minutes)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1.0, (step + 1) / 50) * min(1.0, 4 * (1 - done) + 0.05)
            chosen = rng.sample(range(len(photos)), args.batch)
            losses = head.edit_losses(queries, rng.choice(drawn)[chosen])
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step, running = step + 1, running + 0.02 * (losses["q2i"].item() - running)
            bar.update()
            bar.set_postfix(loss=f"{running:.3f}")
    return step, (time.monotonic() - start) / 60


def sheet(columns: dict[str, Tensor], path: Path, shown: int, scale: int = 2) -> None:
    """One row per photo, one column per kind."""
    grid = torch.cat([torch.cat(list(column[:shown]), 1) for column in columns.values()], 2).movedim(0, -1).numpy()
    Image.fromarray(grid).resize((grid.shape[1] * scale, grid.shape[0] * scale), Image.Resampling.NEAREST).save(path)
    print(f"{path}: {' | '.join(columns)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clothing", type=Path, required=True)
    parser.add_argument("--picture", type=Path, default=Path("restored.png"))
    parser.add_argument("--size", type=int, nargs=2, default=(64, 48), metavar=("H", "W"), help="multiples of 16")
    parser.add_argument("--photos", type=int, default=1500)
    parser.add_argument("--held-out", type=int, default=48)
    parser.add_argument("--looks", type=int, default=3, help="boxes and other looks per photo")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    size = (args.size[0], args.size[1])
    head = DiffusionModule(
        denoiser=Denoiser(
            source="tiny",
            in_channels=13,
            garment="branch",
            garment_heads=1,
            garment_hint="latents",
            garment_positions=True,
            channels_last=True,
            prediction="v",
        ),
        vae=ImageVAE("tiny", cache=4 * args.looks * args.photos),
        text_encoder=PromptEncoder(source="tiny"),
        query_width=WIDTH,
        size=size,
        null_start="empty_prompt",
        drop_context=0.0,
        snr_gamma=0.004,
        noise_offset=0.5,
        editing=EditSettings(
            drop_garment=0.1, flow_weight=2.0, flow_temperature=1.0, flow_steps=1000, flow_places=[0, 1, 2, 3]
        ),
    )
    test = rows(*load(args.clothing, "validation", args.held_out, size), random.Random(1))
    made: dict[str, Any] = {
        "photo": test.pixels,
        "given": test.pixels.masked_fill(test.masks, GREY),
        "branch sees": test.garments,
    }
    made["before"] = painted(head, test, 20)
    steps, minutes = train(head, *load(args.clothing, "train", args.photos, size), args)
    made["after"] = painted(head, test, 20)
    made["withheld"] = painted(head, replace(test, has_garment=~test.has_garment), 20)
    made["another's"] = painted(head, replace(test, garments=test.garments.roll(1, 0)), 20)
    kept = torch.where(test.masks, head.vae.decode(head.vae.encode(test.pixels)), test.pixels)
    print(
        f"{steps} steps of {args.batch} in {minutes:.1f} min; {len(test)} held-out photos at {size[0]} × {size[1]}, inside the box:"
    )
    for name, pictures in {**dict(list(made.items())[3:]), "autoencoder alone": kept}.items():
        pixel, colour = errors(pictures, test)
        print(f"  {name:<18} mean pixel error {pixel:5.1f} of 255, mean colour ΔE {colour:5.1f}")
    sheet({**made, "autoencoder": kept}, args.picture, shown=10)


if __name__ == "__main__":
    main()
