"""What people download: model folders, checkpoints, tensors, adapters, imported folders; galleries; and a user's own config."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from fuzz.annotations import changing
from fuzz.engine import Target
from fuzz.guard import CANARY
from fuzz.mutate import (
    MARKER,
    Change,
    Damage,
    damaged_bytes,
    damaged_json,
    damaged_safetensors,
    damaged_text,
    damaged_value,
    of_files,
    with_calls,
)
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from small import images, small_backbone

from unifashion_pl import UniFashionModule
from unifashion_pl.files import write_tensors
from unifashion_pl.gallery import Gallery
from unifashion_pl.parts.tensors import load_tensors
from unifashion_pl.weights.checkpoint import load_weights, read_state
from unifashion_pl.weights.download import open_download
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.ledger import Report
from unifashion_pl.weights.loading import load_imported

CONFIG = """# a small model
model:
  backbone:
    class_path: unifashion_pl.backbone.QFormerBackbone
    init_args:
      vision:
        class_path: unifashion_pl.backbone.VisionTower
        init_args: {name: resnet10t, image_size: 32, timm_kwargs: {channels: [8, 8, 16, 16], stem_width: 8, output_stride: 8}}
      tokenizer: tiny
      num_queries: 4
      hidden_size: 32
      num_layers: 2
      num_heads: 2
      intermediate_size: 64
  retrieval:
    class_path: unifashion_pl.tasks.RetrievalModule
    init_args: {hidden_size: 32, embed_dim: 8}
"""


@cache
def model() -> UniFashionModule:
    """The small model, made once."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        made = UniFashionModule.from_config(make_config(Path(folder))).eval()
    made.learned = None  # asked all the same, as models from before this was known
    return made


def make_config(folder: Path) -> Path:
    """A user's config."""
    (folder / "small.yaml").write_text(CONFIG)
    return folder / "small.yaml"


def use_config(folder: Path) -> object:
    """Build a model from it."""
    return UniFashionModule.from_config(folder / "small.yaml")


def make_checkpoint(folder: Path) -> None:
    """As ``fit`` writes it."""
    import lightning as L

    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **quiet)
    trainer.strategy.connect(model())
    trainer.save_checkpoint(folder / "last.ckpt")


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


HOSTILE: tuple[Any, ...] = (
    _Call(os.system, MARKER),
    _Call(eval, "1"),
    _Call(exec, f"import {CANARY}"),
    _Call(__import__, CANARY),
)


@st.composite
def damaged_checkpoint(draw: DrawFn, seed: bytes) -> bytes:
    """Another content, one that calls functions, or damaged bytes."""
    way = draw(st.integers(0, 9))
    if way < 3:
        return draw(damaged_bytes(seed))
    content = torch.load(BytesIO(seed), weights_only=True)
    if way < 5:
        place = draw(st.sampled_from((content, content["hyper_parameters"], content["state_dict"])))
        place[draw(st.sampled_from(("note", "backbone", "state_dict")))] = draw(st.sampled_from(HOSTILE))
        if way == 4:
            return pickle.dumps(content)
    elif way < 8:
        damage = draw(st.sampled_from((damaged_value, with_calls)))
        content["hyper_parameters"] = draw(damage(content["hyper_parameters"]))
    else:
        content = draw(damaged_value(content, 1))
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def use_checkpoint(folder: Path) -> object:
    """As inference, ``init_from`` and ``weights check`` open it."""
    path = folder / "last.ckpt"
    UniFashionModule.from_pretrained(path)
    load_weights(model(), str(path))
    return [read_state(path), open_download(path)]


def make_model(folder: Path) -> None:
    """As the library saves it."""
    model().save_pretrained(folder)


def model_changes(folder: Path) -> st.SearchStrategy[Change]:
    """A config with other values or with calls in it, or other tensors; other files only now and then."""
    config, tensors = "config.json", "model.safetensors"
    content = (folder / config).read_bytes()
    calls = with_calls(json.loads(content)).map(lambda value: {config: json.dumps(value).encode()})
    values = damaged_value(json.loads(content)).map(lambda value: {config: json.dumps(value).encode()})
    both = of_files({config: damaged_json(content), tensors: damaged_safetensors((folder / tensors).read_bytes())})
    rest = changing({path.relative_to(folder).as_posix(): damaged_json for path in folder.rglob("*.json")})(folder)
    return st.one_of(calls, values, both, rest)


