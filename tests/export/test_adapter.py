"""The LoRA folder, loaded by peft and transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from unifashion_pl.cli import main
from unifashion_pl.export.adapter import export_adapter
from unifashion_pl.module import UniFashionModule


def test_peft_loads_what_the_model_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "tiny", "--format", "peft", "--out", str(tmp_path / "lora")])
    assert "PeftModel.from_pretrained" in capsys.readouterr().out
    language = UniFashionModule.from_pretrained("tiny", heads=("caption",)).caption_head.language_model  # type: ignore[union-attr]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lora" / "base")
    ids = tokenizer("a red dress with long sleeves", return_tensors="pt").input_ids
    assert torch.equal(ids, language.tokenizer("a red dress with long sleeves", return_tensors="pt").input_ids)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "lora" / "base")
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        found = PeftModel.from_pretrained(base, tmp_path / "lora").eval()(input_ids=ids).logits
        wanted = language.eval().model(input_ids=ids).logits
    assert found == pytest.approx(wanted, abs=1e-5)
    assert float((plain - wanted).abs().max()) > 0.01
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (8, 16, "base")


def test_what_has_no_adapter_is_refused(tmp_path: Path, retriever: Path) -> None:
    with pytest.raises(RuntimeError, match="has no caption head"):
        export_adapter(UniFashionModule.from_pretrained(retriever), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    model = UniFashionModule.from_pretrained("tiny", heads=("caption",))
    with pytest.raises(FileExistsError, match="holds other files"):
        export_adapter(model, tmp_path / "b")
    language = model.caption_head.language_model  # type: ignore[union-attr]
    language.model = language.model.get_base_model()
    with pytest.raises(RuntimeError, match="has no LoRA"):
        export_adapter(model, tmp_path / "c")
