"""Several streams of pairs in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import small_backbone

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.features import FeatureSource
from unifashion_pl.data.make_features import write_features
from unifashion_pl.data.mixing import MixedPairLoader
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.transforms import EncoderTransform

SIZE = 32


@pytest.fixture
def frozen() -> QFormerBackbone:
    """A backbone whose tower is frozen and in eval mode, as in phase 2."""
    backbone = small_backbone()
    backbone.vision.requires_grad_(False)
    backbone.vision.eval()
    return backbone


def made(folder: Path, backbone: QFormerBackbone, out: Path, **options: Any) -> FeatureSource:
    write_features(folder, backbone.vision, out=out, progress=False, **options)
    return FeatureSource(ShardSource(folder), out)


def test_one_batch_cannot_mix_pixels_and_features(pair_shards: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    cached = made(pair_shards / "pairs-train", frozen, tmp_path)
    assembler = PairAssembler(EncoderTransform(SIZE))
    loaders = [TrainLoader(source, assembler, batch_size=3) for source in (cached, cached.source)]
    with pytest.raises(ValueError, match=r"cannot mix pixels and cached vision features.*fashiongen/train: pixels"):
        MixedPairLoader(loaders)
    batch = next(iter(MixedPairLoader([loaders[0], TrainLoader(cached, assembler, batch_size=2)])))
    assert batch.images.shape == (5, cached.found.identity.tokens, 16)
