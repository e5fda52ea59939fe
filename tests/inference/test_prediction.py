"""Batch prediction: one PNG per sample whatever ranks, batch size and interruptions, and a manifest that is true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from data.rawdata import write_fashiongen, write_fashioniq
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from small import painter as small_painter
from small import pair_batch, small_backbone, triplet_batch, tryon_batch
from unifashion_pl.datamodules import FashionGenDataModule, FashionIQDataModule, VitonHDDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.data.samples import GalleryBatch
from unifashion_pl.evaluation import Painter
from unifashion_pl.inference.prediction import CHUNK, MANIFEST, noise_seed
from unifashion_pl.tasks import DiffusionModule
from unifashion_pl.tasks.editing import edit_batch
from unifashion_pl.wardrobe.catalogue import WardrobeSpec
from unifashion_pl.wardrobe.tryon import write_vitonhd

PERSONS = 5


def model(channels: int = 13, **settings: Any) -> UniFashionModule:
    """Paints in two steps."""
    return small_painter(channels, painter=Painter(**{"sampler": "fast", "steps": 2, "batch_size": 2, **settings}))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("viton")
    spec = WardrobeSpec(tryon_train=1, tryon_test=PERSONS, tryon_size=(48, 64))
    write_vitonhd(root, spec, 0, lambda function, jobs: iter([function(*job) for job in jobs]))
    data = VitonHDDataModule(root, pixel_size=(32, 24), image_size=32)
    data.prepare_data()
    assert data.shards is not None
    return data.shards


def predicted(
    shards: Path, out: Path, *, devices: int = 1, batches: int | None = None, batch_size: int = 2, **painter: Any
) -> list[dict[str, Any]]:
    """Lines of the manifest after ``unifashion predict`` in Python."""
    data = VitonHDDataModule(shards=shards, pixel_size=(32, 24), image_size=32, eval_batch_size=batch_size)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="auto" if devices == 1 else DDPStrategy(start_method="spawn"),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_predict_batches=batches,
        default_root_dir=out,
    )
    trainer.predict(model(**painter), data, return_predictions=False if devices > 1 else None)
    return [json.loads(line) for line in (out / "predict" / MANIFEST).read_text(encoding="utf-8").splitlines()]


def pictures(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out / "predict")): p.read_bytes() for p in sorted((out / "predict").glob("*/*.png"))}


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("whole")
    return out, predicted(shards, out)


def test_every_pair_is_a_file_and_a_line_that_says_how_it_was_made(whole: tuple[Path, list[dict[str, Any]]]) -> None:
    out, lines = whole
    files = pictures(out)
    assert [line["file"] for line in lines] == sorted(files)
    assert len(lines) == 2 * PERSONS
    for line in lines:
        data = files[line["file"]]
        assert line["sha256"] == hashlib.sha256(data).hexdigest()
        with Image.open(out / "predict" / line["file"]) as image:
            assert (image.size, image.mode, image.format) == ((24, 32), "RGB", "PNG")
            own = json.loads(image.info[CHUNK])
        assert own == {name: value for name, value in line.items() if name not in ("file", "sha256")}
        assert line["key"] == (line["person"] if line["paired"] else f"{line['person']}__{line['garment']}")
        assert (line["paired"], line["dataset"]) in ((True, "vitonhd/test-paired"), (False, "vitonhd/test-unpaired"))
        assert (line["sampler"], line["steps"], line["guidance"], line["start"]) == ("fast", 2, 1.0, "noise")
        assert line["noise_seed"] == noise_seed(0, line["key"])
    assert len(set(files.values())) == len(files)


def test_two_ranks_paint_what_one_does(shards: Path, whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Three samples on one rank and two on the other, so that batches are others too; pictures are those of one process."""
    lines = predicted(shards, tmp_path, devices=2, batch_size=3)
    assert [{**line, "sha256": 0} for line in lines] == [{**line, "sha256": 0} for line in whole[1]]
    for line in lines:
        assert line["sha256"] == hashlib.sha256((tmp_path / "predict" / line["file"]).read_bytes()).hexdigest()
        found, expected = (np.asarray(Image.open(root / "predict" / line["file"]), int) for root in (tmp_path, whole[0]))
        assert abs(found - expected).max() <= 1


