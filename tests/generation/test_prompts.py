"""The prompt encoder against Stable Diffusion's own pipeline and transformers' CLIP."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from small import CLIP_TEXT, TEXTS

from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.generation import PromptEncoder


def encoder(**fields: int) -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(config={**CLIP_TEXT, **fields}).eval()


def test_states_equal_those_of_stable_diffusion_s_pipeline(pipeline_folder: Path) -> None:
    ours = PromptEncoder(source=str(pipeline_folder)).eval()
    theirs = StableDiffusionPipeline.from_pretrained(pipeline_folder, safety_checker=None)
    prompts = ["red dress", "", "a long black top"]
    with torch.no_grad():
        expected = theirs.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)[0]
        assert torch.equal(ours(prompts), expected)
    assert expected.shape == (3, ours.length, ours.width) == (3, 12, 24)
    assert not any(p.requires_grad for p in ours.parameters())


def test_states_of_a_config_are_clip_s_over_the_padded_ids() -> None:
    model, tokenizer = encoder(), load_tokenizer("tiny")
    rows = [[tokenizer.cls_token_id, *tokenizer(text, add_special_tokens=False).input_ids][:11] for text in [*TEXTS, ""]]
    ids = torch.full((5, 12), tokenizer.pad_token_id)
    for i, row in enumerate(rows):
        row.append(tokenizer.sep_token_id)
        ids[i, : len(row)] = torch.tensor(row)
    with torch.no_grad():
        assert torch.equal(model([*TEXTS, ""]), model.model(input_ids=ids).last_hidden_state)
    config = model.model.config
    specials = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == specials
    assert config.vocab_size == len(tokenizer)
    assert all(p.requires_grad for p in model.parameters())


def test_a_prompt_does_not_depend_on_its_batch_and_longer_ones_are_cut() -> None:
    model = encoder()
    long = "a long red dress with buttons and stripes and a v neck and short sleeves"
    with torch.no_grad():
        together = model([*TEXTS, long, ""])
        alone = torch.cat([model([text]) for text in [*TEXTS, long, ""]])
        same = model([f"{long} in plain green"])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)
    assert torch.equal(alone[4:5], same)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def test_a_longer_encoder_reads_longer_prompts() -> None:
    model = encoder(max_position_embeddings=20)
    with torch.no_grad():
        assert model([""]).shape == (1, 20, 24)


def test_exactly_one_way_to_make_it() -> None:
    for arguments in ({}, {"source": "somewhere", "config": CLIP_TEXT}):
        with pytest.raises(ValueError, match="either source .* or config"):
            PromptEncoder(**arguments)  # type: ignore[arg-type]


def test_a_source_without_its_tokenizer_is_refused(pipeline_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline_folder / "text_encoder", tmp_path / "text_encoder")
    with pytest.raises(FileNotFoundError, match=r"no CLIP tokenizer at .+expected tokenizer\.json"):
        PromptEncoder(source=str(tmp_path))
