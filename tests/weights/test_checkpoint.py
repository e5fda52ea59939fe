"""Finding and reading saved models."""

from __future__ import annotations

import huggingface_hub
import pytest

from unifashion_pl import UniFashionModule


@pytest.mark.parametrize("name", ["nothing", "/nowhere/x", "./a/b", "three/parts/x", "a b"])
def test_names_that_are_no_hub_ids_ask_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match="there is no model .*expected 'tiny', a folder, a .ckpt, or a hub id"):
        UniFashionModule.from_pretrained(name)
