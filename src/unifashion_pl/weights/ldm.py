"""Stable Diffusion 1.x, Paint-by-Example and their VAEs -> folders that ``Denoiser``, ``ImageVAE`` and ``PromptEncoder`` load.

The names of the latent-diffusion code are translated by diffusers' own converters; sizes are read from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.files import write_text
from unifashion_pl.reading import read_json
from unifashion_pl.weights.download import JSON, Download
from unifashion_pl.weights.ledger import Ledger, Report, compare
from unifashion_pl.weights.llm import copy_tokenizer

SCHEDULER = Path("scheduler", "scheduler_config.json")
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
NULL, GARMENT = "diffusion_head.null_context", "diffusion_head.denoiser.garment."
EDITING_CHANNELS = 13

#: Buffers of the training process that published LDM checkpoints carry along.
PROCESS = r"betas|alphas_.+|sqrt_.+|log_.+|posterior_.+|logvar|scale_factor|lvlb_weights|model_ema\..+"
#: Conditioning on one CLIP image token (Paint-by-Example, StableVITON): mapper, norm and projection behind CLIP's vision tower.
IMAGE_CONDITION = r"(cond_stage_model|proj_out)\..+"
IMAGE_ENCODER = r"image_encoder/.+"
CLIP_TOKEN = "conditioning on one CLIP image token: our context is queries and text"
#: VAE attention in diffusers before 0.15 -> today's names.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


#: Prefix of StableVITON's garment branch -> prefix of ours: its zero convolution for the garment, the trainable copy of the U-Net's encoder
#: (whose names are the U-Net's own), nine cross-attention blocks, and their zero convolutions.
GARMENT_GROUPS = {
    "control_model.cond_first_block.0.": "hint.",
    "control_model.": "encoder.",
    f"{UNET}warp_flow_blks.": "blocks.",
    f"{UNET}warp_zero_convs.": "zero_convs.",
}


def unet_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of ``UNet2DConditionModel`` from an LDM U-Net without its prefix. Eight heads and 32 groups do not show in shapes: they are
    Stable Diffusion 1's."""
    blocks = sorted({int(n.split(".")[1]) for n in tensors if n.startswith("input_blocks.")})
    levels: list[list[int]] = [[]]
    for i in blocks[1:]:
        levels.append([]) if f"input_blocks.{i}.0.op.weight" in tensors else levels[-1].append(i)
    channels = [tensors[f"input_blocks.{level[0]}.0.out_layers.3.weight"].shape[0] for level in levels]
    crossed = [f"input_blocks.{level[0]}.1.transformer_blocks.0.attn2.to_k.weight" for level in levels]
    attention = [name in tensors for name in crossed]
    context = next((tensors[n].shape[1] for n in crossed if n in tensors), 768)
    return {
        "sample_size": 64,
        "in_channels": tensors["input_blocks.0.0.weight"].shape[1],
        "out_channels": tensors["out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "cross_attention_dim": context,
        "attention_head_dim": 8,
    }


def vae_config(tensors: Mapping[str, Tensor], scale: float = 0.18215) -> dict[str, Any]:
    """Fields of ``AutoencoderKL`` from an LDM autoencoder without its prefix."""
    levels = sorted({int(n.split(".")[2]) for n in tensors if n.startswith("encoder.down.")})
    layers = {int(n.split(".")[4]) for n in tensors if n.startswith("encoder.down.0.block.")}
    return {
        "sample_size": 512,
        "block_out_channels": [tensors[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in levels],
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "layers_per_block": len(layers),
        "latent_channels": tensors["post_quant_conv.weight"].shape[1],
        "scaling_factor": scale,
    }


def clip_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of ``CLIPTextConfig``; the heads are 64 wide, as in all of OpenAI's CLIPs."""
    vocab, width = tensors["embeddings.token_embedding.weight"].shape
    end = {"bos_token_id": vocab - 2, "eos_token_id": vocab - 1, "pad_token_id": vocab - 1}
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": 1 + max(int(n.split(".")[2]) for n in tensors if n.startswith("encoder.layers.")),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": tensors["embeddings.position_embedding.weight"].shape[0],
        "projection_dim": width,
        **end,
    }


@cache
def clip_text_prefix() -> str:
    """What the installed transformers puts before the names of ``CLIPTextModel``: ``text_model.`` or, since version 5, nothing."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        names = CLIPTextModel(CLIPTextConfig(num_hidden_layers=1)).state_dict()
    return "text_model." if any(name.startswith("text_model.") for name in names) else ""


def converter_table(convert: Callable[[dict[str, Tensor]], dict[str, Tensor]], names: Mapping[str, Tensor]) -> dict[str, str]:
    """Source -> target of one of diffusers' converters, learnt by sending numbered dwarfs of the tensors through it."""
    order = list(names)
    probes = {name: torch.full((1,) * names[name].ndim, float(i)) for i, name in enumerate(order)}
    return {order[int(probe.flatten()[0])]: target for target, probe in convert(probes).items()}


def move_unet(ledger: Ledger) -> tuple[dict[str, Any], dict[str, str]]:
    """LDM U-Net -> ``unet/*``; nine input channels become thirteen. Returns the config and the names that were found."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    own = {short: name for short, name in ledger.below(UNET).items() if not name.startswith(tuple(GARMENT_GROUPS))}
    stripped = {short: ledger.source[name] for short, name in own.items()}
    config = unet_config(stripped)

    def convert(probes: dict[str, Tensor]) -> dict[str, Tensor]:
        return convert_ldm_unet_checkpoint({UNET + n: t for n, t in probes.items()}, config)

    names = converter_table(convert, stripped)
    for short, target in names.items():
        _move_widened(ledger, own[short], f"unet/{target}", config)
    return config, names


def move_garment(ledger: Ledger, config: Mapping[str, Any], unet_names: Mapping[str, str]) -> None:
    """StableVITON's garment branch -> ``diffusion_head.denoiser.garment.*``; what lies below the last feature that is read is dropped.

    Args:
        config: of the U-Net.
        unet_names: names of the U-Net's tensors, LDM -> diffusers; the copy's are the same.

    Raises:
        ValueError: the branch is incomplete.
    """
    expected = garment_reference(build_part("unet", config))
    for prefix, target in GARMENT_GROUPS.items():
        for rest, name in ledger.below(prefix).items():
            if target != "encoder.":
                ledger.move(name, f"{GARMENT}{target}{rest}")
            elif (ours := f"{GARMENT}encoder.{unet_names.get(rest)}") in expected:
                ledger.move(name, ours)
            elif rest in unet_names:
                ledger.drop([name], "below the last feature of the garment copy that anything reads")
    compare({n: t for n, t in ledger.tensors.items() if n.startswith(GARMENT)}, expected, "the garment branch")


def garment_reference(unet: Any) -> dict[str, Tensor]:
    """All tensors of the garment branch of a U-Net, on the meta device."""
    from unifashion_pl.generation.garment import GarmentBranch

    with torch.device("meta"):
        return {f"{GARMENT}{name}": tensor for name, tensor in GarmentBranch(unet).state_dict().items()}


def _move_widened(ledger: Ledger, name: str, target: str, config: dict[str, Any]) -> None:
    tensor = ledger.source[name]
    if target != "unet/conv_in.weight" or tensor.shape[1] != 9:
        ledger.move(name, target)
        return
    wide = tensor.new_zeros(tensor.shape[0], EDITING_CHANNELS, *tensor.shape[2:])
    wide[:, :9] = tensor
    config["in_channels"] = EDITING_CHANNELS
    ledger.move(
        name,
        target,
        wide,
        "widened from 9 to 13 input channels: Paint-by-Example's are 0-8 in its order, pose columns start at zero",
    )


def move_vae(ledger: Ledger, prefix: str) -> dict[str, Any]:
    """LDM autoencoder -> ``vae/*``. Returns the config."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    ledger.drop_matching(re.escape(prefix) + r"loss\..+", "losses of the autoencoder's training")
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    own = {short: name for short, name in ledger.below(prefix).items() if short.startswith(parts)}
    stripped = {short: ledger.source[name] for short, name in own.items()}
    scale = ledger.source.get("scale_factor")
    config = vae_config(stripped, 0.18215 if scale is None else round(float(scale), 5))
    names = converter_table(lambda probes: convert_ldm_vae_checkpoint(probes, config), stripped)
    for short, target in names.items():
        tensor = stripped[short]
        flat = tensor[:, :, 0, 0] if tensor.ndim == 4 and ".attentions." in target else None
        ledger.move(own[short], f"vae/{target}", flat, "" if flat is None else "1 x 1 convolution -> linear layer")
    return config


def move_text(ledger: Ledger, prefix: str) -> dict[str, Any]:
    """CLIP text encoder -> ``text_encoder/*``. Returns the config."""
    ledger.drop_matching(re.escape(prefix) + r".*position_ids", "0, 1, 2, ...")
    names = {short.removeprefix("text_model."): name for short, name in ledger.below(prefix).items()}
    for short, name in names.items():
        ledger.move(name, f"text_encoder/{clip_text_prefix()}{short}")
    return clip_config({short: ledger.source[name] for short, name in names.items()})


def convert_ldm(source: Download, folder: Path | None, report: Report) -> dict[str, Tensor]:
    """A Stable Diffusion, Paint-by-Example or StableVITON checkpoint in LDM's names. Returns all tensors: ``PART/name`` of the folders, and
    ours (null token, garment branch) under their own names.

    Raises:
        ValueError: unexplained or missing tensors, or Stable Diffusion's inpainting U-Net, whose channels stand in another order.
    """
    ledger = Ledger(source.tensors)
    refuse_inpainting(ledger.source[f"{UNET}input_blocks.0.0.weight"].shape[1], report.kind, str(source.path))
    unet, names = move_unet(ledger)
    configs = {"unet": unet}
    if ledger.below(VAE):
        configs["vae"] = move_vae(ledger, VAE)
    text = TEXT if report.kind == "sd" else "cond_text_model.transformer."
    if report.kind == "sd" or ledger.below(text):
        configs["text_encoder"] = move_text(ledger, text)
    ledger.rename((("learnable_vector", NULL),))
    ledger.drop_matching(
        r"(control_model\.|model\.diffusion_model\.)?lastzc\..+", "a module that the released forward pass never uses"
    )
    if report.kind == "stableviton":
        move_garment(ledger, unet, names)
    _drop_process(ledger, str(source.path))
    report.notes.append(
        "what the U-Net predicts is not in a file of this form: taken to be eps, as in Stable Diffusion 1.x; one that was tuned for v needs "
        "`prediction: v` in its Denoiser"
    )
    if report.kind != "sd":
        ledger.drop_matching(IMAGE_CONDITION, CLIP_TOKEN)
    return write_parts(ledger, configs, source.path, folder, report)


def _drop_process(ledger: Ledger, path: str) -> None:
    """The buffers of the training process.

    Raises:
        ValueError: it was another one than the one that is known here.
    """
    from unifashion_pl.generation.samplers import alphas_cumprod

    own, source = alphas_cumprod(), ledger.source
    found = {"alphas_cumprod": source.get("alphas_cumprod")}
    found["betas"] = (1 - source["betas"].double()).cumprod(0) if "betas" in source else None
    for name, bar in found.items():
        if bar is not None and (bar.shape != own.shape or not torch.allclose(bar.float(), own, atol=1e-4)):
            raise ValueError(
                f"{path} was trained under other {name} than Stable Diffusion 1's (0.00085 to 0.012, linear in their root; 1,000 steps), which "
                "an import would lose. Nothing was written"
            )
    ledger.drop_matching(PROCESS, "buffers of the training process")


def refuse_inpainting(channels: int, kind: str, path: str) -> None:
    """
    Raises:
        ValueError: nine channels that are not Paint-by-Example's.
    """
    if channels == 9 and kind == "sd":
        raise ValueError(
            f"{path} is Stable Diffusion's inpainting U-Net: its nine channels are [noisy, mask, masked latents] with 1 = repaint, ours "
            "[noisy, person, mask] with 1 = keep. Import Paint-by-Example, or Stable Diffusion with four channels"
        )


def convert_vae(source: Download, folder: Path | None, report: Report) -> dict[str, Tensor]:
    """An autoencoder alone, in LDM's names with or without prefix (StableVITON's fine-tuned one), or in diffusers'."""
    ledger = Ledger(source.tensors)
    if ledger.below("encoder.down_blocks."):
        config = move_diffusers(ledger, "vae", source)
    else:
        config = move_vae(ledger, VAE if ledger.below(VAE) else "")
        if "scale_factor" not in ledger.source:
            report.notes.append(
                f"the scale of its latents is not in the file: taken to be Stable Diffusion 1's {config['scaling_factor']}"
            )
        _drop_process(ledger, str(source.path))
    return write_parts(ledger, {"vae": config}, source.path, folder, report)


def convert_pipeline(source: Download, folder: Path | None, report: Report) -> dict[str, Tensor]:
    """A pipeline folder of diffusers: old names mended, safetensors written, what we do not use left out."""
    ledger = Ledger({f"{part}/{n}": tensor for part, inner in source.parts.items() for n, tensor in inner.tensors.items()})
    if "unet" in source.parts:
        refuse_inpainting(int(source.parts["unet"].config.get("in_channels", 4)), report.kind, str(source.path))
    ledger.rename((("image_encoder/uncond_vector", NULL),))
    ledger.drop_matching(IMAGE_ENCODER, CLIP_TOKEN)
    read = {part: inner for part, inner in source.parts.items() if part != "image_encoder"}
    configs = {part: move_diffusers(ledger, part, inner, f"{part}/") for part, inner in read.items()}
    if "unet" in configs:
        _keep_scheduler(source.path, folder, report)
    return write_parts(ledger, configs, source.path, folder, report)


def _keep_scheduler(pipeline: Path, folder: Path | None, report: Report) -> None:
    """Copy what says how the U-Net was trained; a :class:`~unifashion_pl.generation.Denoiser` reads it.

    Raises:
        ValueError: it was trained otherwise than is known here.
    """
    from unifashion_pl.generation.samplers import prediction_of

    file = pipeline / SCHEDULER
    if not file.is_file():
        report.notes.append("no scheduler in the source: the U-Net is taken to predict eps")
        return
    config = read_json(file, dict[str, Any], JSON)
    kind = prediction_of(config, pipeline)
    report.notes.append(
        f"the U-Net predicts {kind}; how it is sampled is a setting here (`sampler`), not its publisher's {config.get('_class_name')}"
    )
    if folder is not None:
        write_text(folder / SCHEDULER, file.read_text())


def move_diffusers(ledger: Ledger, part: str, source: Download, prefix: str = "") -> dict[str, Any]:
    """One part in the names of diffusers or transformers of any age. Returns its config."""
    config = dict(source.config)
    if not config:
        raise ValueError(f"{source.path} has no config.json: half downloaded?")
    ledger.drop_matching(re.escape(prefix) + r".*position_ids", "0, 1, 2, ...")
    for short, name in ledger.below(prefix).items():
        if part == "text_encoder":
            short = clip_text_prefix() + short.removeprefix("text_model.")
        elif part == "vae" and (old := re.fullmatch(r"(.+\.attentions\.0\.)(query|key|value|proj_attn)\.(\w+)", short)):
            short = f"{old[1]}{OLD_ATTENTION[old[2]]}.{old[3]}"
        _move_widened(ledger, name, f"{part}/{short}", config)
    return config


def build_part(part: str, config: Mapping[str, Any]) -> Any:
    """An empty model of a part on the meta device."""
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if part == "text_encoder":
            return CLIPTextModel(
                CLIPTextConfig(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")})
            )
        vae = AutoencoderTiny if config.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
        cls = {"unet": UNet2DConditionModel, "vae": vae}[part]
        return cls.from_config(dict(config)) if "_class_name" in config else cls(**config)


def write_parts(
    ledger: Ledger, configs: Mapping[str, Mapping[str, Any]], origin: Path, folder: Path | None, report: Report
) -> dict[str, Tensor]:
    """Close the ledger, compare each part with its class, save it into ``folder`` if there is one, and report. Returns all tensors.

    Raises:
        ValueError: unexplained, missing or misshapen tensors.
    """
    ledger.close(origin, report)
    loads = {"unet": "Denoiser", "vae": "ImageVAE", "text_encoder": "PromptEncoder"}
    for part, config in configs.items():
        prefix = f"{part}/"
        own = {n.removeprefix(prefix): t.contiguous() for n, t in ledger.tensors.items() if n.startswith(prefix)}
        model = build_part(part, config)
        compare(own, model.state_dict(), f"{origin} ({part})")
        report.folders[part] = f"{loads[part]}(source=FOLDER)"
        if folder is not None:
            model.load_state_dict(own, assign=True)
            model.save_pretrained(folder / part)
    if "text_encoder" in configs:
        target = None if folder is None else folder / "tokenizer"
        if not copy_tokenizer(origin / "tokenizer" if origin.is_dir() else origin, target):
            report.notes.append(
                "no tokenizer in the source: copy the tokenizer/ of openai/clip-vit-large-patch14 into the imported folder"
            )
    report.use = "Use: source: FOLDER for " + ", ".join(loads[part] for part in configs)
    if any("/" not in name for name in ledger.tensors):
        report.use += "; init_from: FOLDER for what lies in model.safetensors"
    return ledger.tensors
