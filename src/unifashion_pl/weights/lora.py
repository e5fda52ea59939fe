"""LoRA folders of peft -> our caption head's names, or added to their base model. What an adapter computes is what peft computes with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from unifashion_pl.parts.fit import Differences
from unifashion_pl.parts.rebuild import load_model
from unifashion_pl.weights.download import Download
from unifashion_pl.weights.ledger import Ledger, LedgerEntry, Report
from unifashion_pl.weights.llm import LLM, SHARD_SIZE, copy_tokenizer

#: Fields of adapter_config.json that say nothing about what the adapter computes.
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_type", "peft_version", "lora_dropout",
    "megatron_core", "qalora_group_size", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip
#: Fields that are used, with a base model and without.
USED = {
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "fan_in_fan_out",
}  # fmt: skip
#: Fields that peft uses when the adapter is added to its base.
MERGED = {
    "bias", "lora_bias", "modules_to_save", "use_dora", "init_lora_weights", "target_parameters", "trainable_token_indices",
}  # fmt: skip
#: Ways to start an adapter that leave the base model alone.
STARTS = (True, False, "gaussian", "eva", "orthogonal")
#: Among the settings of a report: what the adapter's product is multiplied by.
SCALE = "caption_head.language_model.lora"
NOTHING: tuple[Any, ...] = (None, False, "none", "", [], {})


@dataclass
class Adapter:
    """The fields of ``adapter_config.json`` that are used here.

    Attributes:
        r, rank_pattern: inner width, and others by regular expressions of layers' names.
        lora_alpha, alpha_pattern: the update is scaled by alpha / r, or alpha / sqrt(r) with ``use_rslora``.
        target_modules, exclude_modules, layers_to_transform, layers_pattern: which layers have an adapter.
    """

    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    lora_dropout: float = 0.0
    rank_pattern: dict[str, int] | None = field(default_factory=dict)
    alpha_pattern: dict[str, float] | None = field(default_factory=dict)
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None

    def scale(self, layer: str) -> tuple[int, float]:
        """Inner width and scale of a layer's adapter, by its name in the base model."""
        rank = _by_pattern(self.rank_pattern or {}, layer, self.r)
        alpha = _by_pattern(self.alpha_pattern or {}, layer, self.lora_alpha)
        return int(rank), alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _by_pattern(values: dict[str, Any], layer: str, usual: float) -> float:
    """As peft looks a layer up: the first pattern that its name ends with."""
    return next((value for pattern, value in values.items() if re.match(rf"(.*\.)?({pattern})$", layer)), usual)


def read_adapter(source: Download, *, merging: bool) -> Adapter:
    """The adapter's fields, each of which is used, harmless, or refused by name.

    Args:
        merging: peft adds it to its base model, and uses more of them.

    Raises:
        ValueError: no LoRA, a field that would be lost, or one of a wrong type.
    """
    where = source.path / "adapter_config.json"
    config = source.config
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{where} has peft_type {config.get('peft_type')!r}, expected LORA")
    known = HARMLESS | USED | (MERGED if merging else {"init_lora_weights"})
    lost = [f"{name}: {value!r}"[:80] for name, value in config.items() if name not in known and value not in NOTHING]
    if not merging and config.get("init_lora_weights", True) not in STARTS:
        lost.append(f"init_lora_weights: {config['init_lora_weights']!r}")  # it changed the base model too
    if lost:
        cure = "" if merging else ". Added to its base model by peft (--base FOLDER) it may be imported"
        raise ValueError(f"{where} holds {'; '.join(lost)}, which an import would lose{cure}. Nothing was written")
    try:
        adapter = msgspec.convert({name: value for name, value in config.items() if value is not None}, Adapter)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from error
    _check_fields(adapter, where)
    return adapter


def _check_fields(adapter: Adapter, where: Path) -> None:
    ranks = [adapter.r, *(adapter.rank_pattern or {}).values()]
    scales = [adapter.lora_alpha, *(adapter.alpha_pattern or {}).values()]
    if min(ranks) < 1 or not all(math.isfinite(scale) for scale in scales):
        raise ValueError(f"{where} has ranks {ranks} and alphas {scales}: expected ranks from 1 and finite alphas")
    for pattern in (*(adapter.rank_pattern or {}), *(adapter.alpha_pattern or {})):
        try:
            if len(pattern) > 500 or re.search(r"\)\s*[*+?{]", pattern):
                raise ValueError("repeated groups")
            re.compile(pattern)
        except (re.error, ValueError) as error:
            raise ValueError(
                f"{where} has the pattern {pattern[:100]!r} for names of layers, which is not read: {error}"
            ) from error


