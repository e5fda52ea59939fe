"""Language models in GGUF files: imported ones are those that transformers itself reads from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unifashion_pl.tasks.language_model import LanguageModel
from unifashion_pl.weights.check import check_weights
from unifashion_pl.weights.importing import import_weights

pytest.importorskip("gguf", reason="the package gguf is not installed (the extra gguf)")
from gguf_peer import TOKENIZER, write_gguf

IDS = torch.tensor([[1, 5, 9, 12, 3]])


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("family", "kind", "tied"), [("llama", "Q4_1", True), ("llama", "Q8_0", False), ("qwen2", "Q4_0", True)]
)
def test_an_imported_file_is_the_model_that_transformers_reads(tmp_path: Path, family: str, kind: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "model.gguf", family, kind=kind, tied=tied)
    report = import_weights(tmp_path / "model.gguf", tmp_path / "out")
    assert report.kind == "gguf"
    assert report.counts()["dropped"] == 0
    assert any(entry.reason == f"dequantised from {kind}" for entry in report.entries)
    ours = LanguageModel(str(tmp_path / "out"))
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    assert torch.equal(logits(ours.model), logits(peer))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"] is tied


def test_whole_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf", kind="F32", tied=False)
    import_weights(tmp_path / "model.gguf", tmp_path / "out")
    ours = LanguageModel(str(tmp_path / "out"))
    assert torch.equal(logits(ours.model), logits(model))
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.model.state_dict().items())


def test_the_tokenizer_of_a_file_cuts_texts_as_its_own_does_and_brings_no_program(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    report = import_weights(tmp_path / "model.gguf", tmp_path / "out")
    assert any("the tokenizer is the file's" in note for note in report.notes)
    ours = LanguageModel(str(tmp_path / "out")).tokenizer
    for text in ("A red dress, 2 pockets.", "two  blanks\nand a line</s>", "é"):
        assert ours(text, add_special_tokens=False)["input_ids"] == TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == ("<s>", "</s>", "<pad>")
    assert ours.chat_template is None
    assert not list((tmp_path / "out").glob("*template*"))


def test_a_file_without_a_tokenizer_says_what_to_copy_and_takes_one_that_lies_beside_it(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", tokenizer=False)
    report = import_weights(tmp_path / "model.gguf", tmp_path / "out")
    assert any("copy tokenizer.json" in note for note in report.notes)
    TOKENIZER.save_pretrained(tmp_path)
    import_weights(tmp_path / "model.gguf", tmp_path / "second")
    assert LanguageModel(str(tmp_path / "second")).tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_check_knows_it(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    found = check_weights(tmp_path / "model.gguf")
    assert (found.kind, found.complete) == ("gguf", True)
    assert "no file with this hash" in found.text()


def test_a_file_that_the_manifest_does_not_know_has_no_licence_of_another(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    assert import_weights(tmp_path / "model.gguf", tmp_path / "out").licence == "not in the manifest"
    with pytest.raises(ValueError, match="knows no part of kind gguf"):
        import_weights(tmp_path / "model.gguf", tmp_path / "second", commercial_only=True)
    with pytest.raises(ValueError, match="this is not smollm2-135m-instruct-gguf: its SHA-256 is b179c952"):
        import_weights(tmp_path / "model.gguf", tmp_path / "second", part="smollm2-135m-instruct-gguf")


@pytest.mark.parametrize("field", ["rope__scaling__factor", "attention__sliding_window"])
def test_what_changes_the_result_and_is_not_read_is_refused_by_name(tmp_path: Path, field: str) -> None:
    write_gguf(tmp_path / "model.gguf", **{field: 2.0})
    with pytest.raises(ValueError, match=f"llama.{field.replace('__', '.')} = 2.0, which changes"):
        import_weights(tmp_path / "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_architectures_and_other_kinds_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    data = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "other.gguf").write_bytes(data.replace(b"llama", b"bloom", 1))
    with pytest.raises(ValueError, match="'bloom'.*known are llama, qwen2, qwen3"):
        import_weights(tmp_path / "other.gguf", tmp_path / "out")
    (tmp_path / "folder").mkdir()
    torch.save({"model.layers.0.x": torch.zeros(2)}, tmp_path / "folder" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no GGUF file: a folder of transformers is imported --as llm"):
        import_weights(tmp_path / "folder", tmp_path / "out", kind="gguf")


def test_numbers_of_layers_that_the_file_cannot_have_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    data = (tmp_path / "model.gguf").read_bytes()
    start = data.index(b"llama.block_count") + len(b"llama.block_count") + 4
    (tmp_path / "deep.gguf").write_bytes(data[:start] + (2**30).to_bytes(4, "little") + data[start + 4 :])
    with pytest.raises(ValueError, match="1,073,741,824 blocks and holds 20 tensors"):
        import_weights(tmp_path / "deep.gguf", tmp_path / "out")
