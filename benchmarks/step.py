"""A training step of the Q-Former and the retrieval head beside the reference form of the same losses: forward and backward, one thread.

    python benchmarks/step.py                          # BLIP-2's size, 4 samples: 15 minutes
    python benchmarks/step.py --only trimmed           # one line
    python benchmarks/step.py --scale tiny             # seconds; its ratios say nothing

The reference form (``plainform.py``) is transformers' Q-Former with sdpa, which computes at the speed of its matrix products, called as LAVIS calls it: it
projects an image's keys and values in each pass that sees the image, pads texts to 32 tokens, and takes the language pass with queries and text
together. Both forms start from the tower's outputs, share their parameters, choose the hardest negatives and have no dropout, so that losses and
gradients have to be equal; they are compared before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from plainform import PlainForm
from sidebyside import Goal, in_turns
from torch import Tensor, nn

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.samples import PairBatch, TripletBatch
from unifashion_pl.optim import OptimSettings, build_optimizer, parameter_groups
from unifashion_pl.tasks import RetrievalModule


@dataclass(frozen=True)
class Scale:
    """Sizes: samples, image tokens and their width, tokens of padded texts, and of the longest text in them."""

    rows: int
    patches: int
    width: int
    padded: int
    longest: int
    vocab: int
    qformer: dict[str, Any]


SCALES = {
    "blip2": Scale(4, 257, 1408, 32, 16, 30523, {"initializer_range": 0.036}),
    "tiny": Scale(
        3, 9, 24, 12, 6, 1500,
        {"num_queries": 4, "hidden_size": 32, "num_layers": 4, "num_heads": 2, "intermediate_size": 64},
    ),
}  # fmt: skip


class NoTower(nn.Module):
    """In the place of a frozen tower, whose outputs are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.image_size = width, 224


@dataclass
class Case:
    """What a line of the table measures.

    Attributes:
        longest: tokens of the longest text; None = as many as the reference form pads to.
        triplets: phase 2 instead of phase 1. lm: with the Q-Former's language loss.
        kept: the reference form's language pass reads the image pass's keys and values, as LAVIS' does.
        wanted: ratio that has to be reached.
    """

    what: str
    wanted: float | None
    trimmed: bool = False
    triplets: bool = False
    lm: bool = False
    kept: bool = False


CASES = {
    "equal": Case("phase-1 step, texts of equal length", 1.35),
    "trimmed": Case("phase-1 step, texts trimmed", 1.6, trimmed=True),
    "lm": Case("phase-1 step with the language loss, texts trimmed", 1.9, trimmed=True, lm=True),
    "lm-equal": Case("phase-1 step with the language loss, texts of equal length", None, lm=True),
    "triplets": Case("phase-2 step, texts of equal length", None, triplets=True),
    "triplets-trimmed": Case("phase-2 step, texts trimmed", None, trimmed=True, triplets=True),
}


#: Not a case of losses: what makes a step of their gradients.
OPTIMIZER = "optimizer"


