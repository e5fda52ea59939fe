"""What does a try-on model of the toy wardrobe make out through the noise, and where does its garment branch look?

    python benchmarks/toy_looks.py tiny                    # a model; "tiny runs/tryon": the model with a run's diffusion head
    python benchmarks/toy_looks.py tiny runs/tryon --rows 48

First table: squared error of the picture (latents, inside the mask) that the model makes out in one step from a noisy one, over the test's
persons, the garment shown and withheld. Sampling starts at timestep 999, where hardly anything but the conditions says what is there.

Second table: each of the branch's attentions, over training persons in whose pictures the garment's mask is known. Garments are drawn in
coordinates of their own, so that the true place of every cell is known too: mean distance from it in latents' cells, across and down; how
widely a cell looks around (standard deviation); and the squared error of the garment's photo carried to the person, in -1..1. Stripes
repeat every 2 to 3 cells.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from unifashion_pl.datamodules.wardrobe import WardrobeDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.data.samples import EditBatch, PairBatch, TryOnBatch
from unifashion_pl.generation.attention_losses import flow_error, grid_of, probabilities, recorded
from unifashion_pl.generation.placed_attention import centres
from unifashion_pl.generation.samplers import add_noise
from unifashion_pl.inference.persons import editing_head
from unifashion_pl.tasks import editing
from unifashion_pl.tasks.eval_mode import evaluating
from unifashion_pl.wardrobe.catalogue import SIZES
from unifashion_pl.wardrobe.drawing import flat_frame
from unifashion_pl.wardrobe.person import draw_figure, render_worn, worn_frame
from unifashion_pl.wardrobe.tryon import fabric_of, person_of, product_of

SIZE = (112, 80)
TIMESTEPS = (999, 900, 700)
SEED = 0


def batches(given: Any) -> Iterator[TryOnBatch]:
    """Paired try-on samples, wherever they lie in what loaders give."""
    if isinstance(given, TryOnBatch):
        if given.paired:
            yield given
    elif isinstance(given, Iterable) and not isinstance(given, PairBatch | Tensor | str):
        for part in given.values() if isinstance(given, dict) else given:
            yield from batches(part)


def true_places(number: int) -> Tensor:
    """(H, W, 2): where in the garment's picture a pixel of the person's lies, x and y in 0..1, as both were drawn."""
    width, height = SIZES["tryon"].tryon_size
    rng, product = person_of(SEED, number), product_of(SEED, number)
    figure, before = draw_figure(rng), random.Random()
    before.setstate(rng.getstate())
    worn = worn_frame(width, height, before, upper=True)
    render_worn(product, width, height, figure, rng, fabric_of(SEED, number), upper=True)
    flat = flat_frame(product, width, height, rng)
    scale = min(SIZE[0] / height, SIZE[1] / width)
    bars = [(side - round(drawn * scale)) // 2 for side, drawn in zip(SIZE, (height, width))]
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    dx = ((x + 0.5 - bars[1]) / scale - worn.cx) / worn.scale
    dy = ((y + 0.5 - bars[0]) / scale - worn.cy) / worn.scale
    c, s = np.cos(worn.tilt), np.sin(worn.tilt)
    units = np.stack([c * dx + s * dy, -s * dx + c * dy + worn.pivot], -1)
    there = flat.pixels(units.reshape(-1, 2)).reshape(*SIZE, 2) * scale + (bars[1], bars[0])
    return torch.from_numpy(there / (SIZE[1], SIZE[0])).float()


class Looker:
    """A model in evaluation mode and its inputs for a batch."""

    def __init__(self, places: list[str]) -> None:
        parts = {"policy": "phase2_composed", "init_from": [places]}
        self.model = UniFashionModule.from_config("tiny_edits.yaml", parts).eval()
        self.head = editing_head(self.model)

    def conditions(self, batch: EditBatch) -> dict[str, Tensor]:
        given = editing.encode_conditions(self.head.vae, self.head.denoiser, batch, sample=False)
        queries = self.model.backbone.encode(batch).queries
        return {**given, "context": self.head.build_context(queries, batch.texts, has_queries=batch.has_image)}

    def noisy(self, latents: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED))
        steps = torch.full((len(latents),), timestep)
        return add_noise(latents, noise, steps, self.head.denoiser.alpha_bar), steps


def made_out(looker: Looker, given: list[TryOnBatch], patterns: dict[str, str]) -> None:
    """The first table."""
    errors: dict[tuple[str, str, int], list[float]] = {}
    for batch in tqdm(given, desc="made out"):
        shown = editing.edit_batch(batch, ["tryon"] * len(batch))
        no = torch.zeros_like(shown.has_image)
        for name, rows in (("shown", shown), ("withheld", replace(shown, has_image=no, has_garment=no, has_photo=no))):
            with evaluating(looker.head):
                conditions = looker.conditions(rows)
                latents = looker.head.vae.encode(rows.pixels).float()
                hidden = 1 - conditions["keep"]
                for timestep in TIMESTEPS:
                    noisy, steps = looker.noisy(latents, timestep)
                    signal = looker.head.denoiser.alpha_bar[timestep]
                    picture = (noisy - (1 - signal).sqrt() * looker.head.denoiser(noisy, steps, **conditions)) / signal.sqrt()
                    error = ((picture - latents).square().mean(1, keepdim=True) * hidden).sum((1, 2, 3)) / hidden.sum((1, 2, 3))
                    for key, value in zip(batch.keys, error.tolist()):
                        kind = "plain" if patterns[key.partition("__")[0]] == "plain" else "patterned"
                        errors.setdefault((name, kind, timestep), []).append(value)
    print(f"| garment | its pattern | {' | '.join(f'at {t}' for t in TIMESTEPS)} | n |\n|---|---|---|---|---|---|")
    for name, kind in dict.fromkeys((name, kind) for name, kind, _ in errors):
        found = [errors[name, kind, t] for t in TIMESTEPS]
        print(f"| {name} | {kind} | {' | '.join(f'{np.mean(e):.3f}' for e in found)} | {len(found[0])} |")


def looks(looker: Looker, given: list[TryOnBatch], timestep: int) -> None:
    """The second table."""
    figures: dict[str, list[list[float]]] = {}
    latents_grid = (SIZE[0] // looker.head.vae.factor, SIZE[1] // looker.head.vae.factor)
    cells = torch.tensor([latents_grid[1], latents_grid[0]])
    assert looker.head.denoiser.garment is not None
    places = range(len(looker.head.denoiser.garment.places))
    for batch in tqdm(given, desc="looks"):
        rows = editing.edit_batch(batch, ["tryon"] * len(batch))
        assert rows.worn is not None
        truth = torch.stack([true_places(int(key.split("_")[0])) for key in batch.keys]).movedim(-1, 1)
        carried = F.grid_sample(
            rows.garments / 127.5 - 1, truth.movedim(1, -1) * 2 - 1, align_corners=False, padding_mode="border"
        )
        error = (carried - (rows.pixels / 127.5 - 1)).square().mean(1, keepdim=True)
        figures.setdefault("as drawn", []).append([0, 0, 0, 0, float((error * rows.worn).sum() / rows.worn.sum())])
        with evaluating(looker.head):
            conditions = looker.conditions(rows)
            noisy, steps = looker.noisy(looker.head.vae.encode(rows.pixels).float(), timestep)
            with recorded(looker.head.denoiser.garment, places) as found:
                looker.head.denoiser(noisy, steps, **conditions)
            for k in places:
                attention = probabilities(found[k])
                grid = grid_of(attention.shape[1], latents_grid)
                own = centres(grid)
                there = attention @ own
                spread = (attention @ own.square() - there.square()).clamp(min=0).sqrt().unflatten(1, grid)
                true = F.interpolate(truth, grid, mode="area").movedim(1, -1)
                inside = F.interpolate(rows.worn.float(), grid, mode="area")[:, 0] > 0.5
                values = [(x * cells)[inside].mean(0).tolist() for x in ((there.unflatten(1, grid) - true).abs(), spread)]
                flow = float(flow_error(attention, grid, rows.garments, rows.pixels, rows.worn))
                figures.setdefault(f"place {k} ({grid[0]} × {grid[1]})", []).append([*values[0], *values[1], flow])
                same = (own.unflatten(0, grid) - true).abs()[inside].mul(cells).mean(0).tolist()
                eye = torch.eye(attention.shape[1]).expand_as(attention)
                still = float(flow_error(eye, grid, rows.garments, rows.pixels, rows.worn))
                figures.setdefault(f"the same cell ({grid[0]} × {grid[1]})", []).append([*same, 0, 0, still])
    print(
        "\n| looked at | off across | off down | spread across | spread down | carried photo's error |\n|---|---|---|---|---|---|"
    )
    for name, values in figures.items():
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in np.mean(values, 0))} |")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+", help="init_from: a name or folder, later ones over the first")
    parser.add_argument("--rows", type=int, default=64, help="training persons of the second table")
    parser.add_argument("--timestep", type=int, default=900, help="of the second table")
    args = parser.parse_args()
    looker = Looker(args.model)
    data = {"size": "tryon", "pairs": False, "tryon": True, "image_size": 64, "pixel_size": (64, 64), "tryon_pixel_size": SIZE}
    module = WardrobeDataModule(**data, batch_size=16, tryon_batch_size=16, num_workers=0)
    module.prepare_data()
    truth = json.loads((module.folder / "raw/wardrobe.json").read_text("utf-8"))["truth"]["viton-hd"]
    module.setup("test")
    made_out(looker, list(batches(module.test_dataloader())), {name: values["pattern"] for name, values in truth.items()})
    module.setup("fit")
    training: list[TryOnBatch] = []
    for batch in module.train_dataloader():
        training += batches(batch)
        if sum(map(len, training)) >= args.rows:
            break
    looks(looker, training, args.timestep)


if __name__ == "__main__":
    main()
