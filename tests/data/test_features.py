"""Cached vision features: the numbers that the tower gives, refused for any other tower, transform or data."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from data.rawdata import features_of as made
from safetensors.torch import load_file, save_file
from small import small_backbone
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from unifashion_pl.backbone import QFormerBackbone, VisionTower
from unifashion_pl.data.assemble import TripletAssembler
from unifashion_pl.data.features import FeatureIndex, FeatureSource
from unifashion_pl.data.reader import DamagedSample, ShardSource
from unifashion_pl.data.stream import TrainLoader, Workers
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform
from unifashion_pl.provenance import weights_hash

SIZE = 32


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_features_has_the_batches_and_losses_of_pixels(
    repeated: Path, frozen: QFormerBackbone, tmp_path: Path, workers: int
) -> None:
    """fp32 features give the loss of pixels; only the tower is left out, target pictures for painting are still read."""
    from unifashion_pl.tasks import RetrievalModule

    torch.manual_seed(0)
    head = RetrievalModule(hidden_size=32, embed_dim=16)
    assembler = TripletAssembler(EncoderTransform(SIZE), PixelTransform((16, 12)))
    cached = made(repeated, frozen, tmp_path, dtype="fp32", batch_size=5)
    options: dict[str, Any] = {"batch_size": 5, "workers": Workers(workers)}
    with_pixels, with_features = TrainLoader(cached.source, assembler, **options), TrainLoader(cached, assembler, **options)
    for a, b in zip(with_pixels, with_features, strict=True):
        assert (a.keys, a.texts, b.references.shape[0]) == (b.keys, b.texts, 5)
        assert b.references.ndim == 3
        assert torch.equal(a.pixels, b.pixels)
        losses = []
        for batch in (a, b):
            torch.manual_seed(1)
            losses.append(head.losses(frozen, batch, frozen.encode(batch)))
        for name, loss in losses[0].items():
            torch.testing.assert_close(losses[1][name], loss, rtol=1e-5, atol=1e-6)


def test_the_tower_does_not_run(repeated: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    cached = made(repeated, frozen, tmp_path)
    frozen.vision.forward = None  # type: ignore[assignment, method-assign]
    batch = next(iter(TrainLoader(cached, TripletAssembler(EncoderTransform(SIZE)), batch_size=4)))
    assert batch.pixels is None
    encoding = frozen.encode(batch)
    assert encoding.features.dtype == torch.float32
    encoding.features.sum().backward()
    assert frozen.ln_vision.weight.grad is not None


def test_another_tower_transform_or_data_is_refused(
    repeated: Path, pair_shards: Path, frozen: QFormerBackbone, tmp_path: Path
) -> None:
    cached = made(repeated, frozen, tmp_path)
    cached.check(frozen.vision, EncoderTransform(SIZE))
    with pytest.raises(ValueError, match=r"transform was .*pad_ratio=1\.25.*now it is .*pad_ratio=1\.0"):
        cached.check(frozen.vision, EncoderTransform(SIZE, pad_ratio=1.0))
    other = small_backbone(seed=1).vision.requires_grad_(False)
    with pytest.raises(
        ValueError, match=f"weights was {weights_hash(frozen.vision)[:12]}, now it is {weights_hash(other)[:12]}"
    ):
        cached.check(other, EncoderTransform(SIZE))
    with pytest.raises(ValueError, match="of other shards"):
        FeatureSource(ShardSource(pair_shards / "pairs-train"), tmp_path)
    with pytest.raises(ValueError, match="is to be trained"):
        cached.check(frozen.vision.requires_grad_(True), EncoderTransform(SIZE))
    cached.check(frozen.vision, EncoderTransform(SIZE), fitting=False)  # a test of what was trained
    with pytest.raises(ValueError, match="weights was"):
        cached.check(other.requires_grad_(True), EncoderTransform(SIZE), fitting=False)


def test_a_tower_of_the_same_weights_that_gives_other_outputs_is_refused(
    repeated: Path, frozen: QFormerBackbone, tmp_path: Path
) -> None:
    """No hash sees how a tower was put together; one image that goes through it does."""
    cached = made(repeated, frozen, tmp_path)
    settings = {"channels": (8, 8, 16, 16), "stem_width": 8, "output_stride": 8}
    blind = VisionTower("resnet10t", image_size=SIZE, timm_kwargs=settings, positions=False).requires_grad_(False)
    blind.load_state_dict(frozen.vision.state_dict())
    assert weights_hash(blind) == weights_hash(frozen.vision)
    with pytest.raises(ValueError, match=r"differ by .*% from what the vision tower gives today"):
        cached.check(blind, EncoderTransform(SIZE))


def test_damaged_features_are_named(repeated: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    cached = made(repeated, frozen, tmp_path)
    last = tmp_path / cached.found.files[-1].name
    content = bytearray(last.read_bytes())
    before = load_file(last)["features"].view(torch.uint8).flatten()[:64].numpy().tobytes()
    content[content.index(before) + 5] ^= 1
    last.write_bytes(content)
    fresh = pickle.loads(pickle.dumps(FeatureSource(cached.source, tmp_path)))
    first = sum(file.images for file in cached.found.files[:-1])
    number = next(i for i in range(24) if first in fresh._numbers[i])
    with pytest.raises(DamagedSample, match=rf"{fresh.keys[number]} \(image 0 of .*safetensors\).*CRC-32"):
        fresh.read(number)
    os.truncate(last, len(content) - 10)
    with pytest.raises(FileNotFoundError, match="bytes instead of"):
        FeatureSource(cached.source, tmp_path)
    last.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        FeatureSource(cached.source, tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    for change, message in (
        ({"format": 9}, "has format 9"),
        ({"identity": 3}, "not an index of vision features"),
        ({"files": [{**index["files"][0], "name": "../x.safetensors"}]}, "not an index of vision features: FeatureFile"),
        ({"files": [{**index["files"][0], "images": -1}]}, "not an index of vision features: FeatureFile"),
        ({"identity": {**index["identity"], "dtype": "int4"}}, "dtype 'int4' .known are bf16, fp32"),
        ({"fields": []}, r"not an index of vision features: fields \[\]"),
    ):
        (tmp_path / "index.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(ValueError, match=message):
            FeatureIndex.load(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match="unifashion data features"):
        FeatureSource(cached.source, tmp_path)


def test_features_of_another_width_are_refused_by_the_backbone(frozen: QFormerBackbone) -> None:
    with pytest.raises(ValueError, match="cached vision features are 5 wide, the vision tower gives 16"):
        frozen.image_features(torch.zeros(2, 16, 5))


def test_a_sharded_tower_is_known_by_its_weights(repeated: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    """FSDP2 on one rank: parameters are DTensors then, and the tower cannot run before the whole model has."""
    cached = made(repeated, frozen, tmp_path / "kept")
    other = small_backbone(seed=1).vision.requires_grad_(False)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain = weights_hash(frozen.vision)
        for tower in (frozen.vision, other):
            fully_shard(tower, mesh=init_device_mesh("cpu", (1,)))
        assert weights_hash(frozen.vision) == plain
        cached.check(frozen.vision, EncoderTransform(SIZE))
        with pytest.raises(ValueError, match="weights was"):
            cached.check(other, EncoderTransform(SIZE))
    finally:
        dist.destroy_process_group()


def test_rows_that_fit_no_images_are_refused(repeated: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    cached = made(repeated, frozen, tmp_path)
    path = tmp_path / cached.found.files[0].name
    tensors = load_file(path)
    for rows in (tensors["rows"] + 10**6, tensors["rows"] - 10**6, tensors["rows"].int(), tensors["rows"][:, :1]):
        save_file({**tensors, "rows": rows.contiguous()}, path)
        _with_size(tmp_path, path)
        with pytest.raises(ValueError, match=rf"{path.name}: rows is .*expected int64"):
            FeatureSource(cached.source, tmp_path)
    path.write_bytes(b"x" * 100)
    _with_size(tmp_path, path)
    with pytest.raises(ValueError, match=rf"{path.name}: .*make the features again"):
        FeatureSource(cached.source, tmp_path)


def _with_size(folder: Path, path: Path) -> None:
    """The index with a file's size as it is now."""
    index = json.loads((folder / "index.json").read_text())
    for file in index["files"]:
        if file["name"] == path.name:
            file["bytes"] = path.stat().st_size
    (folder / "index.json").write_text(json.dumps(index))
