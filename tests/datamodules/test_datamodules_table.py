"""Training and evaluation on rows of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import webdataset
from small import TEXTS, small_backbone
from unifashion_pl.datamodules import TableDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.data.formats import encode_jpeg
from unifashion_pl.data.tars import TarTable
from unifashion_pl.data.transforms import to_pil
from unifashion_pl.tasks import RetrievalModule


def photo(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)


PAIRS = [{"image": photo(n), "text": TEXTS[n % 4], "id": f"p{n}"} for n in range(8)]
TRIPLETS = [{"reference": photo(n), "target": photo(n + 1), "text": "is redder", "target_id": f"g{n + 1}"} for n in range(6)]
GALLERY = [{"image": photo(n), "id": f"g{n}"} for n in range(6)]
QUERIES = [{"reference": photo(n), "reference_id": f"g{n}", "target_id": f"g{n + 1}", "text": "is redder"} for n in range(5)]


def fitted(data: TableDataModule, folder: Path, policy: str = "phase1_retrieval") -> dict[str, float]:
    torch.manual_seed(0)
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=16), policy=policy)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return {name: float(value) for name, value in trainer.logged_metrics.items()}


def test_pairs_of_a_list(tmp_path: Path) -> None:
    found = fitted(TableDataModule(PAIRS, PAIRS[:4], image_size=32, batch_size=4, name="shop"), tmp_path)
    assert "val/shop/t2i/R@1" in found
    assert "train/pairs/itc" in found


def test_triplets_and_queries_in_a_gallery(tmp_path: Path) -> None:
    data = TableDataModule(TRIPLETS, QUERIES, gallery=GALLERY, kind="triplets", image_size=32, batch_size=3, name="shop")
    found = fitted(data, tmp_path, "phase2_composed")
    assert [name for name in found if name.startswith("val/shop/") and "R@10" in name]
    assert "train/triplets/cir_itc" in found
    assert [batch.dataset for loader in data.test_dataloader() for batch in loader] == ["shop/validation"] * 2


def test_tars_of_webdataset(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for row in PAIRS:
            picture = encode_jpeg(to_pil(torch.from_numpy(row["image"]).permute(2, 0, 1)))
            writer.write({"__key__": row["id"], "jpg": picture, "json": {"caption": row["text"]}})
    table = TarTable(tmp_path)
    columns = {"image": "jpg", "text": "json.caption", "id": "__key__"}
    data = TableDataModule(table, table, columns=columns, image_size=32, batch_size=4, num_workers=1)
    assert sorted(key for batch in data.val_dataloader()[0] for key in batch.keys) == [f"p{n}" for n in range(8)]
    assert "val/table/t2i/R@1" in fitted(data, tmp_path)


def test_a_table_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    files = [encode_jpeg(to_pil(torch.from_numpy(row["image"]).permute(2, 0, 1))) for row in PAIRS]
    columns = {"image": [{"bytes": data, "path": None} for data in files], "text": [row["text"] for row in PAIRS]}
    table = datasets.table.InMemoryTable.from_pydict(columns, schema=features.arrow_schema)
    rows = datasets.Dataset(table, info=datasets.DatasetInfo(features=features), fingerprint="own")
    assert "train/pairs/itc" in fitted(TableDataModule(rows, image_size=32, batch_size=4, num_workers=1), tmp_path)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="unknown kind 'edits'.*; known are pairs, triplets"):
        TableDataModule(PAIRS, kind="edits")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name its rows too"):
        TableDataModule(TRIPLETS, QUERIES, kind="triplets")
    with pytest.raises(ValueError, match=r"unknown column 'imgae' \(did you mean image"):
        TableDataModule(PAIRS, columns={"imgae": "jpg"})
    with pytest.raises(ValueError, match="no rows to train on"):
        TableDataModule(validation=PAIRS).train_dataloader()
