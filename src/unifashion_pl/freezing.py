"""What trains: the paper's statements about freezing, which contradict each other, as named data.

A policy names the parts that train and the losses that are computed. Parts are patterns over parameter names of
:class:`unifashion_pl.UniFashionModule`, and say whose optimiser preset they follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from torch import nn

from unifashion_pl.names import plain, unknown

Family = Literal["cross", "itg", "q2i"]

Side = Literal["qformer", "vision", "llm", "diffusion", "further"]


@dataclass(frozen=True)
class Part:
    """Parameters that are frozen, optimised and counted together.

    Attributes:
        patterns: of their names.
        side: whose optimiser preset they follow.
        families: losses that reach them.
        module: where their module hangs in the model, if it may come from published weights.
    """

    patterns: tuple[str, ...]
    side: Side
    families: tuple[str, ...]
    module: str | None = None


_ALL: tuple[Family, ...] = ("cross", "itg", "q2i")
_RETRIEVAL = tuple(f"retrieval_head.{name}" for name in ("vision_proj.*", "text_proj.*", "itm_head.*", "temperature"))
_LLM, _DENOISER = "caption_head.language_model", "diffusion_head.denoiser"

#: The first part that matches a name owns it, so `lora` stands before `llm`, `unet_lora` before `unet`.
PARTS: dict[str, Part] = {
    "vision": Part(("backbone.vision.*",), "vision", _ALL, "backbone.vision"),
    "target_queries": Part(("backbone.target_query_tokens",), "qformer", _ALL),
    "encoder": Part(
        ("backbone.ln_vision.*", "backbone.qformer.*", "backbone.embeddings.*", "backbone.query_tokens"), "qformer", _ALL
    ),
    "text_tower": Part(("backbone.text_tower.*",), "vision", ("cross",), "backbone.text_tower"),
    "composition": Part(("retrieval_head.compose_proj.*",), "qformer", ("cross",)),
    "projections": Part(_RETRIEVAL, "qformer", ("cross",)),
    "lm_head": Part(("retrieval_head.lm_head.*",), "qformer", ("cross",)),
    "tsa_llm": Part(("caption_head.adapter.*",), "llm", ("itg",)),
    "lora": Part((f"{_LLM}.*lora_*",), "llm", ("itg",)),
    "llm": Part((f"{_LLM}.*",), "llm", ("itg",), _LLM),
    "tsa_diffusion": Part(("diffusion_head.adapter.*", "diffusion_head.null_context"), "diffusion", ("q2i",)),
    "unet_lora": Part((f"{_DENOISER}.unet.*lora_*",), "diffusion", ("q2i",)),
    "unet": Part((f"{_DENOISER}.unet.*",), "diffusion", ("q2i",)),
    "garment": Part((f"{_DENOISER}.garment.*",), "diffusion", ("q2i",)),
    "vae": Part(("diffusion_head.vae.*",), "diffusion", (), "diffusion_head.vae"),
    "clip_text": Part(("diffusion_head.text_encoder.*",), "diffusion", ("q2i",), "diffusion_head.text_encoder"),
}
#: The heads of this library.
OWN_HEADS = ("retrieval", "caption", "diffusion")
#: Names that ``also_train`` had for parts before they were called as they are.
OLDER_NAMES = {"heads": "projections"}


@dataclass(frozen=True)
class Policy:
    """One reading of what trains.

    Attributes:
        trains: parts with gradients; all others are frozen and in eval mode.
        losses: families that are computed: ``cross`` (ITC, ITM, L_cir), ``itg`` (captions), ``q2i`` (diffusion).
        source: where the paper or the released code says so.
        unreached: patterns inside trained parts that no active loss reaches and that plain DDP would complain about; ``{last}`` is
            the Q-Former's last layer, ``{lowest}`` and ``{above}`` are the U-Net's last two levels.
        within: patterns that train though their part does not.
        pairs_alone: phase 1, whose batches are image–text pairs.
    """

    trains: tuple[str, ...]
    losses: tuple[Family, ...]
    source: str
    unreached: tuple[str, ...] = field(default=())
    within: tuple[str, ...] = field(default=())
    pairs_alone: bool = False


_LAST_TEXT_FFN = ("backbone.qformer.encoder.layer.{last}.intermediate.*", "backbone.qformer.encoder.layer.{last}.output.*")
#: What the retrieval losses alone reach: targets' queries and the text's way behind the last attention; of pairs, which are read as text by
#: no other loss, all of the text's.
_MATCHED = ("backbone.target_query_tokens", *_LAST_TEXT_FFN)
_READ = (
    "backbone.embeddings.*",
    "backbone.qformer.encoder.layer.*.intermediate.*",
    "backbone.qformer.encoder.layer.*.output.*",
)
_UNET = "diffusion_head.denoiser.unet."
_NULL = "diffusion_head.null_context"
_DECODER = tuple(f"{_UNET}{part}.*" for part in ("up_blocks", "conv_norm_out", "conv_out"))
#: What a full copy of the encoder (garment="branch_full") has below the last feature that is read.
_UNREAD = tuple(
    f"diffusion_head.denoiser.garment.encoder.{part}.*"
    for part in ("mid_block", "down_blocks.{lowest}", "down_blocks.{above}.downsamplers")
)
_EDITING = ("garment", "tsa_diffusion")

POLICIES: dict[str, Policy] = {
    "phase1_retrieval": Policy(("encoder", "projections", "lm_head"), ("cross",), "§4.1 phase 1, first part"),
    "phase1_generative": Policy(("tsa_llm", "lora", "tsa_diffusion", "unet"), ("itg", "q2i"), "§1, §4.1 phase 1, App. B"),
    "phase1_llm": Policy(("tsa_llm", "lora"), ("itg",), "§4.1 phase 1, the LLM apart; App. B"),
    "phase1_diffusion": Policy(("tsa_diffusion", "unet"), ("q2i",), "§4.1 phase 1, the diffusion model apart; App. B"),
    "phase1_adapters": Policy(("tsa_llm", "tsa_diffusion"), ("itg", "q2i"), "§3.1.2"),
    "phase1_joint": Policy(
        ("encoder", "projections", "lm_head", "tsa_llm", "lora", "tsa_diffusion", "unet"),
        ("cross", "itg", "q2i"),
        "§3.1, Eq. 8",
        pairs_alone=True,
    ),
    "phase2_composed": Policy(
        ("encoder", "target_queries", "composition", "projections"), ("cross", "itg", "q2i"), "§1, §4.1 phase 2, Eq. 13"
    ),
    "phase2_adapters_diffusion": Policy(
        ("encoder", "target_queries", "composition", "projections", "tsa_llm", "tsa_diffusion", "unet", "garment"),
        ("cross", "itg", "q2i"),
        "§3.2.2",
    ),
    "editing_control": Policy(
        _EDITING, ("q2i",), "App. B, Fig. 3 as StableVITON trains it", unreached=_UNREAD, within=(f"{_UNET}conv_in.*",)
    ),
    "editing_decoder": Policy(
        _EDITING, ("q2i",), "App. B, with the decoder", unreached=_UNREAD, within=(f"{_UNET}conv_in.*", *_DECODER)
    ),
    "editing_all": Policy((*_EDITING, "unet"), ("q2i",), "App. B read literally", unreached=_UNREAD),
    "adapters": Policy(("tsa_diffusion",), ("q2i",), "§3.1.2, the diffusion side"),
    "tryon_qformer": Policy(("encoder",), ("q2i",), "§4.4", unreached=_LAST_TEXT_FFN),
    "released_vton": Policy(
        ("garment",),
        ("q2i",),
        "released editing code (its U-Net's conv_in never gets a gradient)",
        unreached=_UNREAD,
        within=(_NULL,),
    ),
    "lora": Policy(("tsa_diffusion", "unet_lora"), ("q2i",), "a cheap phase 1; not in the paper"),
    "panels": Policy((), ("q2i",), "CatVTON (2407.15886)", within=(f"{_UNET}*.attn1.*",)),
    "released_cls": Policy(("encoder", "composition", "projections", "lm_head"), ("cross",), "released code, CirCls"),
    "released_rerank": Policy(
        ("encoder", "target_queries", "composition", "projections"), ("cross",), "released code, CirRerank"
    ),
}


def find_policy(name: str) -> Policy:
    """Raises ValueError for a name that :data:`POLICIES` does not have."""
    if name not in POLICIES:
        raise ValueError(unknown("freeze policy", name, POLICIES))
    return POLICIES[name]


def part_of(name: str) -> str | None:
    """The part that owns a parameter, None for names outside every pattern. A head of somebody's own is a part under its name.

    >>> part_of("caption_head.language_model.model.layers.0.q_proj.lora_A.default.weight")
    'lora'
    """
    name = plain(name)
    found = next((key for key, part in PARTS.items() if any(fnmatchcase(name, pattern) for pattern in part.patterns)), None)
    head, _, inner = name.partition("_head.")
    return head if found is None and inner and head.isidentifier() and head not in OWN_HEADS else found


def part_named(name: str) -> Part:
    """A part of :data:`PARTS`, or that of a head of somebody's own."""
    return PARTS[name] if name in PARTS else Part((f"{name}_head.*",), "further", (name,))


def counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Part -> (trainable, frozen) parameters, in the order of the model; a tensor that has several names counts once."""
    found: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(part_of(name) or "?", [0, 0])[0 if parameter.requires_grad else 1] += parameter.numel()
    return {part: (trains, frozen) for part, (trains, frozen) in found.items()}


def apply_policy(
    model: nn.Module, policy: str, also_train: Iterable[str] = (), active: Iterable[str] | None = None
) -> set[str]:
    """Set ``requires_grad`` of every parameter. Call it before optimiser and DDP are built.

    Args:
        model: a UniFashionModule.
        policy: a key of :data:`POLICIES`.
        also_train: further parts, for models without pretrained parts (the tiny profile trains its own tower and LLM); parts
            that are not built are passed over.
        active: loss families whose heads exist and whose weights are not zero; default: the policy's. What none of them reaches is
            frozen: it would learn nothing, and plain DDP would wait for its gradients. A family beyond the policies' three is a head of
            somebody's own, which trains under every policy and is thought to read the backbone's queries.

    Returns:
        Names of the trainable parameters.

    Raises:
        ValueError: unknown policy or part; a parameter that no part owns; an active loss for which nothing trains.
    """
    chosen = find_policy(policy)
    further = {OLDER_NAMES.get(part, part) for part in also_train}
    own = {*(chosen.losses if active is None else active)} - {*_ALL}
    trains = {*chosen.trains, *further, *own}
    names = {name: part_of(name) for name, _ in model.named_parameters()}
    if orphans := [name for name, part in names.items() if part is None]:
        raise ValueError(f"no part of unifashion_pl.freezing.PARTS owns {len(orphans)} parameters, e.g. {orphans[:3]}")
    for part in sorted(further - set(PARTS)):
        raise ValueError(f"also_train: {unknown('part', part, PARTS)}")
    families = set(chosen.losses if active is None else active)
    reaching = families | ({*_ALL} if own else set())
    idle = {p for p in trains if not (reaching if part_named(p).families == _ALL else families) & set(part_named(p).families)}
    beyond = chosen.unreached if "cross" in families else (*chosen.unreached, *_MATCHED, *(_READ if chosen.pairs_alone else ()))
    unreached = tuple(pattern.format(**_numbers(model)) for pattern in beyond)
    trainable = set()
    for name, parameter in model.named_parameters():
        wanted = names[name] in trains - idle or any(fnmatchcase(name, w) for w in chosen.within)
        wanted = wanted and not any(fnmatchcase(name, u) for u in unreached)
        if wanted and not parameter.is_floating_point():
            raise ValueError(
                f"{name} is quantised and cannot train: take {names[name]} out of also_train, or quantize out of its settings"
            )
        parameter.requires_grad_(wanted)
        if wanted:
            trainable.add(name)
    for family in sorted(families):
        if not any(family in part_named(part).families for part in {names[n] for n in trainable} if part):
            raise ValueError(
                f"policy {policy!r} computes the {family!r} losses but freezes everything that could learn from them"
            )
    return trainable


def _numbers(model: Any) -> dict[str, int]:
    """Layers that patterns name: the Q-Former's last, the U-Net's lowest level and the one above it."""
    last = int(model.backbone.qformer.config.num_hidden_layers) - 1
    head = getattr(model, "diffusion_head", None)
    levels = 0 if head is None else len(head.denoiser.unet.config.block_out_channels)
    return {"last": last, "lowest": levels - 1, "above": levels - 2}


def left_out(model: Any) -> set[str]:
    """Names of a UniFashionModule's state that its checkpoints do not hold."""
    parts = set(model.leave_out)
    return {name for name in model.state_dict() if part_of(name) in parts} if parts else set()


