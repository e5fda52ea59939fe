"""VITON-HD (and its multimodal captions and sketches): folder tree -> try-on samples.

Paired: person and garment of the same name (the second column of the pairs file is ignored). Unpaired: both columns.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypedDict

from PIL import Image
from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.tryon_files import read_pair_list, read_phrases

from unifashion_pl.data.assemble import TryOnAssembler
from unifashion_pl.data.decode import encode_png
from unifashion_pl.data.plan import BadSample, Input, Item, MissingDataError, Plan, compact_json, shortened
from unifashion_pl.data.recipes import FileRecipe, Picture, encoder_versions
from unifashion_pl.data.stream import EvalLoader, TrainLoader
from unifashion_pl.person.masks import mask_from_agnostic
from unifashion_pl.person.pose import FARTHEST, OpenPosePerson
from unifashion_pl.reading import FormatError, read_json

SHARD_SIZE = 64
PUBLISHED = {"train": 11_647, "test": 2_032}
LICENCE = "CC BY-NC 4.0"
PUBLISHED_SAMPLES = {
    "tryon-train": PUBLISHED["train"],
    "tryon-test-paired": PUBLISHED["test"],
    "tryon-test-unpaired": PUBLISHED["test"],
}
PERSON, GARMENT = "person", "garment"

MASKS = (
    "agnostic-mask/{}_mask.png", "agnostic-mask/{}.png", "agnostic-mask/{}.jpg", "agnostic_mask/{}_mask.png", "agnostic_mask/{}.png",
)  # fmt: skip
FOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    # role: (whose name, patterns in the order of preference)
    "person": (PERSON, ("image/{}.jpg", "image/{}.png")),
    "garment": (GARMENT, ("cloth/{}.jpg", "cloth/{}.png")),
    "garment_mask": (GARMENT, ("cloth-mask/{}.jpg", "cloth_mask/{}.jpg", "cloth-mask/{}.png", "cloth_mask/{}.png")),
    "mask": (PERSON, MASKS),
    "agnostic": (PERSON, ("agnostic-v3.2/{}.jpg", "agnostic/{}.jpg")),
    "densepose": (PERSON, ("image-densepose/{}.jpg", "image-densepose/{}.png", "image_densepose/{}.jpg")),
    "parse": (PERSON, ("image-parse-v3/{}.png", "image-parse/{}.png")),
    "warped_mask": (PERSON, ("gt_cloth_warped_mask/{}.jpg", "gt_cloth_warped_mask/{}.png")),
    "sketch": (PERSON, ("im_sketch/{}.png",)),
}
OPTIONAL = ("garment_mask", "agnostic", "densepose", "parse", "warped_mask", "sketch")
POSES = ("openpose_json/{}_keypoints.json", "openpose-json/{}_keypoints.json")


class VitonSpec(NamedTuple):
    """Names of a person and of a garment, and whether they belong together."""

    person: str
    garment: str
    paired: bool


@dataclass
class TryOnRecipe(FileRecipe):
    """Pairs -> the fields of :data:`FOLDERS` that the dataset has, ``pose.json`` and ``meta.json``.

    Without ``agnostic-mask`` the mask is made from the agnostic picture: what is grey 128 ± 8 there and differs from the person.

    Attributes:
        folder: ``root/train`` or ``root/test``.
        patterns: role -> file pattern, as found.
        pose: pattern of the joints' files, or None.
        phrases: garment -> three phrases.
    """

    fallible: ClassVar[bool] = True
    folder: Path
    patterns: dict[str, str]
    pose: str | None = None
    phrases: dict[str, list[str]] = field(default_factory=dict)

    def inputs(self, item: Item) -> list[Input]:
        """All pictures of a pair; an unpaired one has no sketch of the worn garment and no warped mask."""
        person, garment, paired = item.spec
        roles = {role: person if FOLDERS[role][0] == PERSON else garment for role in self.patterns}
        return [
            Input(name, role, self.folder / self.patterns[role].format(name))
            for role, name in roles.items()
            if paired or role not in ("sketch", "warped_mask")
        ]

    def meta(self, item: Item) -> dict[str, Any]:
        phrases = self.phrases.get(item.spec.garment.split("_")[0], [])
        return {**item.spec._asdict(), "category": "upper_body", "phrases": phrases}

    def extra(self, item: Item, pictures: dict[str, Picture]) -> dict[str, bytes]:
        """``pose.json``, and ``mask.png`` where it has to be made."""
        made: dict[str, bytes] = {}
        person = pictures["person"].image
        for role in ("mask", "agnostic", "densepose", "parse"):
            if role in pictures and (found := pictures[role].image.size) != person.size:
                size = person.size
                raise BadSample(item.spec.person, role, f"is {found[0]} × {found[1]}, the person {size[0]} × {size[1]}")
        if "mask" not in pictures:
            made["mask.png"] = encode_png(mask_from_agnostic(person, pictures["agnostic"].image))
        if self.pose is not None:
            made["pose.json"] = read_pose(self.folder / self.pose.format(item.spec.person), item.spec.person, person)
        return made


class _OpenPose(TypedDict):
    """An OpenPose file; what else it says is not read."""

    people: list[OpenPosePerson]


def read_pose(path: Path, person: str, image: Image.Image) -> bytes:
    """OpenPose's BODY-25 as ``pose.json``: points in pixels of the person, null where none was found.

    Raises:
        BadSample: absent, no JSON, nobody found, or not 25 points.
    """
    try:
        people = read_json(path, _OpenPose, "an OpenPose file")["people"]
    except FileNotFoundError as error:
        raise BadSample(person, "pose", "missing") from error
    except (OSError, FormatError) as error:
        raise BadSample(person, "pose", str(error).replace(str(path), path.name)) from error
    if not people:
        raise BadSample(person, "pose", "nobody was found in the picture")
    values = people[0]["pose_keypoints_2d"]
    if len(values) != 75:
        raise BadSample(person, "pose", f"{len(values) // 3} points, expected the 25 of BODY-25")
    if max(map(abs, values)) > FARTHEST:
        raise BadSample(person, "pose", f"a coordinate of {max(values, key=abs):g}, expected pixels of the picture")
    points = [values[i : i + 3] if any(values[i : i + 3]) else None for i in range(0, 75, 3)]
    return compact_json({"format": "body25", "size": [image.height, image.width], "points": points})


def find_root(root: Path) -> Path:
    """The folder with the pairs files: ``root``, or the only folder in it that has them (mirrors unpack into one of their own)."""
    if (root / "train_pairs.txt").is_file() or not root.is_dir():
        return root
    inside = [folder for folder in sorted(root.iterdir()) if (folder / "train_pairs.txt").is_file()]
    return inside[0] if len(inside) == 1 else root


def read_pairs(root: Path, split: str) -> list[tuple[str, str]]:
    """(person, garment) names of ``train_pairs.txt`` or ``test_pairs.txt``, without extensions.

    Raises:
        MissingDataError: absent, a line of another form, or a person that occurs twice.
    """
    path = root / f"{split}_pairs.txt"
    if not path.is_file():
        there = shortened(sorted(p.name for p in root.iterdir())) if root.is_dir() else "the folder does not exist"
        raise MissingDataError(
            f"{path} is missing (found: {there or 'nothing'}); expected VITON-HD with train/, test/ and both pairs files"
        )
    return read_pair_list(path, lambda name: Path(name).stem, "person.jpg garment.jpg")


def _patterns(folder: Path, names: dict[str, list[str]]) -> dict[str, str]:
    """For every role the first pattern whose folder exists and holds one of the files."""
    found = {}
    for role, (whose, patterns) in FOLDERS.items():
        for pattern in patterns:
            parent = (folder / pattern).parent
            if parent.is_dir() and any(os.path.exists(folder / pattern.format(name)) for name in names[whose]):
                found[role] = pattern
                break
    return found


def plan_split(root: Path, split: str, paired: bool) -> Plan:
    """Plan of a split; training is always paired.

    Raises:
        MissingDataError: the pairs file, the persons, the garments, or both mask and agnostic pictures are absent.
    """
    pairs = [(p, p) if paired else (p, g) for p, g in read_pairs(root, split)]
    folder = root / split
    patterns = _patterns(folder, {PERSON: [p for p, _ in pairs], GARMENT: [g for _, g in pairs]})
    if absent := [FOLDERS[role][1][0] for role in ("person", "garment") if role not in patterns]:
        raise MissingDataError(
            f"{folder}: none of the listed pairs has a file {' or '.join(absent)}; is this the root of VITON-HD?"
        )
    if "mask" not in patterns and "agnostic" not in patterns:
        raise MissingDataError(
            f"{folder}: neither agnostic-mask/ nor agnostic-v3.2/ is there; one of them is needed to know what is repainted"
        )
    pose = next((p for p in POSES if (folder / p).parent.is_dir()), None)
    items = [Item(p if paired else f"{p}__{g}", split, VitonSpec(p, g, paired)) for p, g in pairs]
    if split == "train":
        random.Random("vitonhd").shuffle(items)
    optional = tuple(role for role in OPTIONAL if role in patterns)
    notes = [f"{len(pairs):,} pairs, published are {PUBLISHED[split]:,}"] if len(pairs) != PUBLISHED[split] else []
    phrases = read_phrases(root / "captions.json")
    if phrases is None:
        notes.append("captions.json is absent: all texts are empty")
    elif mute := sorted({g for _, g in pairs if not any(p.strip() for p in phrases.get(g.split("_")[0], []))}):
        notes.append(f"{len(mute):,} garments have no phrases in captions.json: {shortened(mute)}")
    if "mask" not in patterns:
        notes.append("agnostic-mask is absent: masks are made from the agnostic pictures")
    return Plan(
        dataset="vitonhd",
        split=split if split == "train" else f"{split}-{'paired' if paired else 'unpaired'}",
        kind="tryon",
        items=items,
        recipe=TryOnRecipe(folder, patterns, pose, phrases or {}),
        fields=("person", "garment", "mask", "meta"),
        optional=(*optional, "pose") if pose else optional,
        options={"patterns": patterns, "mask": "file" if "mask" in patterns else "from agnostic"},
        encoders={} if "mask" in patterns else encoder_versions(),
        root=root,
        sources=[root / f"{split}_pairs.txt", *([root / "captions.json"] if (root / "captions.json").is_file() else [])],
        shard_size=SHARD_SIZE,
        notes=notes,
    )


def plans(root: Path) -> Iterable[Plan]:
    """Training pairs, test pairs, unpaired test."""
    root = find_root(Path(root))
    return [plan_split(root, "train", True), plan_split(root, "test", True), plan_split(root, "test", False)]


def findings(root: Path, made: Sequence[Plan]) -> list[str]:
    """Which optional inputs the copy has."""
    return [f"{plan.split}: optional inputs {', '.join(plan.optional) or 'none'}" for plan in made]


def variant(root: Path) -> str:
    """Which copy this is: folders that have other names than the authors', or are absent."""
    root, inner = Path(root), find_root(Path(root))
    names = sorted(p.name for p in (inner / "train").iterdir() if p.is_dir()) if (inner / "train").is_dir() else []
    older = [n for n in ("cloth_mask", "agnostic", "image-parse", "openpose-json", "agnostic_mask") if n in names]
    absent = [
        n for n in ("agnostic-mask", "image-densepose", "cloth-mask") if n not in names and n.replace("-", "_") not in names
    ]
    said = [f"in {inner.relative_to(root)}/"] if inner != root else []
    said += [f"older names {', '.join(older)}"] if older else ["the authors' folders"]
    return "; ".join([*said, *([f"without {', '.join(absent)}"] if absent else [])])


