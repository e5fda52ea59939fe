"""Does a photo that was cropped, tilted and darkened find itself, and are its neighbours still of its class: image search on real photos.

    python benchmarks/real_data.py --clothing FOLDER --out work
    python benchmarks/real_identity.py split --work work             # work/fit.csv: some senders are kept for choosing
    unifashion adapt work/fit.csv --root work/photos --out runs/seed0 --seed 0 …                                  # once a seed
    python benchmarks/real_identity.py measure --work work --ckpt runs/seed0/model [--all] [--picture FILE.png]

Weight and reach are chosen on photos of senders that the fit has not seen, by ``adapt``, or here for a model without an appearance;
everything printed is of the test photos, which neither saw.
The headline is asked of a Gallery, as users ask; with ``--all`` each change by itself follows. ``--picture`` shows queries and their five best.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageEnhance, ImageOps
from real_data import Row, photos, proportion
from torch import Tensor

from unifashion_pl import UniFashionModule
from unifashion_pl.gallery import Gallery
from unifashion_pl.inference.appearance import choose_appearance, same_photo, similarities
from unifashion_pl.inference.encode import encode_image_sets

#: Percent of the senders whose photos are kept for choosing; split that says so in ``fit.csv``, by which a fit stops and from which it learns nothing.
KEPT, SPLIT = 14, "val"
NEAREST = 10
Change = Callable[[Image.Image], Image.Image]


def changed(crop: float = 1.0, tilt: float = 0.0, light: float = 1.0, quality: int = 0, mirrored: bool = False) -> Change:
    """Tilt about the middle (corners black), crop of the middle by its share of the sides, brightness, JPEG's quality."""

    def change(photo: Image.Image) -> Image.Image:
        picture = photo.rotate(tilt, Image.Resampling.BICUBIC) if tilt else photo
        width, height = (round(crop * side) for side in picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = ImageEnhance.Brightness(picture.crop((left, top, left + width, top + height))).enhance(light)
        picture = ImageOps.mirror(picture) if mirrored else picture
        if quality:
            data = BytesIO()
            picture.save(data, "JPEG", quality=quality)
            picture = Image.open(data).convert("RGB")
        return picture

    return change


HEADLINE = {"crop": 0.75, "tilt": 8.0, "light": 0.7}
ALONE: dict[str, dict[str, float]] = {
    **{f"crop {crop:.0%}": {"crop": crop} for crop in (0.9, 0.75, 0.6)},
    **{f"tilt {tilt:+d} degrees": {"tilt": tilt} for tilt in (-15, -4, 4, 15)},
    **{f"brightness {light:g}": {"light": light} for light in (0.5, 1.4)},
    **{f"JPEG quality {quality}": {"quality": quality} for quality in (30, 10)},
    "mirrored": {"mirrored": True},
    "75 %, 8 degrees, 0.7, mirrored": {**HEADLINE, "mirrored": True},
    "60 %, -8 degrees, 1.3": {"crop": 0.6, "tilt": -8, "light": 1.3},
}


def kept(row: Row) -> bool:
    """Whether a photo's sender is kept for choosing."""
    return zlib.crc32(f"dev{row['sender']}".encode()) % 100 < KEPT


def split(work: Path) -> None:
    """Write ``fit.csv``."""
    rows = [*photos(work, test=False), *photos(work, test=True)]
    rows = [{**row, "split": row["split"] or (SPLIT if kept(row) else "train")} for row in rows]
    with (work / "fit.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"{sum(row['split'] == SPLIT for row in rows)} photos kept for choosing -> {work / 'fit.csv'}")


def opened(work: Path, rows: Sequence[Row]) -> list[Image.Image]:
    return [Image.open(work / "photos" / row["image"]).convert("RGB") for row in rows]


def precision(gallery: Gallery, images: Sequence[Image.Image], rows: Sequence[Row], **how: float) -> Tensor:
    """(N,) share of each photo's ten nearest others that are of its class."""
    classes = {row["id"]: row["category"] for row in rows}
    shares = []
    for row, hits in zip(rows, gallery.search_many(images=images, k=NEAREST + 1, **how)):
        near = [hit.id for hit in hits if hit.id != row["id"]][:NEAREST]
        shares.append(sum(classes[id] == row["category"] for id in near) / NEAREST)
    return torch.tensor(shares)


def measure(work: Path, ckpt: str, all_of_them: bool, picture: Path | None) -> None:
    """Choose, then print every figure with n and a 95 % interval."""
    model = UniFashionModule.from_pretrained(ckpt)
    rows, others = photos(work, test=True), photos(work, test=False)
    if model.backbone.appearance is None:
        learned, chosen_on = [row for row in others if not kept(row)], [row for row in others if kept(row)]
        places = [[work / "photos" / row["image"] for row in part] for part in (learned, chosen_on)]
        print(f"{ckpt}: {choose_appearance(model, *places, [row['category'] for row in chosen_on])}")
    images, ids = opened(work, rows), [row["id"] for row in rows]
    gallery = model.gallery(images, ids=ids, query_set="reference")
    asked = [changed(**HEADLINE)(image) for image in images]
    for name, how in (("query tokens alone", {"appearance": 0.0}), ("with the appearance", {})):
        found = gallery.search_many(images=asked, k=1, **how)
        hits = sum(one[0].id == id for one, id in zip(found, ids))
        proportion(f"cropped to 75 %, tilted 8 degrees, darker finds itself, {name}", hits, len(rows))
        share = precision(gallery, images, rows, **how)
        error = 1.96 * float(share.std()) / len(rows) ** 0.5
        print(f"precision at {NEAREST} of the same class, {name}: {float(share.mean()):.3f} ± {error:.3f}  n = {len(rows)}")
    if all_of_them and model.backbone.appearance is not None:
        each(model, images)
    if picture is not None:
        draw(gallery, images, ids, picture)


def each(model: UniFashionModule, images: Sequence[Image.Image]) -> None:
    """Each change by itself: query tokens alone, the tower's mean-pooled features alone, and both as chosen."""
    own = model.backbone.appearance
    assert own is not None

    def seen(pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        found = encode_image_sets(model, list(pictures), ("reference",), appearance=True)
        return found["reference"], found["appearance"][:, 0]

    tokens, looks = seen(images)
    print(f"{'finds itself, %':<36}{'tokens':>8}{'appearance':>12}{'both':>8}")
    for name, how in ALONE.items():
        asked, asked_looks = seen([changed(**how)(image) for image in images])  # type: ignore[arg-type]
        scores, cosines = similarities(asked, tokens), asked_looks @ looks.T
        both = scores + own.weight * own.evidence(cosines)
        print(f"{name:<36}{100 * same_photo(scores):8.1f}{100 * same_photo(cosines):12.1f}{100 * same_photo(both):8.1f}")


def draw(gallery: Gallery, images: Sequence[Image.Image], ids: Sequence[str], place: Path, side: int = 112) -> None:
    """Rows: the changed photo, its five best by query tokens alone, and, behind a gap, with the appearance; the right one is framed."""
    chosen = range(0, len(images), max(1, len(images) // 10))
    sheet = Image.new("RGB", (side * 11 + 40, side * len(chosen)), "white")
    for y, i in enumerate(chosen):
        asked = changed(**HEADLINE)(images[i])
        shown = [(asked, False)]
        for how in ({"appearance": 0.0}, {}):
            shown += [(images[ids.index(hit.id)], hit.id == ids[i]) for hit in gallery.search(image=asked, k=5, **how)]
        for x, (one, right) in enumerate(shown):
            tile = ImageOps.expand(ImageOps.contain(one, (side - 8, side - 8)), 3, "limegreen" if right else "white")
            sheet.paste(tile, (x * side + 20 * (x > 0) + 20 * (x > 5), y * side))
    sheet.save(place)
    print(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    first, last = actions.add_parser("split"), actions.add_parser("measure")
    last.add_argument("--ckpt", required=True)
    last.add_argument("--all", action="store_true", help="each change by itself, too")
    last.add_argument("--picture", type=Path)
    for sub in (first, last):
        sub.add_argument("--work", type=Path, default=Path("work"))
    args = parser.parse_args()
    if args.action == "split":
        split(args.work)
    else:
        measure(args.work, args.ckpt, args.all, args.picture)


if __name__ == "__main__":
    main()
