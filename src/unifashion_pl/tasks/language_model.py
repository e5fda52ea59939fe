"""The decoder that writes captions: a causal language model with its tokenizer, frozen, optionally with LoRA adapters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from unifashion_pl.parts import rebuild
from unifashion_pl.parts.mapped import unfilled
from unifashion_pl.parts.tensors import floating
from unifashion_pl.parts.trust import Fields
from unifashion_pl.reading import read_json
from unifashion_pl.tasks.quantized import Quantized, leave_base_out, quantize

#: Fields of a config, or of a config in it, by which transformers fetches code to run, or reads more than the config.
REFUSED = (
    "auto_map", "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "_experts_implementation", "_experts_implementation_internal", "quantization_config",
)  # fmt: skip


@dataclass
class LoraSettings:
    """LoRA: rank and alpha of App. B; dropout and layers, of which the paper is silent, of the released code.

    Attributes:
        rank: inner width r of each adapter.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapters' input.
        target_modules: peft's ``all-linear`` (every Linear but the output head) or the names of layers.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    target_modules: str | list[str] = "all-linear"


class LanguageModel(nn.Module):
    """A causal language model and its tokenizer (the paper: Vicuna-1.5 by §4.1, LLaVA-1.5 by App. B; neither says of which size).

    Parameters loaded from ``source`` are frozen; LoRA adapters, whose names contain ``lora_``, are trainable float32. A model
    built from ``config`` without LoRA has nothing worth freezing and is left trainable.

    Args:
        source: hub id or folder, or ``tiny`` for the shipped tokenizer, which needs a ``config``.
        config: fields of a ``LlamaConfig``, or of the config class of another ``model_type`` (e.g. ``qwen2``): a randomly initialised
            model with the tokenizer of ``source``.
        lora: adapter settings, None = no adapters.
        dtype: of the base weights, e.g. ``bfloat16``.
        gradient_checkpointing: recompute activations in the backward pass.
        quantize: keep the linear layers of a ``source`` in four bits (``nf4``) or eight (``int8``), by bitsandbytes; adapters stay as they
            are. Checkpoints then lack the decoder (``leave_out: [llm]``), and adapters are never merged into it.

    Attributes:
        model: the transformers model, wrapped by peft when there are adapters.
        tokenizer: without a chat template; special tokens are placed by the caption head.
        width: H, the width of its embeddings.
    """

    part = "llm"

    def __init__(
        self,
        source: str = "tiny",
        *,
        config: Fields | None = None,
        lora: LoraSettings | None = None,
        dtype: str = "float32",
        gradient_checkpointing: bool = False,
        quantize: Quantized | None = None,
    ) -> None:
        super().__init__()
        if quantize is not None and config is not None:
            raise ValueError(
                "quantize is for published weights, which are frozen: name a source without a config, or leave it out"
            )
        torch_dtype = floating(dtype)
        if source == "tiny" and config is None:
            raise ValueError(
                "'tiny' is a tokenizer without a model: pass config={…} (fields of LlamaConfig), or a hub id or folder"
            )
        self.pretrained = config is None
        self.quantize = quantize
        self._shipped = source == "tiny"
        with rebuild.reading_source(self.part, source):
            self.tokenizer = load_llm_tokenizer(source)
            model: Any = _load(source, torch_dtype, quantize) if config is None else None
        if config is not None:
            ids = {name: getattr(self.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            usual = {"model_type": "llama", "vocab_size": len(self.tokenizer), **ids}
            model = _build(_config({**usual, **config}), torch_dtype)
        self.width: int = model.get_input_embeddings().embedding_dim
        if gradient_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if lora is not None:
            model = _with_lora(model, lora)
        self.model: Any = model
        if quantize is not None:
            leave_base_out(self)

    def blueprint(self) -> dict[str, bytes]:
        """The tokenizer, and of a model from a source its config."""
        files = {} if self._shipped else rebuild.tokenizer_files(self.tokenizer)
        if self.pretrained:
            config = self.model.config.to_diff_dict()
            fields = {name: value for name, value in config.items() if name not in REFUSED}
            files["config.json"] = json.dumps(fields, default=str).encode()
            files["generation_config.json"] = self.model.generation_config.to_json_string().encode()
        return files

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (…) -> input embeddings (…, H)."""
        return self.model.get_input_embeddings()(ids)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the adapters are part of the weights, which is the same function and a third of the calls; may be nested.

        Behind it the weights are the very tensors that they were, so that a training goes on as if nothing had been: adding and
        subtracting would leave the last bits changed. In the meantime memory holds both. Nothing is merged into weights of less than
        float32, where the sum would be rounded to them and captions be others, nor into sharded ones.
        """
        layers = self._adapted()
        kept = [layer.base_layer.weight.data for layer in layers]
        try:
            if layers:
                self.model.base_model.merge_adapter(safe_merge=True)  # into a copy
            yield
        finally:
            for layer, weight in zip(layers, kept):
                layer.base_layer.weight.data = weight
                layer.merged_adapters.clear()

    def _adapted(self) -> list[Any]:
        """Layers whose adapters can be merged now: all, or none."""
        found: list[Any] = [m for m in self.model.modules() if hasattr(m, "merged_adapters")]
        sharded = any(hasattr(m, "unshard") for m in self.model.modules())
        if sharded or any(m.merged or m.disable_adapters or m.base_layer.weight.dtype != torch.float32 for m in found):
            return []
        return found

    def logits(self, embeddings: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Input embeddings (B, T, H), mask (B, T) -> logits (B, keep, V) of the last ``keep`` positions."""
        # activations are recomputed in eval mode too: a frozen model, which stays in it, still passes gradients on. Transformers asks each
        # layer whether it trains; the layer alone is told so, not the dropout and the norms inside it
        layers = [m for m in self.model.modules() if getattr(m, "gradient_checkpointing", False) and not m.training]
        for layer in layers:
            layer.training = True
        try:
            return self.model(inputs_embeds=embeddings, attention_mask=mask, logits_to_keep=keep, use_cache=False).logits
        finally:
            for layer in layers:
                layer.training = False


def load_llm_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """``tiny`` (shipped byte-level BPE), a folder or a hub id; a tokenizer without a padding token pads with its end token."""
    if source == "tiny":
        with as_file(files("unifashion_pl.configs") / "tiny_llm_tokenizer.json") as path:
            special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
            return PreTrainedTokenizerFast(tokenizer_file=str(path), **special, clean_up_tokenization_spaces=False)
    tokenizer = AutoTokenizer.from_pretrained(rebuild.blueprint_of("llm") or source, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load(source: str, dtype: torch.dtype, quantized: Quantized | None) -> PreTrainedModel:
    """The frozen model of a source; of a saved one, which brings its own tensors, only as its config describes it."""
    folder = rebuild.blueprint_of("llm")
    if folder is None:
        model: Any = rebuild.load_model(AutoModelForCausalLM, source, dtype=dtype, trust_remote_code=False)
        if quantized is not None:
            quantize(model, quantized, dtype)
    else:
        config = _config(read_json(folder / "config.json", dict[str, Any], "a language model's config"))
        model = unfilled(partial(_build, config, dtype))
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.requires_grad_(False)


def _build(config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def _config(fields: Mapping[str, Any]) -> PreTrainedConfig:
    """
    Raises:
        ValueError: a field that would fetch code or read more files.
    """
    if found := sorted(_refused(fields)):
        raise ValueError(
            f"a language model's config may not hold {', '.join(found)}: it is plain sizes and names of transformers'"
        )
    return AutoConfig.for_model(**fields)


def _refused(value: Any) -> set[str]:
    """The names of :data:`REFUSED` fields, at any depth."""
    if isinstance(value, Mapping):
        here = {name for name in REFUSED if value.get(name) is not None}
        return here.union(*map(_refused, value.values()))
    return set().union(*map(_refused, value)) if isinstance(value, list | tuple) else set()


def _with_lora(model: PreTrainedModel, settings: LoraSettings) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    rank, alpha, dropout, modules = settings.rank, settings.alpha, settings.dropout, settings.target_modules
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # peft reads it, which no user of this library can change
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        return get_peft_model(model, config, autocast_adapter_dtype=True)