class VitonHDDataModule(FashionDataModule):
    """VITON-HD for try-on and design: validation on paired test samples; test on paired and unpaired ones.

    Args:
        pixel_size: (H, W) of all pictures but the garment that the vision tower sees; pixels.
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`.
    """

    stream = "tryon"

    def __init__(
        self,
        root: str | Path | None = None,
        shards: str | Path | None = None,
        *,
        pixel_size: tuple[int, int] = (512, 384),
        **common: Any,
    ) -> None:
        super().__init__(root, shards, pixel_size=pixel_size, **common)
        self.size = pixel_size

    def endings(self) -> Sequence[str]:
        """What distinguishes the folders of evaluation splits; one each."""
        return ("",)

    def folders(self) -> Sequence[str]:
        return ("tryon-train", *(_test_folder(paired, end) for end in self.endings() for paired in (True, False)))

    def plans(self, root: Path) -> Iterable[Plan]:
        return plans(root)

    def assembler(self, paired: bool) -> TryOnAssembler:
        """Makes :class:`~unifashion_pl.data.samples.TryOnBatch`."""
        return TryOnAssembler(self.encoder, self.size, paired)

    def train_loader(self) -> TrainLoader[Any]:
        return self.training(self.source("tryon-train"), self.assembler(paired=True))

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """Paired samples, in test followed by unpaired ones."""
        kinds = (True,) if stage == "validation" else (True, False)
        return [
            self.evaluation(self.source(_test_folder(paired, end)), self.assembler(paired))
            for end in self.endings()
            for paired in kinds
        ]


def _test_folder(paired: bool, ending: str) -> str:
    return f"tryon-test-{'paired' if paired else 'unpaired'}{ending}"
