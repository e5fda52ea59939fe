"""Generated images beside the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from unifashion_pl.metrics.images import ssim
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import read_records


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
