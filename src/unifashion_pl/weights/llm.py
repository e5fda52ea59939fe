"""Language models: Vicuna and LLaVA-1.5 folders -> a folder for ``LanguageModel(source=...)``; LoRA folders -> our caption head's names."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.weights.download import Download
from unifashion_pl.weights.ledger import Ledger, Report, compare

#: Prefix of the language model in ours.
LLM = "caption_head.language_model.model."
SHARD_SIZE = "4GB"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt",
)  # fmt: skip

#: LLaVA-1.5 in its own names, in those of transformers 4 and of transformers 5 -> LlamaForCausalLM.
LLM_RULES = (
    (r"language_model\.(model\..+|lm_head\..+)", r"\1"),
    (r"model\.language_model\.(.+)", r"model.\1"),
    (r"(model\.(?:layers|embed_tokens|norm)\..+|lm_head\..+)", r"\1"),
)
VISION = r"(model\.)?(vision_tower|mm_projector|multi_modal_projector)\..+|model\.image_newline"


def convert_llm(source: Download, folder: Path | None, report: Report) -> dict[str, Tensor]:
    """Write ``config.json``, sharded safetensors and the tokenizer's files, or, without a folder, only check them. Returns the tensors.

    Raises:
        ValueError: no config, missing or superfluous tensors.
    """
    ledger = Ledger(source.tensors)
    ledger.drop_matching(VISION, "LLaVA's own image side: here images reach the language model through Q-Former and adapter")
    ledger.drop_matching(r".*rotary_emb\.inv_freq", "a constant, computed anew")
    ledger.rename(LLM_RULES)
    ledger.close(source.path, report)
    write_llm(ledger.tensors, text_config(source), source.path, folder, report)
    if folder is not None and (generation := source.path / "generation_config.json").is_file():
        shutil.copyfile(generation, folder / generation.name)
    if not copy_tokenizer(source.path, folder):
        report.notes.append(
            "no tokenizer lies beside the weights: copy tokenizer.model or tokenizer.json into the imported folder"
        )
    return ledger.tensors


def write_llm(tensors: dict[str, Tensor], config: Any, path: Path, folder: Path | None, report: Report) -> None:
    """Compare tensors in transformers' names with the config's model; write both into ``folder``, if there is one.

    Raises:
        ValueError: missing, superfluous or misshapen tensors.
    """
    from huggingface_hub import save_torch_state_dict
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = model.state_dict()
    if config.tie_word_embeddings:
        _drop_tied(tensors, expected, path)
    compare(tensors, expected, path)
    report.folders = {".": f"language model of type {config.model_type}: LanguageModel(source=FOLDER)"}
    report.use = "Use: caption.language_model: {source: FOLDER}"
    if folder is not None:
        config.save_pretrained(folder)
        save_torch_state_dict(tensors, folder, max_shard_size=SHARD_SIZE)


def _drop_tied(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """An output head that the config ties to the embeddings is loaded from them.

    Raises:
        ValueError: it is another tensor in the file, which would be lost.
    """
    head, words = tensors.pop("lm_head.weight", None), tensors.get("model.embed_tokens.weight")
    expected.pop("lm_head.weight", None)
    if head is not None and words is not None and not torch.equal(head, words):
        raise ValueError(
            f"{path}/config.json ties lm_head to the embeddings (tie_word_embeddings), but its tensors differ. Nothing was written"
        )


def text_config(source: Download) -> Any:
    """The decoder's config; LLaVA's own says ``llava`` and holds Llama's fields, transformers' nests them.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoConfig

    fields = dict(source.config.get("text_config") or source.config)
    if not fields:
        raise ValueError(f"{source.path} has no config.json: sizes and kind of a language model stand there. Name its folder")
    kind = str(fields.pop("model_type", "llama"))
    kind = "llama" if kind.startswith("llava") else kind
    if source.config.get("text_config"):
        words = next((t for n, t in source.tensors.items() if n.endswith("embed_tokens.weight")), None)
        fields["vocab_size"] = fields.get("vocab_size", 32000) if words is None else words.shape[0]
    for name in ("architectures", "auto_map", "quantization_config", "transformers_version"):
        fields.pop(name, None)
    fields = {
        name: value for name, value in fields.items() if not name.startswith(("mm_", "image_", "vision_", "tune_mm", "use_mm"))
    }
    try:
        return AutoConfig.for_model(kind, **fields)
    except ValueError as error:
        raise ValueError(
            f"{source.path}/config.json names the model type {kind!r}, which transformers does not know"
        ) from error


def copy_tokenizer(source: Path, folder: Path | None) -> list[str]:
    """Copy a tokenizer's files into ``folder``, if there is one; returns their names."""
    here = source if source.is_dir() else source.parent
    found = [name for name in TOKENIZER_FILES if (here / name).is_file()]
    if folder is not None and found:
        folder.mkdir(parents=True, exist_ok=True)
        for name in found:
            shutil.copyfile(here / name, folder / name)
    return found


def peft_base_names(names: Iterable[str]) -> dict[str, str]:
    """Base weights of layers with LoRA in the names of peft before 0.6 -> today's, with ``base_layer``."""
    names = list(names)
    adapted = {match[1] for name in names if (match := re.fullmatch(r"(.+)\.lora_A\..+", name))}
    split = ((name, *name.rpartition(".")) for name in names)
    return {name: f"{module}.base_layer.{leaf}" for name, module, _, leaf in split if module in adapted}


def llama(**sizes: Any) -> Any:
    """transformers' Llama of these sizes on the meta device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**sizes))


def check_llama(tensors: Mapping[str, Tensor], path: str) -> None:
    """The language model inside a UniFashion checkpoint against transformers' Llama at the sizes that it shows.

    Raises:
        ValueError: missing, superfluous or misshapen tensors.
    """
    from peft import LoraConfig, get_peft_model

    own = {name.removeprefix(LLM): t for name, t in tensors.items() if name.startswith(LLM)}
    if not own:
        return
    plain = {n.removeprefix("base_model.model.").replace(".base_layer.", "."): t for n, t in own.items()}
    try:
        words, ffn = plain["model.embed_tokens.weight"], plain["model.layers.0.mlp.gate_proj.weight"]
        keys = plain["model.layers.0.self_attn.k_proj.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"{path} holds half a language model: {error.args[0]} is missing. Nothing was written") from error
    head = math.gcd(words.shape[1], keys)
    layers = 1 + max(int(n.split(".")[2]) for n in plain if n.startswith("model.layers."))
    model = llama(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        intermediate_size=ffn.shape[0],
        num_hidden_layers=layers,
        num_attention_heads=words.shape[1] // head,
        num_key_value_heads=keys // head,
        bos_token_id=None,
        eos_token_id=None,
    )
    lora = {n.split(".lora_")[0].rsplit(".", 1)[1]: t.shape[0] for n, t in own.items() if ".lora_A." in n}
    if lora:
        with torch.device("meta"):
            model = get_peft_model(model, LoraConfig(r=max(lora.values()), target_modules=sorted(lora)))
    compare(own, model.state_dict(), path)
