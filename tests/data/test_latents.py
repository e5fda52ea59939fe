"""Cached posteriors of an autoencoder: the losses that pictures give, drawn anew at each step; refused for any other autoencoder or size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from data.rawdata import features_of, picture, write_fashioniq, write_vitonhd
from small import CLIP_TEXT, UNET, VAE, opened, pair_batch, small_backbone, triplet_batch
from torch import nn
from unifashion_pl.datamodules import FashionIQDataModule, MGDDataModule, VitonHDDataModule
from unifashion_pl.datamodules.mgd import MGDAssembler

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.cli import main
from unifashion_pl.data import assemble
from unifashion_pl.data.assemble import PairAssembler, TripletAssembler
from unifashion_pl.data.latents import PAINTED, LatentSource, Posteriors
from unifashion_pl.data.make_features import shard_folders, write_features
from unifashion_pl.data.mixing import MixedPairLoader
from unifashion_pl.data.reader import DamagedSample, ShardSource
from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.texts import Draw
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.tasks import DiffusionModule, EditSettings
from unifashion_pl.tasks.editing import edit_batch

ENCODER, PIXELS = EncoderTransform(32), PixelTransform((32, 24))


def head_of(seed: int = 0) -> DiffusionModule:
    torch.manual_seed(seed)
    return DiffusionModule(
        denoiser=Denoiser(config=UNET), vae=ImageVAE(config=VAE), context="tsa", query_width=32, size=(32, 24)
    )


def made(shards: Path, vae: ImageVAE, out: Path, source: Any = None, **options: Any) -> LatentSource:
    settings = {"dtype": "fp32", "encoder": PIXELS, "fields": PAINTED, "evaluated": (), "batch_size": 5, **options}
    write_features(shards, Posteriors(vae), out=out, progress=False, **settings)
    return LatentSource(ShardSource(shards) if source is None else source, out)


def test_a_head_learns_from_posteriors_as_from_pictures(
    repeated: Path, pair_shards: Path, frozen: QFormerBackbone, tmp_path: Path
) -> None:
    """The same noise is drawn of the same posterior; the autoencoder's encoder does not run."""
    head = head_of()
    for shards, assembler in (
        (repeated, TripletAssembler(ENCODER, PIXELS)),
        (pair_shards / "pairs-train", PairAssembler(ENCODER, PIXELS)),
    ):
        kept = made(shards, head.vae, tmp_path / shards.name)
        loaders = [TrainLoader(source, assembler, batch_size=6) for source in (kept.source, kept)]
        for pictures, posteriors in zip(*loaders, strict=True):
            assert pictures.keys == posteriors.keys
            assert posteriors.pixels.shape == (6, 8, 8, 6)
            losses = []
            for batch in (pictures, posteriors):
                torch.manual_seed(1)
                losses.append(head.losses(frozen, batch, frozen.encode(batch))["q2i"])
            torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(head.vae.model, "encode", None)
            head.losses(frozen, posteriors, frozen.encode(posteriors))


