from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.rawdata import picture, write_vitonhd
from PIL import Image
from readers import DAMAGES, check, keys, lost, odd_pictures, on_rank, split_of
from unifashion_pl.datamodules import VitonHDDataModule, vitonhd
from unifashion_pl.datamodules.checks_text import report_text

from unifashion_pl.data.assemble import image_of
from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.data.shards import write_shards
from unifashion_pl.data.transforms import PixelTransform

PERSONS = [f"{i:05d}_00" for i in range(500, 504)]


OTHERS = PERSONS[1:] + PERSONS[:1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """5 training and 4 test pairs, pictures of 48 × 64; the checks find it complete."""
    return write_vitonhd(tmp_path / "raw")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with shards; not to be changed."""
    root = write_vitonhd(tmp_path_factory.mktemp("vitonhd"))
    module(root).prepare_data()
    return root


def module(root: Path, **options: Any) -> VitonHDDataModule:
    settings = {"batch_size": 2, "eval_batch_size": 3, "image_size": 16, "pixel_size": (64, 48), **options}
    return VitonHDDataModule(root, **settings)


def losses(root: Path, out: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Folder of shards -> (id, role, reason) in its index, all splits built with what is left."""
    found = {}
    for plan in vitonhd.plans(root):
        index = ShardIndex.load(write_shards(plan, out, allow_missing=True, progress=False))
        assert index.expected - index.samples == len(index.missing)
        found[plan.folder] = [(bad["id"], bad["role"], bad["reason"]) for bad in index.missing]
    return found


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("role", "file"),
    [
        ("person", "image/{}.jpg"),
        ("mask", "agnostic-mask/{}_mask.png"),
        ("agnostic", "agnostic-v3.2/{}.jpg"),
        ("densepose", "image-densepose/{}.jpg"),
    ],
)
def test_a_bad_picture_of_a_person_is_reported(root: Path, tmp_path: Path, role: str, file: str, damage: str) -> None:
    spoil, reason = DAMAGES[damage]
    spoil(root / "test" / file.format(PERSONS[0]))
    report = check("vitonhd", root)
    assert not report.complete
    assert split_of(report, "vitonhd/train").usable == 5
    for split in ("paired", "unpaired"):
        found = split_of(report, f"vitonhd/test-{split}")
        assert (found.expected, found.usable, lost(found)) == (4, 3, {(PERSONS[0], role, reason, 1)})
    assert f"{role} {PERSONS[0]}: {reason}" in report_text(report)
    one = [(PERSONS[0], role, reason)]
    assert losses(root, tmp_path / "out") == {"tryon-train": [], "tryon-test-paired": one, "tryon-test-unpaired": one}


def test_a_bad_garment_takes_out_the_person_that_wears_it_and_the_one_that_tries_it_on(root: Path, tmp_path: Path) -> None:
    garment = PERSONS[1]
    (root / f"test/cloth/{garment}.jpg").unlink()
    report = check("vitonhd", root)
    for split in ("paired", "unpaired"):
        assert lost(split_of(report, f"vitonhd/test-{split}")) == {(garment, "garment", "missing", 1)}
    losses(root, tmp_path / "out")
    kept = {s: ShardIndex.load(tmp_path / f"out/tryon-test-{s}").shards[0].keys for s in ("paired", "unpaired")}
    assert kept["paired"] == [p for p in PERSONS if p != garment]
    assert kept["unpaired"] == [f"{p}__{g}" for p, g in zip(PERSONS, OTHERS) if g != garment]


def test_evaluation_on_a_part_is_refused(root: Path) -> None:
    (root / f"test/image/{PERSONS[2]}.jpg").write_bytes(b"")
    with pytest.raises(
        MissingDataError, match=rf"test-paired: 1 of 4 .*person {PERSONS[2]}: empty file.*test: 3 of 4.*not comparable"
    ):
        module(root).prepare_data()


