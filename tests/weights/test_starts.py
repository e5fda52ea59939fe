"""Every stage of the paper starts from imported weights: the shipped overlays, of which only paths and sizes are changed, as `unifashion fit`
builds them, compute what the peers' own classes compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small import TEXTS, images
from test_blip2 import assert_equal_to_peer
from test_ldm import noisy, sd_checkpoint, stableviton_checkpoint
from test_matrix import IDS, TOKENIZER, ddim, llama, pipeline

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.cli.training import UniFashionCLI, train
from unifashion_pl.weights.importing import import_weights

#: Everything that an overlay's settings are changed in: places and sizes, and float32, so that outputs can be compared.
PLACES = {"root", "shards", "weights", "tokenizer", "bert", "source", "init_from", "cache_dir"}
SIZES = {
    *("image_size", "timm_kwargs", "num_queries", "hidden_size", "num_layers", "num_heads", "intermediate_size", "embed_dim"),
    *("query_width", "context_width", "size", "pixel_size", "batch_size", "triplet_batch_size", "num_workers", "max_samples"),
    *("lora", "precision", "dtype", "accelerator", "devices", "fast_dev_run", "logger", "enable_progress_bar", "callbacks"),
}

Settings = dict[str, Any]


def part(name: str, **arguments: Any) -> Settings:
    return {"class_path": f"unifashion_pl.{name}", "init_args": arguments}


def changed(settings: Settings) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict) and name not in SIZES:
            yield from changed(value)
        elif name != "class_path":
            yield name


def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configs: list[str], settings: Settings) -> UniFashionModule:
    """The model of `unifashion fit` with these configs, before its first step."""
    assert set(changed(settings)) <= PLACES | SIZES
    path = tmp_path / "sizes.yaml"
    path.write_text(yaml.safe_dump(settings))
    kept: list[UniFashionModule] = []
    monkeypatch.setattr(UniFashionCLI, "_run_subcommand", lambda cli, _name: kept.append(cli.model))
    train(["fit", *(word for config in (*configs, str(path)) for word in ("--config", config))])
    return kept[0].eval()


def backbone(tmp_path: Path, weights: Path | str, **more: Any) -> Settings:
    load_tokenizer("tiny").save_pretrained(tmp_path / "tokenizer")
    eva = {"depth": 2, "embed_dim": peers.WIDTH, "num_heads": 2, "mlp_ratio": 2.0}
    vision = part("backbone.VisionTower", image_size=peers.SIDE, timm_kwargs=eva, weights=str(weights), dtype="float32")
    sizes = {"hidden_size": peers.HIDDEN, "num_layers": peers.LAYERS, "num_heads": 2, "intermediate_size": 48}
    return part(
        "backbone.QFormerBackbone",
        vision=vision,
        tokenizer=str(tmp_path / "tokenizer"),
        num_queries=peers.QUERIES,
        **sizes,
        **more,
    )


RETRIEVAL = part("tasks.RetrievalModule", hidden_size=peers.HIDDEN, embed_dim=peers.EMBED)


@pytest.mark.parametrize("form", ["lavis", "transformers"])
def test_the_representation_stage_starts_from_imported_blip2(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = peers.blip2()
    if form == "lavis":
        torch.save({"model": peers.to_lavis(peer.state_dict())}, tmp_path / "download")
    else:
        peer.save_pretrained(tmp_path / "download")
    import_weights(tmp_path / "download", tmp_path / "weights" / "blip2")
    monkeypatch.chdir(tmp_path)  # the overlay's own path, weights/blip2
    settings = {"model": {"backbone": backbone(tmp_path, "weights/blip2"), "retrieval": RETRIEVAL}}
    model = started(tmp_path, monkeypatch, ["phase1.yaml", "paper.yaml", "paper-representation.yaml"], settings)
    assert_equal_to_peer(model, peer)
    if form == "lavis":
        assert float(model.retrieval_head.temperature.detach()) == pytest.approx(0.0123)  # type: ignore[union-attr]


def blip2_folder(tmp_path: Path) -> str:
    torch.save({"model": peers.to_lavis(peers.blip2().state_dict())}, tmp_path / "blip2.pth")
    import_weights(tmp_path / "blip2.pth", tmp_path / "weights" / "blip2")
    return str(tmp_path / "weights" / "blip2")


def llm_and_lora(tmp_path: Path) -> Any:
    """Folders ``weights/llm`` and ``weights/lora``; peft's own model of the two."""
    llama().save_pretrained(tmp_path / "llm")
    TOKENIZER.save_pretrained(tmp_path / "llm")
    peer = peers.randomise(get_peft_model(llama(), LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "up_proj"])), 3)
    base = {
        n.replace(".base_layer", "").removeprefix("base_model.model."): t
        for n, t in peer.state_dict().items()
        if "lora_" not in n
    }
    save_file({n: t.clone() for n, t in base.items()}, tmp_path / "llm" / "model.safetensors")
    peer.save_pretrained(tmp_path / "lora")
    for name in ("llm", "lora"):
        import_weights(tmp_path / name, tmp_path / "weights" / name)
    return peer


