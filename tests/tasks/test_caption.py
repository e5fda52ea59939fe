"""The caption head: sequences, losses, gradients, generation, and the shipped tokenizers."""

from __future__ import annotations

import itertools
import string
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import pair_batch, small_backbone, triplet_batch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from unifashion_pl.checkpoints.train_tiny_tokenizers import train_byte_bpe, train_wordpiece, wardrobe_texts

from unifashion_pl.backbone import Encoding
from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.tasks.caption import STYLES, CaptionModule, GenerationSettings
from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings

CAPTIONS = ["Long dress in red.", "blue shirt", "A plain black skirt, with three buttons.", "Top in green; V-neck!"]
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def head(lora: LoraSettings | None = None, checkpointing: bool = False, **kwargs: object) -> CaptionModule:
    torch.manual_seed(0)
    decoder = LanguageModel(config=SMALL, lora=lora, gradient_checkpointing=checkpointing)
    return CaptionModule(language_model=decoder, query_width=32, **kwargs)  # type: ignore[arg-type]


def queries(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 4, 32, generator=torch.Generator().manual_seed(1))


STYLE_CYCLE = list(itertools.islice(itertools.cycle(STYLES), 4))


def test_prefixes_are_equal_in_training_and_generation() -> None:
    module = head().eval()
    q = queries()
    trained, trained_mask, labels = module.training_sequences(q, STYLE_CYCLE, CAPTIONS)
    seen: dict[str, torch.Tensor] = {}
    module.language_model.model.generate = lambda **kwargs: seen.update(kwargs) or torch.zeros(4, 0, dtype=torch.long)
    module.generate(q, STYLE_CYCLE)
    generated, mask = seen["inputs_embeds"], seen["attention_mask"]
    first_ids, tails = module.prefix_ids(STYLE_CYCLE)
    assert first_ids[0] == module.language_model.tokenizer.bos_token_id
    assert first_ids.count(first_ids[0]) == 1
    for i, tail in enumerate(tails):
        assert int(mask[i].sum()) == len(first_ids) + 4 + len(tail) == int((labels[i] != -100).int().argmax())
        torch.testing.assert_close(trained[i, : mask[i].sum()], generated[i][mask[i].bool()], atol=0, rtol=0)
        assert bool(mask[i, -1])
        assert bool(trained_mask[i, 0])


