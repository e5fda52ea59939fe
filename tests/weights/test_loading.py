"""Weights into a model that is there: whole parts, or a sentence and nothing changed."""

from __future__ import annotations

from pathlib import Path

import peers
import pytest
import torch

from unifashion_pl.tasks import RetrievalModule
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.loading import load_imported, load_weights


@pytest.fixture(scope="module")
def lavis() -> dict[str, torch.Tensor]:
    return peers.to_lavis(peers.blip2().state_dict())


def test_models_of_other_sizes_and_without_heads(lavis: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(lavis, tmp_path / "x.pth")
    import_weights(tmp_path / "x.pth", tmp_path / "out")
    narrow = peers.our_model(retrieval=RetrievalModule(hidden_size=peers.HIDDEN, embed_dim=8))
    before = {n: t.clone() for n, t in narrow.state_dict().items()}
    with pytest.raises(ValueError, match=r"vision_proj.bias: file \(16,\), expected \(8,\)"):
        load_imported(narrow, tmp_path / "out")
    assert all(torch.equal(t, before[n]) for n, t in narrow.state_dict().items())
    plain = peers.our_model(retrieval=RetrievalModule(hidden_size=peers.HIDDEN, embed_dim=peers.EMBED, itm=False))
    report = load_imported(plain, tmp_path / "out")
    assert "not built here, left out: retrieval_head.itm_head, retrieval_head.lm_head" in report.notes
    with pytest.raises(ValueError, match="nothing to load"):
        load_imported(torch.nn.Linear(2, 2), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="has no report.json"):
        load_imported(plain, tmp_path)


def test_training_starts_from_an_imported_folder(lavis: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(lavis, tmp_path / "x.pth")
    import_weights(tmp_path / "x.pth", tmp_path / "out")
    model = peers.our_model()
    load_weights(model, str(tmp_path / "out"))
    assert torch.equal(model.backbone.query_tokens, lavis["query_tokens"])
    assert torch.equal(model.backbone.target_query_tokens, lavis["query_tokens"])
    assert torch.equal(model.retrieval_head.vision_proj.bias, lavis["vision_proj.bias"])  # type: ignore[union-attr]
