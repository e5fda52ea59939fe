"""MGD: multimodal VITON-HD and Dress Code Multimodal (arXiv 2304.02051) -> try-on and design samples with phrases and sketches.

Both parts are trained on as one split and evaluated apart, as their papers report them. A part that is absent is left out, and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict, cast

from torch import Tensor
from unifashion_pl.datamodules import dresscode, vitonhd
from unifashion_pl.datamodules.tryon_files import TryOnRecipe, find_patterns

from unifashion_pl.arguments import choice
from unifashion_pl.data.assemble import TryOnAssembler, optional
from unifashion_pl.data.index import NAME
from unifashion_pl.data.plan import Input, Item, MissingDataError, Plan, in_order, listing
from unifashion_pl.data.reader import DamagedSample, RawSample
from unifashion_pl.data.recipes import FileRecipe, Picture, encoder_versions
from unifashion_pl.person.pose import draw_skeleton, read_pose
from unifashion_pl.reading import from_json

PARTS = ("vitonhd", "dresscode")
#: Names under which the parts' folders are found.
NAMES = {
    "vitonhd": ("vitonhd", "viton-hd", "VITON-HD", "viton_hd", "zalando-hd-resized"),
    "dresscode": ("dresscode", "DressCode", "dress-code", "dress_code", "Dress_Code"),
}
WORN_SKETCH = {True: "im_sketch/{person}.png", False: "im_sketch_unpaired/{person}_{garment}.png"}
OPTIONAL = ("garment_mask", "agnostic", "densepose", "parse", "warped_mask", "warped_sketch", "stitch", "pose")
SPECS: dict[str, type[tuple[Any, ...]]] = {"vitonhd": vitonhd.VitonSpec, "dresscode": dresscode.DressCodeSpec}
SHARD_SIZE = 64
LICENCE = "captions CC BY-NC 4.0; VITON-HD CC BY-NC 4.0; Dress Code by signed agreement, institutions only"
PUBLISHED_SAMPLES = {
    "tryon-train": vitonhd.PUBLISHED["train"] + sum(dresscode.PUBLISHED["train"].values()),
    **{f"tryon-test-{kind}-vitonhd": vitonhd.PUBLISHED["test"] for kind in ("paired", "unpaired")},
    **{f"tryon-test-{kind}-dresscode": sum(dresscode.PUBLISHED["test"].values()) for kind in ("paired", "unpaired")},
}


def places(root: Path) -> dict[str, Path]:
    """Part -> its folder: one of :data:`NAMES` below the root, or the root itself.

    Raises:
        MissingDataError: neither part is there, with what was found.
    """
    found = {}
    for part in PARTS:
        folder = next((root / name for name in NAMES[part] if (root / name).is_dir()), root)
        if part == "vitonhd" and (folder := vitonhd.find_root(folder)).joinpath("train_pairs.txt").is_file():
            found[part] = folder
        if part == "dresscode" and any((folder / category).is_dir() for category in dresscode.CATEGORIES):
            found[part] = folder
    if not found:
        raise MissingDataError(
            f"{root}: neither multimodal VITON-HD (train_pairs.txt) nor Dress Code (dresses/, upper_body/, lower_body/) is there "
            f"(found: {listing(root)}); expected are folders vitonhd/ and dresscode/, or one of them as the root"
        )
    return found


@dataclass
class MGDRecipe(FileRecipe):
    """Samples of both parts; a spec is the part's name before the part's own spec."""

    fallible: ClassVar[bool] = True
    parts: dict[str, FileRecipe]

    def quick(self) -> MGDRecipe:
        """Of both parts."""
        return MGDRecipe({name: part.quick() for name, part in self.parts.items()})

    def _inner(self, item: Item) -> tuple[FileRecipe, Item]:
        part, *spec = item.spec
        return self.parts[part], replace(item, spec=SPECS[part](*spec))

    def inputs(self, item: Item) -> list[Input]:
        recipe, inner = self._inner(item)
        return recipe.inputs(inner)

    def meta(self, item: Item) -> dict[str, Any]:
        recipe, inner = self._inner(item)
        return {**recipe.meta(inner), "part": next(iter(item.spec))}

    def extra(self, item: Item, pictures: dict[str, Picture]) -> dict[str, bytes]:
        recipe, inner = self._inner(item)
        return recipe.extra(inner, pictures)


def _viton_plan(root: Path, split: str, paired: bool, draw: bool) -> Plan:
    """VITON-HD's pairs with MGD's sketches: ``warped_sketch`` on the person, ``sketch`` in the shop, drawn where it is absent."""
    plan = vitonhd.plan_split(root, split, paired)
    recipe = cast(TryOnRecipe, plan.recipe)
    worn = "sketch" in plan.optional and (paired or (recipe.folder / WORN_SKETCH[False]).parent.is_dir())
    in_shop = ("cloth_sketch/{garment}.png", f"../cloth_sketch/{split}/{{garment}}.png")
    found = find_patterns(recipe.folder, {"sketch": in_shop}, plan.items)
    patterns = {role: pattern for role, pattern in recipe.patterns.items() if role != "sketch"}
    patterns |= ({"warped_sketch": WORN_SKETCH[paired]} if worn else {}) | found
    return replace(
        plan,
        items=[replace(item, group="vitonhd") for item in plan.items],
        recipe=replace(recipe, patterns=patterns, draw=draw),
        optional=tuple("warped_sketch" if role == "sketch" else role for role in plan.optional if role != "sketch" or worn),
        notes=[f"VITON-HD: {note}" for note in (*plan.notes, *(() if found else (dresscode.DRAWN,)))],
    )


def plan_split(root: Path, split: str, parts: dict[str, Plan], draw: bool) -> Plan:
    """A split of one or both parts; training is a fixed permutation that mixes them."""
    items = [replace(item, spec=(name, *item.spec)) for name, part in parts.items() for item in part.items]
    has = {role for part in parts.values() for role in part.optional}
    return Plan(
        dataset="mgd",
        split=split,
        kind="tryon",
        items=in_order(items, split, "mgd"),
        recipe=MGDRecipe({name: cast(FileRecipe, part.recipe) for name, part in parts.items()}),
        fields=("person", "garment", "mask", "meta", *(("sketch",) if draw else ())),
        optional=tuple(role for role in OPTIONAL if role in has),
        options={"parts": sorted(parts), "sketch": "in-shop, drawn where absent" if draw else "as delivered"},
        encoders={**encoder_versions(), **({"scikit-image": version("scikit-image")} if draw else {})},
        root=root,
        sources=[path for part in parts.values() for path in part.sources],
        shard_size=SHARD_SIZE,
        notes=[note for part in parts.values() for note in part.notes],
    )


def plans(root: Path, draw: bool = True) -> Iterable[Plan]:
    """Training of both parts; paired and unpaired test of each part that is there.

    Args:
        draw: draw in-shop sketches, which were not published, from the garments' photos.
    """
    root = Path(root)
    makers = {"vitonhd": _viton_plan, "dresscode": dresscode.plan_split}
    found = places(root)
    made = [
        plan_split(root, "train", {name: makers[name](folder, "train", True, draw) for name, folder in found.items()}, draw)
    ]
    for name, folder in found.items():
        for paired in (True, False):
            split = f"test-{'paired' if paired else 'unpaired'}-{name}"
            made.append(plan_split(root, split, {name: makers[name](folder, "test", paired, draw)}, draw))
    return made


def findings(root: Path, made: Sequence[Plan]) -> list[str]:
    """Which parts and optional inputs the copy has."""
    found = places(Path(root))
    absent = [name for name in PARTS if name not in found]
    notes = [f"parts: {', '.join(f'{name} in {folder}' for name, folder in found.items())}"]
    notes += [f"{name} is absent: Table 6's MGD is both" for name in absent]
    return [*notes, *vitonhd.findings(root, made)]


def variant(root: Path) -> str:
    """Which parts this copy has."""
    return " and ".join(
        f"{name} in {folder.relative_to(root)}/" if folder != Path(root) else name
        for name, folder in places(Path(root)).items()
    )


class StoredPose(TypedDict):
    """``pose.json`` of a shard: (h, w) and the joints in pixels."""

    size: tuple[int, int]
    points: list[list[float] | None]


class MGDAssembler(TryOnAssembler):
    """Try-on samples with the sketch and the rendering of the body that were asked for.

    Args:
        sketch: ``in_shop`` (as UniFashion designs) or ``worn`` (on the person, as MGD does; it tells the pose).
        pose: ``densepose``, or ``skeleton``: drawn from the joints, as for users' own photos.
        **common: as for :class:`~unifashion_pl.data.assemble.TryOnAssembler`.
    """

    def __init__(self, *common: Any, sketch: str = "in_shop", pose: str = "densepose", **more: Any) -> None:
        super().__init__(*common, **more)
        self.body, self.drawing = pose, "warped_sketch" if sketch == "worn" else "sketch"

    def sketch(self, raw: RawSample) -> Tensor | None:
        return optional(raw, self.drawing, self.dark)

    def pose(self, raw: RawSample) -> Tensor | None:
        if self.body != "skeleton":
            return super().pose(raw)
        if "pose.json" not in raw.fields:
            return None
        try:
            content = from_json(raw.fields["pose.json"], StoredPose, "pose.json")
            return self.dark(draw_skeleton(read_pose(dict(content), content["size"])))[None]
        except ValueError as error:
            raise DamagedSample(raw.key, str(error)) from error


class MGDDataModule(vitonhd.VitonHDDataModule):
    """Multimodal VITON-HD and Dress Code for design: phrases, sketches, poses.

    Validation on the paired test samples of each part; test on paired and unpaired ones.

    Args:
        sketch: ``in_shop`` (UniFashion's design) or ``worn`` (MGD's: drawn on the person, warped when unpaired).
        pose: ``densepose``, or ``skeleton``: drawn from the joints.
        **common: see :class:`~unifashion_pl.datamodules.vitonhd.VitonHDDataModule`.
    """

    plans = staticmethod(plans)

    def __init__(
        self,
        root: str | Path | None = None,
        shards: str | Path | None = None,
        *,
        sketch: Literal["in_shop", "worn"] = "in_shop",
        pose: Literal["densepose", "skeleton"] = "densepose",
        **common: Any,
    ) -> None:
        super().__init__(root, shards, **common)
        self.sketch = choice(sketch, "sketch", ("in_shop", "worn"))
        self.pose = choice(pose, "pose", ("densepose", "skeleton"))
        if self.latents and (sketch, pose) != ("in_shop", "densepose"):
            raise ValueError(
                f"cached latents are of in-shop sketches and DensePose pictures, and sketch is {sketch!r}, pose is {pose!r}: "
                "train without latents=..."
            )

    def parts(self) -> list[str]:
        """Parts that the raw dataset has, or that shards were made of."""
        if self.root is not None and self.root.is_dir():
            return list(places(self.root))
        there = [name for name in PARTS if self.shards and (self.shards / f"tryon-test-paired-{name}" / NAME).is_file()]
        return there or list(PARTS)

    def endings(self) -> Sequence[str]:
        """See the base class; the parts are evaluated apart."""
        return [f"-{name}" for name in self.parts()]

    def assembler(self, paired: bool) -> MGDAssembler:
        """Makes :class:`~unifashion_pl.data.samples.TryOnBatch`."""
        return MGDAssembler(self.encoder, self.size, paired, sketch=self.sketch, pose=self.pose)
