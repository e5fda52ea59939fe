"""The decoder and its adapters; what captions need of it is in ``test_caption.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings, load_llm_tokenizer

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def decoder(lora: LoraSettings | None = None, **kwargs: object) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(config=SMALL, lora=lora, **kwargs).eval()  # type: ignore[arg-type]


def save(folder: Path, *, pad: bool = True) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """A small Llama with the shipped tokenizer, with or without its padding token."""
    torch.manual_seed(1)
    tokenizer = load_llm_tokenizer("tiny")
    if not pad:
        tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=len(tokenizer))).eval()
    model.save_pretrained(folder)
    return model, tokenizer


def ids() -> Tensor:
    return torch.tensor([[1, 50, 60, 70, 80], [1, 90, 30, 0, 0]])


@torch.no_grad()
def logits(model: LanguageModel, keep: int = 5) -> Tensor:
    return model.logits(model.embed(ids()), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]), keep)


def test_a_model_from_a_folder_is_that_model_and_frozen(tmp_path: Path) -> None:
    original, tokenizer = save(tmp_path)
    model = LanguageModel(str(tmp_path)).eval()
    assert model.width == 32
    assert not any(p.requires_grad for p in model.parameters())
    assert model.tokenizer.get_vocab() == tokenizer.get_vocab()
    with torch.no_grad():
        expected = original(input_ids=ids(), attention_mask=torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])).logits
    torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(model, 2), expected[:, -2:], atol=1e-6, rtol=0)


def test_adapters_of_a_model_from_a_folder_train_and_its_base_does_not(tmp_path: Path) -> None:
    save(tmp_path)
    model = LanguageModel(str(tmp_path), lora=LoraSettings(rank=4, alpha=8, dropout=0.0))
    adapters = {n: p for n, p in model.named_parameters() if "lora_" in n}
    for parameter in adapters.values():
        torch.nn.init.normal_(parameter, std=0.1)
    model.logits(model.embed(ids()), torch.ones(2, 5), 5).square().mean().backward()
    assert len(adapters) == 2 * len(LAYERS) * 2
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(adapters)
    assert all(p.grad.any() for p in adapters.values())  # type: ignore[union-attr]


def test_a_model_from_a_config_is_trainable_and_reads_the_tokenizer_s_ids() -> None:
    model = decoder()
    assert all(p.requires_grad for p in model.parameters())
    config, tokenizer = model.model.config, model.tokenizer
    assert config.vocab_size == len(tokenizer)
    specials = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == specials
    wider = LanguageModel(config={**SMALL, "vocab_size": len(tokenizer) + 7})
    assert wider.model.config.vocab_size == len(tokenizer) + 7


def test_fresh_adapters_change_nothing_and_trained_ones_add_alpha_over_rank() -> None:
    plain, adapted = decoder(), decoder(LoraSettings(rank=4, alpha=12))
    torch.testing.assert_close(logits(adapted), logits(plain), atol=0, rtol=0)
    state = dict(adapted.named_parameters())
    merged = plain.state_dict()
    for i in range(2):
        for layer in LAYERS:
            block = "self_attn" if layer in LAYERS[:4] else "mlp"
            name = f"layers.{i}.{block}.{layer}"
            down, up = (state[f"model.base_model.model.model.{name}.lora_{x}.default.weight"] for x in "AB")
            torch.nn.init.normal_(up, std=0.1)
            merged[f"model.model.{name}.weight"] = merged[f"model.model.{name}.weight"] + 12 / 4 * (up @ down).detach()
    assert (logits(adapted) - logits(plain)).abs().max() > 1e-3
    plain.load_state_dict(merged)
    torch.testing.assert_close(logits(adapted), logits(plain), atol=1e-5, rtol=1e-4)


def test_adapters_can_be_put_into_some_layers_only() -> None:
    model = decoder(LoraSettings(rank=2, alpha=4, target_modules=["q_proj", "v_proj"]))
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 2 * 2
    assert all("lora_" in n and ("q_proj" in n or "v_proj" in n) for n in trainable)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, alpha=8, dropout=0.0)])
def test_checkpointing_gives_the_same_gradients(lora: LoraSettings | None) -> None:
    grads = []
    for checkpointing in (False, True):
        model = decoder(lora, gradient_checkpointing=checkpointing).train()
        assert model.model.is_gradient_checkpointing is checkpointing
        embeddings = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model.logits(embeddings, torch.ones(2, 5), 5).square().mean().backward()
        grads.append(embeddings.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-7, rtol=1e-4)


def test_a_frozen_decoder_recomputes_too_and_drops_nothing() -> None:
    found = []
    for checkpointing in (False, True):
        model = decoder(LoraSettings(rank=4, alpha=8, dropout=0.5), gradient_checkpointing=checkpointing).requires_grad_(False)
        calls: list[str] = []
        for name, module in model.named_modules():
            if name.endswith("self_attn"):
                module.register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
        embeddings = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model.logits(embeddings, torch.ones(2, 5), 5).square().mean().backward()
        assert len(calls) == (4 if checkpointing else 2)  # once more in the backward pass
        assert not any(module.training for module in model.modules())
        found.append(embeddings.grad)
    torch.testing.assert_close(found[0], found[1], atol=1e-7, rtol=1e-4)


def test_padding_on_the_left_changes_no_logit() -> None:
    model = decoder()
    embeddings = model.embed(ids()[:1]).detach()
    padded = torch.cat([torch.randn(1, 3, 32), embeddings], 1)
    with torch.no_grad():
        alone = model.logits(embeddings, torch.ones(1, 5), 5)
        behind = model.logits(padded, torch.tensor([[0] * 3 + [1] * 5]), 5)
    torch.testing.assert_close(behind, alone, atol=1e-5, rtol=0)


def test_the_end_token_pads_only_where_there_is_no_padding_token(tmp_path: Path) -> None:
    tiny = load_llm_tokenizer("tiny")
    assert (tiny.bos_token, tiny.eos_token, tiny.pad_token) == ("<s>", "</s>", "<pad>")
    save(tmp_path / "with")
    save(tmp_path / "without", pad=False)
    assert load_llm_tokenizer(str(tmp_path / "with")).pad_token == "<pad>"
    assert load_llm_tokenizer(str(tmp_path / "without")).pad_token == "</s>"


def test_the_base_has_the_dtype_asked_for(tmp_path: Path) -> None:
    save(tmp_path)
    for model in (LanguageModel(str(tmp_path), dtype="bfloat16"), LanguageModel(config=SMALL, dtype="bfloat16")):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["int8", "Tensor", "fp16", ""])
def test_names_that_are_no_floating_point_type_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"such as float32 or bfloat16, got '{dtype}'"):
        LanguageModel(config=SMALL, dtype=dtype)


@pytest.mark.parametrize("field", ["auto_map", "attn_implementation", "_attn_implementation_internal", "quantization_config"])
def test_fields_that_fetch_code_are_refused_in_configs_within_a_config_too(field: str) -> None:
    for config in (
        {**SMALL, field: "x/y"},
        {**SMALL, "text_config": {field: "x/y"}},
        {**SMALL, "parts": [{"of": {field: "x/y"}}]},
    ):
        with pytest.raises(ValueError, match=field):
            LanguageModel(config=config)


def adapted(seed: int = 3, **kwargs: object) -> LanguageModel:
    """With adapters that do something."""
    model = decoder(LoraSettings(rank=4, alpha=8, dropout=0.0), **kwargs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return model


def test_merged_adapters_are_the_same_function_in_fewer_products() -> None:
    model = adapted()
    apart, (with_adapters, products) = logits(decoder()), counted(model)
    with model.merged():
        inside, fewer = counted(model)
        with model.merged():
            assert torch.equal(logits(model), inside)
        assert torch.equal(logits(model), inside)  # still merged
    torch.testing.assert_close(inside, with_adapters, atol=1e-5, rtol=1e-5)
    assert (inside - apart).abs().max() > 1e-2
    assert products - fewer == 2 * 2 * len(LAYERS)  # two products of each layer's adapter, two layers
    assert counted(model) == (pytest.approx(with_adapters), products)


def counted(model: LanguageModel) -> tuple[Tensor, int]:
    """Logits, and how many linear layers were asked."""
    calls: list[int] = []
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in model.modules() if type(m) is torch.nn.Linear]
    out = logits(model)
    for handle in handles:
        handle.remove()
    return out, len(calls)


def test_a_training_behind_a_merging_is_bit_for_bit_one_without() -> None:
    def trained(merge: bool) -> dict[str, Tensor]:
        model = adapted()
        model.requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(2):
            if merge:
                with model.merged():
                    logits(model)
            optimizer.zero_grad()
            model.logits(model.embed(ids()), torch.ones(2, 5, dtype=torch.long), 5).square().mean().backward()
            optimizer.step()
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

    plain, merged = trained(False), trained(True)
    assert plain.keys() == merged.keys()
    assert [name for name in plain if not torch.equal(plain[name], merged[name])] == []


def test_adapters_are_apart_again_behind_an_error_and_stay_apart_in_half_precision() -> None:
    model = adapted()
    weights = [parameter.data for parameter in model.parameters()]
    with pytest.raises(KeyError), model.merged():
        raise KeyError
    assert all(parameter.data.data_ptr() == kept.data_ptr() for parameter, kept in zip(model.parameters(), weights))
    half = adapted(dtype="bfloat16")
    products = counted(half)[1]
    with half.merged():
        assert counted(half)[1] == products
    plain = decoder()
    with plain.merged():
        assert logits(plain).shape[:2] == (2, 5)
