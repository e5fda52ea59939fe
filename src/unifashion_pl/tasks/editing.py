"""Try-on and design as the diffusion head learns them: what each row shows, what is left out at random, what is encoded.

Letters: B batch, H x W pixels, f the autoencoder's factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from unifashion_pl.arguments import choice
from unifashion_pl.data.samples import EditBatch, TryOnBatch, sent
from unifashion_pl.data.transforms import GREY as GREY
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.generation import Denoiser, ImageVAE
from unifashion_pl.generation.attention_losses import Looks, flow_error, grid_of, probabilities, shape_error, total_variation
from unifashion_pl.generation.denoiser import LATENT_CHANNELS
from unifashion_pl.generation.samplers import Conditions, NoisePredictor, guided

Task = Literal["tryon", "design", "text"]
TASKS: tuple[Task, ...] = get_args(Task)
#: Pictures of a row that are encoded in training, in the order of ``EditBatch.latents``.
Encoded = Literal["person", "greyed", "pose", "garment"]
ENCODED: tuple[Encoded, ...] = get_args(Encoded)


@dataclass
class EditSettings:
    """How try-on and design are learned.

    Attributes:
        tasks: shares of ``tryon`` (the garment's photo, no text), ``design`` (its sketch and phrases) and ``text`` (phrases alone).
        drop_pose, drop_garment: chance per sample that the pose, or what the garment branch sees, is left out.
        drops: ``each`` as above; ``released`` leaves out nothing but the context.
        tv_weight: of the attention's total variation at the middle place (StableVITON: 0.001, in a second run).
        flow_weight: of the attention's flow error (Leffa: 0.001, in the last stage). It has to see photos: try-on rows alone.
        shape_weight: of the attention's error in carrying the garment's outline, beside the flow error: the same places, timesteps, softening.
        flow_places: places whose attention carries the garment; None = those between the finest and the lowest level, if
            there is one between, else all.
        flow_temperature: attention is softened by it for the flow error (Leffa: 2); 1 = what is read.
        flow_steps: the flow error is taken at timesteps below; Leffa takes the less noisy half.
    """

    tasks: dict[str, float] = field(default_factory=lambda: {"tryon": 1.0})
    drop_pose: float = 0.1
    drop_garment: float = 0.1
    drops: Literal["each", "released"] = "each"
    tv_weight: float = 0.0
    flow_weight: float = 0.0
    shape_weight: float = 0.0
    flow_places: list[int] | None = None
    flow_temperature: float = 2.0
    flow_steps: int = 500

    def __post_init__(self) -> None:
        if unknown := set(self.tasks) - set(TASKS):
            raise ValueError(f"unknown tasks {sorted(unknown)}; known are {', '.join(TASKS)}")
        if any(share < 0 for share in self.tasks.values()) or not sum(self.tasks.values()) > 0:
            raise ValueError(f"shares of tasks are {self.tasks}, expected numbers from 0 on, not all 0")
        choice(self.drops, "drops", ("each", "released"))

    @property
    def looks(self) -> bool:
        """Whether any loss is taken of the garment branch's attention."""
        return any((self.tv_weight, self.flow_weight, self.shape_weight))

    def draw(self, rows: int) -> list[Task]:
        """A task per row."""
        shares = torch.tensor([float(self.tasks.get(task, 0.0)) for task in TASKS])
        return [TASKS[i] for i in torch.multinomial(shares, rows, replacement=True).tolist()]

    def chance(self, probability: float) -> float:
        """``probability``, or 0 where only the context is dropped."""
        return 0.0 if self.drops == "released" else probability


def edit_batch(batch: TryOnBatch, tasks: list[Task]) -> EditBatch:
    """Try-on samples as rows of the given tasks.

    Raises:
        ValueError: a sketch is needed and the batch has none, or the garments are cached features where a sketch has to be encoded.
    """
    photo, sketch = (sent(torch.tensor([t == name for t in tasks]), batch.pixels.device) for name in ("tryon", "design"))
    images, shown = batch.garments, batch.garment_pixels
    latents = None if batch.latents is None else list(batch.latents.unbind(1))
    if "design" in tasks:
        if batch.sketches is None:
            raise ValueError(f"{batch.dataset} has no sketches to learn design from: set its share in editing.tasks to 0")
        if images.ndim == 3:
            raise ValueError("cached vision features are of photos, and design encodes sketches: train without features=...")
        seen = EncoderTransform(images.shape[-1])
        drawn = torch.stack([seen(picture) for picture in batch.sketches])
        images = torch.where(sketch.view(-1, 1, 1, 1), drawn, images)
        shown = torch.where(sketch.view(-1, 1, 1, 1), batch.sketches, shown)
        if latents is not None:
            latents[3] = torch.where(sketch.view(-1, 1, 1, 1), latents[4], latents[3])
    pose = batch.pose
    return EditBatch(
        images=images,
        has_image=photo | sketch,
        texts=["" if task == "tryon" else text for task, text in zip(tasks, batch.texts)],
        pixels=batch.pixels,
        masks=batch.masks,
        pose=torch.zeros_like(batch.pixels) if pose is None else pose,
        has_pose=torch.full_like(photo, pose is not None),
        garments=shown,
        has_garment=photo | sketch,
        has_photo=photo,
        known=[(pose is not None, task != "text") for task in tasks],
        worn=batch.worn,
        shapes=batch.shapes,
        latents=None if latents is None else torch.stack(latents[:4], 1),
    )


def greyed(batch: EditBatch) -> Tensor:
    """The persons (B, 3, H, W) uint8, grey where they are repainted: made here, so that training sees what users' masks give."""
    return batch.pixels.masked_fill(batch.masks, GREY)


def encodable(batch: EditBatch, name: Encoded) -> Tensor:
    """Pictures (B, 3, H, W) uint8 for the autoencoder, or their posteriors (B, 8, H/f, W/f), made before."""
    if batch.latents is not None:
        return batch.latents[:, ENCODED.index(name)]
    if name == "greyed":
        return greyed(batch)
    return {"person": batch.pixels, "pose": batch.pose, "garment": batch.garments}[name]


def keep_of(vae: ImageVAE, batch: EditBatch) -> Tensor:
    """Masks for the latents (B, 1, H/f, W/f), 1 = keep."""
    grid = [side // vae.factor for side in batch.masks.shape[-2:]]
    # The released code resizes without antialiasing (the default of its torchvision) and keeps the soft edge.
    return F.interpolate((~batch.masks).float(), grid, mode="bilinear", antialias=False)


def encode_conditions(vae: ImageVAE, denoiser: Denoiser, batch: EditBatch, *, sample: bool) -> dict[str, Tensor]:
    """What the denoiser reads beside latents and context: ``person, keep, pose`` and, if it reads garments, ``garment, gate``.

    Pose latents of rows without a pose are zeros in latent space, not the latents of a black picture; what is known to be absent is not encoded.
    The autoencoder draws in the same order and shapes whether it is given pictures or their posteriors.

    Args:
        sample: draw from the autoencoder's posterior (training).
    """

    def encoded(pictures: Tensor, there: list[bool]) -> Tensor:
        if all(there):
            return vae.encode(pictures, sample=sample)
        out = torch.zeros(len(pictures), LATENT_CHANNELS, *keep.shape[-2:], device=pictures.device)
        if any(there):
            rows = sent(torch.tensor([i for i, own in enumerate(there) if own]), pictures.device)
            out[rows] = vae.encode(pictures[rows], sample=sample).float()
        return out

    keep = keep_of(vae, batch)
    poses, garments = ([row[i] for row in batch.known] for i in (0, 1))
    pose = encoded(encodable(batch, "pose"), poses) * batch.has_pose.view(-1, 1, 1, 1)
    out = {"person": vae.encode(encodable(batch, "greyed"), sample=sample), "keep": keep, "pose": pose}
    if denoiser.reads_garments:
        out |= {"garment": encoded(encodable(batch, "garment"), garments), "gate": batch.has_garment.float()}
    return {name: value.float() for name, value in out.items()}


@dataclass(frozen=True)
class Known:
    """What is known of a batch's rows before it is painted, read back from the device once.

    Attributes:
        garments: whether the row has a garment.
        same: of the greyed persons, of the poses and of the garments: for each row the first one with the same picture, None if it has none.
    """

    garments: list[bool]
    same: tuple[list[int | None], list[int | None], list[int | None]]


def known_of(batch: EditBatch) -> Known:
    """:class:`Known` of a batch."""
    has = torch.stack([torch.ones_like(batch.has_pose), batch.has_pose, batch.has_garment])
    pictures = (greyed(batch), batch.pose, batch.garments)
    equal = [torch.stack([(picture == one).flatten(1).all(1) for one in picture]) for picture in pictures]
    there, firsts = torch.stack([has.int(), torch.stack(equal).int().argmax(2)]).tolist()
    person, pose, garment = ([i if own else None for i, own in zip(*rows)] for rows in zip(firsts, there))
    return Known([bool(own) for own in there[2]], (person, pose, garment))


def sampling_conditions(vae: ImageVAE, denoiser: Denoiser, batch: EditBatch, known: Known) -> dict[str, Tensor]:
    """:func:`encode_conditions` for painting: by the mode, each picture once, and none that is not looked at."""

    def encoded(pictures: Tensor, same: list[int | None]) -> Tensor:
        firsts = sorted({i for i in same if i is not None})
        grid = [side // vae.factor for side in pictures.shape[-2:]]
        out = torch.zeros(len(pictures), LATENT_CHANNELS, *grid, device=pictures.device)
        if firsts:
            latents = vae.encode(pictures if len(firsts) == len(pictures) else pictures[firsts]).float()
            rows = [i for i, first in enumerate(same) if first is not None]
            out[rows] = latents[[firsts.index(first) for first in same if first is not None]]
        return out

    person, pose, garment = known.same
    out = {"person": encoded(greyed(batch), person), "keep": keep_of(vae, batch), "pose": encoded(batch.pose, pose)}
    if denoiser.reads_garments:
        out |= {"garment": encoded(batch.garments, garment), "gate": batch.has_garment.float()}
    return out


def guided_rows(
    denoiser: Denoiser,
    conditions: dict[str, Tensor],
    has: Sequence[bool],
    context: tuple[float, Tensor],
    garment_scale: float = 1.0,
) -> NoisePredictor:
    """The denoiser, guided by context and garment; the garment branch runs for rows alone that have one.

    Args:
        has: whether each row has a garment, known in Python: asking the device would hold up every evaluation.
        context: the scale, and what takes the context's place where it is absent (B, N, C).
        garment_scale: by what the garment branch sees; rows in which it is absent run none.
    """
    absent: list[tuple[float, Conditions]] = [(context[0], {"context": context[1]})]
    if "gate" not in conditions or not any(has):
        plain = {name: value for name, value in conditions.items() if name not in ("garment", "gate")}
        return guided(denoiser, plain, absent)
    absent.append((garment_scale, {"gate": torch.zeros_like(conditions["gate"])}))
    shown = [own and "gate" not in away for away in [{}, *(away for scale, away in absent if scale != 1.0)] for own in has]
    if all(shown):
        return guided(denoiser, conditions, absent)
    rows = torch.tensor([i for i, own in enumerate(shown) if own], device=conditions["gate"].device)
    return guided(partial(denoiser, rows=rows), conditions, absent)


def drop_conditions(conditions: dict[str, Tensor], settings: EditSettings) -> dict[str, Tensor]:
    """Pose and garment left out at random, each sample with draws of its own."""
    rows, device = conditions["pose"].shape[0], conditions["pose"].device
    has_pose = torch.rand(rows, device=device) >= settings.chance(settings.drop_pose)
    has_garment = torch.rand(rows, device=device) >= settings.chance(settings.drop_garment)
    out = {**conditions, "pose": conditions["pose"] * has_pose.view(-1, 1, 1, 1)}
    if "gate" in out:
        out["gate"] = out["gate"] * has_garment
    return out


def attention_places(denoiser: Denoiser, settings: EditSettings) -> tuple[list[int], list[int]]:
    """Places whose attention the optional losses read: total variation; flow and shape."""
    branch = denoiser.garment
    if branch is None or not settings.looks:
        return [], []
    levels = [place.block for place in branch.places]
    inner = [k for k, level in enumerate(levels) if level != max(levels)] or list(range(len(levels)))
    flow = inner if settings.flow_places is None else settings.flow_places
    return [len(levels) // 2] if settings.tv_weight else [], flow if settings.flow_weight or settings.shape_weight else []


def attention_losses(
    looks: Looks,
    places: tuple[list[int], list[int]],
    batch: EditBatch,
    conditions: dict[str, Tensor],
    timesteps: Tensor,
    settings: EditSettings,
) -> dict[str, Tensor]:
    """``tv``, ``flow`` and ``shape``, weighted; over rows that were shown a garment; the last two over rows with photos below ``flow_steps`` alone.

    Raises:
        ValueError: the batch does not say where the garment is worn, or where it lies in its photo.
    """
    if not looks:
        return {}
    if batch.worn is None:
        raise ValueError(
            "tv_weight, flow_weight and shape_weight need to know where the garment is worn: the data has no warped garment masks"
        )
    if settings.shape_weight and batch.shapes is None:
        raise ValueError("shape_weight needs to know where the garment lies in its photo: the data has no garment masks")
    latents = (conditions["keep"].shape[-2], conditions["keep"].shape[-1])
    shown = conditions["gate"] > 0
    out: dict[str, Tensor] = {}
    if settings.tv_weight:
        attentions = [probabilities(looks[k]) for k in places[0]]
        terms = [total_variation(a, grid_of(a.shape[1], latents), batch.worn & shown.view(-1, 1, 1, 1)) for a in attentions]
        out["tv"] = settings.tv_weight * torch.stack(terms).mean()
    rows = shown & batch.has_photo & (timesteps < settings.flow_steps)
    attentions = [probabilities(looks[k], settings.flow_temperature) for k in places[1]]
    grids = [grid_of(a.shape[1], latents) for a in attentions]
    if settings.flow_weight:
        mask = batch.worn & rows.view(-1, 1, 1, 1)
        terms = [flow_error(a, grid, batch.garments, batch.pixels, mask) for a, grid in zip(attentions, grids)]
        out["flow"] = settings.flow_weight * torch.stack(terms).mean()
    if settings.shape_weight and batch.shapes is not None:
        terms = [shape_error(a, grid, batch.shapes, batch.worn, rows) for a, grid in zip(attentions, grids)]
        out["shape"] = settings.shape_weight * torch.stack(terms).mean()
    return out
