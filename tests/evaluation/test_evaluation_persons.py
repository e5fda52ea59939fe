"""Repainted persons in test: what each variant is given, what is measured, and what of it a report shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from PIL import Image
from small import images, tryon_batch
from torchmetrics.image import StructuralSimilarityIndexMeasure

from unifashion_pl import UniFashionModule
from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.evaluation import Context, Evaluator, Outcome, PersonPart, Setting
from unifashion_pl.evaluation.persons import SCORES, VARIANTS, rows_of, scores, variants_of
from unifashion_pl.inference.prediction import noise_seed
from unifashion_pl.metrics.image_scores import ImageScores
from unifashion_pl.metrics.lines import PersonLine
from unifashion_pl.report.build import build_report
from unifashion_pl.tasks import DiffusionModule
from unifashion_pl.team import Team

NAMES = [variant.name for variant in VARIANTS]


@pytest.fixture(scope="module")
def painter() -> UniFashionModule:
    return small.painter()


def evaluated(painter: UniFashionModule, batches: list[TryOnBatch], most: int | None = None, **settings: Any) -> Outcome:
    part = PersonPart(most, steps=2, **settings).of(batches[0].dataset, Setting())
    for batch in batches:
        part.update(painter, batch)
    return part.finish(context(painter))


def context(model: UniFashionModule) -> Context:
    return Context(Team(False), model, True)


def lines_of(outcome: Outcome) -> list[PersonLine]:
    return [line for line in outcome.lines if isinstance(line, PersonLine)]


def picture(outcome: Outcome, file: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(outcome.files[file])))).movedim(-1, 0)


def test_a_variant_lacks_what_is_withheld_and_nothing_else() -> None:
    sample = tryon_batch()[2]
    rows = rows_of(sample, variants_of(sample))
    assert [v.name for v in variants_of(sample)] == NAMES
    assert rows.has_image.tolist() == rows.has_garment.tolist() == [True, False, True, True, False]
    assert rows.has_photo.tolist() == [True, False, False, False, False]
    text = sample.texts[0]
    assert rows.texts == ["", "", text, "", text]
    assert torch.equal(rows.garments[0], sample.garment_pixels[0])
    assert sample.sketches is not None
    assert torch.equal(rows.garments[2], sample.sketches[0])
    assert all(torch.equal(rows.pixels[i], sample.pixels[0]) and bool(rows.has_pose[i]) for i in range(5))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"paired": False}, ["tryon", "design"]),
        ({"paired": False, "sketches": None}, ["tryon"]),
        ({"paired": False, "texts": [""] * 4}, ["tryon"]),
        ({"sketches": None}, ["tryon", "tryon/garment-withheld", "design/sketch-withheld"]),
        ({"texts": [""] * 4}, ["tryon", "tryon/garment-withheld"]),
    ],
)
def test_variants_follow_what_the_data_has(changes: dict[str, Any], expected: list[str]) -> None:
    assert [v.name for v in variants_of(tryon_batch(**changes))] == expected


@pytest.mark.parametrize("garment_guidance", [1.0, 2.5])
def test_pictures_are_those_of_paint_with_the_same_noise(painter: UniFashionModule, garment_guidance: float) -> None:
    batch = tryon_batch()
    outcome = evaluated(painter, [batch], garment_guidance=garment_guidance)
    protocols = {record.protocol for record in outcome.records}
    assert all((",garment_guidance=2.5," in protocol) == (garment_guidance == 2.5) for protocol in protocols)
    line = next(line for line in lines_of(outcome) if line.id == "v1")
    head = painter.diffusion_head
    assert head is not None
    sample = batch[1]
    rows = rows_of(sample, list(VARIANTS))
    for i, variant in enumerate(VARIANTS):
        row = rows[i]
        queries = painter.backbone.encode(row).queries
        guidance = 1.0 if variant.kind == "tryon" else 5.0
        made = head.paint(
            queries,
            row,
            seeds=[noise_seed(0, "v1")],
            sampler="fast",
            steps=2,
            guidance=guidance,
            garment_guidance=garment_guidance,
        )[0]
        found = picture(outcome, line.made[variant.name].file)
        assert (made.int() - found.int()).abs().max() <= 1, variant.name
    withheld, shown = (picture(outcome, line.made[name].file) for name in NAMES[1::-1])
    assert not torch.equal(withheld, shown)


def test_persons_are_painted_in_batches_and_as_one_by_one(painter: UniFashionModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its own seed; kernels round differently for other numbers of rows, which may show in 1 of 255."""
    batch, counts = tryon_batch(2), list[int]()
    paint = DiffusionModule.paint
    monkeypatch.setattr(
        DiffusionModule, "paint", lambda self, q, rows, **s: counts.append(len(rows)) or paint(self, q, rows, **s)
    )
    together, alone = (evaluated(painter, [batch], batch_size=size) for size in (3, 1))
    assert counts == [3, 1, 3, 3] + [1] * 10
    assert together.files.keys() == alone.files.keys()
    for name in alone.files:
        assert (picture(together, name).int() - picture(alone, name).int()).abs().max() <= 1, name
    assert [line.id for line in lines_of(together)] == [line.id for line in lines_of(alone)]


