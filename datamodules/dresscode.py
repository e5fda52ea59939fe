"""Dress Code Multimodal: three category folders, captions and sketches -> try-on and design samples.

Paired: person and garment of the same product. Unpaired: both columns of ``test_pairs_unpaired.txt``. Heads are cut off, joints are given
in 384 × 512 whatever the pictures' size, label maps use ATR's labels; there are no masks: they are made from labels and joints.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from unifashion_pl.datamodules.tryon_files import (
    TryOnRecipe,
    find_patterns,
    place,
    read_pair_list,
    read_phrases,
    without_phrases,
)

from unifashion_pl.data.decode import encode_png
from unifashion_pl.data.plan import BadSample, Item, MissingDataError, Plan, compact_json
from unifashion_pl.data.recipes import Picture
from unifashion_pl.person.masks import Part, label_map, mask_from_parse
from unifashion_pl.person.pose import Pose, body_part_colours, read_pose
from unifashion_pl.person.problems import InputError

CATEGORIES: tuple[Part, ...] = ("dresses", "upper_body", "lower_body")
PUBLISHED = {
    "train": {"dresses": 27_678, "upper_body": 13_563, "lower_body": 7_151},
    "test": {"dresses": 1_800, "upper_body": 1_800, "lower_body": 1_800},
}
#: Size (h, w) that the joints' coordinates refer to.
JOINTS_SIZE = (512, 384)
#: Role -> place of its file below the root.
FILES = {
    "person": "{category}/images/{person}_0.jpg",
    "garment": "{category}/images/{garment}_1.jpg",
    "parse": "{category}/label_maps/{person}_4.png",
    "densepose": "{category}/dense/{person}_5.png",
    "sketch": "{category}/cloth_sketch/{garment}_1.png",
}
WORN_SKETCH = {
    True: "{category}/im_sketch/{person}_1.png",
    False: "{category}/im_sketch_unpaired/{person}_0_{garment}_1.png",
}
STITCH = "test_stitchmap/{person}_0.png"
POSE = "{category}/keypoints/{person}_2.json"
#: Roles that a copy may lack; ``garment_mask``, ``agnostic`` and ``warped_mask`` are VITON-HD's alone.
OPTIONAL = ("densepose", "parse", "warped_sketch", "stitch", "pose")
DRAWN = "cloth_sketch is absent, as in the published files: in-shop sketches are drawn from the garments' photos"


def number_of_file(name: str) -> str:
    """``052012_0.jpg`` -> ``052012``."""
    return Path(name).stem.rpartition("_")[0] or Path(name).stem


def read_pairs(root: Path, category: str, split: str, paired: bool) -> list[tuple[str, str]]:
    """Numbers of (person, garment), in file order.

    Raises:
        MissingDataError: the list is absent, has a line of another form, or a person twice.
    """
    name = f"{split}_pairs.txt" if split == "train" else f"{split}_pairs_{'paired' if paired else 'unpaired'}.txt"
    expected = "the pairs files of Dress Code in every category's folder"
    return read_pair_list(root / category / name, number_of_file, "person_0.jpg garment_1.jpg", expected)


def all_phrases(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Garment's number -> phrases from ``fine_captions.json`` and ``coarse_captions.json``, and notes.

    The released loader drops fine entries with fewer than three phrases, and pairs without any; here both stay, counted.

    Raises:
        MissingDataError: a file has another shape.
    """
    phrases: dict[str, list[str]] = {}
    notes = []
    for name in ("fine_captions.json", "coarse_captions.json"):
        found = read_phrases(root / name)
        if found is None:
            notes.append(f"{name} is absent: its garments have no text")
        phrases |= found or {}
    return phrases, notes


class DressCodeSpec(NamedTuple):
    """Numbers of a person and of a garment of a category, and whether they belong together."""

    category: Part
    person: str
    garment: str
    paired: bool


