"""Downloads as the paper's training expects them, in the form in which their publishers give them out, with random weights.

Names are the publishers' own (LAVIS', EVA's, latent-diffusion's, transformers'), from the maps of ``tests/peers.py``, which share nothing
with the importer. Matrices are uniform in +-1 / sqrt(fan-in), as torch starts them, norms one, biases zero, so that losses stay finite.
Hub ids are answered by a cache of the hub in its own layout.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor

from unifashion_pl.configs import SHIPPED, read_config
from unifashion_pl.reading import read_json

#: Words of bert-base-uncased, CLIP and Llama; BERT gets one more, ``[DEC]``.
BERT_WORDS, CLIP_WORDS, LLAMA_WORDS = 30522, 49408, 32000
SD, VICUNA, BERT = "CompVis/stable-diffusion-v1-4", "lmsys/vicuna-7b-v1.5", "google-bert/bert-base-uncased"
#: Random numbers that all tensors are cut from, and the most bytes of a language model's shard.
POOL, SHARD = 1 << 22, 3 << 30
TINY_SIZES = Path(__file__).with_name("paper_size_tiny.yaml")


@dataclass(frozen=True)
class Sizes:
    """What is to be written.

    Attributes:
        tower: ``embed_dim``, ``depth``, ``num_heads``, ``img_size`` of EVA's tower as BLIP-2 reads it (its file has one block more).
        qformer: fields of ``Blip2QFormerConfig``. queries, embed: its queries and the width of ITC.
        unet, vae, clip, llama: fields of their configs.
    """

    tower: dict[str, Any]
    qformer: dict[str, Any]
    queries: int
    embed: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    clip: dict[str, Any]
    llama: dict[str, Any]


def paper_sizes() -> Sizes:
    """The published ones."""
    known = read_json(SHIPPED / "sizes.json", dict[str, Any])
    diffusion = known[SD]
    return Sizes(
        tower={"embed_dim": 1408, "depth": 39, "num_heads": 16, "img_size": 224},
        qformer={"vocab_size": BERT_WORDS + 1, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        queries=32, embed=256, unet=diffusion["denoiser"], vae=diffusion["vae"], clip=diffusion["text_encoder"],
        llama=known[VICUNA]["language_model"],
    )  # fmt: skip


def tiny_sizes() -> Sizes:
    """Those of ``paper_size_tiny.yaml``."""
    model = read_config(TINY_SIZES)["model"]
    backbone, diffusion = model["backbone"]["init_args"], model["diffusion"]["init_args"]
    tower = {"num_heads": 2, **backbone["vision"]["init_args"]["timm_kwargs"]}
    names = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    wanted = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
    llama = model["caption"]["init_args"]["language_model"]["init_args"]["config"]
    return Sizes(
        tower=tower,
        qformer={"vocab_size": BERT_WORDS + 1, **{names.get(name, name): backbone[name] for name in wanted}},
        queries=backbone["num_queries"],
        embed=model["retrieval"]["init_args"]["embed_dim"],
        unet=diffusion["denoiser"]["init_args"]["config"],
        vae=diffusion["vae"]["init_args"]["config"],
        clip={"vocab_size": CLIP_WORDS, **diffusion["text_encoder"]["init_args"]["config"]},
        llama={**llama, "vocab_size": LLAMA_WORDS},
    )


class Filler:
    """Random tensors in the shapes of others; of one tensor under two names there is one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.pool = torch.rand(POOL, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        self.first = 0
        self.made: dict[int, Tensor] = {}

    def __call__(self, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> tensor; those that are no shapes, but have values, stay as they are."""
        return {name: self._fill(name, like) if like.is_meta else like for name, like in shapes.items()}

    def _fill(self, name: str, like: Tensor) -> Tensor:
        if id(like) not in self.made:
            dtype = self.dtype if like.is_floating_point() else like.dtype
            self.made[id(like)] = self._new(name, like, dtype)
        return self.made[id(like)]

    def _new(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        if like.ndim < 2:
            return torch.full(like.shape, 1.0 if name.endswith("weight") else 0.0, dtype=dtype)
        out = torch.empty(like.numel(), dtype=dtype)
        for part in out.split(POOL // 2):
            self.first = (self.first + 99_991) % (POOL // 2)
            part.copy_(self.pool[self.first : self.first + len(part)])
        return out.mul_(1 / math.sqrt(like.shape[1:].numel())).view(like.shape)


def blip2_file(path: Path, sizes: Sizes) -> None:
    """LAVIS' ``blip2_pretrained.pth``: the first stage without its frozen tower."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    tower, vision = sizes.tower, {"num_hidden_layers": 1, "hidden_size": sizes.tower["embed_dim"], "num_attention_heads": 1}
    qformer = {**sizes.qformer, "encoder_hidden_size": tower["embed_dim"], "use_qformer_text_input": True}
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, num_query_tokens=sizes.queries, image_text_hidden_size=sizes.embed
    )
    with torch.device("meta"):
        shapes = dict(Blip2ForImageTextRetrieval(config).state_dict())
    torch.save({"model": Filler()(peers.to_lavis(shapes, tower=False)), "epoch": 9}, path)


def tower_file(path: Path, sizes: Sizes) -> None:
    """LAVIS' ``eva_vit_g.pth``: one block more than BLIP-2 reads, final norm and classifier, in half precision."""
    import timm

    fields = {**sizes.tower, "depth": 40 if sizes.tower["depth"] == 39 else sizes.tower["depth"]}
    with torch.device("meta"):
        shapes = timm.create_model("eva_giant_patch14_clip_224", num_classes=1024, **fields).state_dict()
    torch.save(Filler(torch.float16)(shapes), path)


def diffusion_file(path: Path, sizes: Sizes, channels: int) -> None:
    """A checkpoint of the latent-diffusion code: ``sd-v1-4.ckpt`` (4 channels) with its text encoder, or Paint-by-Example's ``model.ckpt`` (9)
    with its null token and a stand-in for its image encoder, which no import reads. CLIP's tokenizer lies beside the first."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = {"layers_per_block": 2, "block_out_channels": [320, 640, 1280, 1280], **sizes.unet, "in_channels": channels}
    unet.setdefault("down_block_types", [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"])
    with torch.device("meta"):
        shapes = peers.to_ldm_unet(UNet2DConditionModel(**unet).state_dict(), fields=unet)
        shapes |= peers.to_ldm_vae(AutoencoderKL(**sizes.vae).state_dict(), fields=sizes.vae)
        if channels == 4:
            text = CLIPTextModel(CLIPTextConfig(**sizes.clip)).state_dict()
    if channels == 4:
        shapes |= peers.to_ldm_text(text, positions=77)
        clip_tokenizer(path.parent)
    else:
        empty = torch.empty(1, 1, sizes.unet["cross_attention_dim"], device="meta")
        shapes |= {"learnable_vector": empty, "proj_out.weight": torch.rand(4, 4), "cond_stage_model.mapper.x": torch.rand(4)}
    torch.save({"state_dict": Filler()(shapes) | peers.ldm_process(), "global_step": 470000, "callbacks": {}}, path)


def vae_file(path: Path, sizes: Sizes) -> None:
    """StableVITON's ``VITONHD_VAE_finetuning.ckpt``: an autoencoder alone, with a loss of its training."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        shapes = peers.to_ldm_vae(AutoencoderKL(**sizes.vae).state_dict(), "", fields=sizes.vae)
    torch.save({"state_dict": {**Filler()(shapes), "loss.logvar": torch.zeros(())}}, path)


def vicuna_folder(folder: Path, sizes: Sizes) -> None:
    """Vicuna's folder: ``pytorch_model-0000i-of-n.bin`` in half precision with index, written shard by shard."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    config = LlamaConfig(**sizes.llama, architectures=["LlamaForCausalLM"], torch_dtype="float16")
    with torch.device("meta"):
        shapes = dict(LlamaForCausalLM(config).state_dict())
    head = sizes.llama["hidden_size"] // sizes.llama["num_attention_heads"]
    for layer in range(sizes.llama["num_hidden_layers"]):
        shapes[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.rand(head // 2)
    groups: list[dict[str, Tensor]] = [{}]
    for name, tensor in shapes.items():
        if sum(t.numel() for t in groups[-1].values()) * 2 > SHARD:
            groups.append({})
        groups[-1][name] = tensor
    names = [f"pytorch_model-{i + 1:05}-of-{len(groups):05}.bin" for i in range(len(groups))]
    index = {name: file for group, file in zip(groups, names) for name in group}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}), "utf-8")
    for group, file in zip(groups, names):
        torch.save(Filler(torch.float16)(group), folder / file)
    config.save_pretrained(folder)
    from transformers import PreTrainedTokenizerFast

    words = SHIPPED / "tiny_llm_tokenizer.json"
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_file=str(words), **marks).save_pretrained(folder)


def clip_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer: single letters, and words that nobody writes up to its size."""
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    rest = [f"<|{i}|>" for i in range(CLIP_WORDS - len(letters) - 2)]
    vocabulary = {word: i for i, word in enumerate([*letters, *rest, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>"}
    marks = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **marks}), "utf-8")


def bert_folder(folder: Path) -> None:
    """BERT's tokenizer: the shipped words, and unused ones up to its size."""
    folder.mkdir(parents=True)
    words = (SHIPPED / "tiny_vocab.txt").read_text("utf-8").splitlines()
    words += [f"[unused{i}]" for i in range(BERT_WORDS - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": BERT_WORDS}))


def in_hub_cache(cache: Path, name: str, folder: Path) -> None:
    """``folder`` as what the hub's cache has of ``owner/name``; no second copy."""
    revision, place = "0" * 40, cache / "hub" / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "snapshots").mkdir()
    (place / "refs" / "main").write_text(revision)
    (place / "snapshots" / revision).symlink_to(folder.resolve(), target_is_directory=True)


#: Name -> how it is written, the command that imports it, and the file or folder to be written; below ``downloads``.
DOWNLOADS: dict[str, Callable[[Path, Sizes], None]] = {
    "blip2_pretrained.pth": blip2_file,
    "eva_vit_g.pth": tower_file,
    "sd/sd-v1-4.ckpt": lambda path, sizes: diffusion_file(path, sizes, 4),
    "pbe/model.ckpt": lambda path, sizes: diffusion_file(path, sizes, 9),
    "VITONHD_VAE_finetuning.ckpt": vae_file,
    "vicuna-7b-v1.5": vicuna_folder,
    "bert": lambda path, _: bert_folder(path),
}