def test_scores_are_torchmetrics_and_numpys() -> None:
    made, truth = images(1, 32, 1)[0], images(1, 32, 2)[0]
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 5:20, 7:9] = True
    found = scores(made, truth, mask)
    reference = StructuralSimilarityIndexMeasure(data_range=1.0)
    assert found["SSIM"] == pytest.approx(float(reference(made[None] / 255, truth[None] / 255)), abs=1e-5)
    difference = np.abs(made.numpy().astype(int) - truth.numpy().astype(int)).mean(0)
    inside = mask[0].numpy()
    assert found["MAE(repainted)"] == pytest.approx(difference[inside].mean(), rel=1e-5)
    assert found["MAE(kept)"] == pytest.approx(difference[~inside].mean(), rel=1e-5)
    assert scores(truth, truth, mask) == {"SSIM": pytest.approx(1.0), "MAE(repainted)": 0.0, "MAE(kept)": 0.0}


def test_records_are_means_over_persons_whatever_the_batches(painter: UniFashionModule) -> None:
    whole = tryon_batch()
    one = evaluated(painter, [whole])
    split = evaluated(painter, [whole[[3, 1]], whole[0], whole[2]])
    assert [r.metric for r in one.records] == list(SCORES) * len(NAMES)
    for a, b in zip(one.records, split.records):
        assert (a.metric, a.protocol, a.n, a.data_hash) == (b.metric, b.protocol, 4, b.data_hash)
        assert a.value == pytest.approx(b.value, abs=1e-2)
        assert a.interval is not None
        assert a.interval.low <= a.value <= a.interval.high  # type: ignore[operator]
    mean = np.mean([line.made["design"].scores["MAE(repainted)"] for line in lines_of(one)])
    record = next(r for r in one.records if r.protocol.startswith("vitonhd/train/design(") and r.metric == "MAE(repainted)")
    assert record.value == pytest.approx(mean)
    assert record.protocol == "vitonhd/train/design(sampler=fast,steps=2,guidance=5,start=noise,paste_back=off,seed=0)"


def test_unpaired_persons_are_painted_and_not_scored(painter: UniFashionModule) -> None:
    outcome = evaluated(painter, [tryon_batch(paired=False, dataset="vitonhd/test-unpaired")], most=2)
    assert len(outcome.lines) == 2
    assert outcome.records == []
    assert all(set(line.made) == {"tryon", "design"} for line in lines_of(outcome))
    assert all({"worn before", "sketch"} <= set(line.given) for line in lines_of(outcome))


class Means(torch.nn.Module):
    """Stands for the network that FID asks: mean colours."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float().mean((2, 3))


def test_unpaired_persons_are_compared_with_the_photos_as_sets(painter: UniFashionModule) -> None:
    """FID and KID as in Table 3: the real side are the persons' photos, each once; without weights it says what is needed."""
    part = PersonPart(None, steps=2).of("vitonhd/test-unpaired", Setting())
    scores = ImageScores(task="x", subset_size=3, subsets=2)
    scores.features = Means()  # type: ignore[assignment]
    part.scores = {"tryon": scores}
    batch = tryon_batch(paired=False, dataset="vitonhd/test-unpaired", keys=["a__x", "a__y", "b__x", "c__x"])
    part.update(painter, batch)
    records = {record.metric: record for record in part.finish(context(painter)).records}
    real = scores.distances.compute()
    assert (real["n_real"], real["n_generated"]) == (3, 4)
    assert records["FID"].value == pytest.approx(real["FID"])
    assert records["FID"].n == 4
    part.scores = {"tryon": ImageScores(task="x")}
    nothing = {r.metric: r for r in part.finish(context(painter)).records}
    assert nothing["FID"].value is None
    assert nothing["FID"].n == 4
    assert "needs the weights" in (nothing["FID"].implementation or "")


