"""Text and JSON that describe raw data: catalogues, Fashion-IQ, FashionGen's lists, try-on folders, joints, caption libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data import rawdata
from fuzz.engine import Target
from fuzz.mutate import Change, Damage, damaged_json, damaged_lines, damaged_text, of_files
from hypothesis import strategies as st
from unifashion_pl.datamodules import catalogue, fashion200k, fashiongen, fashioniq, mgd, vitonhd

from unifashion_pl.data.captions import read_captions, read_library
from unifashion_pl.data.plan import BadSample, MissingDataError, Plan
from unifashion_pl.person.pose import draw_skeleton, read_pose

SPECIALS = {
    "csv": (
        '"',
        '""',
        ",",
        ";",
        "\t",
        ",,,,\n",
        '"a\nb",',
        "\\",
        "\n\n",
        "\r\n",
        "\x00",
        "../",
        "https://x.org/a.jpg,",
        "a,b\n",
        "\ufeff",
        "e\u0301",
    ),
    "text": (" ", "\t", "\n", "\x85", "\x00", "../", "/", "a b c\n", ".jpg", "\ufeff", "\\", "0.1", "-"),
}


def lines(kind: str) -> Damage:
    """Damage of text files of a kind."""
    return lambda data: damaged_text(data, SPECIALS[kind])


def changing(patterns: dict[str, Damage]) -> Callable[[Path], st.SearchStrategy[Change]]:
    """Changes of the files that match patterns of names."""

    def changes(folder: Path) -> st.SearchStrategy[Change]:
        found = {
            path.relative_to(folder).as_posix(): damage(path.read_bytes())
            for name, damage in patterns.items()
            for path in folder.glob(name)
        }
        assert found
        return of_files(found)

    return changes


def planned(plans: Iterable[Plan], items: int = 2) -> str:
    """Make a few samples of all plans, whose bad ones are named; returns what came out."""
    made: list[Any] = []
    for plan in plans:
        made += [plan.notes, plan.shard_hash(plan.items)]
        for item, sample in plan.recipe.make(plan.items[:items]):
            made.append(
                str(sample) if isinstance(sample, BadSample) else (item.key, sorted(sample.fields), sample.fields["meta.json"])
            )
    return repr(made)


def use(module: Any) -> Callable[[Path], object]:
    """As ``data check`` and ``data shards`` read a dataset."""

    def read(root: Path) -> object:
        plans = list(module.plans(root))
        notes = module.findings(root, plans) if hasattr(module, "findings") else []  # as `data check` asks for them
        return planned(plans) + repr(notes) + module.variant(root)

    return read


def make_catalogue(folder: Path) -> None:
    """Pictures, and a CSV with all columns."""
    rawdata.write_catalogue(folder, 6)
    rows = [
        f'photos/item {n}.jpg,"A ""long"" dress, no. {n}",Dress {n},s{n},dress,short,p{n // 2},{("train", "val", "test")[n % 3]}\n'
        for n in range(6)
    ]
    (folder / "catalogue.csv").write_text("image,text,title,id,category,subcategory,product,split\n" + "".join(rows))


def make_famevil(folder: Path) -> None:
    """FashionGen as FAME-ViL's JSON lists and pictures."""
    from unifashion_pl.datamodules.fashiongen_files import FOLDERS, LISTS

    for split in ("train", "validation"):
        entries: list[dict[str, Any]] = []
        for n in range(3):
            image = f"{n}_0.png"
            path = folder / FOLDERS[split][0] / image
            path.parent.mkdir(parents=True, exist_ok=True)
            rawdata.picture(n).save(path)
            entries.append(
                {
                    "id": n,
                    "title": f"Dress {n}",
                    "description": "Long sleeves.",
                    "images": [image],
                    "category_id": 1,
                    "subcategory_id": 2,
                }
            )
        (folder / LISTS[split][0]).write_text(json.dumps(entries))