def drop_unbuilt(model: nn.Module, state: dict[str, Any]) -> None:
    """Take the tensors of heads that a model was built without out of a checkpoint's state; a line names the heads."""
    unbuilt = {name.split(".")[0] for name in state if name.split(".")[0].endswith("_head")} - {
        name for name, _ in model.named_children()
    }
    for name in [name for name in state if name.split(".")[0] in unbuilt]:
        del state[name]
    if unbuilt:
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only(print)(f"weights: not built here, left out: {', '.join(sorted(unbuilt))}")


def check_left_out(model: Any) -> None:
    """Only what building the model brings back may be left out of its checkpoints.

    Raises:
        ValueError: ``leave_out`` names an unknown part, one that trains, or one that was not built from published weights; or it does not
            name a language model that is quantised.
    """
    decoder = getattr(getattr(model, "caption_head", None), "language_model", None)
    if getattr(decoder, "quantize", None) is not None and "llm" not in model.leave_out:
        raise ValueError(
            "the language model is quantised, and checkpoints cannot hold it so: add llm to leave_out, and it is read from its source again"
        )
    published = {name: part.module for name, part in PARTS.items() if part.module is not None}
    for part in model.leave_out:
        if part not in published:
            raise ValueError(f"leave_out: {unknown('part with published weights', part, published)}")
        if any(p.requires_grad and part_of(name) == part for name, p in model.named_parameters()):
            raise ValueError(f"leave_out names {part!r}, which trains: checkpoints have to hold it. Take it out of leave_out")
        module: Any = model
        for name in published[part].split("."):
            module = getattr(module, name, None)
        if module is not None and not module.pretrained:
            raise ValueError(
                f"leave_out names {part!r}, which has random weights that nothing but a checkpoint could bring back: name its "
                "published weights, or take it out of leave_out"
            )


M = TypeVar("M", bound=nn.Module)


def set_frozen_to_eval(module: M) -> M:
    """Put every part whose parameters are all frozen into eval mode: no dropout, no running statistics of batch norms.

    Returns:
        ``module``.
    """
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            part.eval()
    return module


#: Its name until 2026-11-29.
settle = set_frozen_to_eval
