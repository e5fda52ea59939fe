"""Graphs as files: ONNX in three types, torch's ``.pt2``; and the latter asked as the former is. Nothing of this machine's paths stays in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from unifashion_pl.export.graphs import INPUTS, onnx_program
from unifashion_pl.inference.exported import Dtype, ExportedModel, Graph, Runtime
from unifashion_pl.reading import digest

#: Of ONNX: 18 is what torch's exporter writes by itself, and what runtimes of 2023 read.
OPSET = 18
SUFFIX: dict[Runtime, str] = {"onnx": ".onnx", "torch": ".pt2"}
#: Free lengths by the inputs' axes.
FREE = {"images": ["batch"], "input_ids": ["batch", "tokens"], "attention_mask": ["batch", "tokens"]}
#: What torch notes of where a node comes from: files of this machine.
TRACES = ("stack_trace", "source_fn_stack", "from_node")
#: Operators whose weights are kept in 8 bits; convolutions stay as they are, because onnxruntime's on bytes are slower and lose more.
QUANTISED = ["MatMul", "Gemm", "Gather"]
MISSING = "`unifashion export --format onnx` needs onnx, onnxscript and onnxruntime: pip install 'unifashion-pl[export]'"


def require_onnx() -> None:
    """
    Raises:
        ModuleNotFoundError: a package of the extra is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{MISSING} ({error})") from error


def write_program(
    program: Any, name: str, folder: Path, runtime: Runtime, dtype: Dtype, shapes: Mapping[str, list[int]]
) -> Graph:
    """A traced part as a file of the folder.

    Args:
        shapes: of the outputs behind the batch.
    """
    path = folder / f"{name}{SUFFIX[runtime]}"
    if runtime == "torch":
        _forget_traces(program)
        torch.export.save(program, path)
    else:
        _write_onnx(program, name, path, dtype, [*shapes])
    side = [*program.example_inputs[0], *program.example_inputs[1].values()]
    inputs = {
        given: (str(example.dtype).removeprefix("torch."), [*FREE[given], *map(int, example.shape[len(FREE[given]) :])])
        for given, example in zip(INPUTS[name], side)
    }
    outputs: dict[str, tuple[str, list[int | str]]] = {out: ("float32", ["batch", *shape]) for out, shape in shapes.items()}
    size = sum(file.stat().st_size for file in folder.glob(f"{path.name}*"))
    return Graph(path.name, digest(path), size, cast(Any, inputs), outputs)


def _forget_traces(program: Any) -> None:
    for node in program.graph.nodes:
        for name in TRACES:
            node.meta.pop(name, None)


def _write_onnx(program: Any, name: str, path: Path, dtype: Dtype, outputs: Sequence[str]) -> None:
    import onnx

    onnx_program(program, name, OPSET, outputs).save(str(path))
    model = onnx.load(str(path), load_external_data=False)
    given = {value.name: value for value in model.graph.input}
    free = {
        axis.dim_param: name
        for value, names in FREE.items()
        if value in given
        for axis, name in zip(given[value].type.tensor_type.shape.dim, names)
    }
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in free:
                axis.dim_param = free[axis.dim_param]
        del value.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.graph.name, model.producer_name = name, "unifashion-pl"
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))
    if dtype == "int8":
        _quantise(path)


def _quantise(path: Path) -> None:
    """Weights of matrix products and tables in 8 bits, each column with a scale of its own; what they are multiplied by is quantised as it comes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    data = path.with_name(path.name + ".data")
    whole = path.with_name(f"whole-{path.name}")
    path.rename(whole)
    quantize_dynamic(
        str(whole),
        str(path),
        op_types_to_quantize=QUANTISED,
        per_channel=True,
        # sums of 8 x 8 bits overflow 16 on processors without VNNI, of 8 x 7 they do not
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=data.exists(),
        extra_options={"MatMulConstBOnly": True},
    )
    whole.unlink()


class TorchExport(ExportedModel):
    """A ``.pt2`` export, asked like one of ONNX, in this process. Only for what was just written here: torch's files are not for strangers."""

    runtime: ClassVar[Runtime] = "torch"

    def run(self, part: str, given: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """The graph's outputs."""
        graph = self.described.parts[part]
        if part not in self._sessions:
            self._sessions[part] = torch.export.load(self.folder / graph.file).module()
        with torch.no_grad():
            found = self._sessions[part](*(torch.from_numpy(given[name]) for name in graph.inputs))
        return [one.numpy() for one in found]
