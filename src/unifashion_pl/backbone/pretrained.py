"""Starting a new model from published encoders: vision towers in timm's or efficientnet-pytorch's names, BERT into the Q-Former."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from unifashion_pl.weights.files import load_tensors

#: Where our own format keeps the timm model.
TOWER = "backbone.vision.model."


def load_vision_weights(model: nn.Module, source: str | Path) -> None:
    """Fill a timm model from a local file, in timm's names or (EfficientNets) in those of efficientnet-pytorch.

    Of a folder of ``unifashion weights import`` the vision tower is taken, of a folder of a download its ``model.safetensors``.

    A classifier in the file is left out; everything else has to fit exactly.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: missing or left-over tensors, or other shapes, with examples.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"the vision tower's weights are not at {source}: `unifashion doctor --config FILE` says of a training's config what is absent "
            "and how to get it"
        )
    state = load_tensors(path / "model.safetensors" if path.is_dir() else path)
    if own := {n.removeprefix(TOWER): t for n, t in state.items() if n.startswith(TOWER)}:
        state = own
    if "_conv_stem.weight" in state:
        state = efficientnet_to_timm(state, [len(stage) for stage in model.blocks])  # type: ignore[union-attr]
    own = model.state_dict()
    state = {n: t for n, t in state.items() if n in own or not re.match(r"(classifier|head|fc|norm|fc_norm)\.", n)}
    missing = sorted(n for n in own.keys() - state.keys() if not n.endswith("num_batches_tracked"))
    extra = sorted(state.keys() - own.keys())
    shapes = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    if missing or extra or shapes:
        raise ValueError(
            f"{source} does not fit the vision tower: {len(missing)} tensors missing {missing[:3]}, {len(extra)} left over "
            f"{extra[:3]}, {len(shapes)} of another shape {shapes[:3]}. Is it the file of another architecture?"
        )
    model.load_state_dict(state, strict=False)


def efficientnet_to_timm(state: dict[str, Tensor], depths: list[int]) -> dict[str, Tensor]:
    """Names of efficientnet-pytorch (``_blocks.7._depthwise_conv``) -> timm's (``blocks.2.1.conv_dw``).

    Args:
        depths: number of blocks of each timm stage.
    """
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    expanded = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
    }
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        if head in top:
            out[f"{top[head]}.{rest}"] = tensor
        elif head == "_blocks":
            index, layer, leaf = rest.split(".", 2)
            stage, block = places[int(index)]
            wide = f"_blocks.{index}._expand_conv.weight" in state
            mapped = {**expanded, "_bn2": "bn3"}[layer] if wide else plain[layer]
            out[f"blocks.{stage}.{block}.{mapped}.{leaf}"] = tensor
        elif head != "_fc":
            out[name] = tensor
    return out


_BERT_LAYER = {
    "attention.self.query": "attention.attention.query",
    "attention.self.key": "attention.attention.key",
    "attention.self.value": "attention.attention.value",
    "attention.output.dense": "attention.output.dense",
    "attention.output.LayerNorm": "attention.output.LayerNorm",
    "intermediate.dense": "intermediate.dense",
    "output.dense": "output.dense",
    "output.LayerNorm": "output.LayerNorm",
}


def bert_to_qformer(state: dict[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """BERT's names -> those of ``QFormerBackbone`` (``embeddings.*``, ``qformer.*``), as BLIP-2 starts its Q-Former.

    The queries' feed-forward layers start as copies of the text's; the token-type embedding of segment 0 is added to every position;
    cross-attention and the ``[DEC]`` row have no counterpart and are absent or the mean embedding.
    """
    state = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    words = state["embeddings.word_embeddings.weight"]
    extra = words.mean(0, keepdim=True).expand(vocab_size - words.shape[0], -1)
    positions = state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][:1]
    out = {
        "embeddings.word_embeddings.weight": torch.cat([words, extra]),
        "embeddings.position_embeddings.weight": positions,
        "qformer.layernorm.weight": state["embeddings.LayerNorm.weight"],
        "qformer.layernorm.bias": state["embeddings.LayerNorm.bias"],
    }
    for name, tensor in state.items():
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None:
            continue
        layer, module, leaf = match.groups()
        target = f"qformer.encoder.layer.{layer}."
        out[f"{target}{_BERT_LAYER[module]}.{leaf}"] = tensor
        if module.startswith(("intermediate", "output")):
            block, _, sub = module.partition(".")
            out[f"{target}{block}_query.{sub}.{leaf}"] = tensor.clone()
    return out


def load_bert(backbone: nn.Module, source: str | Path, vocab_size: int) -> None:
    """Start the Q-Former from a BERT of the same width and depth.

    Args:
        backbone: a :class:`~unifashion_pl.backbone.QFormerBackbone`.
        source: folder with ``model.safetensors`` (or ``pytorch_model.bin``), a file, or a hub id.
        vocab_size: words of its tokenizer.

    Raises:
        ValueError: the BERT has other sizes, naming both.
    """
    state = bert_to_qformer(load_tensors(_bert_file(str(source))), vocab_size)
    own = backbone.state_dict()
    expected = {
        n
        for n in own
        if n.startswith(("embeddings.", "qformer.")) and "crossattention" not in n and not n.endswith("position_ids")
    }
    wrong = sorted(n for n in expected & state.keys() if own[n].shape != state[n].shape)
    if wrong or expected - state.keys() or state.keys() - expected:
        detail = f"{wrong[0]}: BERT {tuple(state[wrong[0]].shape)}, Q-Former {tuple(own[wrong[0]].shape)}" if wrong else ""
        raise ValueError(
            f"{source} does not fit the Q-Former: {len(wrong)} tensors of another shape {detail}; missing "
            f"{sorted(expected - state.keys())[:2]}, left over {sorted(state.keys() - expected)[:2]}. Set hidden_size, num_layers, "
            "num_heads, intermediate_size and tokenizer to those of the BERT"
        )
    backbone.load_state_dict(state, strict=False)


def _bert_file(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    if path.exists():
        raise FileNotFoundError(f"{path} has neither model.safetensors nor pytorch_model.bin")
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, "model.safetensors"))
