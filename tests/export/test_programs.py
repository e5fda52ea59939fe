"""Files of graphs, read by the packages of others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unifashion_pl.export.folder import export
from unifashion_pl.export.parity import drawings
from unifashion_pl.inference.exported import ExportedModel
from unifashion_pl.module import UniFashionModule
from unifashion_pl.reading import digest

ROOT = str(Path(__file__).parents[2])


@pytest.mark.slow
def test_onnx_files_are_plain_and_free_in_batch_and_length(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    told = json.loads((exported / "export.json").read_text())
    for name, graph in told["parts"].items():
        path = exported / graph["file"]
        model = onnx.load(str(path))
        assert [(one.domain, one.version) for one in model.opset_import] == [("", told["opset"])]
        for values, said in ((model.graph.input, graph["inputs"]), (model.graph.output, graph["outputs"])):
            shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
            assert shapes == {key: shape for key, (_, shape) in said.items()}, name
        assert (digest(path), path.stat().st_size) == (graph["sha256"], graph["bytes"])
        assert ROOT.encode() not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()


@pytest.mark.slow
def test_onnxruntime_alone_answers(exported: Path) -> None:
    """By ``export.json`` and the foreign packages, in a process of its own."""
    code = f"""
import json, sys, numpy, onnxruntime, tokenizers
told = json.load(open({str(exported / "export.json")!r}))
ids = tokenizers.Tokenizer.from_file({str(exported / "tokenizer.json")!r}).encode("a red dress").ids
run = onnxruntime.InferenceSession({str(exported / "text.onnx")!r}).run
(vector,) = run(None, {{"input_ids": numpy.array([ids]), "attention_mask": numpy.ones((1, len(ids)), numpy.int64)}})
assert not any(name.startswith("unifashion") for name in sys.modules)
print(json.dumps(vector[0].tolist()))
"""
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert found == pytest.approx(ExportedModel(exported).texts(["a red dress"])[0], abs=1e-6)


def test_torch_alone_answers(retriever: Path, tmp_path: Path) -> None:
    model = UniFashionModule.from_pretrained(retriever)
    found = export(model, tmp_path / "torch", "torch", parts=["text"])
    assert found.parts["text"].largest < 1e-6
    assert ROOT.encode() not in (tmp_path / "torch" / "text.pt2").read_bytes()
    tokens = model.backbone.tokenize(["a red dress", "blue"])
    np.savez(tmp_path / "given.npz", input_ids=tokens.ids.numpy(), attention_mask=tokens.mask.long().numpy())
    code = f"""
import sys, numpy, torch
given = {{name: torch.from_numpy(value) for name, value in numpy.load({str(tmp_path / "given.npz")!r}).items()}}
(vectors,) = torch.export.load({str(tmp_path / "torch" / "text.pt2")!r}).module()(given["input_ids"], given["attention_mask"])
assert not any(name.startswith(("unifashion", "timm", "transformers")) for name in sys.modules)
numpy.save({str(tmp_path / "found.npy")!r}, vectors.detach().numpy())
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with torch.no_grad():
        assert np.load(tmp_path / "found.npy") == pytest.approx(model.encode_text(["a red dress", "blue"]).numpy(), abs=1e-6)


def test_int8_is_onnx_s(tmp_path: Path, retriever: Path) -> None:
    with pytest.raises(ValueError, match="int8 is made by onnxruntime"):
        export(UniFashionModule.from_pretrained(retriever), tmp_path / "torch", "torch", "int8")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("dtype", "smaller", "cosine"), [("fp16", 0.6, 0.9999), ("int8", 0.75, 0.98)])
@pytest.mark.slow
def test_fewer_bits_take_less_room_and_say_what_they_lose(
    exported: Path, retriever: Path, tmp_path: Path, dtype: str, smaller: float, cosine: float
) -> None:
    found = export(UniFashionModule.from_pretrained(retriever), tmp_path / dtype, "onnx", dtype, ["text"])  # type: ignore[arg-type]
    told = json.loads((tmp_path / dtype / "export.json").read_text())
    size = json.loads((exported / "export.json").read_text())["parts"]["text"]["bytes"]
    assert told["parts"]["text"]["bytes"] < smaller * size
    assert told["loss"] == {"text": found.parts["text"].largest}
    assert cosine < found.parts["text"].mean_cosine < 1
    with pytest.warns(UserWarning, match=f"is an export in {dtype}"):
        vectors = ExportedModel(tmp_path / dtype).texts([*drawings().texts])
    assert np.isfinite(vectors).all()
