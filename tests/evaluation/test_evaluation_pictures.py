"""Generated images beside the truth."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import small
import torch
from PIL import Image
from small import images, pair_batch
from torchvision.transforms.functional import pil_to_tensor

from unifashion_pl.evaluation import Context, ImagePart, Setting
from unifashion_pl.metrics.images import ssim
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import read_records
from unifashion_pl.tasks import DiffusionModule
from unifashion_pl.team import Team


def test_reconstructions_are_scored_against_the_written_truth(tested: tuple[Path, dict[str, float]]) -> None:
    out, values = tested
    lines = [x for x in read_lines(out / "predictions/images.jsonl") if x["kind"] == "reconstruction"]
    made, truth = (
        torch.stack([pil_to_tensor(Image.open(out / "images" / name)) for name in names]).float() / 255
        for names in ([x["files"][0] for x in lines], [x["truth"] for x in lines])
    )
    (record,) = [r for r in read_records(out / "results.json") if r.metric == "SSIM"]
    assert record.n == len(lines) == 2
    assert record.value == pytest.approx(float(ssim(made, truth).mean()), abs=1e-6)
    assert values["fashiongen/image/SSIM"] == record.value


def test_pictures_are_painted_in_batches_and_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and seeds together; a sample is encoded once for all of its seeds."""
    model, batch, counts = small.painter(4), pair_batch(2, pixels=images(2, 32)[..., :24]), list[int]()
    generate = DiffusionModule.generate
    monkeypatch.setattr(
        DiffusionModule, "generate", lambda self, q, texts, **s: counts.append(len(texts)) or generate(self, q, texts, **s)
    )
    encoded: list[int] = []
    tower = model.backbone.image_features
    monkeypatch.setattr(model.backbone, "image_features", lambda x: (encoded.append(len(x)), tower(x))[1])
    made = []
    for size in (3, 1):
        part = ImagePart(2, seeds=(0, 5), steps=2, batch_size=size).of(batch.dataset, Setting(stage="test"))
        part.update(model, batch)
        made.append(part.finish(Context(Team(False), model, True)))
    assert counts == [3, 1] + [1] * 4
    assert encoded == [1] * 4
    together, alone = ({n: pil_to_tensor(Image.open(io.BytesIO(f))).int() for n, f in one.files.items()} for one in made)
    assert len(together) == 6
    assert together.keys() == alone.keys()
    assert all((together[name] - alone[name]).abs().max() <= 1 for name in alone)
    assert len({together[name].numpy().tobytes() for name in together}) == 6
