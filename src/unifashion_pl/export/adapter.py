"""The LoRA of a model's language model as a folder of peft, with the base that it was trained on where nobody else has that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unifashion_pl.files import replacing_folder
from unifashion_pl.inference.requests import head_of
from unifashion_pl.interface import SavedModel
from unifashion_pl.tasks.eval_mode import evaluating

ADAPTER, BASE = "adapter_config.json", "base"
#: Tokens that the reloaded model is compared on, and the largest difference of a logit.
TRIED, TOLERANCE = 12, 1e-4


def export_adapter(model: SavedModel, out: str | Path) -> str:
    """Write ``adapter_config.json``, ``adapter_model.safetensors`` and, where the base is no published one, it and its tokenizer as ``base/``.

    Both are loaded by peft and transformers alone, and compared with the model, before the folder is there.

    Args:
        model: with a caption head.

    Returns:
        What was written, and how it is loaded.

    Raises:
        RuntimeError: no caption head, a language model without LoRA, or the reloaded one computes something else.
        FileExistsError: something else is in the folder.
    """
    from peft import PeftModel

    language = head_of(model, "caption").language_model
    adapted: Any = language.model
    if not isinstance(adapted, PeftModel):
        raise RuntimeError(
            "this model's language model has no LoRA: train one with caption.language_model.lora, or save the model as a whole"
        )
    place = Path(out)
    if place.is_dir() and any(place.iterdir()) and not (place / ADAPTER).is_file():
        raise FileExistsError(f"{place} holds other files: name a new folder, or one of an earlier export, which is replaced")
    published = "llm" in model.leave_out
    source = str(adapted.config.name_or_path) if published else BASE
    with replacing_folder(out) as folder, evaluating(model), torch.no_grad():
        if not published:
            base: Any = adapted.get_base_model()
            state = {n.replace(".base_layer.", "."): t for n, t in base.state_dict().items() if ".lora_" not in n}
            base.save_pretrained(folder / BASE, state_dict=state)
            language.tokenizer.save_pretrained(folder / BASE)
        _write_adapter(adapted, folder, source)
        _compare(adapted, folder, folder / BASE if not published else source)
    with_base = f"{place / BASE}" if not published else source
    return (
        f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{with_base}"), "{place}")\n'
        f"-> {place} (the adapter reads the queries of this model's caption head; by itself it continues texts)"
    )


def _write_adapter(adapted: Any, folder: Path, source: str) -> None:
    config = adapted.peft_config["default"]
    before = config.base_model_name_or_path
    config.base_model_name_or_path = source
    try:
        adapted.save_pretrained(folder, save_embedding_layers=False)
    finally:
        config.base_model_name_or_path = before
    (folder / "README.md").unlink(missing_ok=True)  # peft's has nothing but blanks to be filled in


def _compare(adapted: Any, folder: Path, base: str | Path) -> None:
    """
    Raises:
        RuntimeError: what peft loads is another function.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(base, dtype=adapted.dtype, trust_remote_code=False)
    again = PeftModel.from_pretrained(loaded, folder).eval()
    ids = torch.arange(TRIED)[None] % adapted.config.vocab_size
    own, other = (one(input_ids=ids.to(one.device)).logits.float().cpu() for one in (adapted, again))
    if not (apart := float((own - other).abs().max())) <= TOLERANCE:
        raise RuntimeError(
            f"what peft loads is not the model's: logits differ by {apart:.3g}, allowed {TOLERANCE}. Nothing was written"
        )
