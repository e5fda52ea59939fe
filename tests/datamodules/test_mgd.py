from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.rawdata import picture, write_dresscode, write_vitonhd
from PIL import Image
from readers import DAMAGES, check, keys, lost, on_rank, split_of
from unifashion_pl.datamodules import MGDDataModule, dresscode, mgd
from unifashion_pl.datamodules.checks_text import report_text

from unifashion_pl.data.decode import open_image
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.data.samples import TryOnBatch

SPLITS = [f"test-{kind}-{part}" for part in ("vitonhd", "dresscode") for kind in ("paired", "unpaired")]


def write_mgd(root: Path) -> Path:
    """VITON-HD with worn and warped sketches (5 + 4 pairs) and Dress Code (9 + 6 pairs)."""
    write_vitonhd(root / "vitonhd")
    for split in ("train", "test"):
        lines = (root / f"vitonhd/{split}_pairs.txt").read_text().splitlines()
        for folder in ("im_sketch", "im_sketch_unpaired"):
            (root / f"vitonhd/{split}/{folder}").mkdir()
        for person, garment in ([Path(n).stem for n in line.split()] for line in lines):
            Image.new("L", (48, 64), 50).save(root / f"vitonhd/{split}/im_sketch/{person}.png")
            Image.new("L", (48, 64), 70).save(root / f"vitonhd/{split}/im_sketch_unpaired/{person}_{garment}.png")
    write_dresscode(root / "dresscode")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mgd(tmp_path / "raw")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with shards; not to be changed."""
    root = write_mgd(tmp_path_factory.mktemp("mgd"))
    module(root).prepare_data()
    return root


def module(root: Path | None, **options: Any) -> MGDDataModule:
    return MGDDataModule(root, **{"batch_size": 2, "eval_batch_size": 6, "image_size": 16, "pixel_size": (64, 48), **options})


def test_a_name_that_no_system_takes_is_a_lost_sample(root: Path) -> None:
    path = root / "dresscode/upper_body/train_pairs.txt"
    person = path.read_text().split()[0]
    path.write_text(path.read_text().replace(f"{person}\t", f"{'1' * 5000}_0.jpg\t", 1))
    report = check("mgd", root)
    train = next(split for split in report.splits if split.name == "mgd/train")
    assert train.expected == train.usable + 1


def test_both_parts_are_one_training_split_and_evaluated_apart(made: Path) -> None:
    report = check("mgd", made)
    assert report.complete
    assert [(s.name, s.expected) for s in report.splits] == [
        ("mgd/train", 14),
        *zip((f"mgd/{s}" for s in SPLITS), (4, 4, 6, 6)),
    ]
    counts = {"dresses": 3, "lower_body": 3, "upper_body": 3, "vitonhd": 5}
    assert split_of(report, "mgd/train").groups == {group: {"expected": n, "usable": n} for group, n in counts.items()}
    assert report.variant == "vitonhd in vitonhd/ and dresscode in dresscode/"
    assert "Dress Code by signed agreement" in report.licence
    assert mgd.PUBLISHED_SAMPLES["tryon-train"] + 2032 + 5400 == 13_679 + 53_792


def test_batches(made: Path) -> None:
    data = module(made)
    seen = [key for batch in data.train_loader() for key in batch.keys]
    assert len(seen) == len(set(seen)) == 14
    paired, unpaired = [next(iter(loader)) for loader in data.test_dataloader()[2:]]
    for batch in (next(iter(data.train_loader())), paired, unpaired):
        assert isinstance(batch, TryOnBatch)
        for images in (batch.pixels, batch.garment_pixels, batch.pose, batch.sketches):
            assert images is not None
            assert (images.shape[1:], images.dtype) == ((3, 64, 48), torch.uint8)
        assert batch.masks.dtype == torch.bool
        assert 0.05 < batch.masks.float().mean() < 0.9
    assert (paired.paired, unpaired.paired) == (True, False)
    assert paired.keys[0] == "dresses-000500_0"
    assert unpaired.keys[0] == "dresses-000500_0__000501_1"
    assert paired.texts[:2] == ["garment 000500, cotton, long", "garment 000501, cotton, long"]
    assert unpaired.texts[0] == paired.texts[1]
    assert torch.equal(unpaired.garments[0], paired.garments[1])
    assert torch.equal(unpaired.pixels, paired.pixels)


def test_sketches_are_the_ones_asked_for(made: Path) -> None:
    worn = [next(iter(loader)) for loader in module(made, sketch="worn").test_dataloader()]
    assert set(worn[0].sketches.flatten().tolist()) == {50}
    assert set(worn[1].sketches.flatten().tolist()) == {70}
    assert worn[2].sketches[0, 0, 10, 15] > 200
    assert worn[3].sketches[0, 0, 53, 30] > 200
    shop = next(iter(module(made).test_dataloader()[2]))
    assert not torch.equal(shop.sketches, worn[2].sketches)
    with pytest.raises(ValueError, match="unknown sketch 'both'; known are in_shop, worn"):
        module(made, sketch="both")


def test_delivered_in_shop_sketches_go_before_drawn_ones(root: Path) -> None:
    for category in dresscode.CATEGORIES:
        (root / f"dresscode/{category}/cloth_sketch").mkdir()
        for path in list((root / f"dresscode/{category}/images").glob("*_1.jpg")):
            Image.new("L", (48, 64), 90).save(root / f"dresscode/{category}/cloth_sketch/{path.stem}.png")
    for split in ("train", "test"):
        (root / f"vitonhd/{split}/cloth_sketch").mkdir()
        for path in (root / f"vitonhd/{split}/cloth").iterdir():
            Image.new("L", (48, 64), 110).save(root / f"vitonhd/{split}/cloth_sketch/{path.stem}.png")
    data = module(root)
    data.prepare_data()
    values = [set(next(iter(loader)).sketches.flatten().tolist()) for loader in data.test_dataloader()]
    assert values == [{110}, {110}, {90}, {90}]
    assert "drawn from" not in report_text(check("mgd", root))


def test_poses_are_body_parts_or_skeletons(made: Path) -> None:
    dense, bones = [next(iter(module(made, pose=p).test_dataloader()[2])).pose for p in ("densepose", "skeleton")]
    parse = torch.from_numpy(np.array(Image.open(made / "dresscode/dresses/label_maps/000500_4.png")))
    assert torch.equal(dense[0].amax(0) > 16, parse == 7)
    assert 0 < (bones[0].amax(0) > 0).float().mean() < 0.4
    pose = json.loads(module(made).source("tryon-test-paired-dresscode").read(0).fields["pose.json"])
    assert (pose["format"], pose["size"], len(pose["points"])) == ("coco18", [64, 48], 18)
    assert pose["points"][0] is pose["points"][14] is None
    assert pose["points"][1] == pytest.approx([192 / 8, 120 / 8, 0.9])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("role", "id", "file"),
    [
        ("person", "000500", "dresses/images/000500_0.jpg"),
        ("garment", "100501", "upper_body/images/100501_1.jpg"),
        ("parse", "200500", "lower_body/label_maps/200500_4.png"),
    ],
)
def test_a_bad_file_is_reported(root: Path, damage: str, role: str, id: str, file: str) -> None:
    spoil, reason = DAMAGES[damage]
    spoil(root / "dresscode" / file)
    report = check("mgd", root)
    assert not report.complete
    for split in ("paired", "unpaired"):
        assert lost(split_of(report, f"mgd/test-{split}-dresscode")) == {(id, role, reason, 1)}
    with pytest.raises(MissingDataError, match=f"{id}: .*not comparable"):
        module(root).prepare_data()


def absent(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


PAIRS = "dresscode/dresses/train_pairs.txt"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "neither multimodal VITON-HD .* nor Dress Code .* .found: the folder does not exist"),
        (absent(PAIRS), "train_pairs.txt is missing"),
        (absent("dresscode/dresses/test_pairs_unpaired.txt"), "test_pairs_unpaired.txt is missing"),
        (lambda root: (root / PAIRS).write_text("a_0.jpg\n"), "expected `person_0.jpg garment_1.jpg`"),
        (lambda root: (root / PAIRS).write_text("a_0.jpg b_1.jpg\n" * 2), "train_pairs.txt:2: a is there a second time"),
        (lambda root: (root / PAIRS).write_bytes(b"\xff\xfe"), "is not UTF-8"),
        (
            lambda root: (root / "dresscode/fine_captions.json").write_text("[]"),
            "is not garment -> list of phrases: Expected `object`, got `array`",
        ),
        (
            lambda root: (root / "dresscode/coarse_captions.json").write_text('{"1": [2]}'),
            "is not garment -> list of phrases",
        ),
        (
            lambda root: [shutil.rmtree(root / f"dresscode/{c}/images") for c in dresscode.CATEGORIES],
            "none of the listed pairs has",
        ),
    ],
)
def test_what_is_wrong_with_the_lists_is_named(root: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(root)
    report = check("mgd", root)
    assert not report.complete
    with pytest.raises(MissingDataError, match=message) as caught:
        module(root).prepare_data()
    assert report.problem == str(caught.value)


def test_garments_without_a_caption_are_counted_and_stay(root: Path) -> None:
    assert "Dress Code: 1 garments have no phrases: 000001" in report_text(check("mgd", root))
    data = module(root)
    data.prepare_data()
    texts = {key: text for batch in data.train_loader() for key, text in zip(batch.keys, batch.texts)}
    assert texts["dresses-000001_0"] == ""
    (root / "dresscode/fine_captions.json").unlink()
    assert "fine_captions.json is absent" in report_text(check("mgd", root))


@pytest.mark.parametrize(("part", "count"), [("vitonhd", 5), ("dresscode", 9)])
def test_one_part_is_enough_also_as_the_root_and_the_other_is_named(root: Path, part: str, count: int, tmp_path: Path) -> None:
    other = {"vitonhd": "dresscode", "dresscode": "vitonhd"}[part]
    report = check("mgd", root / part)
    assert report.complete
    assert (report.splits[0].expected, report.variant) == (count, part)
    assert f"{other} is absent: Table 6's MGD is both" in report.notes
    data = module(root / part, shards=tmp_path / "s")
    data.prepare_data()
    assert len(data.test_dataloader()) == 2
    alone = module(None, shards=tmp_path / "s")
    alone.prepare_data()
    assert [loader.source.dataset for loader in alone.val_dataloader()] == [f"mgd/test-paired-{part}"]


def test_a_copy_of_viton_hd_without_unpaired_sketches_is_complete(root: Path) -> None:
    shutil.rmtree(root / "vitonhd/test/im_sketch_unpaired")
    assert check("mgd", root).complete
    data = module(root, sketch="worn")
    data.prepare_data()
    paired, unpaired = [next(iter(loader)) for loader in data.test_dataloader()[:2]]
    assert paired.sketches is not None
    assert unpaired.sketches is None


@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_delivers_everything_exactly_once(made: Path, world: int) -> None:
    loaders = zip(*[on_rank(module(made), rank, world).test_dataloader() for rank in range(world)])
    counts = {ranks[0].source.dataset: [k for part in ranks for k in keys(part)] for ranks in loaders}
    assert {name: len(found) for name, found in counts.items()} == dict(zip((f"mgd/{s}" for s in SPLITS), (4, 4, 6, 6)))
    assert all(len(set(found)) == len(found) for found in counts.values())


def test_pictures_pass_byte_for_byte(made: Path) -> None:
    fields = module(made).source("tryon-test-paired-dresscode").read(0).fields
    assert fields["person.jpg"] == (made / "dresscode/dresses/images/000500_0.jpg").read_bytes()
    assert open_image(fields["parse.png"]).mode == "P"
    assert abs(np.asarray(open_image(fields["person.jpg"]), int) - np.asarray(picture(4, 48, 64), int)).mean() < 4
