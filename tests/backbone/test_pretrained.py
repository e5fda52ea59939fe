"""Starting from published encoders: outputs equal those of the original architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from small import TEXTS, small_backbone
from torch import Tensor
from transformers import BertConfig, BertModel

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.backbone.pretrained import efficientnet_to_timm, load_bert, load_vision_weights


def bert(hidden: int = 32) -> BertModel:
    torch.manual_seed(1)
    vocab = len(small_backbone().tokenizer) - 1
    return BertModel(
        BertConfig(vocab_size=vocab, hidden_size=hidden, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
    ).eval()


def test_text_pass_of_a_qformer_started_from_bert_equals_bert(tmp_path: Path) -> None:
    original, backbone = bert(), small_backbone().eval()
    save_file({k: v.clone() for k, v in original.state_dict().items()}, tmp_path / "model.safetensors")
    load_bert(backbone, tmp_path, len(backbone.tokenizer))
    tokens = backbone.tokenize(TEXTS)
    with torch.no_grad():
        expected = original(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state[:, 0]
        torch.testing.assert_close(backbone.text_pass(tokens), expected, atol=1e-5, rtol=0)
    layer = backbone.qformer.encoder.layer[0]
    assert torch.equal(layer.intermediate_query.dense.weight, layer.intermediate.dense.weight)


def test_bert_of_another_width_names_both(tmp_path: Path) -> None:
    save_file({k: v.clone() for k, v in bert(64).state_dict().items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit the Q-Former"):
        load_bert(small_backbone(), tmp_path, len(small_backbone().tokenizer))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors"):
        load_bert(small_backbone(), tmp_path / "empty", 1)


def to_efficientnet_names(state: dict[str, Tensor], depths: list[int]) -> dict[str, Tensor]:
    """The way back, written from the two naming schemes, to make a file of the published form."""
    index = {pair: i for i, pair in enumerate((s, b) for s, d in enumerate(depths) for b in range(d))}
    top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    out = {"_fc.weight": torch.zeros(3, 4), "_fc.bias": torch.zeros(3)}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            out[".".join([top[parts[0]], *parts[1:]])] = tensor
            continue
        s, b = int(parts[1]), int(parts[2])
        wide = f"blocks.{s}.{b}.conv_pwl.weight" in state
        norms = {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"} if wide else {"bn1": "_bn1", "bn2": "_bn2"}
        point = {"conv_pw": "_expand_conv", "conv_pwl": "_project_conv"} if wide else {"conv_pw": "_project_conv"}
        names = {"conv_dw": "_depthwise_conv", **norms, **point}
        out[".".join(["_blocks", str(index[s, b]), names[parts[3]], *parts[4:]])] = tensor
    return out


def test_efficientnet_names_map_onto_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = (timm.create_model("tf_efficientnet_lite0", num_classes=0).eval() for _ in range(2))
    depths = [len(stage) for stage in source.blocks]
    file = to_efficientnet_names(source.state_dict(), depths)
    assert efficientnet_to_timm(file, depths).keys() == source.state_dict().keys()
    torch.save(file, tmp_path / "lite0.pth")
    load_vision_weights(target, tmp_path / "lite0.pth")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(source(x), target(x))
    del file["_blocks.3._project_conv.weight"]
    torch.save(file, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="1 tensors missing"):
        load_vision_weights(target, tmp_path / "short.pth")


def test_a_tower_is_no_bert(tmp_path: Path) -> None:
    save_file({"blocks.0.attn.qkv.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"is no BERT for a Q-Former of .+embeddings\.word_embeddings\.weight"):
        load_bert(small_backbone(), tmp_path, 30)


def test_positions_of_no_patch_are_of_another_shape(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=0)
    save_file({**model.state_dict(), "pos_embed": torch.ones(1, 1, 192)}, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"pos_embed: file \(1, 1, 192\), expected \(1, 5, 192\)"):
        load_vision_weights(model, tmp_path / "vit.safetensors")


def test_a_bert_that_the_hub_does_not_give_names_the_option(backbone: QFormerBackbone) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^no/bert is no file or folder here.* by --model\.backbone\.init_args\.bert PATH"
    ):
        load_bert(backbone, "no/bert", 100)
