"""Try-on and design on what people have at hand: checked inputs, painting, and the picture pasted back into the person's photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unifashion_pl.data.transforms import resize
from unifashion_pl.data.tryon_inputs import TryOnInputs, batch_of, prepare_design, prepare_tryon
from unifashion_pl.inference import Images, evaluating, head_of, image_list, in_batches, text_list
from unifashion_pl.tasks.editing import Task, edits

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

#: Settings of the diffusion head's ``paint``; all others are inputs of the person (see :mod:`unifashion_pl.data.tryon_inputs`).
PAINTING = ("sampler", "steps", "guidance", "garment_guidance", "garment_until", "start", "progress")


def try_on(
    model: UniFashionModule,
    person: Images,
    garment: Images,
    *,
    mask: Any = None,
    pose: Any = None,
    seed: int = 0,
    batch_size: int = 4,
    paste_back: bool = True,
    **settings: Any,
) -> list[Image.Image]:
    """Persons wearing garments, one picture per pair, each in its person's size.

    Args:
        person, garment: photos; one of either goes with all of the other.
        mask, pose: of the person, see :func:`~unifashion_pl.data.tryon_inputs.prepare_tryon`; of several persons a list.
        paste_back: keep the person's own pixels outside of the mask; else the whole picture is as painted.
        settings: those of ``paint`` in :class:`~unifashion_pl.tasks.DiffusionModule`, and further inputs of ``prepare_tryon``
            (``densepose``, ``parse``, ``agnostic``, ``box``, …).
    """
    persons, garments = image_list(person), image_list(garment)
    rows = _together({"person": persons, "garment": garments, **_columns(len(persons), mask=mask, pose=pose)})

    def prepare(row: dict[str, Any], **common: Any) -> TryOnInputs:
        return prepare_tryon(row["person"], row["garment"], row["mask"], row["pose"], **common)

    return _paint(model, rows, prepare, seed, batch_size, paste_back, settings)


def design(
    model: UniFashionModule,
    person: Images,
    text: str | Sequence[str],
    *,
    sketch: Any = None,
    pose: Any = None,
    mask: Any = None,
    seed: int = 0,
    batch_size: int = 4,
    paste_back: bool = True,
    **settings: Any,
) -> list[Image.Image]:
    """Persons in what a text and, if there is one, a sketch describe; one picture per person and text.

    Args:
        text: phrases; one of either goes with all of the other.
        sketch: light strokes on black; of several rows a list, or one for all.
        mask, pose, paste_back, settings: as in :func:`try_on`, with the inputs of ``prepare_design``.
    """
    persons, texts = image_list(person), text_list(text)
    sketches = list(sketch) if isinstance(sketch, list | tuple) else [sketch]
    own = _columns(len(persons), mask=mask, pose=pose)
    rows = _together({"person": persons, "text": texts, "sketch": sketches, **own})

    def prepare(row: dict[str, Any], **common: Any) -> TryOnInputs:
        return prepare_design(row["person"], row["sketch"], row["pose"], row["mask"], text=row["text"], **common)

    return _paint(model, rows, prepare, seed, batch_size, paste_back, settings)


def editing_head(model: UniFashionModule) -> Any:
    """The diffusion head, if it can repaint persons.

    Raises:
        RuntimeError: there is none, or its U-Net reads no persons.
    """
    head = head_of(model, "diffusion")
    if head.denoiser.in_channels == 4:
        raise RuntimeError(
            "this model cannot edit pictures of persons: its U-Net reads no person, mask or pose. Train one that does "
            "(`unifashion fit --config tryon.yaml`) or load it with --model"
        )
    return head


def paste(painted: Tensor, person: Image.Image, mask: NDArray[np.bool_] | None) -> Image.Image:
    """A painting as its person's photo: bars cut off, in the photo's size, the photo itself where the mask is False.

    Args:
        painted: (3, H, W) uint8, as :class:`~unifashion_pl.data.transforms.PixelTransform` frames the person.
        mask: (h, w) bool in the photo's size, True = painted; None = everywhere.
    """
    height, width = painted.shape[1:]
    scale = min(height / person.height, width / person.width)
    h, w = max(1, round(person.height * scale)), max(1, round(person.width * scale))
    top, left = (height - h) // 2, (width - w) // 2
    large = resize(painted[:, top : top + h, left : left + w], person.height, person.width).movedim(0, -1).numpy()
    if mask is not None:
        large = np.where(mask[..., None], large, np.asarray(person))
    return Image.fromarray(large)


def _columns(persons: int, **inputs: Any) -> dict[str, list[Any]]:
    """Inputs of the persons: a list of as many is one each, anything else is for all."""
    own = {name: isinstance(value, list | tuple) and persons > 1 for name, value in inputs.items()}
    for name, value in inputs.items():
        if own[name] and len(value) != persons:
            raise ValueError(f"{persons} persons and {len(value)} of {name}: expected one each, or one for all")
    return {name: list(value) if own[name] else [value] for name, value in inputs.items()}


def _together(columns: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Columns of equal length, or of one value that goes with all, as rows."""
    n = max(len(column) for column in columns.values())
    if any(len(column) not in (1, n) for column in columns.values()):
        counts = ", ".join(f"{len(column)} of {name}" for name, column in columns.items())
        raise ValueError(f"{counts}: expected equally many, or one of each kind")
    return [{name: column[i % len(column)] for name, column in columns.items()} for i in range(n)]


def _paint(
    model: UniFashionModule,
    rows: list[dict[str, Any]],
    prepare: Callable[..., TryOnInputs],
    seed: int,
    batch_size: int,
    paste_back: bool,
    settings: dict[str, Any],
) -> list[Image.Image]:
    head = editing_head(model)
    painting = {name: settings.pop(name) for name in PAINTING if name in settings}
    common = {"size": head.edit_size, "image_size": model.backbone.vision.image_size, **settings}
    inputs = [prepare(row, **common) for row in rows]

    def work(part: list[tuple[TryOnInputs, Task]]) -> list[Image.Image]:
        batch = edits(batch_of([item for item, _ in part]), [task for _, task in part])
        moved = model.transfer_batch_to_device(batch, model.device, 0)
        queries = model.backbone.encode(moved).queries
        made: Tensor = head.paint(queries, moved, seeds=[seed] * len(part), **painting).cpu()
        return [paste(x, item.person, item.mask if paste_back else None) for x, (item, _) in zip(made, part)]

    def task_of(row: dict[str, Any], item: TryOnInputs) -> Task:
        return "tryon" if "garment" in row else "text" if item.sketches is None else "design"

    tasks = [(item, task_of(row, item)) for row, item in zip(rows, inputs)]
    with evaluating(model), torch.no_grad():
        return [picture for part in in_batches(tasks, batch_size, work, "painting") for picture in part]
