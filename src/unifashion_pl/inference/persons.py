"""Try-on and design on what people have at hand: checked inputs, painting, and the picture pasted back into the person's photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unifashion_pl import toy
from unifashion_pl.arguments import Images, Seeds, rows_of, seeds
from unifashion_pl.backbone.words import readable
from unifashion_pl.data.transforms import resize
from unifashion_pl.inference.images import image_list, save_picture
from unifashion_pl.inference.requests import (
    TOGETHER,
    check_scales,
    edit_queries,
    head_of,
    in_batches,
    readers_of,
)
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import require
from unifashion_pl.person.inputs import TryOnInputs, batch_of, prepare_design, prepare_tryon, shown
from unifashion_pl.tasks.editing import Task, edit_batch

#: Settings of the diffusion head's ``paint``; all others are inputs of the person (see :mod:`unifashion_pl.person.inputs`).
PAINTING = ("sampler", "steps", "guidance", "garment_guidance", "garment_until", "start", "progress")
#: Further inputs that belong to a person.
OF_PERSON = ("densepose", "parse", "agnostic", "box", "pose_size")
#: Inputs of which one may be a list.
LISTS = ("pose", "box", "pose_size")


def try_on(
    model: FashionModel,
    person: Images,
    garment: Images,
    mask: Any = None,
    pose: Any = None,
    seed: Seeds = 0,
    *,
    batch_size: int = TOGETHER,
    paste_back: bool = True,
    **settings: Any,
) -> list[Image.Image]:
    """Persons wearing garments (§4.4, Table 3), one picture per pair, each in its person's size.

    Args:
        person, garment: photos; one of either goes with all of the other.
        mask, pose: of the person, see :func:`~unifashion_pl.person.inputs.prepare_tryon`; a list is one each, anything else is for all.
        seed: one for all pictures, or one each. A single pair with several seeds gives variations.
        batch_size: pictures painted at once, as many as the memory takes. Kernels round differently for other numbers of rows: a few pixels may
            differ by 1 of 255 from those of another batch size.
        paste_back: keep the person's own pixels outside of the mask; else the whole picture is as painted.
        settings: those of ``paint`` in :class:`~unifashion_pl.tasks.DiffusionModule`, and further inputs of ``prepare_tryon``:
            ``densepose``, ``parse``, ``agnostic``, ``box`` and ``pose_size`` as ``mask``, others for all. ``show_inputs`` names a file for a
            picture of all inputs, which is written before anything is painted: person, pose, region, what is left.

    Raises:
        ValueError: unequal numbers, a mask, pose or picture that does not fit its person (with how to mend it), or a text, which try-on
            does not read.
        RuntimeError: the model repaints no persons, or has not learned try-on.

    >>> model.try_on("person.jpg", "shirt.jpg", mask="mask.png", seed=0)[0].save("worn.png")  # doctest: +SKIP
    >>> model.try_on("person.jpg", ["a.jpg", "b.jpg"], parse="parse.png", densepose="densepose.jpg")  # doctest: +SKIP
    """
    if "text" in settings:
        raise ValueError("try-on reads the garment's photo and no text: leave text out, or use design, which reads it")
    columns = {"person": person, "garment": garment, "mask": mask, "pose": pose, **_taken(settings, OF_PERSON)}
    return _paint(model, columns, prepare_tryon, seed, batch_size, paste_back, settings)


def design(
    model: FashionModel,
    person: Images,
    text: str | Sequence[str],
    sketch: Any = None,
    pose: Any = None,
    mask: Any = None,
    seed: Seeds = 0,
    *,
    batch_size: int = TOGETHER,
    paste_back: bool = True,
    **settings: Any,
) -> list[Image.Image]:
    """Persons in what a text and, if there is one, a sketch describe (App. E, Fig. 3); one picture per person and text.

    Args:
        person: photos, as in :func:`try_on`.
        text: phrases; one of either goes with all of the other.
        sketch: light strokes on black; of several rows a list, or one for all.
        mask, pose, seed, batch_size, paste_back, settings: as in :func:`try_on`, with the inputs of ``prepare_design``.

    Raises:
        ValueError: unequal numbers, an input that does not fit its person, or a text of which the model can read nothing.
        RuntimeError: the model repaints no persons, or has not learned design.

    >>> model.design("person.jpg", "red dress with white dots", sketch="sketch.png", mask="mask.png")  # doctest: +SKIP
    """
    texts = readable(text, *readers_of(model, with_backbone=True))
    model.backbone.warn_if_cut(texts)
    columns = {"person": person, "text": texts, "sketch": sketch, "mask": mask, "pose": pose}
    columns |= _taken(settings, ("garment", *OF_PERSON))
    return _paint(model, columns, prepare_design, seed, batch_size, paste_back, settings)


def editing_head(model: FashionModel) -> Any:
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


def _taken(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of ``names`` that are among the settings, taken out of them."""
    return {name: settings.pop(name) for name in names if name in settings}


def _listed(name: str, value: Any) -> list[Any]:
    if name in ("person", "garment", "sketch") and value is not None:
        return list(image_list(value))
    if not isinstance(value, list | tuple):
        return [value]
    # four numbers of a box, two of a size, joints of two or three numbers are a list that is one input
    points = [item if name == "pose" and isinstance(item, list | tuple) else [item] for item in value]
    one = name in LISTS and points and all(isinstance(x, int | float) for point in points for x in point)
    return [value] if one else list(value)


def _paint(
    model: FashionModel,
    columns: dict[str, Any],
    prepare: Callable[..., TryOnInputs],
    seed: Seeds,
    batch_size: int,
    paste_back: bool,
    settings: dict[str, Any],
) -> list[Image.Image]:
    head = editing_head(model)
    require(model, "try-on" if prepare is prepare_tryon else "design")
    painting = _taken(settings, PAINTING)
    check_scales(painting)
    show = settings.pop("show_inputs", None)
    common = {"size": head.edit_size, "image_size": model.backbone.vision.image_size, **settings}
    rows = rows_of({**{name: _listed(name, value) for name, value in columns.items()}, "seed": seeds(seed)})
    noise = [row.pop("seed") for row in rows]
    inputs = [prepare(**row, **common) for row in rows]
    if show is not None:
        save_picture([shown(item) for item in inputs], show, columns=1)
    toy.tell(model, [item.person for item in inputs])

    def work(part: list[tuple[TryOnInputs, int]]) -> list[Image.Image]:
        items = [item for item, _ in part]
        batch = edit_batch(batch_of(items), [task_of(item) for item in items]).to(model.device)
        made: Tensor = head.paint(edit_queries(model, batch), batch, seeds=[own for _, own in part], **painting).cpu()
        return [paste(x, item.person, item.mask if paste_back else None) for x, item in zip(made, items)]

    def task_of(item: TryOnInputs) -> Task:
        return "tryon" if prepare is prepare_tryon else "text" if item.sketches is None else "design"

    made = in_batches(model, list(zip(inputs, noise)), batch_size, work, "painting")
    return [picture for part in made for picture in part]
