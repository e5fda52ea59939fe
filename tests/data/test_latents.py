"""Cached posteriors of an autoencoder: the losses that pictures give, drawn anew at each step; refused for any other autoencoder or size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from data.rawdata import features_of, write_fashioniq
from small import UNET, VAE, pair_batch, triplet_batch
from torch import nn
from unifashion_pl.datamodules import FashionIQDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.cli import main
from unifashion_pl.data import assemble
from unifashion_pl.data.assemble import PairAssembler, TripletAssembler
from unifashion_pl.data.latents import PAINTED, LatentSource, Posteriors
from unifashion_pl.data.make_features import shard_folders, write_features
from unifashion_pl.data.mixing import MixedPairLoader
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform
from unifashion_pl.generation import Denoiser, ImageVAE
from unifashion_pl.tasks import DiffusionModule

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
    with pytest.raises(ValueError, match="features are made for training shards of pairs, triplets$"):
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
