"""An export asked as the model is: the same vectors and warnings, without torch; and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import images

from unifashion_pl.gallery.model_queries import ModelQueries
from unifashion_pl.inference.exported import ExportedModel, is_export
from unifashion_pl.module import UniFashionModule

#: Tracing takes a minute where other work runs beside it.
pytestmark = pytest.mark.timeout(900)


def pictures(number: int) -> list[Image.Image]:
    return [Image.fromarray(one.permute(1, 2, 0).numpy()).resize((50, 70 + index)) for index, one in enumerate(images(number))]


TEXTS = ["red", "a long blue shirt with buttons and a very long list of other words", "zzqx dress"]


@pytest.fixture(scope="module")
def model(retriever: Path) -> ModelQueries:
    return ModelQueries(UniFashionModule.from_pretrained(retriever))


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "export"))


def changed(folder: Path, change: Any) -> Path:
    content = json.loads((folder / "export.json").read_text())
    change(content)
    (folder / "export.json").write_text(json.dumps(content))
    return folder


def signed(folder: Path, part: str) -> Path:
    """The description says that whatever lies there is the part's file."""
    sha256 = hashlib.sha256((folder / f"{part}.onnx").read_bytes()).hexdigest()
    return changed(folder, lambda content: content["parts"][part].update(sha256=sha256))


def test_vectors_and_warnings_are_the_model_s(exported: Path, model: ModelQueries) -> None:
    export = ExportedModel(exported)
    assert (export.fingerprint, export.width, export.num_queries) == (model.fingerprint, model.width, model.num_queries)
    told: list[list[str]] = []
    for one in (model, export):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            told.append([*one.texts(TEXTS), *one.images(pictures(3)), *one.composed(pictures(1), TEXTS)])  # type: ignore[arg-type]
        told.append([str(message.message) for message in said])
    (_, look), (tokens, same) = model.looked_at(pictures(1))[0], export.looked_at(pictures(1))[0]  # type: ignore[arg-type]
    assert same == pytest.approx(look, abs=2e-6)
    assert tokens.shape == (export.num_queries, export.width)
    assert export.appearance == model.appearance
    ours, heard, theirs, told_too = told
    assert heard == told_too != []
    assert len(ours) == len(theirs) == 9
    for mine, other in zip(ours, theirs):
        assert np.asarray(other) == pytest.approx(np.asarray(mine), abs=2e-6)
    with pytest.raises(ValueError, match="nothing of '日本' can be read"):
        export.texts(["日本"])


def test_many_go_through_in_batches(exported: Path) -> None:
    export = ExportedModel(exported)
    many = export.texts([f"red dress {number}" for number in range(70)])
    assert len(many) == 70
    assert many[69] == pytest.approx(export.texts(["red dress 69"])[0], abs=1e-6)