def caption_head(tmp_path: Path) -> Settings:
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "up_proj"]}
    source = str(tmp_path / "weights" / "llm")
    language_model = part("tasks.LanguageModel", source=source, lora=lora, dtype="float32")
    return part("tasks.CaptionModule", query_width=peers.HIDDEN, language_model=language_model)


def diffusion_head(source: Path, vae: Path | None = None) -> Settings:
    """Its three parts from an imported folder."""
    parts = {
        "denoiser": part("generation.Denoiser", source=str(source), dtype="float32"),
        "vae": part("generation.ImageVAE", source=str(vae or source), dtype="float32"),
        "text_encoder": part("generation.PromptEncoder", source=str(vae or source), dtype="float32"),
    }
    return part("tasks.DiffusionModule", query_width=peers.HIDDEN, context_width=64, size=[64, 48], **parts)


@torch.no_grad()
def assert_equal_to_pipeline(model: UniFashionModule, peer: Any) -> None:
    """The diffusion head's four channels, pictures and prompts against a v-prediction pipeline of diffusers."""
    head: Any = model.diffusion_head
    given = noisy(4)
    answer = peer.unet(**given).sample
    bar = peer.scheduler.alphas_cumprod[given["timestep"]].view(-1, 1, 1, 1)
    expected = bar.sqrt() * answer + (1 - bar).sqrt() * given["sample"]
    eps = head.denoiser(given["sample"], given["timestep"], given["encoder_hidden_states"])
    torch.testing.assert_close(eps, expected, atol=1e-5, rtol=1e-5)
    pictures = images(2, 16)
    latents = peer.vae.encode(pictures.float() / 127.5 - 1).latent_dist.mode() * peer.vae.config.scaling_factor
    torch.testing.assert_close(head.vae.encode(pictures), latents)
    ids = peer.tokenizer(["red dress"], padding="max_length", max_length=12, return_tensors="pt").input_ids
    assert torch.equal(head.text_encoder(["red dress"]), peer.text_encoder(ids).last_hidden_state)


