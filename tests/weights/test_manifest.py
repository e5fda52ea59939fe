"""The manifest is whole, and decides about licences."""

from __future__ import annotations

from pathlib import Path

import peers
import pytest
import torch

from unifashion_pl.cli import main
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.manifest import KINDS, load_manifest, table


def test_the_manifest_is_whole() -> None:
    parts = load_manifest()
    assert len({part.name for part in parts}) == len(parts) >= 30
    for part in parts:
        assert part.kind is None or part.kind in KINDS, part.name
        assert part.commercial in ("yes", "no", "unclear"), part.name
        assert part.source and part.file and part.licence and part.use, part.name  # noqa: PT018
        assert part.sha256 is None or len(bytes.fromhex(part.sha256)) == 32, part.name
        if "NC-" in part.licence or part.licence == "none stated":
            assert part.commercial == "no", part.name
    assert KINDS.keys() - {part.kind for part in parts} == {"lora"}


def test_the_list_and_its_commercial_half(capsys: pytest.CaptureFixture[str]) -> None:
    main(["weights", "list"])
    everything = capsys.readouterr().out
    main(["weights", "list", "--commercial-only"])
    free = capsys.readouterr().out
    assert "stableviton-vitonhd" in everything
    assert "stableviton" not in free
    assert "Qwen/Qwen2.5-1.5B" in free
    assert "hash not verified" in free
    assert free.splitlines()[0] in everything.splitlines()
    assert table([]).startswith("0 parts")


def test_a_named_part_decides_about_the_licence(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**peers.llama_config(60))).save_pretrained(tmp_path / "llm")
    with pytest.raises(ValueError, match="may be vicuna-7b-v1.5: Llama 2 Community.*say so with --part"):
        import_weights(tmp_path / "llm", tmp_path / "out", commercial_only=True)
    report = import_weights(tmp_path / "llm", tmp_path / "out", commercial_only=True, part="smollm2-1.7b")
    assert report.licence == "Apache-2.0"
    torch.save({"state_dict": peers.to_ldm_vae(peers.vae().state_dict())}, tmp_path / "vae.ckpt")
    with pytest.raises(ValueError, match="this is not stable-diffusion-v1-4: its SHA-256 is fe4efff1"):
        import_weights(tmp_path / "vae.ckpt", tmp_path / "vae", part="stable-diffusion-v1-4")
    with pytest.raises(ValueError, match="no part 'sd-9'"):
        import_weights(tmp_path / "vae.ckpt", tmp_path / "vae", part="sd-9")
