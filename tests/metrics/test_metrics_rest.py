"""Records, intervals, leak guards and image metrics."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from unifashion_pl.metrics import image_nets, leaks
from unifashion_pl.metrics.images import (
    ImageDistances,
    MeanImageScore,
    clip_s,
    frechet_distance,
    kernel_distance,
    resize,
    ssim,
)
from unifashion_pl.metrics.intervals import (
    bootstrap_interval,
    cluster_standard_error,
    compare_paired,
    exact_mcnemar,
    resampled_means,
    seed_summary,
    student_cdf,
    student_quantile,
    wilson_interval,
)
from unifashion_pl.metrics.records import Interval, ResultRecord, read_records, write_records


class TestRecords:
    def test_fields_and_round_trip(self, tmp_path):
        fields = "metric value unit n n_expected protocol interval ties dropped seed data_hash weights_hash "
        fields += "implementation code_version commit wall_seconds dataset weights"
        record = ResultRecord(
            "mean/R@10", 53.7, "percent", 2009, "p", 2017, Interval(51.5, 55.9, 0.95, "wilson"), 3, {"bad jpg": 8}
        )
        assert set(record.to_dict()) == set(fields.split())
        assert ResultRecord.from_json(record.to_json()) == record
        other = ResultRecord("METEOR", None, "raw", 4, "coco").with_context(seed=1, code_version="0.1.0")
        write_records(tmp_path / "results.json", [record, other])
        assert read_records(tmp_path / "results.json") == [record, other]
        write_records(tmp_path / "results.json", [])
        assert read_records(tmp_path / "results.json") == []

    def test_bad_records_are_refused(self):
        with pytest.raises(ValueError, match="finite number or None"):
            ResultRecord("FID", math.nan, "raw", 1, "p")
        with pytest.raises(ValueError, match="unit of FID"):
            ResultRecord("FID", 1.0, "points", 1, "p")
        with pytest.raises(ValueError, match="unknown fields: colour"):
            ResultRecord.from_dict({**ResultRecord("FID", 1.0, "raw", 1, "p").to_dict(), "colour": 1})
        with pytest.raises(ValueError, match="result record: Object missing required field `value`"):
            ResultRecord.from_dict({"metric": "FID", "unit": "raw", "protocol": "p"})


class TestIntervals:
    def test_worked_examples(self, examples):
        for case in examples["wilson"]:
            interval = wilson_interval(case["k"], case["n"])
            assert [interval.low, interval.high] == pytest.approx(case["interval"], abs=1e-6)
        for case in examples["mcnemar"]:
            assert exact_mcnemar(case["only_a"], case["only_b"]) == pytest.approx(case["p"], abs=1e-6)
        case = examples["cluster_se"]
        assert cluster_standard_error(case["hits"], case["clusters"]) == pytest.approx(case["p_and_se"], abs=1e-6)
        assert cluster_standard_error(case["hits"]) == pytest.approx(case["p_and_se_without_clusters"], abs=1e-6)
        case = examples["seeds"]
        found = seed_summary(case["values"])
        expected = [case[k] for k in ("mean", "sd", "half_mean", "half_new_run")]
        assert [found.mean, found.sd, found.half_mean, found.half_new_run] == pytest.approx(expected, abs=1e-6)

    def test_student_distribution_equals_scipy(self):
        stats = pytest.importorskip("scipy.stats")
        for df in (1, 2, 3, 4, 5, 9, 30):
            for t in (-2.5, 0.0, 0.3, 1.7, 12.0):
                assert student_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-12)
            assert student_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9)

    @pytest.mark.parametrize("clustered", [False, True])
    def test_bootstrap_agrees_with_the_analytic_error(self, clustered):
        generator = np.random.default_rng(0)
        clusters = generator.integers(0, 150, 600).tolist() if clustered else None
        level = generator.uniform(0, 1, 150)
        chance = [level[c] for c in clusters] if clusters is not None else 0.4
        hits = generator.uniform(size=600) < chance
        p, error = cluster_standard_error(hits, clusters)
        draws = resampled_means(hits, clusters)[:, 0]
        assert draws.mean() == pytest.approx(p, abs=0.2 * error)
        assert draws.std() == pytest.approx(error, rel=0.08)
        interval = bootstrap_interval(hits, clusters)
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)

    def test_paired_comparison(self):
        generator = np.random.default_rng(1)
        a, b = generator.uniform(size=400) < 0.6, generator.uniform(size=400) < 0.5
        strata = ["x"] * 100 + ["y"] * 300
        found = compare_paired(a, b, strata=strata)
        assert found.difference == pytest.approx(((a[:100] * 1.0 - b[:100]).mean() + (a[100:] * 1.0 - b[100:]).mean()) / 2)
        assert found.interval.low < found.difference < found.interval.high
        assert (found.only_a, found.only_b) == (int((a & ~b).sum()), int((b & ~a).sum()))
        assert compare_paired(a, a).p_value == 1.0
        with pytest.raises(ValueError, match="same queries"):
            compare_paired(a, b[:-1])

    def test_refusals(self):
        for arguments in ((1, 0), (5, 4), (-1, 4)):
            with pytest.raises(ValueError, match="0 <= hits <= n"):
                wilson_interval(*arguments)
        with pytest.raises(ValueError, match="at least 2 runs"):
            seed_summary([1.0])
        with pytest.raises(ValueError, match="two clusters"):
            cluster_standard_error([1, 0], ["x", "x"])


class TestLeaks:
    def test_bm25(self, examples):
        case = examples["bm25"]
        assert leaks.bm25_scores(case["docs"], case["queries"]).tolist() == [
            pytest.approx(row, abs=1e-6) for row in case["scores"]
        ]
        assert leaks.bm25_scores(["", ""], ["red"]).tolist() == [[0.0, 0.0]]

    def test_floor(self):
        captions = {"dress": {"a": "a red dress", "b": "a blue dress", "c": "a blue coat"}}
        queries = [leaks.TextQuery("dress", "a", "is red"), leaks.TextQuery("dress", "b", "is blue")]
        values = leaks.text_only_floor(queries, captions, ks=(1, 2))
        assert values["dress/R@1"] == 50.0
        assert values["dress/R@2"] == values["mean/R@2"] == 100.0
        with pytest.raises(ValueError, match="targets without a caption: z"):
            leaks.text_only_floor([leaks.TextQuery("dress", "z", "red")], captions)

    def test_audit(self, examples):
        case = examples["audit"]
        found = leaks.caption_audit(case["captions"], case["is_target"])
        assert found.auc == pytest.approx(case["auc"], abs=1e-6)
        assert found.verdict == "refuse"
        ties = examples["auc_ties"]
        assert leaks.auc(ties["scores"], ties["labels"]) == pytest.approx(ties["auc"], abs=1e-6)
        with pytest.raises(ValueError, match="both classes"):
            leaks.auc([1.0, 2.0], [1, 1])

    def test_audit_of_blind_captions_is_quiet(self):
        generator = np.random.default_rng(0)
        words = ["red", "blue", "long", "short", "dress", "coat", "lace", "silk", "plain", "striped"]
        captions = [" ".join(generator.choice(words, 5)) for _ in range(600)]
        found = leaks.caption_audit(captions, (generator.uniform(size=600) < 0.4).tolist())
        assert (found.verdict, found.control) == ("ok", pytest.approx(0.5, abs=0.04))

    def test_provenance(self):
        good = {
            "image": "a",
            "caption": "a red dress",
            "captioner": "model",
            "weights_hash": "0f",
            "template": "describe",
            "decoding": {"beams": 1},
            "inputs": ["image", "category", "keywords"],
            "keywords_split": "train",
        }
        assert leaks.check_provenance([good], ["a"]) is None
        released = {"image": "a", "caption": "a red dress", "text_guidance": "is red"}
        for bad, reason in (
            (released, "text_guidance is not empty"),
            ({**good, "inputs": ["image", "query"]}, "made from query"),
            ({**good, "keywords_split": "val"}, "keywords of split 'val'"),
            ({**good, "weights_hash": ""}, "no weights_hash"),
            ({**good, "image": "b"}, "not in the gallery"),
        ):
            with pytest.raises(leaks.LeakError, match=reason):
                leaks.check_provenance([bad], ["a"])
            assert reason in leaks.check_provenance([bad], ["a"], allow_unsafe=True)


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
        with pytest.raises(ValueError, match="expected one of clean"):
            resize(flat, "bilinear")

    def test_legacy_resize_has_no_half_pixel_shift(self):
        ramp = torch.arange(8, dtype=torch.uint8).repeat(8, 1)[None, None].repeat(1, 3, 1, 1) * 16
        assert resize(ramp, "legacy", 4)[0, 0, 0].tolist() == [0, 32, 64, 96]


class Layers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class TestNetworks:
    def test_missing_weights_are_a_clear_sentence(self, tmp_path):
        for build in (image_nets.InceptionFeatures, image_nets.Lpips, image_nets.ClipCosines):
            for path in (None, tmp_path / "nothing.pth"):
                with pytest.raises(image_nets.WeightsMissing, match="needs local weights, nothing is downloaded"):
                    build(path)
        (tmp_path / "x.pth").write_bytes(b"x")
        with pytest.raises(ValueError, match="expected 00"):
            image_nets.local_file(tmp_path / "x.pth", "FID", sha256="00")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_inception_is_entered_behind_its_resize(self, tmp_path):
        torch.jit.script(Scripted()).save(str(tmp_path / "inception.pt"))
        network = image_nets.InceptionFeatures(tmp_path / "inception.pt").train()
        images = torch.full((2, 3, 20, 10), 192, dtype=torch.uint8)
        assert torch.allclose(network(images), torch.full((2, 3), 0.5))
        assert not network.training

    def test_lpips_properties(self, tmp_path):
        torchvision = pytest.importorskip("torchvision")
        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "backbone.pth")
        network = image_nets.Lpips(tmp_path / "backbone.pth", "squeeze")
        a, b = torch.rand(2, 3, 48, 48), torch.rand(2, 3, 48, 48)
        assert network(a, a).tolist() == [0.0, 0.0]
        assert torch.allclose(network(a, b), network(b, a))
        assert torch.allclose(network(a, b)[1:], network(a[1:], b[1:]), atol=1e-6)
        torch.save({}, tmp_path / "empty.pth")
        with pytest.raises(ValueError, match="backbone weights lack features"):
            image_nets.Lpips(tmp_path / "empty.pth", "squeeze")

    def test_clip_cosines_of_a_tiny_local_model(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        part = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "projection_dim": 8,
        }
        config = transformers.CLIPConfig(
            text_config={**part, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
            vision_config={**part, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
        pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[0, 5, 6, 1], [0, 7, 8, 1]])
        seen = image_nets.embedding(model.get_image_features(pixel_values=pixels))
        read = image_nets.embedding(model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)))
        whole = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
        assert torch.allclose(nn.functional.normalize(seen, dim=1), whole.image_embeds, atol=1e-5)
        assert torch.allclose(nn.functional.normalize(read, dim=1), whole.text_embeds, atol=1e-5)