JOINTS = [1.0, 2.0, 0.5] * 25


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        ("", "is not an OpenPose file"),
        ("{", "is not an OpenPose file"),
        ("[]", "is not an OpenPose file"),
        ('{"persons": []}', "is not an OpenPose file"),
        ('{"people": []}', "nobody was found in the picture"),
        ('{"people": [{}]}', "is not an OpenPose file"),
        ('{"people": [{"pose_keypoints_2d": null}]}', "is not an OpenPose file"),
        ('{"people": [{"pose_keypoints_2d": ["1"]}]}', "Expected `float`, got `str` - at `$.people[0].pose_keypoints_2d[0]`"),
        (json.dumps({"people": [{"pose_keypoints_2d": [*JOINTS[:74], 1e200]}]}), "a coordinate of 1e+200"),
        (json.dumps({"people": [{"pose_keypoints_2d": JOINTS[:54]}]}), "18 points, expected the 25 of BODY-25"),
    ],
)
def test_a_bad_file_of_joints_is_reported(root: Path, tmp_path: Path, content: str | None, reason: str) -> None:
    path = root / f"test/openpose_json/{PERSONS[0]}_keypoints.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    report = check("vitonhd", root)
    assert not report.complete
    for split in ("paired", "unpaired"):
        found = split_of(report, f"vitonhd/test-{split}")
        ((id, role, said, samples),) = lost(found)
        assert (id, role, samples, found.usable) == (PERSONS[0], "pose", 1, 3)
        assert reason in said
    built = losses(root, tmp_path / "out")
    assert built["tryon-train"] == []
    assert [bad[:2] for bad in built["tryon-test-paired"]] == [(PERSONS[0], "pose")]
    assert reason in built["tryon-test-paired"][0][2]


@pytest.mark.parametrize(
    ("role", "file"),
    [("mask", "agnostic-mask/{}_mask.png"), ("agnostic", "agnostic-v3.2/{}.jpg"), ("densepose", "image-densepose/{}.jpg")],
)
def test_pictures_of_another_size_than_the_person_are_reported(root: Path, tmp_path: Path, role: str, file: str) -> None:
    path = root / "test" / file.format(PERSONS[3])
    Image.open(path).resize((24, 32)).save(path)
    bad = (PERSONS[3], role, "is 24 × 32, the person 48 × 64")
    report = check("vitonhd", root)
    assert not report.complete
    assert lost(split_of(report, "vitonhd/test-paired")) == {(*bad, 1)}
    assert losses(root, tmp_path / "out")["tryon-test-paired"] == [bad]


def test_neither_masks_nor_agnostic_pictures(root: Path) -> None:
    for folder in ("agnostic-mask", "agnostic-v3.2"):
        shutil.rmtree(root / "train" / folder)
    assert "neither agnostic-mask/ nor agnostic-v3.2/ is there" in str(check("vitonhd", root).problem)


def test_garments_without_phrases_are_counted(root: Path) -> None:
    phrases = json.loads((root / "captions.json").read_text())
    del phrases["00500"]
    phrases["00501"] = ["", " "]
    (root / "captions.json").write_text(json.dumps(phrases))
    assert "2 garments have no phrases in captions.json: 00500_00, 00501_00" in report_text(check("vitonhd", root))
    (root / "captions.json").unlink()
    report = check("vitonhd", root)
    assert report.complete
    assert "captions.json is absent: all texts are empty" in split_of(report, "vitonhd/train").notes
    data = module(root)
    data.prepare_data()
    assert [text for batch in data.val_dataloader()[0] for text in batch.texts] == [""] * 4


def test_pictures_in_every_mode_become_rgb(root: Path) -> None:
    pictures = odd_pictures((48, 64))
    write_vitonhd(root, test=len(pictures))
    names = dict(zip(pictures, (f"{i:05d}_00" for i in range(500, 500 + len(pictures)))))
    for mode, (data, _) in pictures.items():
        for folder in ("image", "cloth", "image-densepose"):
            (root / f"test/{folder}/{names[mode]}.jpg").write_bytes(data)
    assert check("vitonhd", root).complete
    data_module = module(root, eval_batch_size=len(pictures))
    data_module.prepare_data()
    (batch,) = data_module.val_dataloader()[0]
    assert batch.pose is not None
    for mode, (_, colour) in pictures.items():
        row = batch.keys.index(names[mode])
        for images in (batch.pixels, batch.garment_pixels, batch.pose):
            assert images[row].float().mean((1, 2)).tolist() == pytest.approx(colour, abs=3), mode