def test_a_killed_run_goes_on_where_it_stopped(
    shards: Path, whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted(shards, tmp_path, batches=2)  # of three batches per split
    first = pictures(tmp_path)
    assert len(first) == 8
    (tmp_path / "predict" / MANIFEST).unlink()
    damaged = next(iter(first))
    (tmp_path / "predict" / damaged).write_bytes(first[damaged][:100])
    stamps = {name: (tmp_path / "predict" / name).stat().st_mtime_ns for name in first}
    painted: list[int] = []
    paint = DiffusionModule.paint
    monkeypatch.setattr(
        DiffusionModule, "paint", lambda self, q, batch, **s: painted.append(len(batch)) or paint(self, q, batch, **s)
    )
    with pytest.warns(UserWarning, match="is damaged .* painted again"):
        lines = predicted(shards, tmp_path)
    assert painted == [2] * (2 * PERSONS - 7)  # each lies alone in its batch, and is painted beside itself
    assert pictures(tmp_path) == pictures(whole[0])
    changed = {name for name in first if (tmp_path / "predict" / name).stat().st_mtime_ns != stamps[name]}
    assert changed == {damaged}
    assert [line["key"] for line in lines] == [line["key"] for line in whole[1]]
    assert {line["sha256"] for line in lines} == {hashlib.sha256(data).hexdigest() for data in pictures(tmp_path).values()}


def test_pictures_of_another_kind_are_neither_kept_nor_overwritten(
    shards: Path, whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    before = pictures(whole[0])
    with pytest.raises(ValueError, match="was made in another way: steps was 2, now it is 3. Name another folder"):
        predicted(shards, whole[0], steps=3)
    with pytest.raises(ValueError, match="noise_seed was .*; seed was 0, now it is 1"):
        predicted(shards, whole[0], seed=1)
    assert pictures(whole[0]) == before
    foreign = tmp_path / "predict" / next(iter(before))
    foreign.parent.mkdir(parents=True)
    Image.new("RGB", (24, 32)).save(foreign)
    with pytest.raises(ValueError, match="it is not one of these pictures"):
        predicted(shards, tmp_path)


def painted(
    painter: Painter, batch: Any, folder: Path, channels: int = 13
) -> tuple[list[dict[str, Any]], list[np.ndarray[Any, Any]]]:
    made_by = model(channels)
    painter.start(made_by, folder)
    lines = painter.paint(made_by, batch)
    painter.finish()
    return lines, [np.asarray(Image.open(folder / line["file"])) for line in lines]


def test_pasted_persons_keep_their_own_pixels(tmp_path: Path) -> None:
    batch = tryon_batch(2)
    made = [painted(Painter(sampler="fast", steps=2, paste_back=on), batch, tmp_path / str(on))[1] for on in (False, True)]
    for i in range(2):
        mask, own = batch.masks[i, 0].numpy(), batch.pixels[i].movedim(0, -1).numpy()
        assert np.array_equal(made[1][i][mask], made[0][i][mask])
        assert np.array_equal(made[1][i][~mask], own[~mask])
        assert (made[0][i][~mask] != own[~mask]).any()


def test_a_picture_is_that_of_try_on_with_its_noise_seed(tmp_path: Path) -> None:
    """The manifest's seed paints the same again by the head alone."""
    batch = tryon_batch(3)
    lines, made = painted(Painter(sampler="fast", steps=2), batch, tmp_path)
    again = model()
    head = again.diffusion_head
    assert head is not None
    with pytest.raises(ValueError, match="batch_size is 0"):
        Painter(batch_size=0)
    rows = edit_batch(batch[1], ["tryon"])
    with torch.no_grad():
        queries = again.backbone.encode(rows).queries
    (picture,) = head.paint(queries, rows, seeds=[lines[1]["noise_seed"]], sampler="fast", steps=2)
    assert abs(picture.movedim(0, -1).numpy().astype(int) - made[1].astype(int)).max() <= 1


@pytest.mark.parametrize("task", ["design", "text"])
def test_designs_are_painted_from_words_and_sketch(task: Any, tmp_path: Path) -> None:
    made = {}
    for name, batch in (("as is", tryon_batch(2)), ("words", tryon_batch(2, texts=["x", "y"])), ("sketch", tryon_batch(2))):
        if name == "sketch":
            assert batch.sketches is not None
            batch.sketches = batch.sketches.flip(-1)
        lines, made[name] = painted(Painter(sampler="fast", steps=2, task=task), batch, tmp_path / name)
        assert {line["kind"] for line in lines} == {task}
        assert {line["guidance"] for line in lines} == {5.0}
        assert [line["prompt"] for line in lines] == batch.texts
    assert not np.array_equal(made["as is"][0], made["words"][0])
    assert np.array_equal(made["as is"][0], made["sketch"][0]) == (task == "text")


def test_pairs_are_painted_from_their_caption_and_composed_queries_from_both(tmp_path: Path) -> None:
    pairs = pair_batch()
    other = pair_batch(images=pairs.images.flip(0))
    captions = [painted(Painter(sampler="fast", steps=2), b, tmp_path / f"c{i}", 4) for i, b in enumerate((pairs, other))]
    seen = [
        painted(Painter(sampler="fast", steps=2, reconstruct=True), b, tmp_path / f"r{i}", 4)
        for i, b in enumerate((pairs, other))
    ]
    assert [line["prompt"] for line in captions[0][0]] == pairs.captions
    assert {line["kind"] for line in captions[0][0]} == {"caption"}
    assert all(np.array_equal(a, b) for a, b in zip(captions[0][1], captions[1][1]))
    assert not any(np.array_equal(a, b) for a, b in zip(seen[0][1], seen[1][1]))
    lines, composed = painted(Painter(sampler="fast", steps=2), triplet_batch(), tmp_path / "t", 4)
    assert {line["kind"] for line in lines} == {"composed"}
    assert len({picture.tobytes() for picture in composed}) == 4


def test_test_splits_of_pairs_and_composed_queries_are_painted(tmp_path: Path) -> None:
    """Real files of both datasets through the trainer; the gallery is passed over."""
    common: dict[str, Any] = {"image_size": 32, "pixel_size": (32, 24), "eval_batch_size": 8}
    both = [
        (FashionGenDataModule(write_fashiongen(tmp_path / "fg"), tmp_path / "fgs", **common), 36, "caption"),
        (FashionIQDataModule(write_fashioniq(tmp_path / "fiq"), tmp_path / "fiqs", **common), 15, "composed"),
    ]
    for data, n, kind in both:
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path
        )
        trainer.predict(model(4, steps=1), data)
        lines = [json.loads(x) for x in (tmp_path / "predict" / MANIFEST).read_text(encoding="utf-8").splitlines()]
        assert len([line for line in lines if line["kind"] == kind]) == n
    assert len(pictures(tmp_path)) == len(lines) == 36 + 15


def test_a_part_of_a_batch_has_a_part_of_every_column() -> None:
    batch = tryon_batch(4)
    part = batch[[3, 1]]
    assert part.keys == ["v3", "v1"]
    assert torch.equal(part.pose, batch.pose[[3, 1]])  # type: ignore[index]
    assert torch.equal(part.masks, batch.masks[[3, 1]])
    assert (part.dataset, part.paired) == (batch.dataset, True)
    assert batch[[0, 1, 2, 3]] is batch


def test_what_cannot_be_painted_is_said(tmp_path: Path) -> None:
    gallery = GalleryBatch(
        keys=["a"], images=pair_batch(1).images, categories=["dress"], captions=[""], in_union=[True], dataset="x/test"
    )
    with pytest.raises(RuntimeError, match="no try-on samples, pairs or composed queries: nothing was painted"):
        painted(Painter(), gallery, tmp_path)
    with pytest.raises(RuntimeError, match=r"U-Net reads no person, mask or pose.*tryon\.yaml"):
        painted(Painter(), tryon_batch(), tmp_path, channels=4)
    with pytest.raises(RuntimeError, match="no diffusion head, so it cannot make images"):
        Painter().start(UniFashionModule(small_backbone(), policy="editing_control"), tmp_path)
    with pytest.raises(ValueError, match="unknown task 'swap'; known are tryon, design, text"):
        Painter(task="swap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown start 'truth'"):
        Painter(start="truth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown sampler 'slow'"):
        Painter(sampler="slow")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file": "../x.png"}', "file is '../x.png'"),
        ('{"file": 5}', "file is '5'"),
        ("[]", "is not a line of a manifest"),
        ("{", "is not a line"),
    ],
)
def test_a_manifest_that_is_no_manifest_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"file": "a.png", "prompt": "a\u2028b"}\n' + line + "\n", "utf-8")
    with pytest.raises(ValueError, match=rf"manifest.jsonl:2.*{message}"):
        Painter(tmp_path)._earlier(tmp_path / "manifest.jsonl")