def test_draws_are_those_of_the_pictures_and_differ_from_each_other() -> None:
    vae, pixels = head_of().vae, pair_batch(2).pixels
    kept, drawn = vae.moments(pixels), []
    for given in (pixels, kept, kept):
        torch.manual_seed(len(drawn) // 2)
        drawn.append(vae.encode(given, sample=True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(vae.encode(kept), vae.encode(pixels))
    assert vae.size_of(kept) == vae.size_of(pixels) == (64, 64)
    with pytest.raises(ValueError, match=r"expected torch.uint8 in 0..255, or posteriors of 8 channels .found 3."):
        vae.encode(pixels.float())


def test_with_features_too_no_picture_is_opened(
    repeated: Path, frozen: QFormerBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = features_of(repeated, frozen, tmp_path / "features")
    both = made(repeated, head_of().vae, tmp_path / "latents", cached)
    assert both.features == cached.features
    monkeypatch.setattr(assemble, "open_picture", None)
    batch = next(iter(TrainLoader(both, TripletAssembler(ENCODER, PIXELS), batch_size=4)))
    assert batch.references.ndim == batch.targets.ndim == 3
    assert batch.pixels is not None
    assert batch.pixels.shape == (4, 8, 8, 6)


def editor() -> UniFashionModule:
    """Learns try-on and design of persons 32 x 24; its autoencoder has a posterior."""
    torch.manual_seed(0)
    head = DiffusionModule(
        denoiser=Denoiser(config=UNET, in_channels=13, garment="branch"),
        vae=ImageVAE(config=VAE),
        text_encoder=PromptEncoder(config=CLIP_TEXT),
        query_width=32,
        size=(16, 16),
        edit_size=(32, 24),
        editing=EditSettings(tasks={"tryon": 1, "design": 1, "text": 1}),
    )
    return opened(UniFashionModule(small_backbone(), diffusion=head, policy="editing_control"))


@pytest.fixture(scope="session")
def persons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of try-on: five persons with poses and sketches, of which two wear the same garment."""
    root = write_vitonhd(tmp_path_factory.mktemp("viton"))
    (root / "train/im_sketch").mkdir()
    for i in range(5):
        picture(50 + i, 48, 64).save(root / f"train/im_sketch/{i:05d}_00.png")
    (root / "train/cloth/00004_00.jpg").write_bytes((root / "train/cloth/00003_00.jpg").read_bytes())
    VitonHDDataModule(root, root / "shards").prepare_data()
    return root / "shards"


def batches(shards: Path, latents: bool | Path, **options: Any) -> list[TryOnBatch]:
    settings = {"image_size": 32, "pixel_size": (32, 24), "batch_size": 2, **options}
    return list(VitonHDDataModule(shards=shards, latents=latents, **settings).train_loader())


@pytest.mark.parametrize("task", ["tryon", "design", "text", None])
def test_try_on_and_design_are_learned_from_posteriors_as_from_pictures(persons: Path, tmp_path: Path, task: Any) -> None:
    """The same noise is drawn, of the same posteriors, for all pictures of a row; the autoencoder's encoder does not run."""
    model = editor().train()
    head, backbone = model.diffusion_head, model.backbone
    assert head is not None
    made(persons / "tryon-train", head.vae, tmp_path / "tryon-train")
    for given, kept in zip(batches(persons, False), batches(persons, tmp_path), strict=True):
        assert given.keys == kept.keys
        assert given.latents is None
        assert kept.latents is not None
        assert kept.latents.shape == (2, 5, 8, 8, 6)
        tasks = ["tryon", "design"] if task is None else [task] * 2
        losses = []
        for batch in (given, kept):
            rows = edit_batch(batch, tasks)
            torch.manual_seed(1)
            with pytest.MonkeyPatch.context() as patch:
                if batch is kept:
                    patch.setattr(head.vae.model, "encode", None)
                losses.append(head.losses(backbone, rows, backbone.encode(rows))["q2i"])
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


def test_each_distinct_picture_of_a_person_is_kept_once(persons: Path, tmp_path: Path) -> None:
    """Equal garments are one, and what the samples lack has no place."""
    vae = editor().diffusion_head.vae  # type: ignore[union-attr]
    kept = made(persons / "tryon-train", vae, tmp_path / "tryon-train")
    assert sum(file.images for file in kept.found.files) == 5 + 5 + 5 + 4 + 5
    write_vitonhd(tmp_path / "raw", train=2)
    VitonHDDataModule(tmp_path / "raw").prepare_data()
    without = made(tmp_path / "raw/shards/tryon-train", vae, tmp_path / "bare/tryon-train")
    names = [f"latents/{name}" for name in ("densepose", "garment", "greyed", "person")]
    assert [sorted(without.read(i).features) for i in range(2)] == [names] * 2
    batch = batches(tmp_path / "raw/shards", tmp_path / "bare")[0]
    assert batch.sketches is None
    assert batch.latents is not None
    assert edit_batch(batch, ["tryon", "text"]).latents.shape == (2, 4, 8, 8, 6)  # type: ignore[union-attr]


def test_damaged_persons_have_no_latents(persons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample whose mask is damaged has no latents, and counts as damaged in training."""
    raw = ShardSource(persons / "tryon-train")
    broken = raw.read(2).key

    class Broken(ShardSource):
        def read(self, number: int) -> Any:
            found = super().read(number)
            return found if found.key != broken else type(found)(broken, {**found.fields, "mask.png": b"no picture"})

    monkeypatch.setattr("unifashion_pl.data.make_features.ShardSource", Broken)
    with pytest.warns(UserWarning, match=f"damaged sample 1 of at most 1: {broken}: mask"):
        kept = made(persons / "tryon-train", editor().diffusion_head.vae, tmp_path, max_bad=1)  # type: ignore[union-attr]
    with pytest.raises(DamagedSample, match="it was damaged when the features were made"):
        kept.read(2)
    assert kept.read(1).features


def test_other_renderings_of_body_and_sketch_than_those_kept_are_refused_or_encoded(persons: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"latents are of in-shop sketches and DensePose .*'worn', pose is 'densepose'"):
        MGDDataModule(shards=persons, sketch="worn", latents=True)
    kept = made(persons / "tryon-train", editor().diffusion_head.vae, tmp_path / "tryon-train")  # type: ignore[union-attr]
    sizes = (EncoderTransform(32), (32, 24))
    raw = kept.read(0)
    raw.fields["pose.json"] = b'{"format":"coco18","size":[64,48],"points":' + json.dumps([[9.0, 9.0]] * 18).encode() + b"}"
    usual, drawn = (
        MGDAssembler(*sizes, paired=True, pose=pose).sample(raw, Draw(0, 0), "x") for pose in ("densepose", "skeleton")
    )
    assert usual.latents is not None
    assert drawn.pose is not None
    assert drawn.latents is None


def test_another_autoencoder_size_or_data_is_refused(repeated: Path, pair_shards: Path, tmp_path: Path) -> None:
    vae = head_of().vae
    kept = made(repeated, vae, tmp_path)
    kept.check(Posteriors(vae), PIXELS)
    with pytest.raises(
        ValueError, match=r"holds the latents of another autoencoder or transform: weights was .*unifashion data latents"
    ):
        kept.check(Posteriors(head_of(1).vae), PIXELS)
    with pytest.raises(ValueError, match=r"transform was .*size=\(32, 24\)"):
        kept.check(Posteriors(vae), PixelTransform((32, 32)))
    with pytest.raises(ValueError, match="latents of other shards"):
        LatentSource(ShardSource(pair_shards / "pairs-train"), tmp_path)
    with pytest.raises(FileNotFoundError, match="no latents in .*make them with `unifashion data latents"):
        LatentSource(ShardSource(repeated), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="features are made for training shards of pairs, triplets, tryon$"):
        made(pair_shards / "pairs-validation", vae, tmp_path / "x")


def test_pictures_and_posteriors_are_not_mixed_in_one_batch(pair_shards: Path, tmp_path: Path) -> None:
    kept = made(pair_shards / "pairs-train", head_of().vae, tmp_path)
    parts = [TrainLoader(source, PairAssembler(ENCODER, PIXELS), batch_size=4) for source in (kept, kept.source)]
    with pytest.raises(ValueError, match="one batch cannot mix pixels and cached latents.*`unifashion data latents`"):
        MixedPairLoader(parts)


def test_heads_that_paint_another_size_say_so(frozen: QFormerBackbone) -> None:
    head = head_of()
    batch = triplet_batch(pixels=torch.zeros(4, 8, 16, 16))
    with pytest.raises(ValueError, match=r"paints \(32, 24\) and the batch's pixels are \(64, 64\)"):
        head.losses(frozen, batch, frozen.encode(batch))


def test_the_command_makes_what_the_datamodule_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the shipped model, for training shards alone; the trainer's model is compared."""
    write_fashioniq(tmp_path / "raw", train=2, val=2)
    FashionIQDataModule(tmp_path / "raw", tmp_path / "shards").prepare_data()
    main(["data", "latents", "--shards", str(tmp_path / "shards"), "--dtype", "fp32", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "gallery-val: fashioniq/val (gallery) is left out, because it is read as pixels" in out
    assert str(tmp_path / "shards/triplets-train/latents/index.json") in out
    assert [folder.name for folder in shard_folders(tmp_path / "shards")] == ["gallery-val", "queries-val", "triplets-train"]
    head = UniFashionModule.from_pretrained("tiny").diffusion_head
    assert head is not None
    options: dict[str, Any] = {"image_size": 64, "batch_size": 2, "pixel_size": head.size}
    data = FashionIQDataModule(shards=tmp_path / "shards", latents=True, **options)
    data.trainer = _trainer(head)
    loader = data.train_loader()
    assert isinstance(loader.source, LatentSource)
    pixels = next(iter(loader)).pixels
    assert head.vae.size_of(pixels) == head.size
    truth = next(iter(FashionIQDataModule(shards=tmp_path / "shards", **options).train_loader())).pixels
    torch.testing.assert_close(pixels, head.vae.moments(truth), rtol=1e-4, atol=1e-4)
    data.trainer = _trainer(head_of())
    with pytest.raises(ValueError, match="latents of another autoencoder"):
        data.train_loader()


def _trainer(head: nn.Module) -> Any:
    """What a DataModule asks a trainer for."""

    class Trainer:
        global_rank, world_size = 0, 1
        lightning_module = type("Model", (), {"diffusion_head": head})

    return Trainer()