def test_masks_in_every_mode_keep_their_polarity(root: Path) -> None:
    folder = root / "test/agnostic-mask"
    white = Image.open(folder / f"{PERSONS[0]}_mask.png").convert("L")
    for name, mode in zip(PERSONS, ("1", "P", "RGB", "RGBA")):
        white.convert(mode).save(folder / f"{name}_mask.png")
    data = module(root, eval_batch_size=4)
    data.prepare_data()
    (batch,) = data.val_dataloader()[0]
    assert all(torch.equal(mask[0], torch.from_numpy(np.array(white) >= 128)) for mask in batch.masks)


def test_training_batches(made: Path) -> None:
    loader = module(made).train_dataloader().iterables["tryon"]
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    for batch in batches:
        assert isinstance(batch, TryOnBatch)
        assert len(batch) == 2
        assert (batch.garments.shape, batch.garments.dtype) == ((2, 3, 16, 16), torch.uint8)
        for images in (batch.pixels, batch.garment_pixels, batch.pose):
            assert images is not None
            assert (images.shape, images.dtype) == ((2, 3, 64, 48), torch.uint8)
        assert (batch.masks.shape, batch.masks.dtype) == ((2, 1, 64, 48), torch.bool)
        assert batch.sketches is None
        assert batch.paired is True
        assert batch.dataset == "vitonhd/train"
        for key, text in zip(batch.keys, batch.texts):
            assert sorted(text.split(", ")) == sorted([f"red top {int(key[:5])}", "short sleeves", "round neck"])
    assert {key[-3:] for batch in batches for key in batch.keys} == {"_00"}


def test_pixel_size_is_height_and_width(made: Path) -> None:
    batch = next(iter(module(made, pixel_size=(32, 16)).train_loader()))
    assert batch.pixels.shape == (2, 3, 32, 16)
    assert batch.masks.shape == (2, 1, 32, 16)