class Bench:
    """Both forms over one set of parameters, and the steps of a case."""

    def __init__(self, scale: Scale, rows: int | None = None) -> None:
        torch.manual_seed(0)
        self.scale, self.rows = scale, rows or scale.rows
        self.backbone = QFormerBackbone(NoTower(scale.width), vocab_size=scale.vocab, **scale.qformer).eval()  # type: ignore[arg-type]
        D = self.backbone.hidden_size
        self.head = RetrievalModule(hidden_size=D, negatives="argmax", lm_vocab=scale.vocab).eval()
        self.features = torch.randn(2, self.rows, scale.patches, scale.width)
        self.plain = PlainForm(self.backbone, self.head)

    def texts(self, longest: int, shift: int) -> list[str]:
        """Of the tiny tokenizer's whole words; the last is the longest, each other a token shorter."""
        words = ["red", "dress", "blue", "skirt", "long", "black", "green", "top", "white", "plain"]
        lengths = [longest - 2 - (self.rows - 1 - row) for row in range(self.rows)]
        return [" ".join(words[(shift + row + i) % len(words)] for i in range(n)) for row, n in enumerate(lengths)]

    def padded(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens = self.backbone.tokenize(texts)
        more = (0, self.scale.padded - tokens.ids.shape[1])
        return nn.functional.pad(tokens.ids, more), nn.functional.pad(tokens.mask, more)

    def steps(self, case: Case) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """The case's losses summed: ours, the reference form's."""
        scale = self.scale
        longest = scale.longest if case.trimmed else scale.padded
        texts, captions = self.texts(longest, 0), self.texts(longest, 3)
        same, plain = list(range(self.rows)), self.plain
        head = self.head if case.lm else None

        def total(losses: dict[str, Tensor]) -> Tensor:
            return torch.stack([loss for name, loss in losses.items() if head is not None or name != "lm"]).sum()

        if case.triplets:
            batch: Any = triplets(*self.features, texts, captions)
            reference = partial(plain.triplets, *self.features, self.padded(texts), self.padded(captions), same)
        else:
            batch = pairs(self.features[0], texts)
            reference = partial(plain.pairs, self.features[0], *self.padded(texts), same, case.lm)

        def ours() -> Tensor:
            kept, self.head.lm_head = self.head.lm_head, self.head.lm_head if case.lm else None
            try:
                return total(self.head.losses(self.backbone, batch, self.backbone.encode(batch)))
            finally:
                self.head.lm_head = kept

        return ours, lambda: total(reference())

    def step(self, losses: Callable[[], Tensor]) -> Tensor:
        """Forward and backward, from no gradients."""
        for parameter in self.parameters().values():
            parameter.grad = None
        loss = losses()
        loss.backward()
        return loss.detach()

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict([*self.backbone.named_parameters("backbone"), *self.head.named_parameters("head")])

    def equal(self, case: Case) -> tuple[float, float]:
        """The largest differences of both forms: of the loss, and of a parameter's gradient as a share of its norm; at most 1e-5 and 1e-4."""
        losses, grads = [], []
        for form in self.steps(case):
            losses.append(self.step(form))
            grads.append({n: None if p.grad is None else p.grad.clone() for n, p in self.parameters().items()})
        loss = float((losses[0] - losses[1]).abs())
        ours, theirs = ({n: torch.zeros(()) if g is None else g for n, g in found.items()} for found in grads)
        whole = torch.stack([g.norm() for g in theirs.values()]).norm()
        apart = torch.stack([(ours[n] - theirs[n]).norm() for n in ours]).norm() / whole
        return loss, float(apart)


def pairs(features: Tensor, texts: list[str]) -> PairBatch:
    rows = len(texts)
    return PairBatch(
        keys=[str(i) for i in range(rows)], images=features, texts=texts, captions=texts, styles=["fashiongen"] * rows,
        products=torch.arange(rows), pixels=None, categories=[""] * rows, subcategories=[""] * rows, dataset="synthetic",
    )  # fmt: skip


def triplets(references: Tensor, targets: Tensor, texts: list[str], captions: list[str]) -> TripletBatch:
    rows = len(texts)
    return TripletBatch(
        keys=[str(i) for i in range(rows)], references=references, targets=targets, texts=texts, captions=captions,
        styles=["fashioniq"] * rows, target_ids=torch.arange(rows), pixels=None, categories=[""] * rows, dataset="synthetic",
    )  # fmt: skip


def goal(bench: Bench, name: str, rounds: int) -> Goal:
    case = CASES[name]
    loss, grads = bench.equal(case)
    if max(loss, grads) > 1e-5:
        raise AssertionError(f"{name}: losses differ by {loss:.1e}, gradients by {grads:.1e}")
    ours, theirs = bench.steps(case)
    taken = in_turns({"ours": lambda: bench.step(ours), "reference": lambda: bench.step(theirs)}, rounds)
    ratio = taken["reference"] / taken["ours"]
    return Goal(
        case.what + (f" >= {case.wanted} x the reference form" if case.wanted else ""),
        f"{taken['ours']:.2f} s",
        f"reference form {taken['reference']:.2f} s",
        ratio,
        case.wanted,
        f"loss {loss:.0e}, gradients {grads:.0e}",
        f"python benchmarks/step.py --only {name}",
    )


def optimizer_goal(bench: Bench, rounds: int) -> Goal:
    """AdamW over all of both parts, as a training makes it, beside PyTorch's own choice of kernels on a CPU."""
    parts = [deepcopy(nn.ModuleDict({"backbone": bench.backbone, "head": bench.head})) for _ in range(2)]
    groups, _ = parameter_groups(parts[1], settings := OptimSettings())
    ours, plain = build_optimizer(parts[0], settings, 100)["optimizer"], torch.optim.AdamW(groups, lr=1e-3)
    for group in ours.param_groups:
        group["lr"] = group["initial_lr"]  # the schedule's first factor is small, and is not what is compared
    for number in range(3):
        for one, two in zip(*(part.parameters() for part in parts)):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(number))
            two.grad = one.grad.clone()
        ours.step()
        plain.step()
    apart = max(float((one - two).detach().abs().max()) for one, two in zip(*(part.parameters() for part in parts)))
    if apart > 1e-6:
        raise AssertionError(f"optimizer: parameters differ by {apart:.1e} after three steps")
    taken = in_turns({"ours": ours.step, "plain": plain.step}, rounds)
    count = sum(parameter.numel() for parameter in parts[0].parameters())
    return Goal(
        f"AdamW's step over {count / 1e6:.0f} million parameters",
        f"{1000 * taken['ours']:.0f} ms",
        f"torch.optim.AdamW {1000 * taken['plain']:.0f} ms",
        taken["plain"] / taken["ours"],
        None,
        f"parameters {apart:.0e} after three steps",
        f"python benchmarks/step.py --only {OPTIMIZER}",
    )


def measured(scale: str = "blip2", rows: int | None = None, rounds: int = 3, only: list[str] | None = None) -> Iterator[Goal]:
    """A line for each case, as soon as it is measured."""
    torch.set_num_threads(1)
    bench = Bench(SCALES[scale], rows)
    for name in only or [*CASES, OPTIMIZER]:
        yield optimizer_goal(bench, rounds) if name == OPTIMIZER else goal(bench, name, rounds)


def goals() -> list[Goal]:
    return list(measured())


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="blip2")
    parser.add_argument("--rows", type=int, help="samples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*CASES, OPTIMIZER])
    told = parser.parse_args(args)
    for line in measured(told.scale, told.rows, told.rounds, told.only):
        met = {True: "met", False: "MISSED", None: ""}[line.met]
        print(f"{line.goal} | {line.ours} | {line.peer} | {line.ratio:.2f} x {met} | {line.equal}", flush=True)


if __name__ == "__main__":
    main()