def make_tensors(folder: Path) -> None:
    """The model's tensors alone."""
    write_tensors(folder / "model.safetensors", model().state_dict())


def use_tensors(folder: Path) -> object:
    """As all readers of tensors open them."""
    path = folder / "model.safetensors"
    return [read_state(path), load_tensors(path), open_download(path)]


def make_gallery(folder: Path) -> None:
    """Five pictures with captions."""
    captions = ["a red dress", "", "a", "b", "c"]
    model().gallery(images(5), ids=[f"i{n}" for n in range(5)], captions=captions).save(folder)


def use_gallery(folder: Path) -> object:
    """Load, search, take something out, put something in."""
    gallery = Gallery.load(folder, model())
    hits = gallery.search(text="a dress", k=3)
    gallery.remove(gallery.ids[:1]).add(images(1, seed=3), ids=["fuzz-new"])
    return repr([hit.explanation for hit in (*hits, *gallery.search(text="red", image=images(1)))])


def make_lora(folder: Path) -> None:
    """A LoRA as peft saves it, beside its base model."""
    import peers
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**peers.llama_config(60), bos_token_id=1, eos_token_id=2))
    base.save_pretrained(folder / "base")
    adapted: Any = get_peft_model(base, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    adapted.save_pretrained(folder / "lora")


def use_lora(folder: Path) -> None:
    """Import it alone, and added to its base."""
    with tempfile.TemporaryDirectory() as out:
        import_weights(folder / "lora", Path(out) / "alone")
        import_weights(folder / "lora", Path(out) / "merged", base=folder / "base")


def make_sharded(folder: Path) -> None:
    """A folder as hubs keep it: an index and two files of tensors."""
    state = small_backbone().state_dict()
    names = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(state)}
    for file in set(names.values()):
        write_tensors(folder / file, {name: tensor for name, tensor in state.items() if names[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "config.json").write_text(json.dumps({"model_type": "blip-2"}))


def make_imported(folder: Path) -> None:
    """As ``weights import`` leaves a backbone."""
    absent = {"retrieval_head.itm_head": "not there"}
    Report("blip2-lavis", "blip2.pth", {"blip2.pth": "0" * 64}, absent=absent, use="init_from").write(folder)
    state = {name: tensor for name, tensor in model().state_dict().items() if name.startswith("backbone.")}
    write_tensors(folder / "model.safetensors", state)


def use_imported(folder: Path) -> object:
    """Fill a model from it."""
    return repr(load_imported(model(), folder)) + load_weights(model(), str(folder))


def yaml(data: bytes) -> st.SearchStrategy[bytes]:
    """A damaged config."""
    tags = ("!!python/object/apply:os.system [true]\n", "!!python/name:os.system", "# extends: small.yaml\n", "<<: *a")
    marks = ("  ", "\t", ":", "- ", "{", "}", "[", "&a ", "*a", "|", "%", "\x00", "'")
    return damaged_text(data, (*marks, *tags))


ALL: dict[str, Damage] = {"**/*.json": damaged_json, "**/*.safetensors": damaged_safetensors}
LORA: dict[str, Damage] = {f"lora/{name.removeprefix('**/')}": damage for name, damage in ALL.items()}
OWN = (ValueError, TypeError, FileNotFoundError, SystemExit)
TARGETS = (
    Target("model-folder", 800, make_model, model_changes, UniFashionModule.from_pretrained),
    Target("checkpoint", 800, make_checkpoint, changing({"last.ckpt": damaged_checkpoint}), use_checkpoint),
    Target("tensors", 1000, make_tensors, changing({"*.safetensors": damaged_safetensors}), use_tensors),
    Target("gallery", 1000, make_gallery, changing(ALL), use_gallery),
    Target("lora", 300, make_lora, changing({**LORA, "base/config.json": damaged_json}), use_lora),
    Target("published-weights", 500, make_sharded, changing(ALL), open_download),
    Target("imported-folder", 500, make_imported, changing(ALL), use_imported),
    # what a user's own classes and settings do wrong is said by themselves
    Target("own-config", 500, make_config, changing({"*.yaml": yaml}), use_config, OWN, named=False),
)
