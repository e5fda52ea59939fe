"""An exported model (`unifashion export`) by onnxruntime: vectors of texts, images and both, without torch.

It answers what :class:`~unifashion_pl.gallery.model_queries.ModelQueries` answers but for the matching head, from a folder of ONNX files, a tokenizer and
``export.json``, which says in words and numbers what other runtimes have to do before. Letters: n requests, S image side, Q tokens, E width, T text tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from unifashion_pl import toy
from unifashion_pl.arguments import Images, OneImage, asked_at, rows_of, text_list
from unifashion_pl.backbone.words import Reads, readable
from unifashion_pl.inference.images import image_list, open_image
from unifashion_pl.inference.pixels import encoder_pixels
from unifashion_pl.inference.text_reader import TextReader, plain_tokenizer
from unifashion_pl.reading import FormatError, check_regular, digest, is_inside, read_json, read_text

DESCRIPTION, TOKENIZER, FORMAT = "export.json", "tokenizer.json", 1
#: The output of ``image`` beside those of the query sets, of a model that has one.
APPEARANCE = "appearance"
#: Parts of an export: a graph of each, and what it is asked for.
PARTS = {"image": "search by an image", "text": "search by text", "compose": "search by an image and a text together"}
#: Requests that go through a graph together.
TOGETHER = 32
Runtime = Literal["onnx", "torch"]
Dtype = Literal["fp32", "fp16", "int8"]
Floats = NDArray[np.float32]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
#: Of a picture: :data:`TOGETHER` of them have to fit into memory.
Side = Annotated[int, msgspec.Meta(ge=1, le=1 << 11)]
Ratio = Annotated[float, msgspec.Meta(ge=1)]


@dataclass(frozen=True)
class Graph:
    """A file of an export.

    Attributes:
        file: its name in the folder. sha256: of its bytes. bytes: of it and of the file beside it that holds its weights, if there is one.
        inputs, outputs: by name, type and shape; a shape's texts are free lengths.
    """

    file: str
    sha256: str
    bytes: int
    inputs: dict[str, tuple[str, list[int | str]]]
    outputs: dict[str, tuple[str, list[int | str]]]


@dataclass(frozen=True)
class Described:
    """``export.json``.

    Attributes:
        format: 1. library: who wrote it. runtime, dtype: of the files. opset: of ONNX.
        fingerprint: of the model whose vectors these are, see :func:`unifashion_pl.inference.encode.fingerprint`.
        toy: whether it is the shipped toy, which knows drawings alone.
        learned: tasks that the model was trained for; None = not known.
        size: S. pad_ratio: see :func:`unifashion_pl.data.geometry.bars`. tokens: Q. width: E.
        max_tokens, max_words: of a text. pad_id: of tokens behind a text's end.
        parts: by names of :data:`PARTS`. left_out: why others are not there.
        pixels, words: what is done with a picture and with a text before a graph is given them, step by step.
        appearance: fingerprint, weight and reach of the appearance that ``image`` also gives, see
            :class:`~unifashion_pl.backbone.appearance.Appearance`; None = the model has none.
        loss: how the vectors differ from the model's: part -> the largest difference, as the parity report has it.
    """

    format: int
    library: str
    runtime: Runtime
    dtype: Dtype
    fingerprint: str
    size: Side
    pad_ratio: Ratio | None
    tokens: Count
    width: Count
    max_tokens: Count
    max_words: Count
    pad_id: int
    parts: dict[str, Graph]
    opset: int | None = None
    toy: bool = False
    learned: list[str] | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    pixels: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    appearance: tuple[str, float, float] | None = None
    loss: dict[str, float] = field(default_factory=dict)


def is_export(source: str | Path | None) -> bool:
    """Whether a model that somebody named is an export's folder."""
    return source is not None and (Path(source) / DESCRIPTION).is_file()


def read_description(folder: str | Path) -> Described:
    """What an export's folder says of itself.

    Raises:
        FileNotFoundError: there is none.
        FormatError: another format, or a description that is damaged or names files outside of the folder.
    """
    path = Path(folder) / DESCRIPTION
    found = read_json(path, Described, "the description of an export")
    if found.format != FORMAT:
        raise FormatError(f"{path} has format {found.format}, this version reads {FORMAT}: export the model again")
    for name, graph in found.parts.items():
        if name not in PARTS or not is_inside(graph.file) or Path(graph.file).name != graph.file:
            raise FormatError(
                f"{path}: {name} is in {graph.file!r}: expected {', '.join(PARTS)}, in files of the folder itself"
            )
        _check_outputs(path, name, found)
    return found


