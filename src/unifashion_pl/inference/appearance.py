"""A model learns by what the same photo is known again, and how much that counts in a search by image: chosen on photos of a catalogue.

What is measured is what a shop sees: photos that are cropped, tilted, mirrored, darker or brighter look for themselves, and photos as they are
look for others of their class. Letters: N photos, C changed copies of each, Q query tokens, E and K widths of tokens and appearance, W of features.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from unifashion_pl.arguments import Images, count
from unifashion_pl.backbone.appearance import Appearance
from unifashion_pl.inference.images import image_list, open_image
from unifashion_pl.inference.requests import head_of, in_batches, pixels_for
from unifashion_pl.interface import FashionModel
from unifashion_pl.similarity import max_sim

#: Photos that are learnt from and measured with, at most, and changed copies of each.
LEARNED, MEASURED, COPIES = 1000, 600, 3
#: What is tried. A weight of 0 is what there was before.
WEIGHTS, REACHES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0), (0.05, 0.1, 0.2, 0.3, 0.4)
#: Share of neighbours of the same class that may be lost, and share of copies by which choices count as equal.
LOST, EQUAL = 0.005, 0.005
#: Hits that classes are counted among.
NEAREST = 10
#: Ranges of a change: side of the crop as a share of the photo's, degrees, brightness.
CROP, TILT, LIGHT = (0.6, 1.0), (-15.0, 15.0), (0.5, 1.4)


@dataclass(frozen=True)
class Weighing:
    """A weight and a reach, the share of changed copies that find their photo first, and of a photo's ten nearest those of its class."""

    weight: float
    reach: float
    same_photo: float
    same_class: float | None


@dataclass(frozen=True)
class AppearanceChoice:
    """What was chosen, beside query tokens alone, measured on how many photos and copies; ``str`` says why.

    Attributes:
        tried: all that was measured.
    """

    chosen: Weighing
    tokens: Weighing
    photos: int
    copies: int
    tried: Sequence[Weighing]

    def __str__(self) -> str:
        one, other = self.tokens, self.chosen
        found = f"{one.same_photo:.1%} of {self.copies:,} changed copies of {self.photos:,} photos find their photo first by query tokens alone"
        if not other.weight:
            return f"appearance: none, {found}, and no weight finds more without losing neighbours of the same class"
        kept = "no classes were known"
        if other.same_class is not None and one.same_class is not None:
            kept = f"of the {NEAREST} nearest {other.same_class:.1%} are of the same class, {one.same_class:.1%} before"
        return f"appearance: weight {other.weight:g}, reach {other.reach:g}: {found}, {other.same_photo:.1%} with it; {kept}"


def choose_appearance(
    model: FashionModel,
    photos: Images,
    validation: Images,
    categories: Sequence[str | None] | None = None,
    *,
    width: int = 256,
    seed: int = 0,
) -> AppearanceChoice:
    """Learn the projection on some photos and choose weight and reach on others; the model keeps them, and what it is saved as.

    Chosen is what finds most changed copies, of all that lose at most half a percent of neighbours of the same class; of what finds the same,
    up to half a percent, what has most of these. Where nothing finds more than query tokens alone, the model has no appearance.

    Args:
        photos: to learn from, at best those that the model was fitted to; of many, a thousand.
        validation: to choose on, which are not among them.
        categories: of ``validation``; None or "" where one is not known.
        width: of the vectors; an index keeps ``width`` bytes and 4 of each image, and with exact numbers 2 or 4 times ``width`` more.
        seed: of the sample and of the changes.

    Raises:
        ValueError: fewer than two photos of either, other numbers of categories, or photos that cannot be read.
    """
    rng = random.Random(seed)
    learned, shown = image_list(photos), image_list(validation)
    classes = [None] * len(shown) if categories is None else [one or None for one in categories]
    if len(classes) != len(shown):
        raise ValueError(f"{len(shown)} photos for validation but {len(classes)} categories")
    if min(len(learned), len(shown)) < 2:
        raise ValueError(f"got {len(learned)} photos to learn from and {len(shown)} to choose on, expected two of each or more")
    learned = rng.sample(learned, min(LEARNED, len(learned)))
    kept = sorted(rng.sample(range(len(shown)), min(MEASURED, len(shown))))
    made = Appearance(model.backbone.vision.width, count(width, "width")).to(model.device)
    made.learn(
        _seen(model, learned)[1].to(model.device), torch.stack([c for _, c in _copies(model, learned, rng)]).to(model.device)
    )
    choice = _choice(model, made.cpu(), [shown[i] for i in kept], [classes[i] for i in kept], rng)
    made.weight.fill_(choice.chosen.weight)
    made.reach.fill_(choice.chosen.reach)
    model.backbone.appearance = made.to(model.device) if choice.chosen.weight else None
    _describe(model, made.width if choice.chosen.weight else None)
    return choice