class DressCodeRecipe(TryOnRecipe):
    """Pairs -> pictures of :data:`FILES` that the copy has, the worn sketch, ``mask.png``, ``sketch.png``, ``pose.json``, ``meta.json``."""

    def extra(self, item: Item, pictures: dict[str, Picture]) -> dict[str, bytes]:
        """See the base class; mask, joints, colours of body parts."""
        made = super().extra(item, pictures)
        category, person = item.spec.category, item.spec.person
        size = pictures["person"].image.size
        pose = None if self.pose is None else _pose(place(self.folder, self.pose, item), person, size)
        if pose is not None:
            made["pose.json"] = compact_json(pose.as_dict())
        parse = pictures["parse"].image.resize(size, Image.Resampling.NEAREST)
        made["mask.png"] = encode_png(_mask(parse, pose, category, person))
        if "densepose" in pictures and (coloured := body_part_colours(pictures["densepose"].image)) is not None:
            made[pictures["densepose"].field] = encode_png(coloured)
        return made


def _pose(path: Path, person: str, size: tuple[int, int]) -> Pose:
    try:
        return read_pose(path, (size[1], size[0]), pose_size=JOINTS_SIZE)
    except FileNotFoundError as error:
        raise BadSample(person, "pose", "missing") from error
    except InputError as error:
        raise BadSample(person, "pose", error.found) from error


def _mask(parse: Image.Image, pose: Pose | None, part: Part, person: str) -> Image.Image:
    """From labels and joints; from labels alone where the joints do not show the part (heads and shoulders may be cut off)."""
    try:
        labels = label_map(parse, "atr")
        try:
            area = mask_from_parse(labels, pose, labels="atr", part=part)
        except InputError as error:
            if error.subject != "pose":
                raise
            area = mask_from_parse(labels, None, labels="atr", part=part)
    except InputError as error:
        raise BadSample(person, "parse", error.found) from error
    return Image.fromarray(area.astype(np.uint8) * 255)


def split_items(root: Path, split: str, paired: bool) -> list[Item]:
    """Samples of all categories that the copy has.

    Raises:
        MissingDataError: no category's folder is there, or as :func:`read_pairs`.
    """
    there = [category for category in CATEGORIES if (root / category).is_dir()]
    if not there:
        raise MissingDataError(
            f"{root}: none of the folders {', '.join(CATEGORIES)}; expected is the root of Dress Code Multimodal"
        )
    items = []
    for category in there:
        for person, garment in read_pairs(root, category, split, paired):
            worn = person if paired else garment
            key = f"{category}-{person}_0" if paired else f"{category}-{person}_0__{worn}_1"
            items.append(Item(key, category, DressCodeSpec(category, person, worn, paired)))
    return items


def plan_split(root: Path, split: str, paired: bool, draw: bool) -> Plan:
    """Plan of a split of all categories that the copy has.

    Args:
        draw: draw in-shop sketches where none are delivered.

    Raises:
        MissingDataError: as :func:`split_items`; pictures without which no sample can be made are absent altogether.
    """
    items = split_items(root, split, paired)
    known = {**FILES, "warped_sketch": WORN_SKETCH[paired], "stitch": STITCH, "pose": POSE}
    found = find_patterns(root, {role: [pattern] for role, pattern in known.items()}, items)
    if absent := [FILES[r].partition("/")[2] for r in ("person", "garment", "parse") if r not in found]:
        raise MissingDataError(
            f"{root}: none of the listed pairs has a file {' or '.join(absent)}; is this the root of Dress Code?"
        )
    if "stitch" in found and not all(os.path.isfile(place(root, STITCH, item)) for item in items):
        del found["stitch"]
    phrases, notes = all_phrases(root)
    for category, published in PUBLISHED[split].items():
        if (count := sum(item.group == category for item in items)) != published:
            notes.append(f"{category}: {count:,} pairs, published are {published:,}")
    notes += [*without_phrases(items, phrases), *([] if "sketch" in found else [DRAWN])]
    return Plan(
        dataset="dresscode",
        split=split,
        kind="tryon",
        items=items,
        recipe=DressCodeRecipe(root, {r: p for r, p in found.items() if r != "pose"}, found.get("pose"), phrases, draw),
        fields=("person", "garment", "mask", "meta"),
        root=root,
        optional=tuple(role for role in OPTIONAL if role in found),
        sources=sorted([*root.glob("*_captions.json"), *root.glob(f"*/{split}_pairs*.txt")]),
        notes=[f"Dress Code: {note}" for note in notes],
    )
