"""All image scores in one metric, against the functions they are made of and scikit-image's definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unifashion_pl.metrics import ImageScores, frechet_distance, kernel_distance, ssim
from unifashion_pl.metrics.image_nets import WeightsMissing


class Flatten(nn.Module):
    """In the place of the Inception network: mean colours of a 4 x 4 grid."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)


def pictures(n: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def ids(n: int) -> list[str]:
    return [f"i{k:02d}" for k in range(n)]


def with_features() -> ImageScores:
    scores = ImageScores(task="toy_paired", subset_size=20, subsets=5)
    scores.features = Flatten()
    return scores


def test_without_weights_only_ssim_is_computed() -> None:
    made, real = pictures(3, 0), pictures(3, 1)
    scores = ImageScores(task="vitonhd_paired")
    scores.update(ids(3), made, real, ["a", "b", "c"])
    expected = float(ssim(made.float() / 255, real.float() / 255).mean())
    assert scores.compute() == {"FID": None, "KID": None, "CLIP-S": None, "LPIPS": None, "SSIM": pytest.approx(expected)}
    (record,) = scores.records(code_version="x")
    assert (record.metric, record.n, record.protocol, record.code_version) == ("SSIM", 3, "vitonhd_paired/clean", "x")
    told = {r.metric: r.implementation for r in scores.records(absent=True) if r.value is None}
    assert told.keys() == {"FID", "KID", "LPIPS", "CLIP-S"}
    assert "Inception" in (told["FID"] or "")
    assert "image_weights: {clip: …}" in (told["CLIP-S"] or "")


def test_batches_and_repeated_ids_do_not_matter() -> None:
    made, real = pictures(50, 0), pictures(50, 1)
    whole, parts = with_features(), with_features()
    whole.update(ids(50), made, real)
    for start in range(0, 50, 7):
        parts.update(ids(50)[start : start + 7], made[start : start + 7], real[start : start + 7])
    parts.update(ids(2), made[:2], real[:2])
    a, b = whole.compute(), parts.compute()
    assert a.keys() == b.keys()
    assert all(a[k] is None or a[k] == pytest.approx(b[k], rel=1e-5) for k in a)
    network = Flatten()
    assert a["FID"] == pytest.approx(frechet_distance(network(real), network(made)), rel=1e-6)
    assert a["KID"] == pytest.approx(kernel_distance(network(real), network(made), 20, 5, 0), rel=1e-6)
    assert {r.metric: r.n for r in parts.records()} == {"FID": 50, "KID": 50, "SSIM": 50}


def test_unpaired_images_have_distances_but_no_ssim() -> None:
    scores = with_features()
    scores.update(ids(30), pictures(30, 0))
    scores.update_real([f"real{k}" for k in range(40)], pictures(40, 1))
    found = scores.compute()
    assert found["SSIM"] is None
    assert found["FID"] is not None
    scores.reset()
    assert set(scores.compute().values()) == {None}


def test_identical_images_are_perfect_and_noise_is_worse() -> None:
    real = pictures(30, 1)
    same, noisy = with_features(), with_features()
    same.update(ids(30), real, real)
    noisy.update(ids(30), (real.float() * 0.5).to(torch.uint8), real)
    a, b = same.compute(), noisy.compute()
    assert a["SSIM"] == pytest.approx(1.0)
    assert a["FID"] == pytest.approx(0.0, abs=1e-4)
    assert a["FID"] < b["FID"]
    assert a["SSIM"] > b["SSIM"]


def test_lpips_carries_its_network_in_its_name(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "backbone.pth")
    scores = ImageScores(lpips=tmp_path / "backbone.pth", lpips_net="squeeze")
    made = pictures(2, 0).repeat_interleave(2, -1).repeat_interleave(2, -2)
    scores.update(ids(2), made, made)
    assert scores.compute() == {"FID": None, "KID": None, "CLIP-S": None, "LPIPS(squeeze)": 0.0, "SSIM": pytest.approx(1.0)}


@pytest.mark.parametrize("which", ["inception", "lpips", "clip"])
def test_weights_that_are_not_there_are_named(which: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"needs local weights, nothing is downloaded: .*absent does not exist"):
        ImageScores(**{which: tmp_path / "absent"})


@pytest.mark.parametrize(
    ("keys", "made", "real", "texts", "message"),
    [
        (ids(2), pictures(3, 0), None, None, "got 2 ids for images"),
        (ids(3), pictures(3, 0), pictures(2, 0), None, "expected equal shapes"),
        (ids(3), pictures(3, 0), None, ["a"], "got 1 texts for 3 images"),
    ],
)
def test_wrong_numbers_are_refused(
    keys: list[str], made: Tensor, real: Tensor | None, texts: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImageScores().update(keys, made, real, texts)