@pytest.mark.parametrize("world", [1, 2])
def test_every_rank_has_samples_by_world_and_batch_many_training_batches(made: Path, world: int) -> None:
    parts = [on_rank(module(made), rank, world).train_loader() for rank in range(world)]
    for _ in range(2):
        seen = [keys(loader) for loader in parts]
        assert [len(part) for part in seen] == [5 // (2 * world) * 2] * world
        assert len({key for part in seen for key in part}) == sum(map(len, seen))
    with pytest.raises(ValueError, match="5 samples for training, but one batch takes 3 × 2"):
        on_rank(module(made), 0, 3).train_loader()


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_delivers_everything_exactly_once(made: Path, world: int) -> None:
    ranks = [on_rank(module(made), rank, world) for rank in range(world)]
    assert [sorted(k for (loader,) in [r.val_dataloader() for r in ranks] for k in keys(loader))] == [PERSONS]
    paired, unpaired = zip(*[r.test_dataloader() for r in ranks])
    assert sorted(k for loader in paired for k in keys(loader)) == PERSONS
    assert sorted(k for loader in unpaired for k in keys(loader)) == [f"{p}__{g}" for p, g in zip(PERSONS, OTHERS)]


def test_paired_is_the_own_garment_and_unpaired_the_listed_one(made: Path) -> None:
    paired, unpaired = ([*loader] for loader in module(made, eval_batch_size=4).test_dataloader())
    (own,), (other,) = paired, unpaired
    assert (own.paired, other.paired) == (True, False)
    assert (own.dataset, other.dataset) == ("vitonhd/test-paired", "vitonhd/test-unpaired")
    shift = [PERSONS.index(garment) for garment in OTHERS]
    assert torch.equal(own.pixels, other.pixels)
    assert torch.equal(own.masks, other.masks)
    assert torch.equal(own.garments[shift], other.garments)
    assert torch.equal(own.garment_pixels[shift], other.garment_pixels)
    assert not any(torch.equal(a, b) for a, b in zip(own.garments, other.garments))
    assert own.texts == [f"red top {i}, short sleeves, round neck" for i in range(500, 504)]
    assert other.texts == [own.texts[i] for i in shift]
    difference = (own.garment_pixels[0].permute(1, 2, 0).int() - torch.tensor(np.array(picture(8000, 48, 64))).int()).abs()
    assert difference.float().mean() < 4


def test_true_in_the_mask_is_what_is_repainted_and_grey_there(made: Path) -> None:
    data = module(made, eval_batch_size=4)
    (batch,) = data.val_dataloader()[0]
    source = data.source("tryon-test-paired")
    agnostic = torch.stack([PixelTransform((64, 48))(image_of(source.read(i), "agnostic")) for i in range(4)])
    expected = torch.zeros(64, 48, dtype=torch.bool)
    expected[16:32, 12:24] = True
    assert all(torch.equal(mask[0], expected) for mask in batch.masks)
    inside = batch.masks.expand_as(batch.pixels)
    apart = (agnostic.int() - batch.pixels.int()).abs().float()
    assert (agnostic[inside].float() - 128).abs().mean() < 8
    assert apart[~inside].mean() < 4 < 20 < apart[inside].mean()


def test_agnostic_pictures_are_not_needed_beside_masks(made: Path, root: Path) -> None:
    shutil.rmtree(root / "test/agnostic-v3.2")
    data = module(root, eval_batch_size=4)
    data.prepare_data()
    (batch,) = data.val_dataloader()[0]
    assert "agnostic" not in data.source("tryon-test-paired").index.optional  # type: ignore[attr-defined]
    (other,) = module(made, eval_batch_size=4).val_dataloader()[0]
    assert torch.equal(batch.pixels, other.pixels)
    assert torch.equal(batch.masks, other.masks)


def test_without_masks_they_are_made_from_the_agnostic_pictures(root: Path) -> None:
    shutil.rmtree(root / "test/agnostic-mask")
    report = check("vitonhd", root)
    assert report.complete
    assert "agnostic-mask is absent: masks are made from the agnostic pictures" in report_text(report)
    data = module(root, eval_batch_size=4)
    data.prepare_data()
    (batch,) = data.val_dataloader()[0]
    expected = torch.zeros(64, 48, dtype=torch.bool)
    expected[16:32, 12:24] = True
    assert all((mask[0] == expected).float().mean() > 0.97 for mask in batch.masks)


def test_sketches_are_of_the_worn_garment_and_so_of_pairs_only(root: Path) -> None:
    (root / "test/im_sketch").mkdir()
    for name in PERSONS:
        Image.new("L", (48, 64), 200).save(root / f"test/im_sketch/{name}.png")
    data = module(root)
    data.prepare_data()
    paired, unpaired = (next(iter(loader)) for loader in data.test_dataloader())
    assert paired.sketches is not None
    assert set(paired.sketches.flatten().tolist()) == {200}
    assert unpaired.sketches is None


def test_joints_go_into_the_shards(made: Path) -> None:
    source = module(made).source("tryon-test-paired")
    pose = json.loads(source.read(0).fields["pose.json"])
    assert (pose["format"], pose["size"], len(pose["points"])) == ("body25", [64, 48], 25)
    assert pose["points"][:2] == [None, [1.0, 1.0, 0.5]]


def test_training_on_the_test_split_is_refused_also_under_another_name(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "shards/tryon-test-paired", tmp_path / "tryon-train")
    with pytest.raises(ValueError, match=r"vitonhd/test-paired \(tryon\) is an evaluation split: training on it is refused"):
        module(made, shards=tmp_path).train_dataloader()


def test_absent_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="VitonHDDataModule: no shards for tryon-train, tryon-test-paired, tryon-test-unp"
    ):
        VitonHDDataModule(shards=tmp_path).prepare_data()
