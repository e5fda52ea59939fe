"""``unifashion weights check``: what a file or folder is, whether it is whole, and whether the manifest knows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.parts.fit import differences
from unifashion_pl.weights import blip2, ldm, llm
from unifashion_pl.weights.download import Download, open_download, recognise
from unifashion_pl.weights.importing import convert, reading_as
from unifashion_pl.weights.ledger import Ledger, Report
from unifashion_pl.weights.manifest import KINDS, QFORMER_KINDS, PublishedPart, digest, find, load_manifest

#: Vicuna-7B-v1.5 and the language model of LLaVA-1.5-7B.
LLAMA_7B: dict[str, Any] = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                            "num_attention_heads": 32}  # fmt: skip


@dataclass
class Found:
    """The outcome of a check.

    Attributes:
        path: what was looked at.
        kind: of :data:`~unifashion_pl.weights.manifest.KINDS`, None = none of them.
        complete: nothing is missing or unexplained, or the hash is that of a part which needs no import.
        problem: why it is not.
        as_published: every shape is that of the published model; None = there is no single published size.
        sha256: hashes by file.
        known: the manifest's part with one of these hashes.
        lines: the findings for people.
    """

    path: Path
    kind: str | None
    complete: bool = False
    problem: str = ""
    as_published: bool | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    known: PublishedPart | None = None
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        what = KINDS[self.kind] if self.kind else "none of the kinds that `weights import` takes"
        verdict = "complete" if self.complete else f"NOT COMPLETE: {self.problem}"
        return "\n".join([f"{self.path}: {what}" + (f" (--as {self.kind})" if self.kind else ""), *self.lines, verdict])


def check_weights(path: str | Path, *, progress: bool = False) -> Found:
    """Open a checkpoint as an import would, without writing anything.

    Raises:
        FileNotFoundError: nothing there, or half a download.
        ValueError: not a checkpoint, a damaged one, or one that holds more than tensors.
    """
    source = open_download(path)
    found = Found(Path(path), recognise(source))
    found.sha256 = {file.name: digest(file, progress) for file in source.files}
    found.lines.append(_contents(source))
    _check_structure(source, found)
    _check_hash(found)
    return found


def _contents(source: Download) -> str:
    tensors = [t for part in (source, *source.parts.values()) for t in part.tensors.values()]
    types = Counter(str(t.dtype).removeprefix("torch.") for t in tensors)
    size = sum(file.stat().st_size for file in source.files)
    wrapper = f", under {source.wrapper!r}" if source.wrapper else ""
    return (
        f"  {len(tensors):,} tensors{wrapper}, {sum(t.numel() for t in tensors):,} numbers ({', '.join(types)}), "
        f"{size / 1e6:,.1f} MB in {len(source.files)} file{'s' * (len(source.files) != 1)}"
    )


def _check_structure(source: Download, found: Found) -> None:
    if found.kind is None:
        found.problem = "its names are those of no kind, so nothing says what should be in it"
        return
    report = Report(found.kind, str(found.path))
    try:
        with reading_as(found.kind, found.path):
            tensors = convert(source, report)
    except ValueError as error:
        found.problem = str(error).removesuffix(". Nothing was written").removesuffix("; nothing was written")
        return
    found.complete = True
    found.lines.append("  an import would account for: " + ", ".join(f"{n:,} {a}" for a, n in report.counts().items() if n))
    found.lines += [f"  not in it: {part}: {reason}" for part, reason in report.absent.items()]
    found.lines += [f"  note: {note}" for note in report.notes]
    _check_size(found, tensors)


def _check_size(found: Found, tensors: Mapping[str, Tensor]) -> None:
    assert found.kind is not None
    published = published_tensors(found.kind)
    apart = differences(tensors, published)
    absent, both = len(apart.missing), len(published) - len(apart.missing)
    if not both:
        return
    found.as_published = not apart.other
    rest = f" ({absent:,} tensors of the published model are not in it)" if absent else ""
    size = f"the published one, {both:,} shapes are equal"
    if apart.other:
        example = ": ".join(next(iter(apart.other.items())))
        size = f"not the published one, {len(apart.other):,} of {both:,} shapes differ, e.g. {example}"
    found.lines.append(f"  size: {size}{rest}")


def _check_hash(found: Found) -> None:
    exact = [part for part in load_manifest() if part.sha256 and part.sha256 in found.sha256.values()]
    found.lines += [f"  sha256 {digest} {name}" for name, digest in found.sha256.items()]
    if exact:
        found.known = exact[0]
        found.lines.append(
            f"  it is {exact[0].name} ({exact[0].use}); licence {exact[0].licence}, commercial use: {exact[0].commercial}"
        )
        if found.kind is None:
            found.complete, found.problem = True, ""
        return
    licences = dict.fromkeys(f"{p.licence} (commercial use: {p.commercial})" for p in find(found.kind, found.sha256))
    may = f"; if it is what it looks like, its licence is {' or '.join(licences)}" if licences else ""
    found.lines.append(f"  the manifest knows no file with this hash{may}")


def blip2_peer() -> dict[str, Tensor]:
    """transformers' ``Blip2ForImageTextRetrieval`` as published, 809 tensors."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    vision = {
        "hidden_size": 1408,
        "intermediate_size": 6144,
        "num_hidden_layers": 39,
        "num_attention_heads": 16,
        "qkv_bias": True,
    }
    qformer = {"vocab_size": 30523, "encoder_hidden_size": 1408, "use_qformer_text_input": True}
    config = Blip2Config(vision_config=vision, qformer_config=qformer, num_query_tokens=32, image_text_hidden_size=256)
    with torch.device("meta"):
        return dict(Blip2ForImageTextRetrieval(config).state_dict())


def published_tensors(kind: str) -> Mapping[str, Tensor]:
    """Names of ours and tensors of a kind at its published size, from the peers' own classes on the meta device; empty where a kind has
    no single size."""
    if kind in QFORMER_KINDS or kind == "tower":
        ledger = Ledger(blip2_peer())
        blip2.map_hf(ledger)
        prefix = blip2.TOWER if kind == "tower" else ""
        return {name: tensor for name, tensor in ledger.tensors.items() if name.startswith(prefix)}
    return dict(llm.llama(**LLAMA_7B).state_dict()) if kind == "llm" else _diffusion(kind)


def _diffusion(kind: str) -> Mapping[str, Tensor]:
    unet: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
    unet["in_channels"] = 4 if kind == "sd" else ldm.EDITING_CHANNELS
    vae: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
    wanted = {"vae": vae} if kind == "vae" else {"unet": unet, "vae": vae}
    if kind == "sd":
        wanted["text_encoder"] = text
    if kind not in ("sd", "pbe", "vae", "stableviton"):
        return {}
    parts = {part: ldm.build_part(part, config) for part, config in wanted.items()}
    tensors = {f"{part}/{name}": t for part, model in parts.items() for name, t in model.state_dict().items()}
    if kind == "stableviton":
        tensors |= ldm.garment_reference(parts["unet"])
    return tensors
