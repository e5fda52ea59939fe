"""Batch prediction: every sample of a split becomes a PNG file, and a manifest says how each was made.

Each picture carries its own line of the manifest, so that a run which was killed goes on where it stopped: finished files are kept if
they were made in just this way, and the manifest is put together at the end. Lightning's ``BasePredictionWriter`` would get pictures
after they were painted, too late to leave out those that are there.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from unifashion_pl.arguments import choice, count
from unifashion_pl.data.decode import BadInput, decode_picture
from unifashion_pl.data.formats import encode
from unifashion_pl.data.samples import Batch, PairBatch, QueryBatch, TripletBatch, TryOnBatch
from unifashion_pl.data.transforms import to_pil
from unifashion_pl.files import check_writable, remove_parts, replacing
from unifashion_pl.generation.samplers import steps_of
from unifashion_pl.inference.persons import editing_head
from unifashion_pl.inference.requests import TOGETHER, composed_queries, edit_queries, head_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task as LearnedTask
from unifashion_pl.learned import lacks
from unifashion_pl.metrics.lines import image_name, write_lines
from unifashion_pl.provenance import __version__, weights_hash
from unifashion_pl.reading import FormatError, from_json, is_inside, read_json_lines
from unifashion_pl.tasks import eval_mode
from unifashion_pl.tasks.editing import TASKS, Task, edit_batch
from unifashion_pl.team import merged, team_of_all

Line = dict[str, Any]
#: Batches whose samples are painted.
Painted = PairBatch | QueryBatch | TripletBatch | TryOnBatch
MANIFEST = "manifest.jsonl"
#: Name of the PNG text that holds a picture's line.
CHUNK = "unifashion"
#: What is painted -> the task that a model has to have learned for it.
LEARNED: dict[str, LearnedTask] = {
    "caption": "generation",
    "reconstruction": "generation",
    "composed": "composed generation",
    "tryon": "try-on",
    "design": "design",
    "text": "design",
}
#: Of a line, what only the finished file has.
AFTER = ("file", "sha256")


class Painter:
    """Paints evaluation batches into a folder: ``unifashion predict``.

    Try-on samples (paired and unpaired) become persons in garments, pairs become pictures of their captions, composed queries pictures
    of reference and text; galleries are passed over. A picture depends on ``seed`` and the sample alone, not on the data's batch size, rank,
    interruptions, or what else is painted: always ``batch_size`` are painted at once, if need be one of them several times.

    Args:
        out: folder; None = ``predict`` beside the trainer's logs. Pictures lie in it by dataset: ``vitonhd-test-unpaired/KEY.png``.
        task: of try-on samples: ``tryon`` (the garment's photo), ``design`` (its sketch and phrases) or ``text`` (phrases alone).
        reconstruct: pairs show the model their picture too (Eq. 7), not only the caption.
        seed: of all noise; another seed belongs into another folder.
        sampler, steps, guidance: of the diffusion head; None = its default for the task.
        garment_guidance, garment_until, start: of try-on samples, see :meth:`~unifashion_pl.tasks.DiffusionModule.paint`. The paper's
            own pictures may have begun from the truth (``start="released"``).
        batch_size: pictures that are painted at once; of another number a few pixels may differ by 1 of 255.
        paste_back: persons keep their own pixels where the mask is black. It copies truth into paired pictures: scores with and
            without it are not comparable.

    Raises:
        ValueError: unknown task, sampler or start.
    """

    def __init__(
        self,
        out: str | Path | None = None,
        *,
        task: Task = "tryon",
        reconstruct: bool = False,
        seed: int = 0,
        sampler: str = "paper",
        steps: int | None = None,
        guidance: float | None = None,
        garment_guidance: float = 1.0,
        garment_until: float = 1.0,
        start: Literal["noise", "released"] = "noise",
        batch_size: int = TOGETHER,
        paste_back: bool = False,
    ) -> None:
        choice(task, "task", TASKS)
        choice(start, "start", ("noise", "released"))
        self.out = None if out is None else Path(out)
        self.task, self.reconstruct, self.paste_back = task, reconstruct, paste_back
        self.common: dict[str, Any] = {"seed": seed, "sampler": sampler, "steps": steps_of(sampler, steps)}
        self.guidance = guidance
        self.batch_size = count(batch_size, "batch_size")
        self.edits: dict[str, Any] = {"garment_guidance": garment_guidance, "garment_until": garment_until, "start": start}
        self.folder = Path("predict")
        self._lines: list[Line] = []
        self._made_by: dict[str, Any] = {}

    def start(self, model: FashionModel, folder: Path) -> None:
        """Prepare for a run; a collective where the model is sharded.

        Args:
            folder: where pictures go if ``out`` names none.

        Raises:
            RuntimeError: a model without a diffusion head.
        """
        head_of(model, "diffusion")
        self.folder = self.out or folder
        self._lines = []
        self._made_by = {"weights": weights_hash(model), "version": __version__}
        check_writable(self.folder, folder=True)
        remove_parts(self.folder)

    @torch.no_grad()
    def paint(self, model: FashionModel, batch: Batch) -> list[Line]:
        """Paint what of a batch is not there yet; returns the lines of all its samples.

        Raises:
            ValueError: a file is there that was made in another way.
            RuntimeError: try-on samples, and a U-Net that reads no persons.
        """
        if not isinstance(batch, Painted):
            return []
        lines = self._described(model, batch)
        kept = [self._kept(line) for line in lines]
        todo = [i for i, digest in enumerate(kept) if digest is None]
        for start in range(0, len(todo), self.batch_size):
            own = todo[start : start + self.batch_size]
            rows = [*own, *own[:1] * (self.batch_size - len(own))]
            made = self._painted(model, batch[rows], [lines[i] for i in rows]).cpu()
            for i, picture in zip(own, made):
                kept[i] = self._write(lines[i], picture)
        lines = [{**line, "sha256": digest} for line, digest in zip(lines, kept)]
        self._lines += lines
        return lines

    def finish(self) -> Path:
        """Write the manifest, on rank 0; a collective that every rank calls. Lines of other datasets in the folder stay.

        Raises:
            RuntimeError: the data held nothing to paint.
        """
        team = team_of_all()
        lines = merged(team, self._lines, lambda line: str(line["file"]))
        self._lines = []
        path = self.folder / MANIFEST
        if not lines:
            raise RuntimeError("the data has no try-on samples, pairs or composed queries: nothing was painted")
        if team.rank == 0:
            files = {line["file"]: line for line in [*self._earlier(path), *lines]}
            write_lines(path, [files[name] for name in sorted(files)])
        return path

    def _earlier(self, path: Path) -> list[Line]:
        if not path.is_file():
            return []
        lines: list[Line] = []
        for number, line in read_json_lines(path, Line, "a line of a manifest"):
            if not isinstance(line.get("file"), str) or not is_inside(line["file"]):
                raise FormatError(
                    f"{path}:{number}: file is {str(line.get('file'))[:80]!r}, expected a picture of this folder. "
                    "Remove the manifest: it is made anew"
                )
            if (self.folder / line["file"]).is_file():
                lines.append(line)
        return lines

    def _described(self, model: FashionModel, batch: Painted) -> list[Line]:
        """A line per sample, without the picture's hash."""
        head = model.diffusion_head
        assert head is not None
        kind = "composed"
        if isinstance(batch, TryOnBatch | PairBatch):
            kind = self.task if isinstance(batch, TryOnBatch) else "reconstruction" if self.reconstruct else "caption"
        if sentence := lacks(model, LEARNED[kind]):
            warnings.warn(sentence, stacklevel=2)
        guidance = head.usual_guidance(kind) if self.guidance is None else self.guidance
        size = head.edit_size if isinstance(batch, TryOnBatch) else head.size
        made_by = {**self._made_by, "size": list(size)}
        common = {"dataset": batch.dataset, "kind": kind, **self.common, "guidance": guidance, **made_by}
        if isinstance(batch, TryOnBatch):
            common |= {**self.edits, "paste_back": self.paste_back, "paired": batch.paired}
        prompts = batch.texts if isinstance(batch, QueryBatch | TryOnBatch) else batch.prompts
        folder = batch.dataset.replace("/", "-")
        lines = []
        for i, key in enumerate(batch.keys):
            name = image_name(batch.dataset, key).removeprefix(f"{folder}--").removesuffix(".jpg")
            line = {**common, "key": key, "noise_seed": noise_seed(self.common["seed"], key)}
            line["prompt"] = "" if kind == "tryon" else prompts[i]
            if isinstance(batch, TryOnBatch):
                person, _, garment = key.partition("__")
                line |= {"person": person, "garment": garment or person}
            if isinstance(batch, QueryBatch):
                line |= {"reference": batch.reference_ids[i], "target": batch.target_ids[i]}
            lines.append({**line, "file": f"{folder}/{name}.png"})
        return lines

    def _painted(self, model: FashionModel, batch: Painted, lines: list[Line]) -> Tensor:
        """(B, 3, H, W) uint8."""
        head = model.diffusion_head
        assert head is not None
        settings = {name: lines[0][name] for name in ("sampler", "steps", "guidance")}
        seeds = [line["noise_seed"] for line in lines]
        with eval_mode.evaluating(model):
            if isinstance(batch, TryOnBatch):
                editing_head(model)
                rows = edit_batch(batch, [self.task] * len(batch))
                made = head.paint(edit_queries(model, rows), rows, seeds=seeds, **settings, **self.edits)
                return torch.where(batch.masks, made, batch.pixels) if self.paste_back else made
            given: Tensor | None = None
            if isinstance(batch, QueryBatch | TripletBatch):
                given = composed_queries(model, batch.references, batch.texts)
            elif self.reconstruct:
                given = model.backbone.image_pass(model.backbone.image_features(batch.images))
            return head.generate(given, [line["prompt"] for line in lines], seeds=seeds, **settings)

    def _kept(self, line: Line) -> str | None:
        """SHA-256 of a finished file that was made just so; None if there is none.

        Raises:
            ValueError: it was made in another way.
        """
        path = self.folder / line["file"]
        if not path.is_file():
            return None
        data = path.read_bytes()
        try:
            text = decode_picture(data).info.get(CHUNK)
        except BadInput as error:
            warnings.warn(f"{path} is damaged ({error}) and is painted again", stacklevel=2)
            return None
        found: Line = {}  # of a picture that carries no line of ours
        with suppress(FormatError):
            found = from_json(text, Line) if isinstance(text, str) else {}
        expected = {name: value for name, value in line.items() if name not in AFTER}
        if found != expected:
            names = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
            listed = "; ".join(f"{name} was {found.get(name)!r}, now it is {expected.get(name)!r}" for name in names)
            said = listed if found else "it is not one of these pictures"
            raise ValueError(f"{path} is there and was made in another way: {said}. Name another folder (model.painter.out)")
        return hashlib.sha256(data).hexdigest()

    def _write(self, line: Line, picture: Tensor) -> str:
        path = self.folder / line["file"]
        info = PngInfo()
        content = {name: value for name, value in line.items() if name not in AFTER}
        info.add_itxt(CHUNK, json.dumps(content, ensure_ascii=False, sort_keys=True))
        data = encode(to_pil(picture), "PNG", pnginfo=info)
        with replacing(path) as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()


def noise_seed(seed: int, key: str) -> int:
    """Seed of one sample's noise, from 0 to 2^48 - 1: the same for any order, batch or subset. ``seed=`` of other methods takes it too."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:6], "big")