@pytest.mark.parametrize("limit", [256, 3])
def test_labels_start_at_the_first_answer_token_and_end_at_the_end_token(limit: int) -> None:
    module = head(max_answer_tokens=limit)
    tokenizer = module.language_model.tokenizer
    embeddings, mask, labels = module.training_sequences(queries(), STYLE_CYCLE, CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        supervised = labels[i] != -100
        ids = labels[i][supervised].tolist()
        whole = tokenizer(f" {caption}", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        assert ids == whole[:limit]
        first, last = supervised.nonzero()[0, 0], supervised.nonzero()[-1, 0]
        assert last == mask[i].sum() - 1
        prefix = len(module.prefix_ids([STYLE_CYCLE[i]])[0]) + 4 + len(module.prefix_ids([STYLE_CYCLE[i]])[1][0])
        assert first == prefix
        torch.testing.assert_close(embeddings[i, first : last + 1], module.language_model.embed(torch.tensor(ids)))


def test_long_instructions_are_cut() -> None:
    module = head(styles={"long": "red " * 100, "short": "red " * 7 + "red"}, max_instruction_tokens=8)
    _, (cut, whole) = module.prefix_ids(["long", "short"])
    assert cut == whole


def test_loss_is_the_mean_over_supervised_tokens_or_over_captions() -> None:
    module = head().eval()
    q = queries()
    embeddings, mask, labels = module.training_sequences(q, STYLE_CYCLE, CAPTIONS)
    logits = module.language_model.model(inputs_embeds=embeddings, attention_mask=mask).logits[:, :-1]
    each = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
    loss = module.caption_loss(q, STYLE_CYCLE, CAPTIONS)
    torch.testing.assert_close(loss, each.sum() / (labels != -100).sum(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        loss, module.language_model.model(inputs_embeds=embeddings, attention_mask=mask, labels=labels).loss, atol=1e-5, rtol=0
    )
    module.per_caption = True
    single = torch.stack([module.caption_loss(q[i : i + 1], STYLE_CYCLE[i : i + 1], CAPTIONS[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(module.caption_loss(q, STYLE_CYCLE, CAPTIONS), single.mean(), atol=1e-5, rtol=0)


def test_pairs_and_triplets_give_a_loss_and_empty_captions_take_no_part() -> None:
    backbone, module = small_backbone().eval(), head().eval()
    for batch in (pair_batch(), triplet_batch()):
        encoding = backbone.encode(batch)
        full = module.losses(backbone, batch, encoding)
        assert set(full) == {"itg"}
        batch.captions = [batch.captions[0], "", batch.captions[2], "  "]
        batch.styles[1] = ""
        kept = module.losses(backbone, batch, encoding)["itg"]
        rows = [0, 2]
        expected = module.caption_loss(
            encoding.queries[rows], [batch.styles[i] for i in rows], [batch.captions[i] for i in rows]
        )
        torch.testing.assert_close(kept, expected)
        batch.captions = [""] * 4
        nothing = module.losses(backbone, batch, encoding)["itg"]
        assert nothing.item() == 0
        assert nothing.requires_grad


@pytest.mark.parametrize("adapter", ["linear", "mlp2"])
def test_a_frozen_language_model_passes_gradients_to_the_queries(adapter: str) -> None:
    module = head(adapter=adapter, lora=LoraSettings(rank=4, alpha=8), checkpointing=True).train()
    for parameter in module.language_model.parameters():
        parameter.requires_grad_(False)
    q = queries().requires_grad_()
    module.caption_loss(q, STYLE_CYCLE, CAPTIONS).backward()
    assert q.grad is not None
    assert (q.grad.abs().amax((1, 2)) > 0).all()
    assert all(p.grad is not None for p in module.adapter.parameters())
    assert all(p.grad is None for p in module.language_model.parameters())


def test_only_adapters_train_under_lora_and_stay_in_float32() -> None:
    decoder = LanguageModel(config=SMALL, lora=LoraSettings(rank=4, alpha=8), dtype="bfloat16")
    trainable = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 7 * 2
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trainable.items())
    assert not any("lm_head" in name for name in trainable)
    assert {p.dtype for name, p in decoder.named_parameters() if name not in trainable} == {torch.bfloat16}
    module = CaptionModule(language_model=decoder, query_width=32)
    module.caption_loss(queries(), STYLE_CYCLE, CAPTIONS).backward()
    assert all(p.grad is not None for p in trainable.values())


def test_lora_of_a_7b_model_has_the_paper_s_number_of_parameters() -> None:
    with torch.device("meta"):
        decoder = LanguageModel(config=LLAMA_7B, lora=LoraSettings())
        module = CaptionModule(language_model=decoder)
    assert decoder.width == 4096
    assert sum(p.numel() for p in decoder.parameters() if p.requires_grad) == 319_815_680
    assert sum(p.numel() for p in module.adapter.parameters()) == 3_149_824


def test_sixty_steps_learn_four_captions_and_generation_does_not_depend_on_the_batch() -> None:
    module = head().train()
    module.language_model.model.model.layers[1].eval()
    q = queries()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = module.caption_loss(q, STYLE_CYCLE, CAPTIONS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.05
    assert module.generate(q, STYLE_CYCLE, max_new_tokens=32) == CAPTIONS
    assert module.generate(q, STYLE_CYCLE, num_beams=1, max_new_tokens=32) == CAPTIONS
    assert module.training
    assert module.language_model.model.model.layers[0].training
    assert not module.language_model.model.model.layers[1].training


def test_the_head_s_own_way_of_writing_is_taken_unless_something_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    module = head(
        generation=GenerationSettings(num_beams=2, max_new_tokens=7, repetition_penalty=1.0, no_repeat_ngram=3)
    ).eval()
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        module.language_model.model, "generate", lambda **kwargs: seen.update(kwargs) or torch.zeros(4, 0, dtype=torch.long)
    )
    module.generate(queries(), STYLE_CYCLE)
    config = seen["generation_config"]
    assert (config.num_beams, config.max_new_tokens) == (2, 7)
    assert [type(p).__name__ for p in seen["logits_processor"]] == ["NoRepeatNGramLogitsProcessor"]
    module.generate(queries(), STYLE_CYCLE, num_beams=1, repetition_penalty=1.5, no_repeat_ngram=0)
    assert (seen["generation_config"].num_beams, seen["generation_config"].max_new_tokens) == (1, 7)
    assert [type(p).__name__ for p in seen["logits_processor"]] == ["RepetitionPenaltyLogitsProcessor"]
    usual = head().generation
    assert (usual.num_beams, usual.max_new_tokens, usual.repetition_penalty, usual.no_repeat_ngram) == (5, 256, 1.5, 0)
    for wrong in ({"num_beams": 0}, {"max_new_tokens": 2.5}, {"repetition_penalty": "much"}, {"no_repeat_ngram": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GenerationSettings(**wrong)  # type: ignore[arg-type]


def test_no_run_of_tokens_comes_twice_where_that_is_asked_whatever_the_batch() -> None:
    module = head().eval()
    asked = {"max_new_tokens": 24, "num_beams": 1, "repetition_penalty": 1.0}
    free = module.generate(queries(), STYLE_CYCLE, **asked)
    held = module.generate(queries(), STYLE_CYCLE, no_repeat_ngram=2, **asked)

    def runs(text: str) -> list[tuple[int, ...]]:
        ids = module.language_model.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [tuple(ids[i : i + 6]) for i in range(len(ids) - 5)]

    assert any(len(set(runs(text))) < len(runs(text)) for text in free)  # an untrained decoder turns in circles
    assert all(len(set(runs(text))) == len(runs(text)) for text in held)
    alone = [module.generate(queries()[i : i + 1], STYLE_CYCLE[i : i + 1], no_repeat_ngram=2, **asked)[0] for i in range(4)]
    assert alone == held


def test_untrained_captions_do_not_depend_on_the_batch() -> None:
    module = head(lora=LoraSettings(rank=4, alpha=8, dropout=0.5)).train()
    together = module.generate(queries(), STYLE_CYCLE, max_new_tokens=12)
    alone = [module.generate(queries()[i : i + 1], STYLE_CYCLE[i : i + 1], max_new_tokens=12)[0] for i in range(4)]
    assert together == alone
    assert module.generate(queries(0), []) == []


def test_queries_of_no_numbers_are_refused_not_captioned() -> None:
    broken = queries(2)
    broken[1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        head().generate(broken, STYLE_CYCLE[:2], max_new_tokens=2)


def test_mistakes_are_named() -> None:
    module = head()
    with pytest.raises(ValueError, match="'haiku'; known are fashion200k, fashiongen, fashioniq"):
        module.generate(queries(1), ["haiku"])
    with pytest.raises(ValueError, match="2 styles for 1 images"):
        module.generate(queries(1), STYLE_CYCLE[:2])
    with pytest.raises(ValueError, match="unknown adapter 'mlp3'"):
        head(adapter="mlp3")
    with pytest.raises(ValueError, match="pass config"):
        LanguageModel("tiny")
    with pytest.raises(ValueError, match="float7"):
        LanguageModel(config=SMALL, dtype="float7")


def test_a_saved_model_with_a_sentencepiece_tokenizer_is_loaded_frozen(tmp_path: Path) -> None:
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    pieces.decoder = decoders.Metaspace(prepend_scheme="first")
    specials = ["<unk>", "<s>", "</s>"]
    pieces.train_from_iterator(
        wardrobe_texts(50), trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    )
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path)
    LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)).save_pretrained(tmp_path)

    decoder = LanguageModel(str(tmp_path), dtype="bfloat16")
    assert not any(p.requires_grad for p in decoder.parameters())
    assert decoder.tokenizer.pad_token == "</s>"
    module = CaptionModule(language_model=decoder, query_width=32)
    assert decoder.tokenizer.convert_ids_to_tokens(module.answer_ids("fashioniq", "red skirt")) == ["▁red", "▁skirt", "</s>"]
    head_ids, tails = module.prefix_ids(STYLE_CYCLE)
    assert [*head_ids, *tails[0]].count(1) == 1
    module.caption_loss(queries(), STYLE_CYCLE, CAPTIONS).backward()
    assert all(p.grad is not None for p in module.adapter.parameters())
    assert len(module.generate(queries(), STYLE_CYCLE, max_new_tokens=4)) == 4


def test_other_batches_give_nothing() -> None:
    encoding = Encoding.__new__(Encoding)
    assert head().losses(small_backbone(), None, encoding) == {}  # type: ignore[arg-type]


def test_the_shipped_tokenizers_are_nearly_those_the_command_trains_today() -> None:
    """They were trained on an earlier draw of the wardrobe, and shipped weights hold their ids."""
    folder = files("unifashion_pl.configs")
    vocabulary = (folder / "tiny_vocab.txt").read_text("utf-8").splitlines()
    today = train_wordpiece(wardrobe_texts())
    assert len(set(vocabulary) & set(today)) > 0.9 * len(today)
    shipped = Tokenizer.from_str((folder / "tiny_llm_tokenizer.json").read_text("utf-8")).get_vocab()
    assert len(shipped.keys() & train_byte_bpe(wardrobe_texts()).get_vocab().keys()) > 0.85 * len(shipped)
    assert vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(vocabulary)) == len(vocabulary)
    assert 1000 <= len(vocabulary) <= 1500
    characters = string.ascii_lowercase + string.digits
    assert {*characters, *(f"##{c}" for c in characters)} <= set(vocabulary)


def test_the_shipped_tokenizers_lose_nothing() -> None:
    wordpiece = load_tokenizer("tiny")
    bpe = head().language_model.tokenizer
    for text in [*itertools.islice(wardrobe_texts(), 600), "Größe 40, 100% Wool (é)!  two  blanks\n👗", string.printable]:
        ids = bpe(text, add_special_tokens=False)["input_ids"]
        assert bpe.decode(ids, clean_up_tokenization_spaces=False) == text
    assert wordpiece.unk_token_id not in wordpiece(" ".join(wardrobe_texts(50)) + " " + string.printable)["input_ids"]
    assert wordpiece.tokenize("Long red dress with buttons") == ["long", "red", "dress", "with", "buttons"]


def test_captions_are_written_with_adapters_merged_and_are_those_of_adapters_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    module = head(LoraSettings(rank=4, alpha=8, dropout=0.0)).eval()
    with torch.no_grad():
        for name, parameter in module.language_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    adapted = [m for m in module.language_model.modules() if hasattr(m, "merged_adapters")]
    seen: list[set[bool]] = []
    generate = module.language_model.model.generate

    def spy(**given: Any) -> Any:
        seen.append({m.merged for m in adapted})
        return generate(**given)

    monkeypatch.setattr(module.language_model.model, "generate", spy)
    merged = module.generate(queries(3), ["fashiongen"] * 3, max_new_tokens=12)
    monkeypatch.setattr(module.language_model, "merged", nullcontext)
    assert module.generate(queries(3), ["fashiongen"] * 3, max_new_tokens=12) == merged
    assert seen == [{True}, {False}]