def test_no_torch_is_imported(exported: Path, tmp_path: Path) -> None:
    pictures(1)[0].save(tmp_path / "a.png")
    code = (
        "import sys; from unifashion_pl.gallery.queries import QueryEncoder; from unifashion_pl.inference.exported import ExportedModel; "
        f"import unifashion_pl.commands.index; one = QueryEncoder(None, exported=ExportedModel({str(exported)!r})); "
        f"one.whole.images({str(tmp_path / 'a.png')!r}); one.side.texts(['red']); one.whole.composed({str(tmp_path / 'a.png')!r}, ['red']); "
        "print([name for name in ('torch', 'timm', 'transformers', 'lightning', 'onnx') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_parts_that_are_not_there_say_why(copied: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        del content["parts"]["compose"], content["parts"]["text"]
        content["left_out"] = {"compose": "this model has not learned to compose"}

    export = ExportedModel(changed(copied, change))
    with pytest.raises(RuntimeError, match="cannot search by an image and a text together: this model has not learned to"):
        export.composed(pictures(1), ["red"])
    with pytest.raises(RuntimeError, match="cannot search by text: its parts are image"):
        export.texts(["red"])
    with pytest.raises(RuntimeError, match="--rerank needs the matching head"):
        export.matches([], "red", "reference")
    with pytest.raises(RuntimeError, match="cannot be read off an export"):
        export.heat_map(pictures(1)[0], np.zeros(16, np.float32), "reference", 0)


def test_fewer_bits_are_said_with_what_they_lose(copied: Path) -> None:
    export = ExportedModel(changed(copied, lambda content: content.update(dtype="int8", loss={"text": 0.0123})))
    with pytest.warns(UserWarning, match=r"is an export in int8: vectors differ by up to 0.012"):
        export.texts(["red"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format=2), "has format 2, this version reads 1"),
        (lambda content: content.update(runtime="torch"), "is an export for torch"),
        (lambda content: content.update(size=0), "size"),
        (lambda content: content.update(size=1 << 20), "size"),
        (lambda content: content.update(pad_ratio=0), "pad_ratio"),
        (lambda content: content.update(pad_ratio=1e-9), "pad_ratio"),
        (lambda content: content.update(width=17), r"image gives .* expected vectors of shape \[5, 17\]"),
        (lambda content: content["parts"]["image"].update(file="../image.onnx"), "in files of the folder itself"),
        (lambda content: content["parts"].update(other=content["parts"]["text"]), "expected image, text, compose"),
    ],
)
def test_descriptions_that_are_refused(copied: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportedModel(changed(copied, change))


def test_damaged_files_are_named(copied: Path) -> None:
    assert is_export(copied)
    assert not is_export(copied.parent)
    (copied / "text.onnx").write_bytes((copied / "text.onnx").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"text.onnx is not the file that export.json describes"):
        ExportedModel(copied).texts(["red"])
    with pytest.raises(ValueError, match=r"text.onnx cannot be used by onnxruntime"):
        ExportedModel(signed(copied, "text")).texts(["red"])
    shutil.copy(copied / "compose.onnx", copied / "image.onnx")
    with pytest.raises(ValueError, match=r"image.onnx cannot be used by onnxruntime: Required inputs"):
        ExportedModel(signed(copied, "image")).images(pictures(1))
    (copied / "text.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"text.onnx is not there"):
        ExportedModel(copied).texts(["red"])
    os.mkfifo(copied / "text.onnx")
    with pytest.raises(ValueError, match=r"text.onnx is a device or a pipe"):
        ExportedModel(copied).texts(["red"])
    (copied / "text.onnx").unlink()

    def wider(content: dict[str, Any]) -> None:
        content["width"] = 17
        for graph in content["parts"].values():
            for output in graph["outputs"].values():
                output[1][-1] = 17

    def more(content: dict[str, Any]) -> None:
        content["parts"]["compose"]["outputs"]["more"] = ["float32", ["batch", 16]]

    twice = Path(shutil.copytree(copied, copied.parent / "more"))
    with pytest.raises(ValueError, match=r"compose.onnx gives 1 outputs, expected 2: \w+, more"):
        ExportedModel(changed(twice, more)).composed(pictures(1), ["red"])
    changed(copied, wider)
    with pytest.raises(ValueError, match=r"compose.onnx gives float32 \(1, 16\), expected finite float32 \(1, 17\)"):
        ExportedModel(copied).composed(pictures(1), ["red"])
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        ExportedModel(copied)


def test_a_graph_reads_no_file_outside_of_its_folder(copied: Path) -> None:
    onnx = pytest.importorskip("onnx")
    secret = copied.parent / "secret.bin"
    graph = onnx.load(str(copied / "text.onnx"))
    large = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret.write_bytes(large.raw_data)
    large.ClearField("raw_data")
    large.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", str(secret.stat().st_size))):
        entry = large.external_data.add()
        entry.key, entry.value = key, value
    (copied / "text.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ValueError, match=r"text.onnx cannot be used by onnxruntime"):
        ExportedModel(signed(copied, "text")).texts(["red"])


def test_without_onnxruntime_it_says_what_to_install(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'unifashion-pl\[export\]'"):
        ExportedModel(exported).texts(["red"])
