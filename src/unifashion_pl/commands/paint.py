"""``caption``, ``generate``, ``tryon``, ``design``: a model at work on one's own pictures and texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from unifashion_pl.commands.options import MaxBad, Model, usable
from unifashion_pl.commands.signature import FILE

if TYPE_CHECKING:
    from PIL import Image

    from unifashion_pl.module import UniFashionModule

BATCH = 8
CORNERS = {"type": float, "nargs": 4, "metavar": ("LEFT", "TOP", "RIGHT", "BOTTOM")}


@dataclass(kw_only=True)
class Person:
    """A person's inputs, and what becomes of what is not repainted."""

    mask: Annotated[Path | None, "white = repaint, in the person's proportions"] = None
    invert_mask: Annotated[bool, "the mask says white = keep"] = False
    pose: Annotated[Path | None, "joints: OpenPose JSON, BODY-25 or COCO-18; also to make a mask from"] = None
    pose_model: Annotated[
        Path | None, "RTMO as ONNX, which finds the joints in the photo instead (extra `pose`; licences: docs/howto/persons.md)"
    ] = None
    part: Annotated[Literal["upper_body", "lower_body", "dresses"], "what a mask from --parse or joints covers"] = "upper_body"
    densepose: Annotated[Path | None, "body parts on black; goes before the joints"] = None
    parse: Annotated[Path | None, "label map of the person (LIP), to make a mask from"] = None
    agnostic: Annotated[Path | None, "the person with grey 128 where it is repainted, to make a mask from"] = None
    box: Annotated[list[float] | None, CORNERS, "pixels, to make a mask from"] = None
    as_painted: Annotated[bool, "do not paste the photo back outside of the mask"] = False
    show_inputs: Annotated[
        Path | None, FILE, "a picture of person, pose, region and what is left, written before anything is painted"
    ] = None

    def given(self, person: Path) -> dict[str, Any]:
        """As the methods that repaint take it.

        Raises:
            ValueError: joints are given, and a model that would find them.
        """
        own = ("as_painted", "pose_model")
        inputs = {name: value for name, value in vars(self).items() if name not in own and value is not None}
        if self.pose_model is not None:
            if self.pose is not None:
                raise ValueError("--pose has the joints and --pose-model would find them: name one of both")
            from unifashion_pl.person.detect import PoseDetector

            inputs["pose"] = PoseDetector(self.pose_model)(person)
        return {**inputs, "paste_back": not self.as_painted}


@dataclass(kw_only=True)
class Painting:
    """How pictures are painted."""

    seed: int = 0
    sampler: Annotated[str | None, "paper (default), fast, dpmpp, dpmpp_karras, few or ddim"] = None
    steps: Annotated[int | None, "default: the sampler's"] = None
    guidance: Annotated[float | None, "1 = none; default: by task"] = None
    batch_size: Annotated[int | None, "pictures that are painted at once; default 4"] = None

    def given(self) -> dict[str, Any]:
        """As the methods that paint take it."""
        return {"progress": True} | {name: value for name, value in vars(self).items() if value is not None}


def caption(
    *images: Path,
    style: Literal["fashion200k", "fashiongen", "fashioniq"] = "fashiongen",
    max_bad: Annotated[MaxBad, "leave out up to N images that cannot be read; each is named"] = 0,
    model: Model,
) -> None:
    """Describe images."""
    used = [images[i] for i in usable(images, max_bad)]
    captioner = model.load()
    for start in range(0, len(used), BATCH):  # each batch is printed when it is there, so that an interruption loses none
        part = used[start : start + BATCH]
        for path, text in zip(part, captioner.caption(part, style=style, batch_size=BATCH)):
            print(f"{path}\t{text}", flush=True)


def generate(
    prompt: str,
    *,
    image: Path | None = None,
    out: Annotated[Path, FILE] = Path("generated.png"),
    painting: Painting,
    model: Model,
) -> None:
    """Paint an image from text, or from an image and a modifying text."""
    _save(out, _painter(out, model).generate(prompt, image=image, **painting.given()))


def tryon(
    person: Path,
    *garment: Annotated[Path, "several garments are painted side by side"],
    garment_guidance: Annotated[float | None, "by the garment's photo alone; 1 (default) = none"] = None,
    out: Annotated[Path, FILE] = Path("tryon.png"),
    inputs: Person,
    painting: Painting,
    model: Model,
) -> None:
    """Paint a person wearing a garment."""
    settings = {**inputs.given(person), **painting.given()}
    if garment_guidance is not None:
        settings["garment_guidance"] = garment_guidance
    _save(out, _painter(out, model).try_on(person, [*garment], **settings))


def design(
    person: Path,
    text: str,
    *,
    sketch: Annotated[Path | None, "light strokes on black"] = None,
    invert_sketch: Annotated[bool, "the sketch has dark strokes on white"] = False,
    out: Annotated[Path, FILE] = Path("design.png"),
    inputs: Person,
    painting: Painting,
    model: Model,
) -> None:
    """Paint a person in what a text and a sketch describe."""
    drawn: dict[str, Any] = {"sketch": sketch, "invert_sketch": invert_sketch}
    _save(out, _painter(out, model).design(person, text, **drawn, **inputs.given(person), **painting.given()))


def _painter(out: Path, model: Model) -> UniFashionModule:
    """The model, once it is known that ``--out`` names a picture: paintings take minutes."""
    from PIL import Image

    if out.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--out {out}: the ending says no kind of picture; use .png or .jpg")
    return model.load()


def _save(out: Path, pictures: list[Image.Image]) -> None:
    """One picture, or several side by side."""
    from unifashion_pl.inference.images import save_picture

    print(save_picture(pictures, out))
