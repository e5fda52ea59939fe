"""Every kind of checkpoint that is imported: made by its peer's own class, with settings that no tensor shows, its outputs are the peer's."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoder_peers
import peers
import pytest
import timm
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small import images
from test_blip2 import assert_equal_to_peer
from test_ldm import noisy, sd_checkpoint, stableviton_checkpoint
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, LlamaConfig, LlamaForCausalLM

from unifashion_pl.backbone import PublishedText, PublishedVision, VisionTower
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.generation.samplers import PROCESS
from unifashion_pl.tasks import CaptionModule
from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings, load_llm_tokenizer
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.ldm import build_part
from unifashion_pl.weights.loading import load_imported, settings_of
from unifashion_pl.weights.manifest import KINDS

TOKENIZER = load_llm_tokenizer("tiny")
IDS = torch.tensor([[1, 5, 9, 12, 3, 7, 2]])


def imported(source: Path, kind: str) -> Path:
    out = source.parent / "imported"
    assert import_weights(source, out).kind == kind
    return out


def _qformer(tmp_path: Path, kind: str, state: dict[str, Tensor], wrapper: str) -> None:
    torch.save({"epoch": 1, wrapper: state}, tmp_path / "x.pth")
    model = peers.our_model()
    load_imported(model, imported(tmp_path / "x.pth", kind))
    assert_equal_to_peer(model, peers.blip2())


def blip2_lavis(tmp_path: Path) -> None:
    _qformer(tmp_path, "blip2-lavis", peers.to_lavis(peers.blip2().state_dict()), "model")


def unifashion(tmp_path: Path) -> None:
    state = peers.unifashion_full(peers.blip2().state_dict(), {})
    _qformer(tmp_path, "unifashion", state, "Blip2QformerCirFull")


def sprc(tmp_path: Path) -> None:
    state = peers.to_lavis(peers.blip2().state_dict()) | {"prompt_tokens": torch.randn(1, peers.QUERIES, peers.HIDDEN)}
    _qformer(tmp_path, "sprc", state, "Blip2QformerCirAlignPrompt")


def blip2_hf(tmp_path: Path) -> None:
    peer = peers.blip2()
    peer.save_pretrained(tmp_path / "hub")
    out, model = imported(tmp_path / "hub", "blip2-hf"), peers.our_model()
    load_imported(model, out)
    assert_equal_to_peer(model, peer)
    model.backbone.qformer.config.num_attention_heads = 3
    with pytest.raises(ValueError, match=r"backbone.qformer.heads is 2 in the import, 3 in the model"):
        load_imported(model, out)


def tower(tmp_path: Path) -> None:
    sizes = {"embed_dim": 32, "num_heads": 2, "mlp_ratio": 2.0}
    peer = peers.randomise(timm.create_model("eva_giant_patch14_clip_224", img_size=28, depth=2, **sizes))
    save_file(peer.state_dict(), tmp_path / "x.safetensors")
    place = imported(tmp_path / "x.safetensors", "tower")
    ours = VisionTower(
        "eva_giant_patch14_clip_224", image_size=28, weights=str(place), timm_kwargs={**sizes, "depth": 2}
    ).eval()
    peer.norm = torch.nn.Identity()  # BLIP-2's tower has none
    expected = peer.forward_features((images(2, 28) - ours.mean) / ours.std)
    torch.testing.assert_close(ours(images(2, 28)), expected, atol=1e-5, rtol=1e-5)


def llama(**changes: Any) -> Any:
    ids = {f"{name}_token_id": getattr(TOKENIZER, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return peers.randomise(LlamaForCausalLM(LlamaConfig(**{**peers.llama_config(len(TOKENIZER)), **ids, **changes})))


def llm(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 77.0}
    peer = llama(rope_parameters=rope, rms_norm_eps=0.1, hidden_act="relu", tie_word_embeddings=True, num_key_value_heads=2)
    peer.generation_config.repetition_penalty = 1.3
    peer.save_pretrained(tmp_path / "hub")
    TOKENIZER.save_pretrained(tmp_path / "hub")
    ours = LanguageModel(str(imported(tmp_path / "hub", "llm")))
    assert torch.equal(ours.model(input_ids=IDS).logits, peer(input_ids=IDS).logits)
    assert (llama()(input_ids=IDS).logits - peer(input_ids=IDS).logits).abs().max() > 0.01
    assert ours.model.generation_config.repetition_penalty == 1.3


def gguf(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the package gguf is not installed (the extra gguf)")
    from gguf_peer import write_gguf
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "model.gguf", "qwen2", kind="Q8_0")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    ours = LanguageModel(str(imported(tmp_path / "model.gguf", "gguf")))
    assert torch.equal(ours.model.eval()(input_ids=IDS).logits, peer(input_ids=IDS).logits)


def encoder(tmp_path: Path) -> None:
    peer = encoder_peers.transformers_encoder(tmp_path / "hub", "siglip", encoder_peers.gemma_words)
    out = str(imported(tmp_path / "hub", "encoder"))
    tower, text = PublishedVision(out).eval(), PublishedText(out).eval()
    ids = text.tokenize(["a red dress", "blue shirt"])
    of_images, of_texts = encoder_peers.published(peer, images(3, 32), ids, **encoder_peers.HALF)
    torch.testing.assert_close(tower.pool(tower(images(3, 32))), of_images, atol=1e-6, rtol=0)
    torch.testing.assert_close(text(ids), of_texts, atol=1e-6, rtol=0)


def lora(tmp_path: Path) -> None:
    peer = get_peft_model(llama(), LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "up_proj"]))
    peers.randomise(peer)
    peer.save_pretrained(tmp_path / "lora")
    out = imported(tmp_path / "lora", "lora")
    llama().save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    settings = LoraSettings(rank=4, alpha=8, target_modules=["q_proj", "up_proj"])  # another scale than the adapter's
    language_model = LanguageModel(str(tmp_path / "base"), lora=settings)
    base = {n: t for n, t in peer.state_dict().items() if "lora_" not in n}
    language_model.model.load_state_dict(base, strict=False)
    caption = CaptionModule(language_model=language_model, query_width=peers.HIDDEN)
    model = torch.nn.ModuleDict({"caption_head": caption})
    load_imported(model, out)
    ours = language_model.model.eval()(input_ids=IDS).logits
    torch.testing.assert_close(ours, peer.eval()(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)


def pipeline(folder: Path, scheduler: Any, **vae: Any) -> StableDiffusionPipeline:
    """Stable Diffusion by diffusers' own class, whose parts have settings that no tensor shows."""
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    unet = peers.randomise(
        build_empty("unet", {**peers.UNET, "attention_head_dim": 4, "norm_eps": 1e-2, "act_fn": "gelu"}), 0, 0.05
    )
    text = peers.randomise(CLIPTextModel(CLIPTextConfig(**{**peers.CLIP, "hidden_act": "gelu", "layer_norm_eps": 0.1})), 2)
    made = StableDiffusionPipeline(
        vae=peers.randomise(AutoencoderKL(**{**peers.VAE, **vae}), 1, 0.05), text_encoder=text,
        tokenizer=CLIPTokenizer(vocab=words, merges=[], model_max_length=12), unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def build_empty(part: str, config: dict[str, Any]) -> Any:
    return build_part(part, config).to_empty(device="cpu")


def ddim(**changes: Any) -> DDIMScheduler:
    return DDIMScheduler(**{**PROCESS, "clip_sample": False, **changes})


def sd(tmp_path: Path) -> None:
    peer = pipeline(tmp_path / "pipe", ddim(prediction_type="v_prediction"), scaling_factor=0.3, shift_factor=0.7)
    out = str(imported(tmp_path / "pipe", "sd"))
    denoiser, given = Denoiser(source=out), noisy(4)
    eps = denoiser(given["sample"], given["timestep"], given["encoder_hidden_states"])
    answer = peer.unet(**given).sample
    for row, t in enumerate(given["timestep"].tolist()):  # diffusers' own way from v to eps
        bar = peer.scheduler.alphas_cumprod[t]
        expected = bar.sqrt() * answer[row] + (1 - bar).sqrt() * given["sample"][row]
        torch.testing.assert_close(eps[row], expected, atol=1e-5, rtol=1e-5)
    assert (eps - answer).abs().max() > 0.1
    vae, pictures = ImageVAE(out), images(2, 16)
    latents = (peer.vae.encode(pictures.float() / 127.5 - 1).latent_dist.mode() - 0.7) * 0.3
    torch.testing.assert_close(vae.encode(pictures), latents)
    painted = (peer.vae.decode(latents / 0.3 + 0.7).sample.float() + 1) * 127.5
    assert torch.equal(vae.decode(latents), painted.round().clamp(0, 255).to(torch.uint8))
    ids = peer.tokenizer(["a red dress"], padding="max_length", max_length=12, return_tensors="pt").input_ids
    assert torch.equal(PromptEncoder(source=out)(["a red dress"]), peer.text_encoder(ids).last_hidden_state)


def pbe(tmp_path: Path) -> None:
    state, unet, vae, _ = sd_checkpoint(9)
    state = {n: t for n, t in state.items() if not n.startswith("cond_stage_model.")} | {"scale_factor": torch.tensor(0.25)}
    torch.save({"state_dict": {**state, "learnable_vector": torch.randn(1, 1, 64)}}, tmp_path / "model.ckpt")
    out, given = str(imported(tmp_path / "model.ckpt", "pbe")), noisy(9)
    conditions = {"person": given["sample"][:, 4:8], "keep": given["sample"][:, 8:]}
    eps = Denoiser(source=out)(given["sample"][:, :4], given["timestep"], given["encoder_hidden_states"], **conditions)
    torch.testing.assert_close(eps, unet(**given).sample, atol=1e-6, rtol=0)
    expected = vae.encode(images(1, 16).float() / 127.5 - 1).latent_dist.mode() * 0.25
    torch.testing.assert_close(ImageVAE(out).encode(images(1, 16)), expected)


def vae(tmp_path: Path) -> None:
    peer = peers.randomise(AutoencoderKL(**{**peers.VAE, "scaling_factor": 0.4, "shift_factor": 0.2}), 3, 0.05)
    peer.save_pretrained(tmp_path / "vae")
    ours = ImageVAE(str(imported(tmp_path / "vae", "vae")))
    expected = (peer.encode(images(1, 16).float() / 127.5 - 1).latent_dist.mode() - 0.2) * 0.4
    torch.testing.assert_close(ours.encode(images(1, 16)), expected)


def stableviton(tmp_path: Path) -> None:
    from unifashion_pl.generation.garment import denoise

    state, unet, branch = stableviton_checkpoint()
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    out = imported(tmp_path / "x.ckpt", "stableviton")
    ours = Denoiser(source=str(out), garment="branch").eval()
    tensors = load_file(out / "model.safetensors")
    prefix = "diffusion_head.denoiser."
    ours.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, strict=False)
    given, hint = noisy(13), torch.randn(2, 4, 8, 8)
    sample = given["sample"]
    conditions = {"person": sample[:, 4:8], "keep": sample[:, 8:9], "pose": sample[:, 9:], "garment": hint}
    eps = ours(sample[:, :4], given["timestep"], given["encoder_hidden_states"], **conditions)
    ones = torch.ones(2, 1, 1, 1)
    expected = denoise(unet, branch, sample, given["timestep"], given["encoder_hidden_states"], hint, ones)
    torch.testing.assert_close(eps, expected, atol=1e-6, rtol=0)


