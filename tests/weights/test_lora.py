"""LoRA folders: what was imported computes what peft computes; what cannot be is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from unifashion_pl.tasks import CaptionModule
from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings, _with_lora, load_llm_tokenizer
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.llm import LLM
from unifashion_pl.weights.loading import load_imported

TOKENIZER = load_llm_tokenizer("tiny")
IDS = torch.tensor([[1, 5, 9, 12, 3]])
Q_AND_UP = ["q_proj", "up_proj"]

USED: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "alphas by layer": {"alpha_pattern": {"q_proj": 3, r"model\.layers\.1\.mlp\.up_proj": 40}},
    "ranks by layer": {"rank_pattern": {"up_proj": 2, "layers.0.self_attn.q_proj": 6}},
    "all at once": {"use_rslora": True, "alpha_pattern": {"q_proj": 5}, "rank_pattern": {"^model.layers.1.mlp.up_proj": 7}},
    "some layers": {"layers_to_transform": [1]},
    "a regular expression": {"target_modules": r".*\.layers\.0\..*(q|up)_proj"},
    "without some": {"exclude_modules": ["layers.1.mlp.up_proj"]},
    "of other weights": {"fan_in_fan_out": False, "init_lora_weights": "gaussian"},
}
MERGED: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "saved modules": {"modules_to_save": ["lm_head"]},
    "biases": {"bias": "lora_only"},
}


def llama() -> Any:
    return peers.randomise(LlamaForCausalLM(LlamaConfig(**{**peers.llama_config(40), "attention_bias": True}))).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(input_ids=IDS).logits


def adapter(folder: Path, **fields: Any) -> Tensor:
    """Write ``base`` and ``lora``; the logits of peft's own loading of it."""
    llama().save_pretrained(folder / "base")
    model = get_peft_model(llama(), LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": Q_AND_UP, **fields}))
    with torch.no_grad():
        for i, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    model.save_pretrained(folder / "lora")
    return logits(PeftModel.from_pretrained(llama(), folder / "lora"))


@pytest.mark.parametrize("name", USED)
def test_an_adapter_kept_apart_computes_what_pefts_does(name: str, tmp_path: Path) -> None:
    expected = adapter(tmp_path, **USED[name])
    report = import_weights(tmp_path / "lora", tmp_path / "out")
    noted = re.search(r"rank: (\d+), alpha: (\d+), dropout: \S+, target_modules: (\[.*\])\}", report.notes[0])
    assert noted is not None
    rank, alpha, targets = int(noted[1]), int(noted[2]), json.loads(noted[3].replace("'", '"'))
    model = _with_lora(llama(), LoraSettings(rank=rank, alpha=alpha, target_modules=targets))
    state = {n.removeprefix(LLM): t for n, t in load_file(tmp_path / "out" / "model.safetensors").items()}
    assert state.keys() == {n for n in model.state_dict() if "lora_" in n}
    model.load_state_dict(state, strict=False)
    assert (expected - logits(llama())).abs().max() > 0.01
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", [*USED, *MERGED])
def test_an_adapter_added_to_its_base_computes_what_pefts_does(name: str, tmp_path: Path) -> None:
    expected = adapter(tmp_path, **{**USED, **MERGED}[name])
    report = import_weights(tmp_path / "lora", tmp_path / "out", base=tmp_path / "base")
    torch.testing.assert_close(logits(LlamaForCausalLM.from_pretrained(tmp_path / "out")), expected, atol=2e-5, rtol=0)
    assert {entry.action for entry in report.entries} == {"merged"}


@pytest.mark.parametrize("name", MERGED)
def test_fields_that_would_be_lost_are_refused_by_name(name: str, tmp_path: Path) -> None:
    adapter(tmp_path, **MERGED[name])
    with pytest.raises(ValueError, match=f"adapter_config.json holds {next(iter(MERGED[name]))}: .*--base"):
        import_weights(tmp_path / "lora", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"a_field_of_tomorrow": 3}, "a_field_of_tomorrow: 3"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa'"),
        ({"r": "4"}, r"Expected `int`, got `str` - at `\$.r`"),
        ({"r": 0}, "expected ranks from 1"),
        ({"r": 3}, "4 layers of another rank"),
        ({"lora_alpha": None, "alpha_pattern": {"(a+)+": 2}}, "repeated groups"),
        ({"alpha_pattern": {"(": 2}}, "not read"),
        ({"target_modules": 3}, r"\$.target_modules"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA', expected LORA"),
    ],
)
def test_damaged_configs_are_sentences(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    adapter(tmp_path)
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(ValueError, match=said):
        import_weights(tmp_path / "lora", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def wordy_llama() -> Any:
    """With the shipped tokenizer's words."""
    ids = {f"{name}_token_id": getattr(TOKENIZER, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return peers.randomise(LlamaForCausalLM(LlamaConfig(**peers.llama_config(len(TOKENIZER)), **ids)), 0)


@pytest.fixture
def lora_folder(tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(wordy_llama(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapters = [p for n, p in model.named_parameters() if "lora_" in n]
    with torch.no_grad():
        for i, parameter in enumerate(adapters):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    model.save_pretrained(tmp_path / "lora")
    torch.save(logits(model), tmp_path / "logits.pt")
    return tmp_path / "lora"


def test_a_lora_kept_apart_fills_the_caption_head(lora_folder: Path, tmp_path: Path) -> None:
    report = import_weights(lora_folder, tmp_path / "out")
    assert report.kind == "lora"
    assert any("rank: 4, alpha: 8" in note for note in report.notes)
    base = tmp_path / "base"
    wordy_llama().save_pretrained(base)
    TOKENIZER.save_pretrained(base)
    caption = CaptionModule(
        language_model=LanguageModel(str(base), lora=LoraSettings(rank=4, alpha=8)), query_width=peers.HIDDEN
    )
    model = peers.our_model()
    model.caption_head = caption
    loaded = load_imported(model, tmp_path / "out")
    assert "caption_head.language_model" in loaded.absent
    torch.testing.assert_close(logits(caption.language_model.model), torch.load(tmp_path / "logits.pt"), atol=1e-5, rtol=0)


def test_a_lora_added_to_its_base_is_a_plain_language_model(lora_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    wordy_llama().save_pretrained(base)
    import_weights(lora_folder, tmp_path / "out", base=base)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.state_dict().keys() == wordy_llama().state_dict().keys()
    torch.testing.assert_close(logits(merged), torch.load(tmp_path / "logits.pt"), atol=1e-5, rtol=0)
    weight = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    own = load_file(lora_folder / "adapter_model.safetensors")
    expected = wordy_llama().model.layers[0].mlp.up_proj.weight + 2 * own[weight.format("B")] @ own[weight.format("A")]
    torch.testing.assert_close(merged.model.layers[0].mlp.up_proj.weight, expected, atol=1e-6, rtol=0)


def test_loras_that_do_not_fit_are_refused(lora_folder: Path, tmp_path: Path) -> None:
    wide = LlamaForCausalLM(LlamaConfig(**{**peers.llama_config(len(TOKENIZER)), "hidden_size": 64}))
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="does not fit the base"):
        import_weights(lora_folder, tmp_path / "out", base=tmp_path / "wide")
    file = lora_folder / "adapter_model.safetensors"
    torch.save(
        {n: t for n, t in load_file(file).items() if "layers.1.mlp.up_proj.lora_B" not in n}, lora_folder / "adapter_model.bin"
    )
    file.unlink()
    with pytest.raises(ValueError, match=r"1 halves of LoRA pairs missing .*layers.1.mlp.up_proj.lora_B"):
        import_weights(lora_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
