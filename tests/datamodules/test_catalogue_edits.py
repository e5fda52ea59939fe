"""Composed triplets of a catalogue: on pixels and on features, of one split each, the same for the same seed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from data.rawdata import picture
from small import small_backbone
from unifashion_pl.datamodules import CatalogueEditsDataModule, ComposedCatalogueDataModule

from unifashion_pl.data.make_features import write_features
from unifashion_pl.data.samples import GalleryBatch, PairBatch, QueryBatch, TripletBatch
from unifashion_pl.data.texts import number_of
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.metrics.records import read_records
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule

COLOURS = ("red", "blue", "green")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 rows to train on and 12 of validation: two categories in three colours; a picture differs from all others."""
    lines = ["image,text,category,split,colour,price"]
    for i in range(36):
        category, colour = ("shirt", "dress")[i % 2], COLOURS[i // 2 % 3]
        picture(i, 24, 24).save(tmp_path / f"p{i}.png")
        lines.append(f"p{i}.png,a {colour} {category},{category},{'train' if i < 24 else 'val'},{colour},{i}")
    (tmp_path / "catalogue.csv").write_text("\n".join(lines))
    return tmp_path


def module(root: Path, **options: Any) -> CatalogueEditsDataModule:
    settings = {"batch_size": 6, "eval_batch_size": 5, "image_size": 16, **options}
    return CatalogueEditsDataModule(root / "catalogue.csv", root, **settings)


def epoch(data: CatalogueEditsDataModule, number: int = 0) -> TripletBatch:
    loader = data.train_loader()
    loader.set_epoch(number)
    return TripletBatch.cat(list(loader))


def numbers(pictures: torch.Tensor, data: CatalogueEditsDataModule) -> list[int]:
    """Which picture of the folder each is."""
    known = [data.encoder(torch.from_numpy(np.array(picture(i, 24, 24))).permute(2, 0, 1)) for i in range(36)]
    return [next(i for i, one in enumerate(known) if torch.equal(one, x)) for x in pictures]


def test_triplets_lead_to_the_colour_that_the_text_says(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = module(root)
    batch = epoch(data)
    assert "attributes are colour (3 values); other columns are not: price (36 values)" in capsys.readouterr().err
    assert len(batch) == 24
    assert (batch.dataset, sorted(set(batch.categories))) == ("catalogue-edits/train", ["dress", "shirt"])
    shown, wanted = numbers(batch.references, data), numbers(batch.targets, data)
    assert sorted(shown) == list(range(24))
    for a, b, text, caption, id in zip(shown, wanted, batch.texts, batch.captions, batch.target_ids.tolist()):
        colour, category = COLOURS[b // 2 % 3], ("shirt", "dress")[b % 2]
        assert b < 24
        assert a % 2 == b % 2
        assert COLOURS[a // 2 % 3] != colour
        assert colour in text.lower()
        assert caption == f"a {colour} {category}"
        assert id == number_of(f'["{category}","{colour}"]')


def test_edits_are_drawn_anew_in_every_epoch_and_the_same_for_the_same_seed(root: Path) -> None:
    first, again, later, other = epoch(module(root)), epoch(module(root)), epoch(module(root), 1), epoch(module(root, seed=1))
    assert (first.texts, first.keys) == (again.texts, again.keys)
    assert torch.equal(first.targets, again.targets)
    said = dict(zip(first.keys, first.texts))
    for batch in (later, other):
        assert sum(said[key] != text for key, text in zip(batch.keys, batch.texts)) > 8


def test_queries_of_validation_name_all_that_is_right_in_a_gallery_of_validation(root: Path) -> None:
    gallery, asked = module(root).val_dataloader()
    shelf, queries = GalleryBatch.cat(list(gallery)), QueryBatch.cat(list(asked))
    assert sorted(shelf.keys) == sorted(f"p{i}" for i in range(24, 36))
    assert set(shelf.categories) == set(queries.categories) == {"colour"}
    assert (len(queries), queries.planned, shelf.planned) == (12, {"colour": 12}, {"colour": 12})
    for reference, target, right, text in zip(queries.reference_ids, queries.target_ids, queries.right, queries.texts):
        a, colour = int(reference[1:]), text.removeprefix("In ")
        wanted = {f"p{i}" for i in range(24, 36) if i % 2 == a % 2 and COLOURS[i // 2 % 3] == colour}
        assert target in right
        assert set(right) == wanted
        assert COLOURS[a // 2 % 3] != colour


def test_features_of_the_pairs_serve_triplets_too(root: Path, tmp_path: Path) -> None:
    backbone = small_backbone().eval()
    backbone.vision.requires_grad_(False)
    plain = module(root, image_size=32, shards=tmp_path / "shards")
    plain.prepare_data()
    for split in ("train", "val"):
        write_features(tmp_path / f"shards/pairs-{split}", backbone.vision, workers=0, progress=False)
    cached = module(root, image_size=32, shards=tmp_path / "shards", features=True)
    pixels, kept = epoch(plain), epoch(cached)
    assert pixels.texts == kept.texts
    assert kept.targets.ndim == 3
    for name in ("references", "targets"):
        assert torch.allclose(backbone.vision(getattr(pixels, name)), getattr(kept, name).float(), atol=0.02, rtol=0.02)
    shelf, queries = (next(iter(loader)) for loader in cached.test_dataloader())
    assert (shelf.images.ndim, queries.references.ndim) == (3, 3)
    assert None not in (shelf.shown, queries.shown)


def test_pairs_and_triplets_beside_each_other(root: Path) -> None:
    data = ComposedCatalogueDataModule(
        root / "catalogue.csv", root, batch_size=4, triplet_batch_size=6, image_size=16, epoch_of="triplets"
    )
    batches = next(iter(data.train_dataloader()))[0]
    assert {name: (type(batch), len(batch)) for name, batch in batches.items()} == {
        "pairs": (PairBatch, 4),
        "triplets": (TripletBatch, 6),
    }
    assert [type(next(iter(loader))) for loader in data.val_dataloader()] == [PairBatch, GalleryBatch, QueryBatch]


def test_a_resume_on_other_attributes_is_refused(root: Path) -> None:
    state = module(root).train_loader().state_dict()
    with pytest.raises(ValueError, match="index was .* now it is"):
        module(root, attributes=["price"], changes=1).train_loader().load_state_dict(state)


def test_columns_that_are_not_there_are_told_with_those_that_are(root: Path) -> None:
    with pytest.raises(ValueError, match="attribute column.*fabric.*colour, price"):
        module(root, attributes=["fabric"]).train_loader()


def test_a_training_teaches_to_compose_and_the_test_says_under_which_protocol(root: Path, tmp_path: Path) -> None:
    data = ComposedCatalogueDataModule(root / "catalogue.csv", root, batch_size=12, image_size=32, epoch_of="triplets")
    torch.manual_seed(0)
    evaluator = Evaluator(shown=0, measures=["nDCG@5"])
    model = UniFashionModule(
        small_backbone(),
        RetrievalModule(hidden_size=32, embed_dim=16, multi_positive=True),
        policy="phase2_composed",
        evaluator=evaluator,
    )
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path / "run",
    )  # fmt: skip
    model.learned = frozenset({"retrieval"})
    trainer.fit(model, datamodule=data)
    assert model.learned == {"retrieval", "composed"}
    trainer.test(model, datamodule=data, verbose=False)
    records = [r for r in read_records(tmp_path / "run/test/results.json") if r.dataset == "catalogue-edits/val"]
    under = "fashioniq/original/ref-kept/image(score=itc,text=and,right=any)"
    found = {r.metric: r for r in records if r.protocol == under}
    assert {"colour/R@10", "colour/nDCG@5"} <= found.keys()
    assert (found["colour/R@10"].n, found["colour/R@10"].n_expected, found["colour/R@10"].weights) == (12, 12, None)
    (chance,) = [r for r in records if r.metric == "colour/R@10" and r.under.chance and r.under.gallery == "original"]
    assert chance.value == pytest.approx(100 * (1 - math.comb(10, 10) / math.comb(12, 10)))  # two right ones of twelve