def _check_outputs(path: Path, name: str, found: Described) -> None:
    """
    Raises:
        FormatError: a graph whose outputs are not of the sizes that the description has.
    """
    graph = found.parts[name]
    usual = [found.tokens, found.width] if name == "image" else [found.width]
    sets = [shape[1:] for out, (_, shape) in graph.outputs.items() if out != APPEARANCE]
    looks = APPEARANCE in graph.outputs
    if not sets or any(shape != usual for shape in sets) or (name == "image" and looks != (found.appearance is not None)):
        raise FormatError(f"{path}: {name} gives {graph.outputs}, expected vectors of shape {usual}")


class ExportedModel(TextReader):
    """An ONNX export as a query encoder.

    Args:
        folder: of `unifashion export --format onnx`.
        threads: of onnxruntime; None = one a core.

    Attributes:
        described: its ``export.json``. width: E. num_queries: Q. toy: whether it is the shipped toy's.
        appearance: as of the description.
        fingerprint: the model's, whatever the export's type: vectors of fp16 and int8 lie in the same space, and differ by ``described.loss``.

    Raises:
        FormatError: no export of this form, or one for another runtime.
    """

    runtime: ClassVar[Runtime] = "onnx"

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        self.folder, self.described = Path(folder), read_description(folder)
        if self.described.runtime != self.runtime:
            raise FormatError(
                f"{folder} is an export for {self.described.runtime}: to be asked here it has to be ONNX (`unifashion export --format onnx`)"
            )
        try:
            tokenizer = plain_tokenizer(read_text(self.folder / TOKENIZER))
        except (FormatError, FileNotFoundError):
            raise
        except Exception as error:  # tokenizers raises no other kind
            raise FormatError(f"{self.folder / TOKENIZER} is no tokenizer: {error}") from error
        super().__init__(tokenizer, self.described.max_tokens)
        self.fingerprint, self.toy = self.described.fingerprint, self.described.toy
        self.width, self.num_queries = self.described.width, self.described.tokens
        self.appearance = self.described.appearance
        self.threads = threads
        self._sessions: dict[str, Any] = {}

    @cached_property
    def _runtime(self) -> Any:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "an ONNX export needs onnxruntime, which is not installed: pip install 'unifashion-pl[export]'"
            ) from error
        onnxruntime.set_default_logger_severity(3)
        return onnxruntime

    @property
    def reader(self) -> Reads:
        """Who reads texts, see :func:`unifashion_pl.backbone.words.readable`."""
        return self

    def texts(self, texts: str | Sequence[str]) -> list[Floats]:
        """Unit vectors (E,).

        Raises:
            ValueError: no texts, something that is no text, or one of which the model can read nothing.
            RuntimeError: the export has no part for it.
        """
        self.require("text")
        listed = readable(texts, self)
        self.warn_if_cut(listed)
        self._tell_of_loss("text")
        return [one for part in _batches(listed) for one in self.run("text", self.words_of(part))[0]]

    def images(self, images: Images) -> list[Floats]:
        """Unit vectors (Q, E) of each image, of the reference queries. Errors as of :meth:`texts`."""
        self.require("image")
        self._tell_of_loss("image")
        return [one for part in _batches(image_list(images)) for one in self.run("image", self.pixels_of(part))[0]]

    def pixels(self, image: OneImage) -> NDArray[np.uint8]:
        """(S, S, 3) what the tower sees of a picture; asked with these pixels instead of the picture, the export answers the same."""
        square = encoder_pixels(np.asarray(open_image(image)), self.described.size, self.described.pad_ratio)
        return np.ascontiguousarray(square.transpose(1, 2, 0))

    def looked_at(self, images: Images) -> list[tuple[Floats, Floats]]:
        """Of each image :meth:`images` and its appearance (1, K). Errors as of :meth:`texts`."""
        self.require("image")
        self._tell_of_loss("image")
        ran = [self.run("image", self.pixels_of(part)) for part in _batches(image_list(images))]
        return [pair for found in ran for pair in zip(found[0], found[-1])]

    def composed(self, images: Images, texts: str | Sequence[str]) -> list[Floats]:
        """Unit vectors (E,) of pairs of an image and a text; one of a kind goes with all of the other. Errors as of :meth:`texts`."""
        self.require("compose")
        listed = readable(text_list(texts), self)
        self.warn_if_cut(listed)
        self._tell_of_loss("compose")
        out: list[Floats] = []
        for part in _batches(rows_of({"texts": listed, "images": image_list(images)})):
            given = self.pixels_of([row["images"] for row in part]) | self.words_of([row["texts"] for row in part])
            out.extend(self.run("compose", given)[0])
        return out

    def matches(self, pictures: Sequence[str], text: str, within: str) -> list[float]:
        """Refused: an export has no matching head."""
        raise RuntimeError(
            f"--rerank needs the matching head, which an export has not: ask the model that {self.folder} was made from"
        )

    def heat_map(self, picture: OneImage, vector: Floats, within: str, token: int) -> Floats:
        """Refused: where a token looked is read off gradients."""
        raise RuntimeError(f"where a token looked cannot be read off an export: ask the model that {self.folder} was made from")

    def pixels_of(self, images: Sequence[OneImage]) -> dict[str, NDArray[Any]]:
        """The input ``images`` (n, 3, S, S) uint8 of the graphs."""
        opened = [open_image(item) for item in images]
        toy.tell(self, opened)
        size, ratio = self.described.size, self.described.pad_ratio
        return {"images": np.stack([encoder_pixels(np.asarray(image), size, ratio) for image in opened])}

    def words_of(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The inputs ``input_ids`` and ``attention_mask`` (n, T) int64 of the graphs."""
        rows = [self.ids(text) for text in texts]
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self.described.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    def require(self, part: str) -> None:
        """
        Raises:
            RuntimeError: the export was made without it.
        """
        if part not in self.described.parts:
            why = self.described.left_out.get(part, f"its parts are {', '.join(self.described.parts)}")
            raise RuntimeError(f"{self.folder} cannot {PARTS[part]}: {why}")

    def run(self, part: str, given: dict[str, NDArray[Any]]) -> list[Floats]:
        """A graph's outputs, in its order.

        Raises:
            FormatError: a graph that onnxruntime does not take, or that gives something else than unit vectors of its description.
        """
        graph = self.described.parts[part]
        path = self.folder / graph.file
        if part not in self._sessions:
            self._sessions[part] = self._opened(path, graph.sha256)
        with _named(path):
            found = self._sessions[part].run(None, given)
        rows = len(next(iter(given.values())))
        shapes = [(rows, *shape[1:]) for _, shape in graph.outputs.values()]
        if len(found) != len(shapes):
            raise FormatError(f"{path} gives {len(found)} outputs, expected {len(shapes)}: {', '.join(graph.outputs)}")
        for one, wanted in zip(found, shapes):
            if one.shape != wanted or one.dtype != np.float32 or not np.isfinite(one).all():
                raise FormatError(f"{path} gives {one.dtype} {one.shape}, expected finite float32 {wanted}")
        return list(found)

    def _opened(self, path: Path, sha256: str) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads or 0
        if not path.is_file():
            check_regular(path)
            raise FileNotFoundError(f"{path} is not there: export the model again")
        if digest(path) != sha256:
            raise FormatError(
                f"{path} is not the file that {DESCRIPTION} describes (its SHA-256 is another): damaged, or of another export. Export the model again"
            )
        with _named(path):
            return self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _tell_of_loss(self, part: str) -> None:
        if self.described.dtype != "fp32":
            lost = self.described.loss.get(part)
            known = "" if lost is None else f": vectors differ by up to {lost:.2g} on what its parity report was measured on"
            warnings.warn(f"{self.folder} is an export in {self.described.dtype}{known}", stacklevel=asked_at())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What onnxruntime raises becomes a sentence about the file."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ValueError) and not type(error).__module__.startswith("onnxruntime"):
            raise
        raise FormatError(f"{path} cannot be used by onnxruntime: {' '.join(str(error).split())[:300]}") from error


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + TOGETHER] for start in range(0, len(items), TOGETHER)]