def changed(photo: Image.Image, rng: random.Random) -> Image.Image:
    """A copy as people make them: cropped somewhere, tilted, perhaps mirrored, darker or brighter."""
    picture = photo.convert("RGB").rotate(rng.uniform(*TILT), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    share = rng.uniform(*CROP)
    width, height = max(1, round(share * picture.width)), max(1, round(share * picture.height))
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    return ImageEnhance.Brightness(picture.crop((left, top, left + width, top + height))).enhance(rng.uniform(*LIGHT))


def _copies(model: FashionModel, photos: Sequence[object], rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and pooled features of all photos, changed, C times."""
    for _ in range(COPIES):
        yield _seen(model, photos, random.Random(rng.random()))


def _seen(model: FashionModel, photos: Sequence[object], rng: random.Random | None = None) -> tuple[Tensor, Tensor]:
    """(N, Q, E) query tokens and (N, W) pooled features of photos, or with ``rng`` of changed copies of them."""
    head, backbone = head_of(model, "retrieval"), model.backbone

    def work(part: list[object]) -> tuple[Tensor, Tensor]:
        opened = [open_image(one) for one in part]  # type: ignore[arg-type]
        seen = backbone.vision(pixels_for(model, opened if rng is None else [changed(one, rng) for one in opened]))
        tokens = head.image_vectors(backbone, backbone.image_features(seen))
        return tokens.float().cpu(), Appearance.pooled(seen).cpu()

    parts = in_batches(model, photos, 32, work, "appearance")
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([pooled for _, pooled in parts])


def _choice(
    model: FashionModel, made: Appearance, photos: Sequence[object], classes: Sequence[str | None], rng: random.Random
) -> AppearanceChoice:
    tokens, pooled = _seen(model, photos)
    looks = made.project(pooled)
    found = [(similarities(copy, tokens), made.project(seen) @ looks.T) for copy, seen in _copies(model, photos, rng)]
    copies = torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])
    own = similarities(tokens, tokens), looks @ looks.T

    def measured(weight: float, reach: float) -> Weighing:
        made.reach.fill_(reach)
        scores, among = (one + weight * made.evidence(cosines) for one, cosines in (copies, own))
        return Weighing(weight, reach, same_photo(scores), same_class(among, classes))

    before = measured(0.0, 1.0)
    tried = [measured(weight, reach) for weight in WEIGHTS for reach in REACHES]
    floor = -1.0 if before.same_class is None else before.same_class - LOST
    kept = [one for one in tried if (one.same_class or 0.0) >= floor and one.same_photo > before.same_photo]
    best = max((one.same_photo for one in kept), default=0.0)
    near = [one for one in kept if one.same_photo >= best - EQUAL]
    chosen = max(near, key=lambda one: (one.same_class or 0.0, one.same_photo, -one.weight), default=before)
    return AppearanceChoice(chosen, before, len(photos), len(copies[0]), tried)


def similarities(queries: Tensor, images: Tensor) -> Tensor:
    """(N, Q, E) against (M, Q, E) -> (N, M): the mean over an image's tokens of the best product with another's, as galleries score."""
    found: Tensor = max_sim(queries.flatten(0, 1), images)
    return found.unflatten(0, queries.shape[:2]).mean(1)


def same_photo(scores: Tensor) -> float:
    """Share of copies whose own photo alone has the best score; scores (C * N, N), copies in the order of photos, C times."""
    own = torch.arange(len(scores)) % scores.shape[1]
    best = scores.gather(1, own[:, None])
    return float(((scores >= best).sum(1) == 1).float().mean())


def same_class(scores: Tensor, classes: Sequence[str | None]) -> float | None:
    """Mean share of a photo's ten nearest others that are of its class, over photos (N, N) whose class is known; None where none is."""
    known = [i for i, one in enumerate(classes) if one is not None]
    if len(known) < 2:
        return None
    numbers = {one: number for number, one in enumerate(dict.fromkeys(classes))}
    labels = torch.tensor([numbers[classes[i]] for i in known])
    among = scores[known][:, known].clone().fill_diagonal_(-torch.inf)
    near = among.topk(min(NEAREST, len(known) - 1), dim=1).indices
    return float((labels[near] == labels[:, None]).float().mean())


def _describe(model: FashionModel, width: int | None) -> None:
    """Say in a model's config that it has an appearance, so that what is saved of it is built with one."""
    section = getattr(model, "hparams", {}).get("backbone")
    if isinstance(section, Mapping):
        inner = section.get("init_args", section)
        inner["appearance"] = width
