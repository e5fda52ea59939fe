"""An export as a folder: graphs, tokenizer, ``export.json``, which says what other runtimes have to do, and the parity report. Whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from unifashion_pl import learned
from unifashion_pl.arguments import ArgumentError
from unifashion_pl.backbone.words import MAX_WORDS
from unifashion_pl.data.geometry import PAD_RATIO
from unifashion_pl.export.graphs import check_exportable, chosen_parts, outputs_of, prepared, traced
from unifashion_pl.export.parity import Material, Parity, drawings, measure, refuse_another_function
from unifashion_pl.export.programs import OPSET, TorchExport, require_onnx, write_program
from unifashion_pl.files import replacing_folder, write_text
from unifashion_pl.gallery.model_queries import ModelQueries
from unifashion_pl.inference.encode import fingerprint
from unifashion_pl.inference.exported import DESCRIPTION, FORMAT, TOKENIZER, Described, Dtype, ExportedModel, Graph, Runtime
from unifashion_pl.inference.requests import head_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.parts.rebuild import tokenizer_files
from unifashion_pl.version import __version__

PARITY, READABLE = "parity.json", "parity.txt"


def export(
    model: FashionModel,
    out: str | Path,
    runtime: Runtime = "onnx",
    dtype: Dtype = "fp32",
    parts: Sequence[str] | None = None,
    material: Material | None = None,
) -> Parity:
    """Write an export and compare it with its model.

    Args:
        model: on the CPU. out: a folder that is new, empty, or an export, which is replaced.
        parts: ``image``, ``text``, ``compose``; None = all that the model has learned.
        material: what it is compared on; None = drawn garments.

    Raises:
        ArgumentError: an unknown part, or a type that the runtime has not.
        FileExistsError: something else is in the folder.
        RuntimeError: the model has no retrieval head, has not learned what is asked for, cannot be traced, or a graph computes something else.
        ModuleNotFoundError: the extra ``export`` is not installed.
    """
    if runtime == "onnx":
        require_onnx()
    elif dtype == "int8":
        raise ArgumentError("int8 is made by onnxruntime: --format onnx --dtype int8. torch's graphs come in fp32 and fp16")
    chosen, left_out = chosen_parts(model, parts)
    check_exportable(model)
    _refuse_others(Path(out))
    kept = model.backbone.training
    with replacing_folder(out) as folder:
        _write_tokenizer(model, folder)
        given = prepared(model, dtype)
        graphs = {
            name: write_program(traced(given, name), name, folder, runtime, dtype, outputs_of(model, name)) for name in chosen
        }
        described = _described(model, runtime, dtype, graphs, left_out)
        write_text(folder / DESCRIPTION, _json(asdict(described)))
        asked = (ExportedModel if runtime == "onnx" else TorchExport)(folder, torch.get_num_threads())
        found = measure(model, asked, material or drawings())
        refuse_another_function(found, described)
        write_text(folder / DESCRIPTION, _json(asdict(replace(described, loss=found.loss))))
        write_text(folder / PARITY, _json(asdict(found)))
        write_text(folder / READABLE, found.text())
    model.backbone.train(kept)
    return found


def _refuse_others(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        raise FileExistsError(f"{out} holds other files: name a new folder, or one of an earlier export, which is replaced")


def _write_tokenizer(model: FashionModel, folder: Path) -> None:
    files = tokenizer_files(model.backbone.tokenizer)
    if TOKENIZER not in files:
        raise RuntimeError(
            f"the model's tokenizer has no {TOKENIZER}, only {', '.join(files)}: it needs a fast one of transformers"
        )
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _described(
    model: FashionModel, runtime: Runtime, dtype: Dtype, graphs: dict[str, Graph], left_out: dict[str, str]
) -> Described:
    backbone = model.backbone
    side = int(backbone.vision.image_size)
    return Described(
        FORMAT,
        f"unifashion-pl {__version__}",
        runtime,
        dtype,
        fingerprint(model),
        side,
        PAD_RATIO,
        int(backbone.num_queries),
        int(head_of(model, "retrieval").text_proj.out_features),
        int(backbone.max_text_tokens),
        MAX_WORDS,
        int(backbone.tokenizer.pad_token_id or 0),
        graphs,
        OPSET if runtime == "onnx" else None,
        bool(model.toy),
        learned.stored(model.learned),
        left_out,
        _pixel_steps(side),
        _word_steps(backbone.max_text_tokens),
        appearance=ModelQueries(model).appearance,
    )


def _pixel_steps(side: int) -> list[str]:
    """What is done with a picture, for whoever writes it in another language."""
    return [
        "decode; turn by the EXIF orientation; lay transparency over white; RGB, 8 bits",
        f"if the longer side is at least {PAD_RATIO} times the shorter one: black bars, int((longer / {PAD_RATIO} - shorter) / 2) pixels on either side "
        "of the shorter one",
        f"resize to height {side} * h // min(h, w), width {side} * w // min(h, w): bicubic (a = -0.5), antialiased, on bytes, as Pillow's BICUBIC within 1",
        f"cut {side} x {side} from the middle: top round((height - {side}) / 2), left round((width - {side}) / 2), halves to the even number",
        f"uint8 (batch, 3, {side}, {side}), red first; the graph normalises",
    ]


def _word_steps(most: int) -> list[str]:
    """What is done with a text."""
    return [
        'lower case; each of . ! " ( ) * # : ; ~ becomes a blank; two or more white characters become one blank; strip line feeds at the end and blanks',
        f"the first {MAX_WORDS} words, split at blanks",
        f"{TOKENIZER} (the package tokenizers), special tokens added, cut to {most} tokens whose last is [SEP]",
        "input_ids and attention_mask, int64 (batch, tokens), padded on the right with pad_id and 0",
    ]


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