def make_fashion200k(folder: Path) -> None:
    """Label files and pictures of the toy wardrobe."""
    from unifashion_pl.wardrobe.catalogue import WardrobeSpec
    from unifashion_pl.wardrobe.layouts import write_fashion200k

    spec = WardrobeSpec(
        products_train=2,
        products_val=2,
        views=1,
        image_size=32,
        fiq_train=1,
        fiq_val=1,
        fiq_gallery=2,
        tryon_train=1,
        tryon_test=1,
        tryon_size=(24, 32),
        short_train=6,
        short_test=4,
    )
    folder.rmdir()
    write_fashion200k(folder, spec, 0, lambda function, jobs: (function(*job) for job in jobs))


def make_mgd(folder: Path) -> None:
    """Dress Code's half of it."""
    rawdata.write_dresscode(folder / "dresscode")


def make_joints(folder: Path) -> None:
    """The same joints in the forms of OpenPose, Dress Code and our shards."""
    rows = [[20.0 + k, 30.0 + k, 0.9] for k in range(25)]
    content = {
        "openpose.json": {
            "version": 1.3,
            "people": [{"person_id": [-1], "pose_keypoints_2d": [x for row in rows for x in row]}],
        },
        "dresscode.json": {"keypoints": [[*row, 0.0] for row in rows[:18]]},
        "pose.json": {"format": "body25", "size": [64, 48], "points": [None, *rows[1:]]},
    }
    for name, value in content.items():
        (folder / name).write_text(json.dumps(value))


def use_joints(folder: Path) -> object:
    """Read all three and draw them."""
    return [draw_skeleton(read_pose(path, (64, 48))).tobytes() for path in sorted(folder.glob("*.json"))]


def make_captions(folder: Path) -> None:
    """A caption library with full provenance."""
    line = {"captioner": "c", "weights_hash": "w", "template": "t", "decoding": {"beams": 1}, "inputs": ["image", "keywords"]}
    rows = [{"image": f"B00{n}", "caption": f"a red dress, {n}", **line, "keywords_split": "train"} for n in range(4)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def use_captions(folder: Path) -> object:
    """As training and evaluation read it."""
    path = folder / "captions.jsonl"
    return repr([read_library(path), read_captions(path), read_library(path, allow_unsafe=True)])


def make_queries(folder: Path) -> None:
    """Questions to an index, with right answers."""
    rows = [f'q{n},"a ""red"" dress, no. {n}",{f"{n}.jpg" if n % 2 else ""},item {n}|item {n + 1}\n' for n in range(5)]
    (folder / "queries.csv").write_text("id,text,image,relevant\n" + "".join(rows))


def use_queries(folder: Path) -> object:
    """As ``index search --queries`` reads them."""
    from unifashion_pl.gallery.questions import read_queries

    return repr(read_queries(folder / "queries.csv"))


REFUSALS = (ValueError, FileNotFoundError, MissingDataError)
CSV: dict[str, Damage] = {"*.csv": lines("csv")}
FASHIONIQ: dict[str, Damage] = {"captions/*": damaged_json, "image_splits/*": damaged_json}
FASHION200K: dict[str, Damage] = {"labels/*": lines("text"), "test_queries.txt": lines("text")}
TRYON: dict[str, Damage] = {
    "**/*pairs*.txt": lines("text"),
    "**/*captions.json": damaged_json,
    "**/*keypoints*/*": damaged_json,
}
VITONHD: dict[str, Damage] = {**TRYON, "*/openpose_json/*": damaged_json}
TARGETS = (
    Target("catalogue", 1500, make_catalogue, changing(CSV), use(catalogue), REFUSALS),
    Target("queries", 300, make_queries, changing(CSV), use_queries, REFUSALS),
    Target("fashion-iq", 1000, rawdata.write_fashioniq, changing(FASHIONIQ), use(fashioniq), REFUSALS),
    Target("fashiongen-lists", 500, make_famevil, changing({"*.json": damaged_json}), use(fashiongen), REFUSALS),
    Target("fashion200k", 500, make_fashion200k, changing(FASHION200K), use(fashion200k), REFUSALS),
    Target("viton-hd", 700, rawdata.write_vitonhd, changing(VITONHD), use(vitonhd), REFUSALS),
    Target("mgd", 400, make_mgd, changing(TRYON), use(mgd), REFUSALS),
    Target("joints", 1000, make_joints, changing({"*.json": damaged_json}), use_joints),
    Target("captions", 1000, make_captions, changing({"*.jsonl": damaged_lines}), use_captions),
)