@torch.no_grad()
def assert_equal_to_peft(model: UniFashionModule, peer: Any) -> None:
    ours = model.caption_head.language_model.model(input_ids=IDS).logits  # type: ignore[union-attr]
    torch.testing.assert_close(ours, peer.eval()(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "configs",
    [("phase1.yaml", "paper.yaml"), ("phase2.yaml", "paper.yaml"), ("phase1.yaml", "paper.yaml", "paper-llm.yaml"),
     ("phase1.yaml", "paper.yaml", "paper-diffusion.yaml")],
)  # fmt: skip
def test_all_parts_of_the_stages_upon_pairs_and_triplets(
    configs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blip2, peft = blip2_folder(tmp_path), llm_and_lora(tmp_path)
    diffusion = pipeline(tmp_path / "sd", ddim(prediction_type="v_prediction"), scaling_factor=0.3)
    import_weights(tmp_path / "sd", tmp_path / "weights" / "sd")
    places = [blip2, str(tmp_path / "weights" / "lora")] if "paper-diffusion.yaml" not in configs else [blip2]
    parts = {
        "retrieval": RETRIEVAL,
        "caption": caption_head(tmp_path),
        "diffusion": diffusion_head(tmp_path / "weights" / "sd"),
    }
    heads = {"paper-llm.yaml": ["caption"], "paper-diffusion.yaml": ["diffusion"]}.get(configs[-1], list(parts))
    model = {"backbone": backbone(tmp_path, blip2), **{head: parts[head] for head in heads}, "init_from": [places]}
    ours = started(tmp_path, monkeypatch, list(configs), {"model": model})
    if "retrieval" in heads:
        assert_equal_to_peer(ours, peers.blip2())
    else:
        assert torch.equal(ours.backbone.query_tokens, peers.blip2().query_tokens)
    if "caption" in heads:
        assert_equal_to_peft(ours, peft)
    if "diffusion" in heads:
        assert_equal_to_pipeline(ours, diffusion)


@torch.no_grad()
@pytest.mark.parametrize("phase", ["tryon", "design"])
@pytest.mark.parametrize("start", ["pbe", "stableviton"])
def test_try_on_and_design_start_from_imported_painters(
    phase: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overlays' own folder weights/pbe, and in its place StableVITON's as the overlay's comment says."""
    from unifashion_pl.generation.garment import denoise

    blip2 = blip2_folder(tmp_path)
    null = torch.randn(1, 1, 64)
    if start == "pbe":
        state, unet, _, _ = sd_checkpoint(9)
        state = {n: t for n, t in state.items() if not n.startswith("cond_stage_model.")}
    else:
        state, unet, branch = stableviton_checkpoint()
    torch.save({"state_dict": {**state, "learnable_vector": null}}, tmp_path / "painter.ckpt")
    import_weights(tmp_path / "painter.ckpt", tmp_path / "weights" / start)
    pipeline(tmp_path / "sd", ddim())
    import_weights(tmp_path / "sd", tmp_path / "weights" / "sd")
    folder = tmp_path / "weights" / start
    settings = {"backbone": backbone(tmp_path, blip2), "diffusion": diffusion_head(folder, tmp_path / "weights" / "sd")}
    settings["init_from"] = [[str(folder), blip2]]
    model = started(tmp_path, monkeypatch, [f"{phase}.yaml", "paper.yaml", f"paper-{phase}.yaml"], {"model": settings})
    head: Any = model.diffusion_head
    assert torch.equal(head.null_context, null)
    given = noisy(13)
    sample, context = given["sample"], given["encoder_hidden_states"]
    conditions = {"person": sample[:, 4:8], "keep": sample[:, 8:9], "pose": sample[:, 9:]}
    hint = torch.randn(2, 4, 8, 8)
    eps = head.denoiser(sample[:, :4], given["timestep"], context, **conditions, garment=hint)
    if start == "pbe":  # the garment is not read yet, the pose neither
        expected = unet(sample[:, :9], given["timestep"], encoder_hidden_states=context).sample
        copied = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        own = {n.removeprefix("encoder."): t for n, t in head.denoiser.garment.state_dict().items() if n.startswith("encoder.")}
        assert own
        assert all(torch.equal(tensor, copied[name]) for name, tensor in own.items())
    else:
        expected = denoise(unet, branch, sample, given["timestep"], context, hint, torch.ones(2, 1, 1, 1))
    torch.testing.assert_close(eps, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("phase", ["phase1.yaml", "phase2.yaml"])
def test_commercial_starts_from_siglip_bert_qwen_and_stable_diffusion_2(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from diffusers import UNet2DConditionModel
    from transformers import BertConfig, BertForPreTraining, Qwen2Config, Qwen2ForCausalLM

    vit = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
    siglip = peers.randomise(timm.create_model("vit_base_patch16_siglip_gap_224.webli", img_size=32, **vit))
    save_file(siglip.state_dict(), tmp_path / "siglip.safetensors")
    sizes = {"hidden_size": peers.HIDDEN, "num_hidden_layers": peers.LAYERS, "num_attention_heads": 2, "intermediate_size": 48}
    bert = peers.randomise(BertForPreTraining(BertConfig(vocab_size=peers.VOCAB - 1, **sizes)))
    bert.config.save_pretrained(tmp_path / "bert")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t.clone()
        for n, t in bert.state_dict().items()
    }
    assert sum(name.endswith(".gamma") for name in old) == 2 + 2 * peers.LAYERS  # as bert-base-uncased is published
    save_file({n: t for n, t in old.items() if n != "cls.predictions.decoder.weight"}, tmp_path / "bert" / "model.safetensors")
    ids = {f"{name}_token_id": getattr(TOKENIZER, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    qwen = peers.randomise(
        Qwen2ForCausalLM(
            Qwen2Config(**peers.llama_config(len(TOKENIZER)), **ids, num_key_value_heads=2, tie_word_embeddings=True)
        )
    )
    qwen.save_pretrained(tmp_path / "qwen")
    TOKENIZER.save_pretrained(tmp_path / "qwen")
    import_weights(tmp_path / "qwen", tmp_path / "weights" / "llm")
    diffusion = pipeline(tmp_path / "sd", ddim(prediction_type="v_prediction"))
    diffusion.unet = peers.randomise(
        UNet2DConditionModel(**{**peers.UNET, "attention_head_dim": [2, 4, 8], "use_linear_projection": True}), 4, 0.05
    )
    diffusion.save_pretrained(tmp_path / "sd")
    import_weights(tmp_path / "sd", tmp_path / "weights" / "sd")

    eva = backbone(tmp_path, "none", bert=str(tmp_path / "bert"))
    vision = part(
        "backbone.VisionTower", image_size=32, timm_kwargs=vit, weights=str(tmp_path / "siglip.safetensors"), dtype="float32"
    )
    eva["init_args"]["vision"] = vision
    model = {
        "backbone": eva,
        "retrieval": RETRIEVAL,
        "caption": caption_head(tmp_path),
        "diffusion": diffusion_head(tmp_path / "weights" / "sd"),
        "init_from": None,
    }
    ours = started(tmp_path, monkeypatch, [phase, "commercial.yaml"], {"model": model})
    pixels = (images(2, 32).float() / 255 - 0.5) / 0.5  # SigLIP's
    torch.testing.assert_close(ours.backbone.vision(images(2, 32)), siglip.forward_features(pixels), atol=1e-5, rtol=1e-5)
    tokens = ours.backbone.tokenize(TEXTS)
    states = bert.bert(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(ours.backbone.text_pass(tokens), states, atol=1e-5, rtol=1e-5)
    language_model = ours.caption_head.language_model.model  # type: ignore[union-attr]
    assert torch.equal(language_model(input_ids=IDS).logits, qwen(input_ids=IDS).logits)  # LoRA starts as nothing
    assert_equal_to_pipeline(ours, diffusion)
