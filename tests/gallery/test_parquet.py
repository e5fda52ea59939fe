"""An index as Parquet, read by pandas."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from galleries import pictures

from unifashion_pl.cli import main
from unifashion_pl.gallery import Gallery, store
from unifashion_pl.gallery.parquet import write_parquet
from unifashion_pl.inference.encode import encode_image_sets, encode_text
from unifashion_pl.module import UniFashionModule


def test_pandas_reads_what_the_model_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", reason="the extra `export` is not installed")
    model = UniFashionModule.from_pretrained("tiny", heads=("retrieval",))
    images, texts = pictures(5), ["a red dress", "", "blue shirt", "", "x"]
    rows = [{"price": 3 + i, "target": f"own {i}", "note": None if i == 2 else "n"} for i in range(5)]
    gallery = Gallery(model)
    gallery.add(images, ids=[*"abcde"], captions=texts, columns=rows)
    gallery.remove("b")
    gallery.save(tmp_path / "index")
    main(["index", "export", str(tmp_path / "index"), "--out", str(tmp_path / "index.parquet")])
    assert "4 images" in capsys.readouterr().out
    frame = pandas.read_parquet(tmp_path / "index.parquet")
    kept = [0, 2, 3, 4]
    assert list(frame["id"]) == list(frame["product"]) == ["a", "c", "d", "e"]
    assert list(frame["price"]) == [3.0, 5.0, 6.0, 7.0]
    assert list(frame["column_target"]) == [f"own {i}" for i in kept]
    assert list(frame["caption"].fillna("")) == [texts[i] for i in kept]
    assert list(frame["note"].fillna("-")) == ["n", "-", "n", "n"]
    wanted = encode_image_sets(model, images[kept], ("reference", "target"))
    for name in ("reference", "target"):
        found = np.stack([np.stack(list(one)) for one in frame[name]])
        assert found == pytest.approx(wanted[name].numpy(), abs=1e-6)
        assert found.dtype == np.float32
    captions = frame["captions"]
    assert [one is not None for one in captions] == [True, True, False, True]
    assert np.stack([captions[i] for i in (0, 1, 3)]) == pytest.approx(
        encode_text(model, [texts[0], texts[2], texts[4]]).numpy(), abs=1e-6
    )
    import pyarrow.parquet

    told = json.loads(pyarrow.parquet.read_schema(tmp_path / "index.parquet").metadata[b"unifashion"])
    assert (told["model"], told["query_set"]) == (gallery.encoder.side.fingerprint, "both")


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = UniFashionModule.from_pretrained("tiny", heads=("retrieval",))
    gallery = Gallery(model)
    gallery.add(pictures(1), ids=["a"])
    gallery.remove("a")
    gallery.save(tmp_path / "index")
    with pytest.raises(ValueError, match="is empty"):
        write_parquet(store.read(tmp_path / "index"), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'unifashion-pl\[export\]'"):
        write_parquet(store.read(tmp_path / "index"), tmp_path / "a.parquet")
