"""Dress Code Multimodal: three category folders, captions and sketches -> try-on and design samples.

Paired: person and garment of the same product. Unpaired: both columns of ``test_pairs_unpaired.txt``. Heads are cut off, joints are given
in 384 × 512 whatever the pictures' size, label maps use ATR's labels; there are no masks: they are made from labels and joints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image
from unifashion_pl.datamodules.tryon_files import read_pair_list, read_phrases

from unifashion_pl.data.decode import encode_png
from unifashion_pl.data.plan import BadSample, Input, Item, MissingDataError, Plan, compact_json, shortened
from unifashion_pl.data.recipes import FileRecipe, Picture
from unifashion_pl.person.masks import Part, label_map, mask_from_parse
from unifashion_pl.person.pose import Pose, body_part_colours, read_pose
from unifashion_pl.person.problems import InputError
from unifashion_pl.person.sketch import garment_sketch

CATEGORIES: tuple[Part, ...] = ("dresses", "upper_body", "lower_body")
PUBLISHED = {
    "train": {"dresses": 27_678, "upper_body": 13_563, "lower_body": 7_151},
    "test": {"dresses": 1_800, "upper_body": 1_800, "lower_body": 1_800},
}
#: Size (h, w) that the joints' coordinates refer to.
JOINTS_SIZE = (512, 384)
#: role -> pattern below the category's folder; P is the person's number, G the garment's.
FILES = {
    "person": "images/{P}_0.jpg",
    "garment": "images/{G}_1.jpg",
    "parse": "label_maps/{P}_4.png",
    "densepose": "dense/{P}_5.png",
    "sketch": "cloth_sketch/{G}_1.png",
}
WORN_SKETCH = {True: "im_sketch/{G}_1.png", False: "im_sketch_unpaired/{P}_0_{G}_1.png"}
POSE = "keypoints/{P}_2.json"
#: Roles that a copy may lack; ``garment_mask``, ``agnostic`` and ``warped_mask`` are VITON-HD's alone.
OPTIONAL = ("densepose", "parse", "warped_sketch", "stitch", "pose")
DRAWN = "cloth_sketch is absent, as in the published files: in-shop sketches are drawn from the garments' photos"
STITCH = "test_stitchmap/{P}_0.png"


def number_of_file(name: str) -> str:
    """``052012_0.jpg`` -> ``052012``."""
    return Path(name).stem.rpartition("_")[0] or Path(name).stem


def read_pairs(root: Path, category: str, split: str, paired: bool) -> list[tuple[str, str]]:
    """Numbers of (person, garment), in file order.

    Raises:
        MissingDataError: the list is absent, has a line of another form, or a person twice.
    """
    name = f"{split}_pairs.txt" if split == "train" else f"{split}_pairs_{'paired' if paired else 'unpaired'}.txt"
    path = root / category / name
    try:
        return read_pair_list(path, number_of_file, "person_0.jpg garment_1.jpg")
    except FileNotFoundError as error:
        raise MissingDataError(
            f"{path} is missing; expected are the pairs files of Dress Code in every category's folder"
        ) from error


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


@dataclass
class DressCodeRecipe(FileRecipe):
    """Pairs -> pictures of :data:`FILES` that the copy has, the worn sketch, ``mask.png``, ``sketch.png``, ``pose.json``, ``meta.json``.

    Attributes:
        root: of Dress Code.
        roles: roles of :data:`FILES` that this copy has, and ``warped_sketch``, ``stitch``, ``pose``.
        phrases: garment -> phrases.
        draw: draw the in-shop sketch where none is delivered.
    """

    fallible: ClassVar[bool] = True
    root: Path
    roles: frozenset[str]
    phrases: dict[str, list[str]] = field(default_factory=dict)
    draw: bool = True

    def quick(self) -> DressCodeRecipe:
        """Without drawn sketches."""
        return replace(self, draw=False)

    def place(self, item: Item, role: str) -> Path:
        """Where the picture of a role is."""
        spec = item.spec
        if role == "stitch":
            return self.root / STITCH.format(P=spec.person)
        pattern = WORN_SKETCH[spec.paired] if role == "warped_sketch" else FILES[role]
        return self.root / spec.category / pattern.format(P=spec.person, G=spec.garment)

    def inputs(self, item: Item) -> list[Input]:
        """All pictures of a pair."""
        roles = [role for role in (*FILES, "warped_sketch", "stitch") if role in self.roles]
        whose = {role: item.spec.garment if role in ("garment", "sketch") else item.spec.person for role in roles}
        return [Input(name, role, self.place(item, role)) for role, name in whose.items()]

    def meta(self, item: Item) -> dict[str, Any]:
        return {**item.spec._asdict(), "phrases": self.phrases.get(item.spec.garment, [])}

    def extra(self, item: Item, pictures: dict[str, Picture]) -> dict[str, bytes]:
        """What is made: mask, joints, colours of body parts, in-shop sketch."""
        category, person = item.spec.category, item.spec.person
        size = pictures["person"].image.size
        made: dict[str, bytes] = {}
        pose = self._pose(item, size) if "pose" in self.roles else None
        if pose is not None:
            made["pose.json"] = compact_json(pose.as_dict())
        parse = pictures["parse"].image.resize(size, Image.Resampling.NEAREST)
        made["mask.png"] = encode_png(_mask(parse, pose, category, person))
        if "densepose" in pictures and (coloured := body_part_colours(pictures["densepose"].image)) is not None:
            made[pictures["densepose"].field] = encode_png(coloured)
        if "sketch" not in pictures and self.draw:
            made["sketch.png"] = encode_png(garment_sketch(pictures["garment"].image))
        return made

    def _pose(self, item: Item, size: tuple[int, int]) -> Pose:
        category, person = item.spec.category, item.spec.person
        try:
            return read_pose(self.root / category / POSE.format(P=person), (size[1], size[0]), pose_size=JOINTS_SIZE)
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


def roles_of(root: Path, items: Sequence[Item]) -> frozenset[str]:
    """Roles for which at least one of the samples has a file; names that no system takes have none."""
    recipe = DressCodeRecipe(root, frozenset())
    roles = [*FILES, "warped_sketch", "stitch"]
    found = {role for role in roles if any(os.path.isfile(recipe.place(item, role)) for item in items)}
    if any(os.path.isfile(root / item.spec.category / POSE.format(P=item.spec.person)) for item in items):
        found.add("pose")
    if "stitch" in found and not all(os.path.isfile(recipe.place(item, "stitch")) for item in items):
        found.discard("stitch")
    return frozenset(found)


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
    roles = roles_of(root, items)
    if absent := [FILES[role] for role in ("person", "garment", "parse") if role not in roles]:
        raise MissingDataError(
            f"{root}: none of the listed pairs has a file {' or '.join(absent)}; is this the root of Dress Code?"
        )
    phrases, notes = all_phrases(root)
    notes = [*notes, *_notes(items, split, roles, phrases)]
    return Plan(
        dataset="dresscode",
        split=split,
        kind="tryon",
        items=items,
        recipe=DressCodeRecipe(root, roles, phrases, draw),
        fields=("person", "garment", "mask", "meta"),
        root=root,
        optional=tuple(role for role in OPTIONAL if role in roles),
        sources=sorted([*root.glob("*_captions.json"), *root.glob(f"*/{split}_pairs*.txt")]),
        notes=[f"Dress Code: {note}" for note in notes],
    )


def _notes(items: Sequence[Item], split: str, roles: frozenset[str], phrases: dict[str, list[str]]) -> list[str]:
    """Counts that differ from the published ones, garments without a text, what is made because it is absent."""
    notes = []
    for category in CATEGORIES:
        count = sum(item.group == category for item in items)
        if count != PUBLISHED[split][category]:
            notes.append(f"{category}: {count:,} pairs, published are {PUBLISHED[split][category]:,}")
    mute = sorted({item.spec.garment for item in items if not any(p.strip() for p in phrases.get(item.spec.garment, []))})
    if mute:
        notes.append(f"{len(mute):,} garments have no phrases: {shortened(mute)}")
    if "sketch" not in roles:
        notes.append(DRAWN)
    return notes
