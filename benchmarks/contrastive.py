"""The contrastive loss over the best of 32 query tokens: ours beside one product with its maximum, and beside the released code's form.

    python benchmarks/contrastive.py                 # batches of 128, 512 and 2,048; two minutes
    python benchmarks/contrastive.py --scale tiny    # the same in seconds; its ratios mean nothing

Forward and backward in float32 on one thread, with the temperature's gradient and ids as in training; the peers have neither ids nor ranks. Time: this process's
processor time, variants in turns. Memory: how far the largest resident set of a process that does nothing else grows beyond what it was after a step
of 8 samples (inputs at hand, their gradients not yet), so allocator and workspaces count (Linux: VmHWM). Equal: the loss, and each gradient's difference over
its norm, to the form whose maximum gives the first of equal products the gradient, as ours and the released one do. ``amax`` shares it: among four million pairs
a few have two products that are equal in float32, and how far that takes its gradients away is said, not asserted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from sidebyside import Goal, in_turns
from torch import Tensor

from unifashion_pl.losses import itc_loss

TOKENS, WIDTH = 32, 256
Step = Callable[[], tuple[Tensor, ...]]
#: Batch -> the peers that are measured at it, and how many times better than each ours has to be (time, memory); None = for information.
PLAN: dict[int, dict[str, tuple[float | None, float | None]]] = {
    128: {"released": (100.0, None), "amax": (1.0, None)},
    512: {"amax": (None, None)},
    2048: {"amax": (2.0, 8.0)},
}
TINY: dict[int, dict[str, tuple[float | None, float | None]]] = {16: {"released": (None, None), "amax": (None, None)}}


def cross_entropies(similarities: Tensor, temperature: Tensor) -> Tensor:
    """Both directions of Eq. 3."""
    own = torch.arange(len(similarities))
    logits = similarities / temperature
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def released(text: Tensor, image: Tensor, temperature: Tensor) -> Tensor:
    """The released code: a product of each text with each image's tokens, by broadcasting."""
    products = torch.matmul(text[:, None, None], image.permute(0, 2, 1))
    return cross_entropies(products.squeeze(2).max(-1).values, temperature)


def amax(text: Tensor, image: Tensor, temperature: Tensor) -> Tensor:
    """One product of matrices and its maximum."""
    B, Q, E = image.shape
    return cross_entropies((text @ image.reshape(B * Q, E).T).view(-1, B, Q).amax(-1), temperature)


def first(text: Tensor, image: Tensor, temperature: Tensor) -> Tensor:
    """As :func:`amax`, with the gradient of ties that ours has."""
    B, Q, E = image.shape
    return cross_entropies((text @ image.reshape(B * Q, E).T).view(-1, B, Q).max(-1).values, temperature)


def ours(text: Tensor, image: Tensor, temperature: Tensor) -> Tensor:
    return itc_loss(text, image, temperature, ids=torch.arange(len(text)))


FORMS = {"ours": ours, "released": released, "amax": amax, "first": first}


def inputs(batch: int) -> list[Tensor]:
    """Texts, images and temperature: random directions, each image's tokens around its text."""
    drawn = torch.Generator().manual_seed(batch)
    text = F.normalize(torch.randn(batch, WIDTH, generator=drawn), dim=-1)
    image = torch.randn(batch, TOKENS, WIDTH, generator=drawn).add_(2 * text[:, None])
    return [text.requires_grad_(), F.normalize(image, dim=-1).requires_grad_(), torch.tensor(0.07, requires_grad=True)]


def step(form: str, given: list[Tensor]) -> tuple[Tensor, ...]:
    """Loss and gradients."""
    loss = FORMS[form](*given)
    return loss.detach(), *torch.autograd.grad(loss, given)


def difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> tuple[float, float]:
    """Of the losses, relative, and the largest of the gradients', over the norm of each."""
    apart = [float((one - other).norm() / other.norm()) for one, other in zip(found, expected)]
    return apart[0], max(apart[1:])


def grown(form: str, batch: int) -> float:
    """MiB by which the largest resident set of this process grows in a step."""
    step(form, inputs(8))
    given = inputs(batch)
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far was that of importing torch
    before = resident()
    step(form, given)
    return (resident() - before) / 1024


def resident() -> int:
    """The largest resident set of this process since it was last reset, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def memory(form: str, batch: int) -> float:
    """:func:`grown` of a process of its own."""
    told = [sys.executable, __file__, "--grown", form, "--batch", str(batch)]
    return float(subprocess.run(told, check=True, capture_output=True, text=True).stdout)


def goals(scale: str = "full", rounds: int = 3, batches: Collection[int] | None = None) -> list[Goal]:
    """Measure anew; time and memory of each batch (None = all of the scale) against each peer.

    Raises:
        AssertionError: loss or gradients differ from a peer's by more than 1e-6.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen = [batch for batch in (TINY if scale == "tiny" else PLAN) if batches is None or batch in batches]
        return [goal for batch in chosen for goal in measured(batch, scale, rounds)]
    finally:
        torch.set_num_threads(threads)


def equality(batch: int, given: list[Tensor], peers: Iterable[str]) -> dict[str, str]:
    """What was found equal, of each peer.

    Raises:
        AssertionError: as :func:`goals`.
    """
    found, equal = step("ours", given), {}
    for peer in peers:
        loss, grads = difference(found, step("first" if peer == "amax" else peer, given))
        assert max(loss, grads) <= 1e-6, (
            f"batch {batch}: the loss differs from {peer}'s by {loss:.1e}, gradients by {grads:.1e}"
        )
        shared = f" ({difference(found, step('amax', given))[1]:.0e} where it shares ties)" if peer == "amax" else ""
        equal[peer] = f"loss {loss:.0e}, gradients {grads:.0e}{shared}"
    return equal


def measured(batch: int, scale: str, rounds: int) -> list[Goal]:
    """The lines of one batch."""
    peers, given = (TINY if scale == "tiny" else PLAN)[batch], inputs(batch)
    equal = equality(batch, given, peers)
    variants: dict[str, Step] = {form: partial(step, form, given) for form in ("ours", *peers)}
    took = in_turns(variants, rounds)
    held = {form: memory(form, batch) for form in variants}
    command = "python benchmarks/contrastive.py " + ("--scale tiny" if scale == "tiny" else f"--batches {batch}")
    lines = []
    for peer, (faster, leaner) in peers.items():
        for what, values, unit, scaled, wanted in (("time", took, "ms", 1000, faster), ("memory", held, "MiB", 1, leaner)):
            mine, theirs = values["ours"], values[peer]
            goal = f"contrastive loss, batch {batch:,}, {what}" + ("" if wanted is None else f" ≥ {wanted:g} ×")
            texts = f"{mine * scaled:.4g} {unit}", f"{peer} {theirs * scaled:.4g} {unit}"
            lines.append(Goal(goal, *texts, theirs / max(mine, 1e-9), wanted, equal[peer], command))
    return lines


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", choices=tuple(PLAN), help="these alone, of the full scale")
    parser.add_argument("--grown", choices=tuple(FORMS), help="print the memory of one step of this form alone")
    parser.add_argument("--batch", type=int, default=2048, help="of --grown")
    told = parser.parse_args(args)
    torch.set_num_threads(1)
    if told.grown:
        print(grown(told.grown, told.batch))
        return
    print("| | ours | peer | times | equal |", "|---|---:|---:|---:|---|", sep="\n")
    for line in goals(told.scale, told.rounds, told.batches):
        print(f"| {line.goal} | {line.ours} | {line.peer} | {line.ratio:.3g} | {line.equal} |")


if __name__ == "__main__":
    main()
