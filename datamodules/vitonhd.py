"""VITON-HD (and its multimodal captions and sketches): folder tree -> try-on samples.

Paired: person and garment of the same name (the second column of the pairs file is ignored). Unpaired: both columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from PIL import Image
from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.tryon_files import (
    TryOnRecipe,
    find_patterns,
    place,
    read_pair_list,
    read_phrases,
    without_phrases,
)

from unifashion_pl.data.assemble import TryOnAssembler
from unifashion_pl.data.decode import encode_png
from unifashion_pl.data.plan import BadSample, Item, MissingDataError, Plan, compact_json, in_order
from unifashion_pl.data.recipes import Picture, encoder_versions
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
#: Role -> places of its file below a split's folder, in the order of preference.
FOLDERS: dict[str, tuple[str, ...]] = {
    "person": ("image/{person}.jpg", "image/{person}.png"),
    "garment": ("cloth/{garment}.jpg", "cloth/{garment}.png"),
    "garment_mask": ("cloth-mask/{garment}.jpg", "cloth_mask/{garment}.jpg", "cloth-mask/{garment}.png", "cloth_mask/{garment}.png"),
    "mask": (
        "agnostic-mask/{person}_mask.png", "agnostic-mask/{person}.png", "agnostic-mask/{person}.jpg",
        "agnostic_mask/{person}_mask.png", "agnostic_mask/{person}.png",
    ),
    "agnostic": ("agnostic-v3.2/{person}.jpg", "agnostic/{person}.jpg"),
    "densepose": ("image-densepose/{person}.jpg", "image-densepose/{person}.png", "image_densepose/{person}.jpg"),
    "parse": ("image-parse-v3/{person}.png", "image-parse/{person}.png"),
    "warped_mask": ("gt_cloth_warped_mask/{person}.jpg", "gt_cloth_warped_mask/{person}.png"),
    "sketch": ("im_sketch/{person}.png",),
}  # fmt: skip
#: Roles that show the worn garment: they do not go with another one.
WORN = ("sketch", "warped_mask")
OPTIONAL = ("garment_mask", "agnostic", "densepose", "parse", "warped_mask", "sketch")
POSES = ("openpose_json/{person}_keypoints.json", "openpose-json/{person}_keypoints.json")


class VitonSpec(NamedTuple):
    """Names of a person and of a garment, and whether they belong together."""

    person: str
    garment: str
    paired: bool


class VitonRecipe(TryOnRecipe):
    """Pairs -> the fields of :data:`FOLDERS` that the dataset has, ``pose.json`` and ``meta.json``.

    Without ``agnostic-mask`` the mask is made from the agnostic picture: what is grey 128 ± 8 there and differs from the person.
    """

    def extra(self, item: Item, pictures: dict[str, Picture]) -> dict[str, bytes]:
        """See the base class; ``pose.json``, and ``mask.png`` where it has to be made."""
        made = super().extra(item, pictures)
        person = pictures["person"].image
        for role in ("mask", "agnostic", "densepose", "parse"):
            if role in pictures and (found := pictures[role].image.size) != person.size:
                size = person.size
                raise BadSample(item.spec.person, role, f"is {found[0]} × {found[1]}, the person {size[0]} × {size[1]}")
        if "mask" not in pictures:
            made["mask.png"] = encode_png(mask_from_agnostic(person, pictures["agnostic"].image))
        if self.pose is not None:
            made["pose.json"] = read_pose(place(self.folder, self.pose, item), item.spec.person, person)
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


def plan_split(root: Path, split: str, paired: bool) -> Plan:
    """Plan of a split; training is always paired.

    Raises:
        MissingDataError: the pairs file is absent or has a line of another form; the persons, the garments, or both mask and agnostic pictures are absent.
    """
    expected = "VITON-HD with train/, test/ and both pairs files"
    listed = read_pair_list(root / f"{split}_pairs.txt", lambda name: Path(name).stem, "person.jpg garment.jpg", expected)
    pairs = [(p, p) if paired else (p, g) for p, g in listed]
    items = [Item(p if paired else f"{p}__{g}", split, VitonSpec(p, g, paired)) for p, g in pairs]
    folder = root / split
    found = find_patterns(folder, FOLDERS, items)
    if absent := [FOLDERS[role][0].format(person="{}", garment="{}") for role in ("person", "garment") if role not in found]:
        raise MissingDataError(
            f"{folder}: none of the listed pairs has a file {' or '.join(absent)}; is this the root of VITON-HD?"
        )
    if "mask" not in found and "agnostic" not in found:
        raise MissingDataError(
            f"{folder}: neither agnostic-mask/ nor agnostic-v3.2/ is there; one of them is needed to know what is repainted"
        )
    pose = next((p for p in POSES if (folder / p).parent.is_dir()), None)
    optional = tuple(role for role in OPTIONAL if role in found)
    notes = [f"{len(pairs):,} pairs, published are {PUBLISHED[split]:,}"] if len(pairs) != PUBLISHED[split] else []
    captions = read_phrases(root / "captions.json")
    phrases = {garment: (captions or {}).get(garment.split("_")[0], []) for _, garment in pairs}
    notes += (
        ["captions.json is absent: all texts are empty"]
        if captions is None
        else without_phrases(items, phrases, " in captions.json")
    )
    if "mask" not in found:
        notes.append("agnostic-mask is absent: masks are made from the agnostic pictures")
    plain = {role: pattern.format(person="{}", garment="{}") for role, pattern in found.items()}
    return Plan(
        dataset="vitonhd",
        split=split if split == "train" else f"{split}-{'paired' if paired else 'unpaired'}",
        kind="tryon",
        items=in_order(items, split, "vitonhd"),
        recipe=VitonRecipe(folder, {r: p for r, p in found.items() if paired or r not in WORN}, pose, phrases),
        fields=("person", "garment", "mask", "meta"),
        optional=(*optional, "pose") if pose else optional,
        options={"patterns": plain, "mask": "file" if "mask" in found else "from agnostic"},
        encoders={} if "mask" in found else encoder_versions(),
        root=root,
        sources=[path for path in (root / f"{split}_pairs.txt", root / "captions.json") if path.is_file()],
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
    plans = staticmethod(plans)

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

    def assembler(self, paired: bool) -> TryOnAssembler:
        """Makes :class:`~unifashion_pl.data.samples.TryOnBatch`."""
        return TryOnAssembler(self.encoder, self.size, paired)

    def train_loader(self) -> TrainLoader[Any]:
        return self.training(self.source("tryon-train"), self.assembler(paired=True))

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """Paired samples, in test followed by unpaired ones."""
        kinds = (True,) if stage == "validation" else (True, False)
        return [
            self.evaluation(self.source(_test_folder(paired, end)), self.assembler(paired), stage)
            for end in self.endings()
            for paired in kinds
        ]


def _test_folder(paired: bool, ending: str) -> str:
    return f"tryon-test-{'paired' if paired else 'unpaired'}{ending}"