def test_unpaired_design_is_measured_as_in_table_3(painter: UniFashionModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """FID and KID against the persons' photos, CLIP-S against the garment's phrases: of the pictures that are written."""
    asked: dict[str, torch.Tensor] = {}

    class Cosines(torch.nn.Module):
        name = "clip"

        def forward(self, pictures: torch.Tensor, texts: list[str]) -> torch.Tensor:
            asked.update(zip(texts, pictures))
            return torch.full((len(pictures),), 0.3)

    monkeypatch.setattr("unifashion_pl.metrics.image_scores.InceptionFeatures", lambda *_: Means())
    monkeypatch.setattr("unifashion_pl.metrics.image_scores.ClipCosines", lambda *_: Cosines())
    weights = {"inception": "here", "clip": "there"}
    batch = tryon_batch(paired=False, dataset="mgd/test-unpaired-vitonhd", keys=["a__x", "a__y", "b__x", "c__x"])
    batch.pixels[1] = batch.pixels[0]  # one person, twice
    outcome = evaluated(painter, [batch], weights=weights)
    found = {(r.under.family, r.metric): r for r in outcome.records}
    assert set(found) == {
        *((kind, name) for kind in ("tryon", "design") for name in ("FID", "KID", "LPIPS")),
        ("design", "CLIP-S"),
    }
    assert found["design", "CLIP-S"].value == pytest.approx(30.0)
    made = torch.stack([picture(outcome, line.made["design"].file) for line in lines_of(outcome)])
    assert [line.id for line in lines_of(outcome)] == batch.keys
    assert torch.equal(torch.stack([asked[text] for text in batch.texts]), made)
    real = batch.pixels[[0, 2, 3]].double().mean((2, 3)).numpy()
    mine = made.double().mean((2, 3)).numpy()
    cov = [np.cov(rows.T) for rows in (real, mine)]
    cross = np.sqrt(np.clip(np.linalg.eigvals(cov[0] @ cov[1]).real, 0, None)).sum()
    distance = np.square(real.mean(0) - mine.mean(0)).sum() + np.trace(cov[0]) + np.trace(cov[1]) - 2 * cross
    assert found["design", "FID"].value == pytest.approx(distance, rel=1e-3)
    assert found["design", "FID"].protocol.startswith("mgd/test-unpaired-vitonhd/design(sampler=fast,steps=2,start=noise")


@pytest.mark.parametrize("channels", [13, 4])
def test_test_writes_them_and_a_report_shows_them_if_the_model_reads_persons(
    painter: UniFashionModule, tmp_path: Path, channels: int
) -> None:
    whole = painter if channels == 13 else small.painter(4)
    evaluator = Evaluator(max_edits=1, steps=2)
    for stage in ("validation", "test"):
        evaluator.start(stage)  # type: ignore[arg-type]
        evaluator.update(whole, tryon_batch(dataset="vitonhd/test-paired"))
        values = evaluator.finish(tmp_path / "run/test" if stage == "test" else None)
        assert bool(values) == (stage == "test" and channels == 13)
    if channels == 4:
        return
    assert set(values) == {f"vitonhd/{name}/{score}" for name in NAMES for score in SCORES}
    (line,) = [json.loads(x) for x in (tmp_path / "run/test/predictions/edits.jsonl").read_text().splitlines()]
    for file in (*line["given"].values(), *(made["file"] for made in line["made"].values())):
        assert (tmp_path / "run/test/images" / file).is_file()
    html = build_report([tmp_path / "run"], tmp_path / "report.html").read_text()
    assert "Try-on and design" in html
    for words in ("garment withheld", "text withheld", "sketch withheld", "MAE(repainted)", "truth", line["prompt"]):
        assert words in html
    assert "missing from the run folder" not in html
