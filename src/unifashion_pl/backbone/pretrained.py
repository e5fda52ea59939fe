"""Starting a new model from published encoders: vision towers in timm's or efficientnet-pytorch's names, BERT into the Q-Former."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from unifashion_pl.parts.fit import require_fit
from unifashion_pl.parts.mapped import taken
from unifashion_pl.parts.rebuild import OPTIONS, from_hub
from unifashion_pl.parts.tensors import load_tensors
from unifashion_pl.reading import read_json

#: Where our own format keeps the timm model.
TOWER = "backbone.vision.model."
#: What timm's ``forward_features`` does not read.
UNREAD = r"(classifier|head|fc|fc_norm|attn_pool)\."


def load_vision_weights(model: nn.Module, source: str | Path, depth: int | None = None) -> None:
    """Fill a timm model of its last shape from a local file: in timm's names, in LAVIS' (its tower), or (EfficientNets) in those of
    efficientnet-pytorch.

    Of a folder of ``unifashion weights import`` the vision tower is taken, of a folder of a download its ``model.safetensors``.

    Args:
        depth: as of :func:`fit_tower`.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: missing or left-over tensors, or other shapes, with examples.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"the vision tower's weights are not at {source}: `unifashion doctor` with the training's --config options says "
            "what is absent and how to get it"
        )
    state = fit_tower(model, load_tensors(path / "model.safetensors" if path.is_dir() else path), depth)
    check_tower(model, state, str(source))
    model.load_state_dict(taken(model, state), strict=False)


def fit_tower(model: nn.Module, state: dict[str, Tensor], depth: int | None = None) -> dict[str, Tensor]:
    """A published state in the names and the shape of a timm model that is built already.

    Left out are a classifier, a final norm that the model has not, and blocks behind the model's last. Position embeddings of another size
    are interpolated: EVA's as BLIP-2 does it (bicubic), others as timm does it (antialiased too). All other differences stay.

    Args:
        depth: how many blocks were asked for; None = the architecture's own number, and further blocks stay.
    """
    for prefix in (TOWER, "visual_encoder."):
        if own := {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}:
            state = own
    if "_conv_stem.weight" in state:
        state = efficientnet_to_timm(state, [len(stage) for stage in model.blocks])  # type: ignore[union-attr]
    expected = model.state_dict()
    behind = {n for n in state if depth is not None and (m := re.match(r"blocks\.(\d+)\.", n)) and int(m[1]) >= depth}
    state = {
        n: t for n, t in state.items() if n in expected or not (n in behind or re.match(UNREAD, n) or n.startswith("norm."))
    }
    positions, wanted = state.get("pos_embed"), expected.get("pos_embed")
    if positions is not None and wanted is not None and positions.ndim == wanted.ndim == 3:
        state["pos_embed"] = _resized(model, positions, wanted.shape[1], "blocks.0.attn.q_bias" not in state)
    return state


def _resized(model: Any, positions: Tensor, tokens: int, antialias: bool) -> Tensor:
    """Position embeddings (1, N, W) of a square grid for ``tokens`` of them; as they are where that cannot be."""
    ahead = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 1)
    old = max(0, positions.shape[1] - ahead)
    if positions.shape[1] == tokens or old == 0 or math.isqrt(old) ** 2 != old:
        return positions
    grid = list(model.patch_embed.grid_size)
    print(
        f"weights: position embeddings of {math.isqrt(old)} x {math.isqrt(old)} patches are interpolated to {grid[0]} x {grid[1]}"
    )
    return resample_abs_pos_embed(positions.float(), grid, None, ahead, antialias=antialias)


def check_tower(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Compare a state of :func:`fit_tower` with its model; what :class:`~unifashion_pl.backbone.VisionTower` does not read may be missing.

    Raises:
        ValueError: with the differences.
    """
    own = model.state_dict()
    unread = [n for n in own if n.endswith("num_batches_tracked") or re.match(UNREAD, n)]
    cure = "Is it the file of another architecture, or of another depth (timm_kwargs)?"
    if "norm.weight" in own and "norm.weight" not in state:
        cure = "It has no final norm, which BLIP-2 does not use: set final_norm: false"
    require_fit(state, own, f"{source} does not fit the vision tower", cure, unread)


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
    old = (("bert.", ""), (".gamma", ".weight"), (".beta", ".bias"))  # as bert-base-uncased's own file has it
    state = {reduce(lambda name, rule: name.replace(*rule), old, name): tensor for name, tensor in state.items()}
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
        vocab_size: words of the Q-Former's embeddings.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the BERT has other sizes, or its config what no size shows (heads, activation, positions), naming both.
    """
    file = _bert_file(str(source))
    check_bert(file.parent / "config.json", backbone)
    try:
        state = bert_to_qformer(load_tensors(file), vocab_size)
    except (LookupError, RuntimeError) as error:  # another model's names, or more words than the Q-Former has
        raise ValueError(f"{source} is no BERT for a Q-Former of {vocab_size:,} words: {error}") from error
    own = {
        name: tensor
        for name, tensor in backbone.state_dict().items()
        if name.startswith(("embeddings.", "qformer.")) and "crossattention" not in name and not name.endswith("position_ids")
    }
    cure = "Set hidden_size, num_layers, num_heads, intermediate_size and tokenizer to those of the BERT"
    require_fit(state, own, f"{source} does not fit the Q-Former", cure)
    backbone.load_state_dict(taken(backbone, state), strict=False)


def check_bert(config: Path, backbone: Any) -> None:
    """Compare what a BERT's tensors do not show with the Q-Former, where its config lies beside them.

    Raises:
        ValueError: with both values.
    """
    if not config.is_file():
        return
    own = backbone.qformer.config
    fields = {"position_embedding_type": "absolute", **read_json(config, dict[str, Any], "a BERT's config")}
    expected = {name: getattr(own, name) for name in ("num_attention_heads", "hidden_act", "layer_norm_eps")}
    expected["position_embedding_type"] = "absolute"
    if wrong := [
        f"{name}: {fields[name]!r}, the Q-Former has {value!r}"
        for name, value in expected.items()
        if fields.get(name, value) != value
    ]:
        raise ValueError(
            f"{config} does not fit the Q-Former: {'; '.join(wrong)}. Set num_heads to the BERT's, or take a BERT that does"
        )


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

    with suppress(OSError):  # beside it, if there is one
        hf_hub_download(source, "config.json")
    with from_hub(source, OPTIONS["bert"]):
        return Path(hf_hub_download(source, "model.safetensors"))
