"""What painting a person costs: the paper's way and faster ones, in one run and on the same weights, beside the counted floor.

    python benchmarks/generation.py                                   # reduced widths, 128 × 96, on the CPU
    python benchmarks/generation.py --scale paper --device cuda       # Stable Diffusion's widths, 512 × 384: one GPU of 24 GB or more
    python benchmarks/generation.py --scale paper --count             # FLOPs alone, on any machine
    python benchmarks/bench.py generation                             # the goals: the shipped model, some minutes

The weights are random (speed does not depend on them); the garment branch is open. Every variant paints
the same try-on rows from the same seeds by ``DiffusionModule.paint``: 3 encodings, the sampler's evaluations, 1 decoding. The first
one is the paper's way: PLMS of 50 steps, eager, float32, one picture at a time. Beside a variant stands how far its pictures are from that
one's: those that compute the same in another order have to be the same to 2 of 255 (else this exits with 1); other solvers and
precisions are other pictures, whose difference says nothing about quality, least of all with random weights. Times: median of the repeats
after a warm-up; on the CPU processor time, on a GPU wall time with the GPU waited for. The floor is the counted FLOPs over the rate of one
large product in the variant's precision, measured here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from sidebyside import Goal
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from unifashion_pl.data.samples import EditBatch
from unifashion_pl.generation import SD1_UNET, Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.generation.samplers import SAMPLERS, sample
from unifashion_pl.tasks import DiffusionModule

#: Seconds per image of the paper (Limitations), on an A100.
PAPER_SECONDS = 3.15
QUERIES = 32
TOLERANCE = 2
GIGA, TERA = 1e9, 1e12

REDUCED: dict[str, Any] = {
    "unet": {
        **SD1_UNET,
        "block_out_channels": [64, 128, 256],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 192,
    },
    "vae": {"block_out_channels": [32, 64, 64], "layers_per_block": 1},
    "text": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 4},
}
PAPER: dict[str, Any] = {
    "unet": SD1_UNET,
    "vae": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2},
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}


@dataclass(frozen=True)
class Variant:
    """One way to paint. ``exact``: it has to give the pictures of the first."""

    name: str
    sampler: str = "paper"
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    channels_last: bool = False
    batch: int = 1
    guidance: float = 1.0
    exact: bool = False


def build(parts: dict[str, Any], size: tuple[int, int]) -> DiffusionModule:
    """The paper's head with random weights; all zero convolutions are opened a little."""
    torch.manual_seed(0)
    levels = len(parts["vae"]["block_out_channels"])
    vae = {
        **parts["vae"],
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    head = DiffusionModule(
        denoiser=Denoiser(config=parts["unet"], in_channels=13, garment="branch"),
        vae=ImageVAE(config=vae),
        text_encoder=PromptEncoder(config={**parts["text"], "max_position_embeddings": 77}),
        query_width=parts["unet"]["cross_attention_dim"],
        size=size,
    )
    branch = head.denoiser.garment
    assert branch is not None
    with torch.no_grad():
        for conv in (branch.hint, *branch.zero_convs):
            nn.init.normal_(conv.weight, std=0.02)  # type: ignore[arg-type]
    return head.requires_grad_(False).eval()


def requests(n: int, size: tuple[int, int], device: str) -> EditBatch:
    """Noise for pictures; the middle is repainted."""
    generator = torch.Generator().manual_seed(1)
    person, pose, garment = torch.randint(0, 256, (3, n, 3, *size), dtype=torch.uint8, generator=generator).to(device)
    masks = torch.zeros(n, 1, *size, dtype=torch.bool, device=device)
    masks[..., size[0] // 4 : 3 * size[0] // 4, size[1] // 4 : 3 * size[1] // 4] = True
    yes = torch.ones(n, dtype=torch.bool, device=device)
    return EditBatch(
        images=garment, has_image=yes, texts=[""] * n, pixels=person, masks=masks, pose=pose, has_pose=yes,
        garments=garment, has_garment=yes, has_photo=yes,
    )  # fmt: skip


def counted(parts: dict[str, Any], size: tuple[int, int]) -> dict[str, float]:
    """FLOPs (2 × multiply-add) for one picture, on the meta device: an evaluation, an encoding, a decoding, what all evaluations share."""
    with torch.device("meta"):
        head = build(parts, size)
        context = torch.empty(1, QUERIES + 77, parts["unet"]["cross_attention_dim"])
        h, w = (side // head.vae.factor for side in size)
        z, t, keep = torch.empty(1, 4, h, w), torch.zeros(1, dtype=torch.long), torch.empty(1, 1, h, w)
        pixels = torch.empty(1, 3, *size, dtype=torch.uint8)
    branch: Any = head.denoiser.garment
    works: dict[str, Callable[[], Any]] = {
        "evaluation": lambda: head.denoiser(z, t, context, person=z, keep=keep, pose=z, garment=z),
        "evaluation without a garment": lambda: head.denoiser(z, t, context, person=z, keep=keep, pose=z),
        "encode": lambda: head.vae.encode(pixels),
        "decode": lambda: head.vae.model.decode(z),  # without a look at values, of which meta tensors have none
        # the keys and values of the context, and the hint
        "shared by all evaluations": lambda: [
            branch.hint(z),
            *(f(context) for m in (head.denoiser.unet, branch.encoder) for f in context_projections(m)),
        ],
    }
    found = {}
    for name, work in works.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work()
        found[name] = float(counter.get_total_flops())
    return found


def context_projections(model: nn.Module) -> list[nn.Module]:
    """Layers that read the context alone."""
    return [m for name, m in model.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]


def per_image(flops: dict[str, float], sampler: str, guided: bool) -> float:
    """FLOPs of a whole try-on picture."""
    return evaluations(sampler) * (2 if guided else 1) * flops["evaluation"] + 3 * flops["encode"] + flops["decode"]


def goals(rounds: int = 3) -> list[Goal]:
    """Closed gates, batches, diffusers' own pipeline, merged captions: see ``painting.py``."""
    import painting

    torch.set_num_threads(1)
    flops = counted(PAPER, (512, 384))
    with_garment, without = (flops[name] / GIGA for name in ("evaluation", "evaluation without a garment"))
    made = painting.closed_gate(with_garment, without, rounds) + painting.batches(rounds)
    return made + painting.against_diffusers(rounds) + painting.merged_captions(rounds)


def evaluations(sampler: str) -> int:
    """How often a preset asks the U-Net; 51 for the paper's 50 steps."""
    asked = []
    sample(lambda z, t: (asked.append(1), torch.zeros_like(z))[1], torch.zeros(1, 1, 2, 2), sampler=sampler)
    return len(asked)


def seconds(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Median; the caller has warmed up."""
    cuda = device.startswith("cuda")
    times = []
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter() if cuda else time.process_time()
        work()
        if cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() if cuda else time.process_time()) - start)
    return statistics.median(times)


def peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product."""
    n = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(seconds(lambda: a @ b, device, 3) for _ in range(5))


def set_up(head: DiffusionModule, weights: dict[str, Tensor], variant: Variant) -> None:
    """Put the head into a variant's form, always from the same float32 weights."""
    for part in (head.denoiser, head.vae):
        part._compiled_call_impl = None  # what nn.Module.compile sets
    torch._dynamo.reset()
    nn.Module.to(head, torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    head.load_state_dict(weights)
    shape = torch.channels_last if variant.channels_last else torch.contiguous_format
    for part in (head.denoiser, head.vae):
        nn.Module.to(part, variant.dtype, memory_format=shape)  # type: ignore[call-overload]
    if variant.compiled:
        cuda = head.null_context.is_cuda
        head.denoiser.compile(fullgraph=True, mode="reduce-overhead" if cuda else None)  # a graph break would be an error


def two_calls(head: DiffusionModule) -> Callable[..., Tensor]:
    """The denoiser asked for one row at a time: what guidance costs when it is no batched call."""

    def ask(latents: Tensor, timesteps: Tensor, **rows: Tensor) -> Tensor:
        parts = [
            head.denoiser(latents[i : i + 1], timesteps[i : i + 1], **{k: v[i : i + 1] for k, v in rows.items()})
            for i in range(len(latents))
        ]
        return torch.cat(parts)

    return ask


def variants(device: str, batches: list[int], compiled: bool) -> list[Variant]:
    """The paper's way first."""
    cuda = device.startswith("cuda")
    fast = [name for name in ("fast", "dpmpp") if name in SAMPLERS]
    found = [Variant("paper"), Variant("paper, channels_last", channels_last=True, exact=True)]
    if compiled:
        found.append(Variant("paper, compiled", compiled=True, exact=True))
    found += [Variant(f"paper, batch {n}", batch=n, exact=True) for n in batches if n > 1]
    found += [Variant("paper, guidance 5", guidance=5.0), *(Variant(name, sampler=name) for name in fast)]
    best = Variant("", dtype=torch.bfloat16 if cuda else torch.float32, compiled=compiled, channels_last=cuda)
    if cuda:
        found += [Variant("paper, bf16", dtype=torch.bfloat16), replace(best, name="paper, bf16, compiled, channels_last")]
    said = ", ".join(["bf16"] * cuda + ["compiled"] * compiled + ["channels_last"] * cuda)
    for name in fast:
        found += [
            replace(best, name=f"{name}{', ' * bool(said)}{said}, batch {n}", sampler=name, batch=n)
            for n in (batches if cuda else batches[-1:])
        ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("reduced", "paper"), default="reduced")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default 128 96, of the paper 512 384")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", help="default 1 4, on a GPU 1 4 16 32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    parser.add_argument("--count", action="store_true", help="count FLOPs and stop")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    torch.set_num_threads(1)
    parts = PAPER if args.scale == "paper" else REDUCED
    size = tuple(args.size or ((512, 384) if args.scale == "paper" else (128, 96)))
    flops = counted(parts, size)
    for name, value in flops.items():
        print(f"{name:<30} {value / GIGA:10.1f} GFLOP")
    shared = flops["shared by all evaluations"] / flops["evaluation"]
    print(f"keeping what evaluations share could save {shared:.1%}: it is computed anew")
    for name in ("paper", "fast", "dpmpp"):
        print(f"a picture by {name:<8} {evaluations(name)} evaluations, {per_image(flops, name, False) / TERA:8.3f} TFLOP")
    if args.count:
        return 0
    return measure(build(parts, size).to(args.device), flops, args, args.batches or ([1, 4, 16, 32] if cuda else [1, 4]))


@torch.no_grad()
def measure(head: DiffusionModule, flops: dict[str, float], args: argparse.Namespace, batches: list[int]) -> int:
    """Paint by every variant, print the table; 1 if one that has to be exact is not."""
    weights = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    rows = requests(max(batches), head.size, args.device)
    queries = torch.randn(max(batches), QUERIES, head.denoiser.context_width, generator=torch.Generator().manual_seed(2))
    queries = queries.to(args.device)
    todo = variants(args.device, batches, args.compiled)
    peaks = {dtype: peak(args.device, dtype) for dtype in {v.dtype for v in todo}}
    print(*(f"one large product, {dtype}: {rate / TERA:.3f} TFLOP/s" for dtype, rate in peaks.items()), sep="\n")
    print(f"{'variant':<46} {'s/image':>9} {'speed-up':>9} {'of peak':>8} {'floor s':>9}  {'max, mean difference of 255':>28}")
    truth: Tensor | None = None
    first, failed = 0.0, []
    for variant in tqdm(todo, desc="variants", disable=None):
        n = variant.batch
        set_up(head, weights, variant)
        part = rows[:n]

        def work(n: int = n, part: EditBatch = part, v: Variant = variant) -> Tensor:
            return head.paint(queries[:n], part, seeds=range(n), sampler=v.sampler, guidance=v.guidance)

        try:
            made = work().int()
        except torch.cuda.OutOfMemoryError:
            tqdm.write(f"{variant.name:<46} does not fit into the memory")
            continue
        took = seconds(work, args.device, args.repeats) / n
        truth, first = (made, took) if truth is None else (truth, first)
        difference = (made[:1] - truth).abs()
        work_flops = per_image(flops, variant.sampler, variant.guidance != 1.0)
        rate = peaks[variant.dtype]
        tqdm.write(
            f"{variant.name:<46} {took:9.3f} {first / took:8.2f}x {work_flops / took / rate:8.1%} {work_flops / rate:9.3f}  "
            f"{int(difference.max()):>13}, {float(difference.float().mean()):.3f}{' (has to be equal)' * variant.exact}"
        )
        if variant.exact and int(difference.max()) > TOLERANCE:
            failed.append(variant.name)
    guidance(head, weights, rows, queries, args)
    if args.scale == "paper":
        print(f"the paper: {PAPER_SECONDS} s on an A100")
    if failed:
        print(f"not the same pictures: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def guidance(
    head: DiffusionModule, weights: dict[str, Tensor], rows: EditBatch, queries: Tensor, args: argparse.Namespace
) -> None:
    """One evaluation with guidance, as one batched call and as two."""
    set_up(head, weights, Variant("guidance"))
    latents = torch.randn(2, 4, *(side // head.vae.factor for side in head.size), device=args.device)
    context = head.build_context(queries[:1], [""]).expand(2, -1, -1)
    t = torch.full((2,), 500, device=args.device)
    given = {"context": context, "person": latents, "pose": latents, "garment": latents}
    head.denoiser(latents, t, **given)
    together = seconds(lambda: head.denoiser(latents, t, **given), args.device, args.repeats)
    apart = seconds(lambda: two_calls(head)(latents, t, **given), args.device, args.repeats)
    same = (head.denoiser(latents, t, **given) - two_calls(head)(latents, t, **given)).abs().max()
    print(f"guidance as one batched call: {apart / together:.2f} x faster than as two (eps differs by {float(same):.0e})")


if __name__ == "__main__":
    raise SystemExit(main())
