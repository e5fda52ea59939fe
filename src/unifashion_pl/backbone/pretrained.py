"""Starting a new model from published encoders: vision towers in timm's or efficientnet-pytorch's names, BERT into the Q-Former."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from unifashion_pl.parts.fit import require_fit
from unifashion_pl.parts.tensors import load_tensors

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
    counters = [n for n in own if n.endswith("num_batches_tracked")]
    require_fit(state, own, f"{source} does not fit the vision tower", "Is it the file of another architecture?", counters)
    model.load_state_dict(state, strict=False)


def efficientnet_to_timm(state: dict[str, Tensor], depths: list[int]) -> dict[str, Tensor]:
    """Names of efficientnet-pytorch (``_blocks.7._depthwise_conv``) -> timm's (``blocks.2.1.conv_dw``).

    Args:
        depths: number of blocks of each timm stage.
    """
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    wide = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
            "_bn2": "bn3"}  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        if head in top:
            out[f"{top[head]}.{rest}"] = tensor
        elif head == "_blocks":
            index, layer, leaf = rest.split(".", 2)
            stage, block = places[int(index)]
            names = wide if f"_blocks.{index}._expand_conv.weight" in state else plain
            out[f"blocks.{stage}.{block}.{names[layer]}.{leaf}"] = tensor
        elif head != "_fc":
            out[name] = tensor
    return out


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
        out[f"{target}{module.replace('attention.self.', 'attention.attention.')}.{leaf}"] = tensor
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
    own = {
        name: tensor
        for name, tensor in backbone.state_dict().items()
        if name.startswith(("embeddings.", "qformer.")) and "crossattention" not in name and not name.endswith("position_ids")
    }
    cure = "Set hidden_size, num_layers, num_heads, intermediate_size and tokenizer to those of the BERT"
    require_fit(state, own, f"{source} does not fit the Q-Former", cure)
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
