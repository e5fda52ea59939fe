"""Distances between sets of images, SSIM, CLIP-S and resizing."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from unifashion_pl.metrics.images import (
    ImageDistances,
    MeanImageScore,
    clip_s,
    frechet_distance,
    kernel_distance,
    resize,
    ssim,
)


class TestDistances:
    def test_worked_examples(self, examples):
        for case in examples["fid"]:
            assert frechet_distance(torch.tensor(case["real"]), torch.tensor(case["fake"])) == pytest.approx(
                case["FID"], abs=1e-5
            )
        for case in examples["kid"]:
            found = kernel_distance(torch.tensor(case["real"]), torch.tensor(case["fake"]))
            assert found == pytest.approx(case["KID"], abs=1e-5)

    def test_frechet_equals_the_matrix_square_root(self):
        linalg = pytest.importorskip("scipy.linalg")
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(40, 6, generator=generator).double(), torch.randn(30, 6, generator=generator).double() * 2 + 1
        root = linalg.sqrtm(np.cov(a.numpy(), rowvar=False) @ np.cov(b.numpy(), rowvar=False)).real
        expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(
            np.cov(a.numpy(), rowvar=False) + np.cov(b.numpy(), rowvar=False) - 2 * root
        )
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)

    def test_singular_covariances_are_fine(self):
        few = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
        assert frechet_distance(few, few + 3) == pytest.approx(9 * 64, rel=1e-6)

    def test_kernel_distance_is_unbiased_and_repeatable(self):
        generator = torch.Generator().manual_seed(0)
        values = [
            kernel_distance(torch.randn(30, 4, generator=generator), torch.randn(30, 4, generator=generator))
            for _ in range(300)
        ]
        assert min(values) < 0 < max(values)
        assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(300)
        a, b = torch.randn(50, 4, generator=generator), torch.randn(40, 4, generator=generator) + 1
        torch.manual_seed(5)
        assert kernel_distance(a, b, subset_size=20) == kernel_distance(a, b, subset_size=20) > 0
        assert kernel_distance(a, b, 20, seed=1) != kernel_distance(a, b, 20, seed=2)
        with pytest.raises(ValueError, match="two images on both sides"):
            kernel_distance(a[:1], b)

    def test_metric_counts_ids_once_and_names_stand_ins(self):
        features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
        metric = ImageDistances("efficientnet-lite0")
        metric.update([f"r{i}" for i in range(12)], features[:12], real=True)
        metric.update([f"g{i}" for i in range(8)], features[12:], real=False)
        metric.update(["g0", "g1"], features[12:14], real=False)
        values = metric.compute()
        assert values["frechet/efficientnet-lite0"] == pytest.approx(frechet_distance(features[:12], features[12:]))
        assert (values["n_real"], values["n_generated"]) == (12, 8)
        assert {r.metric for r in metric.records()} == {"frechet/efficientnet-lite0", "kernel/efficientnet-lite0"}
        assert pickle.loads(pickle.dumps(metric)).compute() == values
        assert ImageDistances().names == ("FID", "KID")
        metric.update(["g9"], torch.full((1, 4), math.nan), real=False)
        with pytest.raises(ValueError, match="features are not finite"):
            metric.compute()


class TestImages:
    def test_ssim(self, examples):
        i = torch.arange(16.0)
        x = (i[:, None] + i) / 30
        y = (x + 0.1 * ((i // 4)[:, None] + i // 4).remainder(2)).clamp(0, 1)
        for name, other in (("x_y", y), ("x_z", 1 - x)):
            for border, key in (("reflected", "all_pixels"), ("cut", "without_border")):
                found = ssim(x[None, None], other[None, None], border)
                assert found.tolist() == pytest.approx([examples["ssim"][name][key]], abs=1e-5)
        with pytest.raises(ValueError, match="expected reflected or cut"):
            ssim(x[None, None], y[None, None], "none")

    def test_clip_s_clamps_the_mean_only(self, examples):
        case = examples["clip_s"]
        assert clip_s(case["cosines"]) == pytest.approx(case["value"])
        assert clip_s([-0.2, -0.1, 0.1]) == 0.0
        metric = MeanImageScore("CLIP-S", clip_s)
        metric.update(["a", "b"], torch.tensor(case["cosines"][:2]))
        metric.update(["b", "c"], torch.tensor(case["cosines"][1:]))
        assert metric.compute() == {"CLIP-S": pytest.approx(case["value"], rel=1e-6), "n": 3.0}
        assert [line["id"] for line in metric.per_image()] == ["a", "b", "c"]

    def test_resize_modes_differ_and_keep_flat_images(self):
        flat = torch.full((1, 3, 40, 30), 77, dtype=torch.uint8)
        stripes = torch.zeros(2, 3, 512, 384, dtype=torch.uint8)
        stripes[:, :, :, ::3] = 255
        made = {mode: resize(stripes, mode) for mode in ("clean", "tm-antialias", "legacy")}
        for mode, pixels in made.items():
            assert pixels.shape == (2, 3, 299, 299)
            assert torch.allclose(resize(flat, mode), torch.tensor(77.0))
            assert 0 <= pixels.min()
            assert pixels.max() <= 255
        near = (made["clean"] - made["tm-antialias"]).abs().mean()
        far = (made["clean"] - made["legacy"]).abs().mean()
        assert 0 < near < far
        with pytest.raises(ValueError, match="known are clean"):
            resize(flat, "bilinear")

    def test_legacy_resize_has_no_half_pixel_shift(self):
        ramp = torch.arange(8, dtype=torch.uint8).repeat(8, 1)[None, None].repeat(1, 3, 1, 1) * 16
        assert resize(ramp, "legacy", 4)[0, 0, 0].tolist() == [0, 32, 64, 96]
