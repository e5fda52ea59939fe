"""Language models in GGUF files, as llama.cpp has them -> a folder for ``LanguageModel(source=...)``, dequantised once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unifashion_pl.arguments import choice
from unifashion_pl.weights.download import Download
from unifashion_pl.weights.gguf_file import GGUF, GGUFTensors
from unifashion_pl.weights.ledger import Ledger, Report
from unifashion_pl.weights.llm import copy_tokenizer, write_llm

#: Architectures whose names and arithmetic are told apart here: ours and transformers' name are the same.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
#: GGUF -> transformers, all three.
RULES = (
    (r"token_embd\.weight", "model.embed_tokens.weight"),
    (r"output_norm\.weight", "model.norm.weight"),
    (r"output\.weight", "lm_head.weight"),
    (r"blk\.(\d+)\.attn_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
    (r"blk\.(\d+)\.ffn_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
    (r"blk\.(\d+)\.attn_([qkv])\.(weight|bias)", r"model.layers.\1.self_attn.\2_proj.\3"),
    (r"blk\.(\d+)\.attn_([qk])_norm\.weight", r"model.layers.\1.self_attn.\2_norm.weight"),
    (r"blk\.(\d+)\.attn_output\.weight", r"model.layers.\1.self_attn.o_proj.weight"),
    (r"blk\.(\d+)\.ffn_(gate|up|down)\.weight", r"model.layers.\1.mlp.\2_proj.weight"),
)
#: Field of an architecture -> transformers'.
FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
#: Fields that say again what follows from others.
DERIVED = {"rope.dimension_count": "head_dim", "attention.value_length": "head_dim"}
NEEDED = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.layer_norm_rms_epsilon")
#: How texts are cut before pairs of bytes are merged: name in a file -> (pattern of an own cut or None, digits one by one).
CUTS: dict[str, tuple[str | None, bool]] = {
    "gpt-2": (None, False),
    "smollm": (None, True),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        False,
    ),
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        False,
    ),
}
#: Types of tokens.
CONTROL, OWN = 3, 4


def convert_gguf(source: Download, folder: Path | None, report: Report) -> Mapping[str, Tensor]:
    """Write config, sharded safetensors and tokenizer, or, without a folder, only check them. Returns the tensors.

    Llama's queries and keys lie in another order in the file, because llama.cpp rotates neighbours and transformers halves; they are put back.
    The chat template is a program and stays behind: captions are asked for by plain instructions.

    Raises:
        ValueError: another architecture, a field or tensor that is not known, missing or superfluous tensors.
    """
    file = opened(source)
    config = gguf_config(file)
    ledger = Ledger(source.tensors)
    if config.model_type == "llama":
        _order_back(ledger, config)
    for name in ledger.left:
        ledger.rename_one(name, RULES, _said(file, name))
    ledger.close(source.path, report)
    write_llm(ledger.tensors, config, source.path, folder, report)
    report.notes.append(f"quantised numbers are as exact as the file's, {_kinds(file)}; they are stored as float32")
    report.notes.append(_tokenizer(file, folder))
    return ledger.tensors


def opened(source: Download) -> GGUF:
    """The file behind a download."""
    if not isinstance(source.tensors, GGUFTensors):
        raise ValueError(f"{source.path} is no GGUF file: a folder of transformers is imported --as llm")
    return source.tensors.file


def gguf_config(file: GGUF) -> Any:
    """transformers' config of a file's model.

    Raises:
        ValueError: another architecture, fields that are missing, unknown, or no plain numbers.
    """
    from transformers import AutoConfig

    kind = choice(str(file.values.get("general.architecture")), f"architecture of {file.path}", ARCHITECTURES)
    own = {key.removeprefix(f"{kind}."): value for key, value in file.values.items() if key.startswith(f"{kind}.")}
    if absent := [key for key in NEEDED if key not in own]:
        raise ValueError(f"{file.path} lacks {kind}.{absent[0]}")
    if foreign := sorted(own.keys() - FIELDS.keys() - DERIVED.keys()):
        raise ValueError(
            f"{file.path} says {kind}.{foreign[0]} = {str(own[foreign[0]])[:60]}, which changes what its tensors compute and is not read here: "
            "import the model's own safetensors (--as llm)"
        )
    if wrong := [key for key, value in own.items() if type(value) not in (int, float) or not 0 < value < 1 << 31]:
        raise ValueError(f"{file.path}: {kind}.{wrong[0]} is {str(own[wrong[0]])[:60]}, expected one positive number")
    if own["block_count"] > len(file.places):
        raise ValueError(f"{file.path} says {own['block_count']:,} blocks and holds {len(file.places)} tensors: damaged?")
    fields = {FIELDS[key]: value for key, value in own.items() if key in FIELDS}
    fields.setdefault("vocab_size", len(file.values.get("tokenizer.ggml.tokens", ())) or 1)
    fields.setdefault("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
    for key, ours in DERIVED.items():
        if own.get(key, fields[ours]) != fields[ours]:
            raise ValueError(f"{file.path}: {kind}.{key} is {own[key]}, expected {fields[ours]} of every head")
    for name in ("bos", "eos", "pad"):
        number = file.values.get(f"tokenizer.ggml.{'padding' if name == 'pad' else name}_token_id")
        fields[f"{name}_token_id"] = number if type(number) is int and number < fields["vocab_size"] else None
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": float(fields.pop("rope_theta", 10000.0))}
    return AutoConfig.for_model(kind, **fields, tie_word_embeddings="output.weight" not in file.places)


def _order_back(ledger: Ledger, config: Any) -> None:
    for name in ledger.left:
        part = name.rsplit(".", 2)[-2] if "." in name else ""
        if part not in ("attn_q", "attn_k"):
            continue
        heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
        tensor = ledger.source[name]
        if tensor.shape[0] % (2 * heads):
            raise ValueError(f"{name} has {tensor.shape[0]} rows, which {heads} heads cannot share")
        ordered = tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
        ledger.rename_one(name, RULES, "dequantised, its halves behind each other again", ordered)


def _said(file: GGUF, name: str) -> str:
    kind = file.places[name].kind
    return "" if kind == "F32" else f"dequantised from {kind}"


def _kinds(file: GGUF) -> str:
    counted: dict[str, int] = {}
    for place in file.places.values():
        counted[place.kind] = counted.get(place.kind, 0) + 1
    return ", ".join(f"{count} tensors of {kind}" for kind, count in sorted(counted.items()))


def _tokenizer(file: GGUF, folder: Path | None) -> str:
    """Write the tokenizer beside the weights; returns a note about it. One that lies beside the file is taken as it is."""
    if found := copy_tokenizer(file.path, folder):
        return f"the tokenizer is that beside the file: {', '.join(found)}"
    model, cut = file.values.get("tokenizer.ggml.model"), str(file.values.get("tokenizer.ggml.pre", "gpt-2"))
    if model != "gpt2" or cut not in CUTS:
        return (
            f"the file's tokenizer is of a kind that is not read here ({model}, {cut}): copy tokenizer.json of the model's own repository "
            "into the imported folder"
        )
    tokenizer = gguf_tokenizer(file)
    if folder is not None:
        tokenizer.save_pretrained(folder)
    return f"the tokenizer is the file's: {len(tokenizer):,} tokens, cut as {cut}"


def gguf_tokenizer(file: GGUF) -> Any:
    """transformers' tokenizer of a file that merges pairs of bytes.

    Raises:
        ValueError: lists that do not fit each other, or ids outside of them.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words, merges, kinds = (file.values.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges", "token_type"))
    if not (isinstance(words, list) and isinstance(merges, list) and isinstance(kinds, list) and len(kinds) == len(words)):
        raise ValueError(f"{file.path} has no whole tokenizer: tokens, their types and merges do not fit each other")
    if not all(isinstance(x, str) for x in [*words, *merges]) or not all(m.count(" ") == 1 for m in merges):
        raise ValueError(f"{file.path} has a tokenizer whose merges are no pairs of texts")
    vocabulary = {word: number for number, word in enumerate(words)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if len(vocabulary) < len(words) or any(part not in vocabulary for pair in pairs for part in (*pair, "".join(pair))):
        raise ValueError(f"{file.path} has a tokenizer with a token twice, or with merges of tokens that it does not have")
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    pattern, digits = CUTS[str(file.values.get("tokenizer.ggml.pre", "gpt-2"))]
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    for kind in (CONTROL, OWN):
        added = [AddedToken(word, special=kind == CONTROL, normalized=False) for word, own in zip(words, kinds) if own == kind]
        (tokenizer.add_special_tokens if kind == CONTROL else tokenizer.add_tokens)(added)
    special = {}
    for name, ours in {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}.items():
        number = file.values.get(f"tokenizer.ggml.{name}_token_id")
        if type(number) is int:
            if number >= len(words):
                raise ValueError(f"{file.path}: {name}_token_id is {number} of {len(words)} tokens")
            special[f"{ours}_token"] = words[number]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, clean_up_tokenization_spaces=False)
