"""What painting costs with the shipped model: presets beside the paper's sampling, batches, closed gates, diffusers' own pipeline.

    python benchmarks/painting.py                    # the presets: speed, difference to the paper's sampling, errors against the truth
    python benchmarks/bench.py generation            # the goals

Persons are drawn anew (a wardrobe of another seed than the model learned from), so that there is a truth: the garment's own person. Times are processor
times of one thread. `goals` are printed by `generation.py`, whose functions count FLOPs at the paper's size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sidebyside import Goal, in_turns
from torch import Tensor, nn
from tqdm import tqdm
from unifashion_pl.datamodules import VitonHDDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.data.samples import EditBatch, TryOnBatch
from unifashion_pl.evaluation.persons import scores
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.generation.samplers import PROCESS, SAMPLERS, Sampler, sample, start_noise
from unifashion_pl.inference.requests import TOGETHER, edit_queries
from unifashion_pl.tasks import DiffusionModule, editing
from unifashion_pl.wardrobe.catalogue import SIZES, WardrobeSpec
from unifashion_pl.wardrobe.tryon import write_vitonhd

#: Of the drawn wardrobe; the shipped model learned from seed 0.
WARDROBE = 7
COMMAND = "python benchmarks/bench.py generation"
#: Further settings that were tried beside the presets.
TRIED: dict[str, tuple[str, int]] = {
    **{name: (name, preset.steps) for name, preset in SAMPLERS.items()},
    **{f"{name} {steps}": (name, steps) for name in ("fast", "dpmpp", "dpmpp_karras") for steps in (10, 8, 6)},
    "fast, channels_last": ("fast", SAMPLERS["fast"].steps),
}


@lru_cache(1)
def shipped() -> UniFashionModule:
    return UniFashionModule.from_pretrained("tiny").eval()


@lru_cache(4)
def persons(n: int) -> tuple[EditBatch, Tensor]:
    """n drawn persons to be dressed in their own garment, and their queries."""
    model = shipped()
    assert model.diffusion_head is not None
    with tempfile.TemporaryDirectory() as place:
        spec = WardrobeSpec(tryon_train=1, tryon_test=n, tryon_size=SIZES["tryon"].tryon_size)
        write_vitonhd(Path(place), spec, WARDROBE, lambda function, jobs: iter([function(*job) for job in jobs]))
        size = model.backbone.vision.image_size
        data = VitonHDDataModule(Path(place), pixel_size=model.diffusion_head.edit_size, image_size=size, eval_batch_size=n)
        data.prepare_data()
        data.setup("test")
        loaders = data.test_dataloader()
        batches = [b for loader in (loaders if isinstance(loaders, list | tuple) else [loaders]) for b in loader]
        paired = [batch for batch in batches if isinstance(batch, TryOnBatch) and batch.paired]
    batch = editing.edit_batch(TryOnBatch.cat(paired), ["tryon"] * n)
    return batch, edit_queries(model, batch)


def paint(rows: Sequence[int], size: int, n: int, **settings: Any) -> Tensor:
    """Persons by number, ``size`` at once."""
    head, (batch, queries) = shipped().diffusion_head, persons(n)
    assert head is not None
    parts = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    return torch.cat([head.paint(queries[part], batch[part], seeds=part, **settings) for part in parts])


def furthest(a: Tensor, b: Tensor) -> str:
    """How far pictures are apart, of 255."""
    difference = (a.int() - b.int()).abs().float()
    return f"max {int(difference.max())}, mean {float(difference.mean()):.4f} of 255"


@torch.no_grad()
def presets(n: int, tried: dict[str, tuple[str, int]]) -> None:
    """Print the table of presets; all paint the same persons from the same noise."""
    rows, (batch, _) = list(range(n)), persons(n)
    head = shipped().diffusion_head
    assert head is not None
    mask = batch.masks.expand(-1, 3, -1, -1)
    reference: Tensor | None = None
    first = 0.0
    print(
        "| preset | evaluations | ms a picture | speed-up | difference inside the mask, mean / max of 255 | error against the truth | SSIM |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (sampler, steps) in tqdm(tried.items(), desc="presets", disable=None):
        shape = torch.channels_last if name.endswith("channels_last") else torch.contiguous_format
        nn.Module.to(head.denoiser, memory_format=shape)  # type: ignore[call-overload]
        start = time.process_time()
        made = paint(rows, TOGETHER, n, sampler=sampler, steps=steps)
        took = (time.process_time() - start) / n
        if reference is None:
            reference, first = made, took
        inside = (made.int() - reference.int()).abs()[mask]
        found = [scores(picture, batch.pixels[i], batch.masks[i]) for i, picture in enumerate(made)]
        error, ssim = (np.mean([one[key] for one in found]) for key in ("MAE(repainted)", "SSIM"))
        counted = f"{steps + (SAMPLERS[sampler].scheduler == 'PNDMScheduler')}"
        tqdm.write(
            f"| {name} | {counted} | {1e3 * took:.0f} | {first / took:.2f} × | {float(inside.float().mean()):.2f} / {int(inside.max())} "
            f"| {error:.1f} | {ssim:.3f} |"
        )


def always(rows: list[int], n: int, until: float) -> Tensor:
    """The garment branch at every step, its gate multiplied by 0 behind ``until``: what a closed gate used to cost."""
    head, (batch, queries) = shipped().diffusion_head, persons(n)
    assert head is not None
    batch = batch[rows]
    conditions = editing.encode_conditions(head.vae, head.denoiser, batch, sample=False)
    conditions["context"] = head.build_context(queries[rows], batch.texts, has_queries=batch.has_image)

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        gate = conditions["gate"] * (timesteps >= 1000 * (1 - until))
        out: Tensor = head.denoiser(latents, timesteps, **{**conditions, "gate": gate})
        return out

    noise = start_noise(rows, (4, *(side // head.vae.factor for side in head.edit_size)))
    return head.vae.decode(sample(predict, noise, sampler="fast"))


def ms(seconds: float, pictures: int = 1) -> str:
    return f"{1e3 * seconds / pictures:.0f} ms"


def closed_gate(gflop: float, without: float, rounds: int) -> list[Goal]:
    """Sketches read in a fifth of 20 steps: counted at the paper's size, timed with the shipped model.

    Args:
        gflop, without: of an evaluation at the paper's size, with and without a garment.
    """
    rows, until = [0, 1], 0.2
    works: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: paint(rows, 2, 4, sampler="fast", guidance=1.0, garment_until=until),
        "always": lambda: always(rows, 4, until),
    }
    same = furthest(works["ours"](), works["always"]())
    taken = in_turns(works, rounds)
    ours, peer = (4 * gflop + 16 * without) / 1e3, 20 * gflop / 1e3
    said = {"equal": f"pictures: {same}", "command": COMMAND}
    return [
        Goal("garment read in a fifth of 20 steps, 512 x 384, counted", f"{ours:.1f} TFLOP", f"gate times 0 {peer:.1f} TFLOP", peer / ours,
             1.5, limit="13.6 TFLOP", **said),
        Goal("the same, shipped model, 112 x 80", ms(taken["ours"], 2), f"gate times 0 {ms(taken['always'], 2)}",
             taken["always"] / taken["ours"], None, **said),
    ]  # fmt: skip


def batches(rounds: int, n: int = 4) -> list[Goal]:
    """The default batch beside one at a time, as a test painted."""
    rows, works = list(range(n)), dict[str, Callable[[], Tensor]]()
    for size in (TOGETHER, 1):
        works[str(size)] = lambda size=size: paint(rows, size, n, sampler="fast", guidance=1.0)  # type: ignore[misc]
    same, taken = furthest(works["1"](), works[str(TOGETHER)]()), in_turns(works, rounds)
    return [
        Goal(f"persons painted {TOGETHER} at once, shipped model", ms(taken[str(TOGETHER)], n), f"one at a time {ms(taken['1'], n)}",
             taken["1"] / taken[str(TOGETHER)], 1.3, f"pictures: {same}", COMMAND),
    ]  # fmt: skip


def pipeline_head() -> DiffusionModule:
    """A head of text alone with the shipped model's widths and random weights: what diffusers' pipeline can paint too."""
    head = shipped().diffusion_head
    assert head is not None
    torch.manual_seed(0)
    config = {name: value for name, value in head.denoiser.unet.config.items() if not name.startswith("_")}
    return DiffusionModule(
        denoiser=Denoiser(config={**config, "in_channels": 4}), vae=ImageVAE("tiny"), text_encoder=PromptEncoder(source="tiny"),
        context="text", size=(64, 64),
    ).eval()  # fmt: skip


def against_diffusers(rounds: int, n: int = TOGETHER) -> list[Goal]:
    """Texts, with guidance, by diffusers' eager pipeline one after another, and by ours in a batch."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    head, texts = pipeline_head(), ["Red dress with white dots.", "Blue shirt.", "Green skirt with stripes.", "Black top."][:n]
    preset: Sampler = SAMPLERS["paper"]
    pipe = StableDiffusionPipeline(
        vae=head.vae.model, text_encoder=None, tokenizer=None, unet=head.denoiser.unet,
        scheduler=PNDMScheduler(**{**PROCESS, **preset.arguments}), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # type: ignore[arg-type]  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    noise = start_noise(range(n), (4, 64 // head.vae.factor, 64 // head.vae.factor))

    def theirs(size: int) -> Tensor:
        made = []
        for i in range(0, n, size):
            context = head.build_context(None, texts[i : i + size])
            given = {"prompt_embeds": context, "negative_prompt_embeds": head.null_context.expand_as(context)}
            given |= {
                "height": 64,
                "width": 64,
                "num_inference_steps": 50,
                "guidance_scale": 7.5,
                "latents": noise[i : i + size],
            }
            made.append(torch.from_numpy(pipe(**given, output_type="np").images).permute(0, 3, 1, 2))
        return (torch.cat(made) * 255).round().to(torch.uint8)

    works: dict[str, Callable[[], Tensor]] = {"theirs": lambda: theirs(1), "theirs at once": lambda: theirs(n)}
    for name in ("paper", "fast"):
        works[name] = lambda name=name: head.generate(None, texts, seeds=range(n), guidance=7.5, sampler=name)  # type: ignore[misc]
    with torch.no_grad():
        made = {name: work() for name, work in works.items()}
        taken = in_turns(works, rounds)
    rows = (
        (
            "paper",
            "theirs at once",
            f"texts painted {n} at once, 50 steps, guidance (wanted of a GPU; here a CPU)",
            f"{n} at once",
            1.5,
        ),
        ("fast", "theirs at once", "the same, 20 steps instead of its 50 (wanted of a GPU; here a CPU)", f"{n} at once", 3.5),
        ("paper", "theirs", f"texts painted {n} at once, 50 steps, and its pipeline one by one", "one by one", None),
    )
    return [
        Goal(said, ms(taken[own], n), f"diffusers' eager pipeline {how} {ms(taken[peer], n)}", taken[peer] / taken[own], least,
             f"pictures: {furthest(made[own], made[peer])}", COMMAND)
        for own, peer, said, how, least in rows
    ]  # fmt: skip


def merged_captions(rounds: int, n: int = 8) -> list[Goal]:
    """Captions by beam search with LoRA merged into the weights and apart."""
    head = shipped().caption_head
    assert head is not None
    queries = edit_queries(shipped(), persons(4)[0])[[0, 1, 2, 3] * (n // 4)]
    merged = head.language_model.merged

    def write(how: Callable[[], Any]) -> list[str]:
        head.language_model.merged = how  # type: ignore[method-assign]
        try:
            return head.generate(queries, ["fashiongen"] * n, max_new_tokens=40)
        finally:
            head.language_model.merged = merged  # type: ignore[method-assign]

    same = write(merged) == write(nullcontext)
    taken = in_turns({"ours": lambda: write(merged), "apart": lambda: write(nullcontext)}, rounds)
    return [
        Goal(f"{n} captions, LoRA merged, shipped model", ms(taken["ours"], n), f"adapters apart {ms(taken['apart'], n)}",
             taken["apart"] / taken["ours"], None, "the same captions" if same else "OTHER captions", COMMAND),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=TRIED, help="beside the paper's")
    told = parser.parse_args()
    torch.set_num_threads(1)
    presets(told.persons, {name: TRIED[name] for name in ("paper", *(told.only or [x for x in TRIED if x != "paper"]))})


if __name__ == "__main__":
    main()
