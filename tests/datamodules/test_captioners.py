"""Captioners on real models: our own head, and vision-language models of transformers with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from data.rawdata import CATEGORIES, picture, write_fashioniq
from unifashion_pl.datamodules.annotate import CaptionInput
from unifashion_pl.datamodules.captioners import HeadCaptioner, TransformersCaptioner

from unifashion_pl import UniFashionModule
from unifashion_pl.commands import run
from unifashion_pl.data.captions import provenance_faults, read_library

WORDS = ["a", "the", "dress", "shirt", "red", "blue", "long", "describe", "with", "."]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURES = {**SMALL, "image_size": 32, "patch_size": 16}


def subjects(count: int = 3) -> list[CaptionInput]:
    return [CaptionInput(picture(i, 40, 48), "dress", ("red", "long")) for i in range(count)]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BLIP with random weights: its text decoder goes on from the prompt."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {**SMALL, **tokens, "vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 128}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=PICTURES, projection_dim=16))
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA with random weights: it is asked in a chat, and returns the prompt in front of its answer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("llava")
    words = ["<pad>", "<unk>", "<s>", "</s>", "<image>", *WORDS]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special, additional_special_tokens=["<image>"])
    chat = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}"
        "{% endif %}{% endfor %}{% endfor %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    layout = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaProcessor(images, tokenizer, **layout, chat_template=chat)
    vision = {**PICTURES, "model_type": "clip_vision_model", "projection_dim": 16}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = {**SMALL, **tokens, "model_type": "llama", "vocab_size": len(words), "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=4))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["blip", "llava"])
def test_any_vision_language_model_answers_without_repeating_the_prompt(request: pytest.FixtureRequest, kind: str) -> None:
    folder = request.getfixturevalue(kind)
    captioner = TransformersCaptioner(folder, max_new_tokens=6)
    texts = captioner(subjects(), 0)
    assert len(texts) == 3
    assert all(len(text.split()) <= 6 for text in texts)
    assert captioner(subjects(), 0) == texts
    assert captioner(subjects(1), 0) == texts[:1]
    assert captioner(subjects(), 1) == captioner(subjects(), 1)
    assert captioner.record["captioner"] == folder.name
    assert provenance_faults({**captioner.record, "keywords_split": "train"}) == []
    state = torch.random.get_rng_state()
    captioner(subjects(1), 2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_our_own_head_says_what_the_model_says_and_sees_the_image_only() -> None:
    model = UniFashionModule.from_pretrained("tiny")
    captioner = HeadCaptioner(model, "fashioniq", max_new_tokens=16)
    shown = subjects(2)
    assert captioner(shown, 0) == model.caption([s.image for s in shown], style="fashioniq", max_new_tokens=16)
    assert captioner(shown, 1) == ["", ""]
    assert captioner.record["inputs"] == ["image"]
    assert provenance_faults(captioner.record) == []


@pytest.mark.parametrize("writer", ["tiny", "blip"])
def test_the_command_line_captions_a_split(request: pytest.FixtureRequest, tmp_path: Path, writer: str) -> None:
    pytest.importorskip("simplemma")
    root = write_fashioniq(tmp_path / "raw", train=2, val=2, distractors=1)
    choice = ["--model", "tiny"] if writer == "tiny" else ["--vlm", str(request.getfixturevalue("blip"))]
    out = tmp_path / "captions.val.jsonl"
    run(["data", "annotate", "--root", str(root), "--out", str(out), "--split", "val", "--max-new-tokens", "8", *choice])
    listed = [json.loads((root / f"image_splits/split.{c}.val.json").read_text()) for c in CATEGORIES]
    library = read_library(out, expected={id for ids in listed for id in ids})
    assert all(line["caption"] for line in library.values())
    keywords = json.loads((tmp_path / "captions.val.keywords.json").read_text())
    assert keywords["split"] == "train"
    if writer == "blip":
        assert {line["keywords_hash"] for line in library.values()} == {keywords["hash"]}