ROWS: dict[str, Callable[[Path], None]] = {
    "blip2-lavis": blip2_lavis, "blip2-hf": blip2_hf, "unifashion": unifashion, "sprc": sprc, "tower": tower, "llm": llm, "gguf": gguf, "lora": lora,
    "sd": sd, "pbe": pbe, "vae": vae, "stableviton": stableviton, "encoder": encoder,
}  # fmt: skip


def test_no_kind_is_without_a_row() -> None:
    assert ROWS.keys() == KINDS.keys()


@torch.no_grad()
@pytest.mark.parametrize("kind", ROWS)
def test_an_import_computes_what_its_peer_computes(kind: str, tmp_path: Path) -> None:
    ROWS[kind](tmp_path)


@pytest.mark.parametrize(
    ("scheduler", "named"),
    [
        (ddim(rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
        (ddim(beta_schedule="linear"), "beta_schedule"),
        (ddim(trained_betas=[0.001] * 1000), "trained_betas"),
        (ddim(prediction_type="sample"), "trained for sample"),
        (EulerDiscreteScheduler(), "beta_start"),  # whose defaults are no Stable Diffusion's
        (FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_processes_that_would_be_lost_are_refused_by_name(scheduler: Any, named: str, tmp_path: Path) -> None:
    pipeline(tmp_path / "pipe", ddim())
    scheduler.save_pretrained(tmp_path / "pipe" / "scheduler")
    with pytest.raises(ValueError, match=named):
        import_weights(tmp_path / "pipe", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_ldm_file_of_another_process_is_refused_and_what_is_assumed_is_said(tmp_path: Path) -> None:
    state = sd_checkpoint()[0]
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    report = import_weights(tmp_path / "x.ckpt", tmp_path / "out")
    assert any("taken to be eps" in note for note in report.notes)
    for name in ("betas", "alphas_cumprod"):
        torch.save({"state_dict": {**state, name: state[name].flip(0)}}, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match=f"trained under other {name}"):
            import_weights(tmp_path / "other.ckpt", tmp_path / "never")
    torch.save({"state_dict": peers.to_ldm_vae(peers.vae().state_dict())}, tmp_path / "vae.ckpt")
    assert any("0.18215" in note for note in import_weights(tmp_path / "vae.ckpt", tmp_path / "vae").notes)


def test_a_head_that_its_config_ties_and_its_tensors_do_not_is_refused(tmp_path: Path) -> None:
    model = llama()
    model.config.tie_word_embeddings = True
    model.config.save_pretrained(tmp_path / "llm")
    save_file({n: t.clone() for n, t in model.state_dict().items()}, tmp_path / "llm" / "model.safetensors")
    with pytest.raises(ValueError, match="ties lm_head to the embeddings"):
        import_weights(tmp_path / "llm", tmp_path / "out")


def test_an_epsilon_unet_is_not_read_as_v(tmp_path: Path) -> None:
    head = torch.nn.Module()
    head.denoiser, head.vae = Denoiser(config=peers.UNET, prediction="v"), ImageVAE(config={**peers.VAE, "scaling_factor": 0.5})  # type: ignore[assignment]
    model = torch.nn.ModuleDict({"diffusion_head": head})
    assert settings_of(model) == {"diffusion_head.denoiser.unet.prediction": "v", "diffusion_head.vae.scale": 0.5}
    for part, said in (("unet", r"unet.prediction is epsilon in the import, v in the model"), ("vae", "vae.scale is 0.18215")):
        source = head.denoiser.unet if part == "unet" else head.vae.model  # type: ignore[union-attr]
        state = peers.to_lavis(peers.blip2().state_dict()) | {f"{part}.{n}": t for n, t in source.state_dict().items()}  # type: ignore[union-attr, operator]
        torch.save({"Blip2QformerCirFull": state}, tmp_path / f"{part}.pt")
        import_weights(tmp_path / f"{part}.pt", tmp_path / part)
        with pytest.raises(ValueError, match=said):
            load_imported(model, tmp_path / part)