def map_lora(source: Download, report: Report) -> dict[str, Tensor]:
    """An adapter folder -> ``caption_head.language_model.model.*lora_[AB].default.weight`` at one rank and one scale.

    Our settings know one rank and alpha / rank. Where the adapter has others, narrower layers get rows and columns of zeros, and another
    scale goes into ``lora_B``: the product is peft's.

    Raises:
        ValueError: no LoRA, half of its pairs, or fields that would be lost.
    """
    adapter = read_adapter(source, merging=False)
    ledger = Ledger(source.tensors)
    pairs = _pairs(ledger.source, source.path)
    rank = max([adapter.r, *(adapter.scale(layer)[0] for layer in pairs)])
    alpha = int(adapter.lora_alpha) if adapter.lora_alpha in range(1, 1 << 30) else rank
    wrong = []
    for layer, (a, b) in pairs.items():
        own, scale = adapter.scale(layer)
        down, up = ledger.source[a], ledger.source[b]
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != own or up.shape[1] != own:
            wrong.append(f"{layer}: lora_A {tuple(down.shape)}, lora_B {tuple(up.shape)}, rank {own}")
            continue
        factor = scale / (alpha / rank)
        reason = "" if factor == 1 else f"times {factor:.6g}: the adapter's scale is {scale:.6g}"
        if own < rank:
            reason = "; ".join(filter(None, (reason, f"rank {own} filled up to {rank} with zeros")))
        target = f"{LLM}base_model.model.{layer}"
        ledger.move(a, f"{target}.lora_A.default.weight", torch.cat([down, down.new_zeros(rank - own, down.shape[1])]))
        up = up if factor == 1 else up.float() * factor
        ledger.move(b, f"{target}.lora_B.default.weight", torch.cat([up, up.new_zeros(len(up), rank - own)], 1), reason)
    if wrong:
        raise ValueError(f"{source.path}: {len(wrong)} layers of another rank than adapter_config.json says, e.g. {wrong[:2]}")
    ledger.close(source.path, report)
    report.settings[SCALE] = alpha / rank
    report.notes.append(
        f"build the language model with lora: {{rank: {rank}, alpha: {alpha}, dropout: {adapter.lora_dropout}, "
        f"target_modules: {_targets(adapter, pairs)}}}"
    )
    if (source.path / "non_lora_trainables.bin").is_file():
        report.notes.append(
            "non_lora_trainables.bin (LLaVA's projector of its own image side) was not read: it has no place here"
        )
    return dict(ledger.tensors)


def _pairs(tensors: Iterable[str], path: Path) -> dict[str, tuple[str, str]]:
    """Layer in the base model -> names of its two halves.

    Raises:
        ValueError: a half is missing.
    """
    found: dict[str, dict[str, str]] = {}
    for name in tensors:
        if match := re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight", name):
            found.setdefault(match[1], {})[match[2]] = name
    halves = [f"{layer}.lora_{side}" for layer in sorted(found) for side in "AB" if side not in found[layer]]
    if halves:
        raise ValueError(f"{path}: {len(halves)} halves of LoRA pairs missing {halves[:2]}")
    return {layer: (sides["A"], sides["B"]) for layer, sides in found.items()}


def _targets(adapter: Adapter, layers: Iterable[str]) -> list[str] | str:
    """``target_modules`` for our settings: the adapter's own, or where other fields narrow them down, the layers' full names."""
    narrowed = adapter.layers_to_transform not in (None, []) or adapter.exclude_modules or not adapter.target_modules
    if adapter.target_modules == "all-linear" and not narrowed:
        return "all-linear"
    if narrowed or isinstance(adapter.target_modules, str):
        return sorted(layers)
    return sorted(adapter.target_modules or ())


def merge_lora(source: Download, base: Path, folder: Path, report: Report) -> None:
    """Add a LoRA to its base model, as peft does, and write the sum as a plain language model.

    Raises:
        ValueError: the LoRA does not fit the base, or has fields that peft does not use.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    read_adapter(source, merging=True)
    try:
        model = load_model(AutoModelForCausalLM, base, dtype="auto", trust_remote_code=False)
    except Exception as error:  # of a damaged config transformers raises anything
        raise ValueError(
            f"{base} is no language model that can be loaded ({type(error).__name__}: {str(error)[:300]})"
        ) from error
    adapted: Any
    outcome: Any
    known = {k: v for k, v in source.config.items() if k in LoraConfig.__dataclass_fields__}
    try:
        adapted = get_peft_model(model, LoraConfig(**{**known, "inference_mode": True}))
        outcome = set_peft_model_state_dict(adapted, dict(source.tensors))
    except Exception as error:  # peft checks little of what a file says
        raise ValueError(f"{source.path} does not fit the base {base}: {str(error)[:300]}") from error
    gone = [name for name in outcome.missing_keys if "lora_" in name or "modules_to_save" in name]
    if apart := Differences(gone, outcome.unexpected_keys, {}):
        raise ValueError(f"{source.path} does not fit the base {base}: {apart}. Was it trained on another one?")
    adapted.merge_and_unload().save_pretrained(folder, max_shard_size=SHARD_SIZE)
    copy_tokenizer(base, folder)
    report.entries = [LedgerEntry("merged", (name,), (_base_tensor(name),), "added to its base") for name in source.tensors]
    fields = {name: value for name, value in source.config.items() if name in USED | MERGED and value not in NOTHING}
    report.notes = [f"merged into {base} ({', '.join(f'{name}: {value}' for name, value in sorted(fields.items()))})"]
    report.folders = {".": "language model with the LoRA added in: LanguageModel(source=FOLDER)"}
    report.use = "Use: caption.language_model: {source: FOLDER}"


def _base_tensor(name: str) -> str:
    """The base model's tensor that one of an adapter's belongs to."""
    return re.sub(r"\.lora_[A-Za-z_]+.*$", ".weight", name.removeprefix("base_model.model."))
