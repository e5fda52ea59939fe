"""Run by ``test_lavis.py`` in an environment with salesforce-lavis: LAVIS' own BLIP-2 at small sizes, its state dict and what it computes.

The packages' ``__init__`` are passed over, which import every dataset and every other model; the modules of the model are LAVIS' own, whole.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from functools import partial
from importlib.metadata import distribution
from pathlib import Path


def lavis_module(name: str):
    root = Path(str(distribution("salesforce-lavis").locate_file("lavis")))
    for package in ("lavis", "lavis.common", "lavis.models", "lavis.models.blip_models", "lavis.models.blip2_models"):
        if package not in sys.modules:
            made = types.ModuleType(package)
            made.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
            sys.modules[package] = made
    sys.modules["lavis.models"].BaseModel = importlib.import_module("lavis.models.base_model").BaseModel
    return importlib.import_module(name)


def build(sizes: dict):
    """``Blip2Qformer`` by its own constructor; only the tower's sizes, which it has fixed, are others."""
    from torch import nn
    from transformers import BertConfig, BertForPreTraining, BertTokenizer

    blip2 = lavis_module("lavis.models.blip2_models.blip2_qformer")
    eva = lavis_module("lavis.models.eva_vit")
    base = lavis_module("lavis.models.blip2_models.blip2")
    bert = {
        "hidden_size": sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    folder = Path("bert-base-uncased")  # the name that LAVIS asks transformers for
    BertTokenizer(sizes["vocabulary"]).save_pretrained(folder)
    BertForPreTraining(BertConfig(vocab_size=sizes["vocab"] - 1, **bert)).save_pretrained(folder)

    class Scaled(blip2.Blip2Qformer):
        @classmethod
        def init_vision_encoder(cls, model_name, img_size, drop_path_rate, use_grad_checkpoint, precision):
            norm = partial(nn.LayerNorm, eps=1e-6)
            tower = eva.VisionTransformer(
                img_size=img_size, patch_size=14, use_mean_pooling=False, embed_dim=sizes["width"], depth=2, num_heads=2, mlp_ratio=2.0,
                qkv_bias=True, drop_path_rate=drop_path_rate, norm_layer=norm,
            )  # fmt: skip
            return tower, base.LayerNorm(tower.num_features)

    return Scaled(img_size=sizes["side"], vit_precision="fp32", num_query_token=sizes["queries"], embed_dim=sizes["embed"])


def main(sizes: dict) -> None:
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    model = build(sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
        model.temp.fill_(0.0123)
        torch.save({"model": model.state_dict(), "epoch": 9}, "blip2_pretrained.pth")
        given = torch.load("inputs.pt")
        text = model.tokenizer(given["texts"], padding="longest", return_tensors="pt")
        queries, features = model.forward_image(given["pixels"])
        words = model.forward_text(text)
        decoder = text.input_ids.clone()
        decoder[:, 0] = model.tokenizer.bos_token_id
        tokens = model.query_tokens.expand(len(queries), -1, -1)
        ones = torch.ones(features.shape[:-1], dtype=torch.long)
        cache = model.Qformer.bert(
            query_embeds=tokens, encoder_hidden_states=features, encoder_attention_mask=ones, use_cache=True, return_dict=True
        ).past_key_values
        mask = torch.cat([torch.ones(tokens.shape[:-1], dtype=torch.long), text.attention_mask], 1)
        words_of = model.Qformer(decoder, attention_mask=mask, past_key_values=cache, return_dict=True)
        outputs = {
            "features": features,
            "ids": text.input_ids,
            "image": F.normalize(model.vision_proj(queries), dim=-1),
            "text": F.normalize(model.text_proj(words), dim=-1),
            "itm": model.compute_itm(features, text.input_ids, text.attention_mask),
            "lm": words_of.logits,
        }
    torch.save(outputs, "outputs.pt")


if __name__ == "__main__":
    sys.path += sys.argv[2:]  # torch and what else is not pinned
    main(json.loads(sys.argv[1]))
