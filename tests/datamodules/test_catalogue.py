from __future__ import annotations

import shutil
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from data.rawdata import jpeg, write_catalogue
from PIL import Image
from readers import DAMAGES, check, content, keys, lost, odd_pictures, on_rank, split_of
from unifashion_pl.datamodules import CatalogueDataModule, catalogue
from unifashion_pl.datamodules.catalogue import CatalogueRow, read_catalogue, split_rows
from unifashion_pl.datamodules.checks_text import report_text

from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.data.reader import DamagedSample
from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.shards import write_shards
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.inference.images import open_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 rows of 10 products; 16 fall to training, 4 to validation; the checks find it complete."""
    return write_catalogue(tmp_path / "mine")


def module(root: Path, **options: Any) -> CatalogueDataModule:
    settings = {"batch_size": 4, "eval_batch_size": 3, "image_size": 16, **options}
    return CatalogueDataModule(root / "catalogue.csv", root, **settings)


def rewrite(root: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """Another CSV, with as many pictures as it has lines: 0.jpg, 1.jpg and so on."""
    root.mkdir(exist_ok=True)
    for number in range(len(lines) - 1):
        (root / f"{number}.jpg").write_bytes(jpeg(number))
    path = root / "catalogue.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


# bad files


def test_absent_files_are_named(root: Path, tmp_path: Path) -> None:
    assert check("catalogue", root).complete
    with pytest.raises(FileNotFoundError, match=r"no CSV file .*no\.csv"):
        read_catalogue(tmp_path / "no.csv", root)
    with pytest.raises(FileNotFoundError, match=r"no folder of images .*pictures"):
        read_catalogue(root / "catalogue.csv", tmp_path / "pictures")
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        CatalogueDataModule(root / "catalogue.csv", tmp_path / "pictures").train_dataloader()
    assert str(check("catalogue", tmp_path / "no").problem).endswith("no: the folder does not exist")
    (tmp_path / "empty").mkdir()
    assert "expected catalogue.csv or a single .csv, found none" in str(check("catalogue", tmp_path / "empty").problem)
    (root / "catalogue.csv").rename(root / "a.csv")
    assert check("catalogue", root).complete
    shutil.copy(root / "a.csv", root / "b.csv")
    assert "expected catalogue.csv or a single .csv, found a.csv, b.csv" in str(check("catalogue", root).problem)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "catalogue.csv is empty; expected a header with a column image"),
        (("image,text",), "catalogue.csv has a header but no rows"),
        (
            ("photo,text", "0.jpg,red"),
            "has the columns photo, text; expected one called image .*--columns image=YOURS, in Python columns={'image': ...}",
        ),
        (("image,text", "0.jpg,red", ",blue"), r"catalogue.csv:3: no image"),
        (("image,text", '0.jpg,"red', 'dress"', ",blue"), r"catalogue.csv:4: no image"),
        (("text,image", "red", "blue,1.jpg"), r"catalogue.csv:2: 1 cells, but the header has 2: nothing stands for image"),
        (("image,text", "0.jpg,red, long dress"), r"catalogue.csv:2: 3 cells, but the header has 2: 'long dress' is .*quotes"),
        (("image,text,id", "0.jpg,red,7", "1.jpg,blue, 7 "), r"ids occur more than once: 7 \(lines 2, 3\)$"),
        (("image,text", "a/0.jpg,red", "b/0.jpg,blue"), r"more than once: 0 \(lines 2, 3\); give the rows a column id"),
    ],
)
def test_wrong_csv_files_are_refused_by_name(root: Path, lines: tuple[str, ...], message: str) -> None:
    rewrite(root, *lines)
    for read in (lambda: read_catalogue(root / "catalogue.csv", root), lambda: module(root).train_dataloader()):
        with pytest.raises(ValueError, match=message):
            read()
    with pytest.raises(ValueError, match=message):
        check("catalogue", root)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_refused_by_name(root: Path, encoding: str) -> None:
    rewrite(root, "image,text", "0.jpg,Café", encoding=encoding)
    with pytest.raises(ValueError, match="(catalogue.csv is|catalogue.csv:2:) not UTF-8 text.*ave it as UTF-8"):
        read_catalogue(root / "catalogue.csv", root)


def test_images_outside_the_folder_are_refused(root: Path) -> None:
    rewrite(root, "image,text", "/elsewhere/0.jpg,red")
    with pytest.raises(ValueError, match=f"/elsewhere/0.jpg.*{root}"):
        module(root).train_dataloader()


def test_a_byte_order_mark_is_no_part_of_the_first_column(root: Path) -> None:
    rewrite(root, "image,text", "0.jpg,Café", encoding="utf-8-sig")
    (row,) = read_catalogue(root / "catalogue.csv", root)
    assert (row.image, row.text, row.id) == (root / "0.jpg", "Café", "0")


def test_columns_are_recognised_by_several_names_or_named(root: Path) -> None:
    rewrite(root, " Filename ,Title,caption,SKU,product_id,Category,dataset", "0.jpg,Dress,Red.,7,p,tops,train")
    expected = CatalogueRow("7", root / "0.jpg", "Red.", "Dress", "tops", "tops", "p", "")
    assert read_catalogue(root / "catalogue.csv", root) == [expected]
    (row,) = read_catalogue(root / "catalogue.csv", root, {"text": "Title", "split": "dataset"})
    assert (row.text, row.split) == ("Dress", "train")
    with pytest.raises(ValueError, match="has no column 'label'; it has Filename, Title"):
        read_catalogue(root / "catalogue.csv", root, {"text": "label"})
    with pytest.raises(ValueError, match="unknown entries in columns: colour; known are image, text"):
        module(root, columns={"colour": "Title"}).train_dataloader()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_image_is_reported(root: Path, tmp_path: Path, damage: str) -> None:
    ids = {plan.split: [item.spec.meta["id"] for item in plan.items] for plan in catalogue.plans(root)}
    bad = ids["val"][0]
    spoil, reason = DAMAGES[damage]
    spoil(root / f"photos/{bad}.jpg")
    report = check("catalogue", root)
    found = split_of(report, "catalogue/val")
    assert (report.complete, found.expected, found.usable) == (False, 4, 3)
    assert lost(found) == {(bad, "image", reason, 1)}
    assert f"image {bad}: {reason}" in report_text(report)
    for plan in catalogue.plans(root):
        index = ShardIndex.load(write_shards(plan, tmp_path / "out", allow_missing=True, progress=False))
        assert [(m["id"], m["reason"]) for m in index.missing] == ([(bad, reason)] if plan.split == "val" else [])
    if damage == "missing":
        with pytest.raises(MissingDataError, match=rf"1 of 20 images .* are not in .*: photos/{bad}.jpg. Mend the CSV or pass"):
            module(root).val_dataloader()
    else:
        with pytest.raises(DamagedSample) as caught:
            keys(module(root).val_dataloader()[0])
        assert str(caught.value) == f"{bad}: image: {reason}"
    with pytest.raises(MissingDataError):
        module(root, shards=tmp_path / "shards").prepare_data()


def test_a_broken_image_stops_training_unless_it_is_allowed(root: Path) -> None:
    bad = next(plan.items[0].spec.meta["id"] for plan in catalogue.plans(root) if plan.split == "train")
    (root / f"photos/{bad}.jpg").write_bytes(b"")
    with pytest.raises(
        RuntimeError, match=f"catalogue/train: 1 damaged samples, allowed are max_bad=0: {bad}: image: empty file"
    ):
        keys(module(root).train_loader())
    with pytest.warns(UserWarning, match=f"damaged sample 1 of at most 1: {bad}: image: empty file"):
        seen = keys(module(root, max_bad=1).train_loader())
    assert len(seen) == 16
    assert bad not in seen


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "PPM", "ICO", "TGA", "MPO", "damaged EXIF"])
@pytest.mark.parametrize("through_shards", [False, True])
def test_what_search_reads_training_and_shards_read_too(root: Path, tmp_path: Path, kind: str, through_shards: bool) -> None:
    odd = next(plan.items[0].spec.meta["id"] for plan in catalogue.plans(root) if plan.split == "train")
    path = root / f"photos/{odd}.jpg"
    data = jpeg(3, 64, 64)
    if kind != "damaged EXIF":
        try:
            data = content(Image.open(BytesIO(data)), kind)
        except (OSError, KeyError):
            pytest.skip(f"Pillow was built without {kind}")
    else:
        data = data[:2] + b"\xff\xe1\x00\x10Exif\0\0garbage!" + data[2:]
    path.write_bytes(data)
    expected = EncoderTransform(16)(open_image(path))
    options = {"shards": tmp_path / "shards"} if through_shards else {}
    data_module = module(root, batch_size=1, image_size=16, **options)
    data_module.prepare_data()
    images = {batch.keys[0]: batch.images[0] for batch in data_module.train_loader()}
    assert images[odd].equal(expected)


@pytest.mark.parametrize("through_shards", [False, True])
def test_missing_images_are_left_out_only_when_asked_and_never_silently(
    root: Path, tmp_path: Path, through_shards: bool
) -> None:
    ids = {plan.split: sorted(item.spec.meta["id"] for item in plan.items) for plan in catalogue.plans(root)}
    gone = [ids["train"][0], ids["val"][0]]
    for id in gone:
        (root / f"photos/{id}.jpg").unlink()
    options = {"shards": tmp_path / "shards"} if through_shards else {}
    with pytest.raises(MissingDataError, match="2 of 20 images .*allow_missing=True"):
        module(root, **options).train_dataloader()
    data = module(root, allow_missing=True, batch_size=1, **options)
    with pytest.warns(UserWarning, match="2 of 20 images .*photos/item.*They are left out"):
        data.splits()
    data.prepare_data()
    train, (val,) = data.train_loader(), data.val_dataloader()
    assert sorted(keys(train)) == ids["train"][1:]
    assert sorted(keys(val)) == ids["val"][1:]
    for plan in data.splits().values():
        assert any(note.startswith("2 of 20 rows have no image file and are left out: photos/item") for note in plan.notes)
    if through_shards:
        assert list(data.splits()["val"].notes) == ShardIndex.load(tmp_path / "shards/pairs-val").notes


def test_nothing_left_is_an_error(root: Path) -> None:
    shutil.rmtree(root / "photos")
    with (
        pytest.warns(UserWarning, match="20 of 20 images"),
        pytest.raises(MissingDataError, match="has rows for none of train, val, test, only for nothing"),
    ):
        module(root, allow_missing=True).train_dataloader()


def test_rows_without_a_text_are_counted_and_empty(root: Path) -> None:
    rewrite(root, "image,text,title,split", "0.jpg,,,val", "1.jpg, ,Dress,val", "2.jpg,Red.,,val", "3.jpg,Red.,Dress,val")
    report = check("catalogue", root)
    assert report.complete
    assert report.notes == ["1 rows have no text"]
    (batch,) = module(root, eval_batch_size=9).val_dataloader()[0]
    assert batch.texts == ["", "Dress", "Red.", "Dress. Red."]
    assert batch.captions == ["", "", "Red.", "Red."]


def test_images_of_which_nothing_is_said_are_not_trained_on(root: Path) -> None:
    rewrite(root, "image,text,title,split", "0.jpg,,,train", "1.jpg, ,Dress,train", "2.jpg,Red.,,train", "3.jpg,Blue.,,val")
    with pytest.warns(UserWarning, match="1 of 3 training images have no text and are left out"):
        loader = module(root, batch_size=2).train_loader()
    assert sorted(text for batch in loader for text in batch.texts) == ["Dress", "Red."]
    rewrite(root, "image,text,title,split", "0.jpg,,,train", "1.jpg, ,,train", "2.jpg,Red.,,val")
    with pytest.raises(MissingDataError, match="says nothing of any of its 2 training images"):
        module(root).train_loader()


@pytest.mark.parametrize("through_shards", [False, True])
def test_images_in_every_mode_become_rgb(tmp_path: Path, through_shards: bool) -> None:
    root, pictures = tmp_path / "mine", odd_pictures((40, 40))
    rewrite(root, "image,split", *(f"{i}.jpg,val" for i in range(len(pictures))))
    for number, (data, _) in enumerate(pictures.values()):
        (root / f"{number}.jpg").write_bytes(data)
    assert check("catalogue", root).complete
    options = {"shards": tmp_path / "shards"} if through_shards else {}
    data_module = module(root, eval_batch_size=len(pictures), **options)
    data_module.prepare_data()
    (batch,) = data_module.val_dataloader()[0]
    for image, (mode, (_, colour)) in zip(batch.images, pictures.items()):
        assert image.float().mean((1, 2)).tolist() == pytest.approx(colour, abs=3), mode


# splits


def test_words_for_splits(root: Path) -> None:
    words = ["train", "Training", " val ", "validation", "valid", "DEV", "test", "holdout", "holdout"]
    rewrite(root, "image,split", *(f"{i}.jpg,{word}" for i, word in enumerate(words)))
    parts = split_rows(read_catalogue(root / "catalogue.csv", root), 0.1)
    assert {s: [r.id for r in rows] for s, rows in parts.items()} == {
        "train": ["0", "1"],
        "val": ["2", "3", "4", "5"],
        "test": ["6"],
        "holdout": ["7", "8"],
    }
    report = check("catalogue", root)
    assert [(s.name, s.expected) for s in report.splits] == [
        ("catalogue/train", 2),
        ("catalogue/val", 4),
        ("catalogue/test", 1),
    ]
    assert "2 rows are of other splits, which nothing reads: holdout (2 rows)" in report_text(report)
    data = module(root)
    assert [keys(loader) for loader in data.val_dataloader()] == [["2", "3", "4", "5"]]
    assert [keys(loader) for loader in data.test_dataloader()] == [["6"]]


def test_only_unknown_words_for_splits_are_an_error(root: Path) -> None:
    rewrite(root, "image,split", "0.jpg,trian", "1.jpg,trian")
    message = "has rows for none of train, val, test, only for trian (2 rows)"
    assert message in str(check("catalogue", root).problem)
    with pytest.raises(MissingDataError, match="only for trian"):
        module(root).train_dataloader()


def test_views_of_a_product_stay_together_and_where_they_are() -> None:
    rows = [CatalogueRow(str(i), Path(f"{i}.jpg"), "", "", "", "", f"p{i // 3}", "") for i in range(900)]
    parts = split_rows(rows, 0.2)
    products = {split: {row.product for row in part} for split, part in parts.items()}
    assert not products["train"] & products["val"]
    assert Counter(row.product for part in parts.values() for row in part) == {f"p{i}": 3 for i in range(300)}
    assert 40 <= len(products["val"]) <= 80
    fewer = split_rows(rows[::-1][:600], 0.2)
    assert {row.product for row in fewer["val"]} == products["val"] & {row.product for row in rows[300:]}
    assert {s: len(split_rows(rows, f)[s]) for s, f in (("train", 0.0), ("val", 1.0))} == {"train": 900, "val": 900}


def test_equal_cells_of_a_column_stay_together(root: Path) -> None:
    sheet = rewrite(root.parent / "sent", "image,sender", *(f"{i}.jpg,s{i % 7}" for i in range(70)))
    rows = read_catalogue(sheet, sheet.parent)
    parts = split_rows(rows, 0.3, "sender")
    senders = {split: {row.cells["sender"] for row in part} for split, part in parts.items()}
    assert senders["train"] & senders["val"] == set()
    assert senders["train"] | senders["val"] == {f"s{i}" for i in range(7)}
    with pytest.raises(ValueError, match="group is 'photographer', which no row has; the CSV's columns are sender"):
        split_rows(rows, 0.3, "photographer")


def test_a_product_in_two_splits_is_noted(root: Path) -> None:
    rewrite(root, "image,product,split,text", "0.jpg,a,train,x", "1.jpg,a,val,x", "2.jpg,b,val,x")
    assert check("catalogue", root).notes == ["1 products stand in more than one split: a"]


# what the DataModule delivers


@pytest.mark.parametrize("through_shards", [False, True])
def test_training_batches(root: Path, tmp_path: Path, through_shards: bool) -> None:
    options = {"shards": tmp_path / "shards"} if through_shards else {}
    data = module(root, pixel_size=(24, 20), name="mine", **options)
    data.prepare_data()
    assert (tmp_path / "shards/pairs-train/index.json").is_file() is through_shards
    assert not (root / "shards").exists()
    loader = data.train_dataloader().iterables["pairs"]
    batches = list(loader)
    assert len(batches) == len(loader) == 4
    for batch in batches:
        assert isinstance(batch, PairBatch)
        assert (batch.images.shape, batch.images.dtype) == ((4, 3, 16, 16), torch.uint8)
        assert batch.pixels is not None
        assert (batch.pixels.shape, batch.pixels.dtype) == ((4, 3, 24, 20), torch.uint8)
        assert (batch.products.shape, batch.products.dtype) == ((4,), torch.int64)
        assert batch.styles == ["fashiongen"] * 4
        assert batch.categories == batch.subcategories == ["dress"] * 4
        assert batch.dataset == "mine/train"
        numbers = [int(key.removeprefix("item ")) for key in batch.keys]
        assert batch.texts == batch.captions == [f"A dress, number {n}" for n in numbers]
        for i, a in enumerate(numbers):
            assert [bool(p == batch.products[i]) for p in batch.products] == [n // 2 == a // 2 for n in numbers]


def test_alternating_texts_name_in_odd_epochs_and_equal_texts_are_positives(root: Path) -> None:
    rewrite(root, "image,title,text,split", *(f"{i}.jpg,dress,a {('red', 'blue')[i % 2]} dress,train" for i in range(8)))
    loader = module(root, text="alternate", same="text", batch_size=8).train_loader()
    for epoch, texts in ((0, {"a red dress", "a blue dress"}), (1, {"dress"}), (2, {"a red dress", "a blue dress"})):
        loader.set_epoch(epoch)
        (batch,) = loader
        assert set(batch.texts) == texts
        assert len({int(p) for p in batch.products}) == len(texts)
        equal = [[a == b for b in batch.texts] for a in batch.texts]
        assert (batch.products[:, None] == batch.products[None]).tolist() == equal


@pytest.mark.parametrize("through_shards", [False, True])
def test_captions_in_several_styles_take_turns_and_evaluation_has_one(tmp_path: Path, through_shards: bool) -> None:
    lines = [f"{n}.jpg,dress {n},short {n},{f'long {n}' if n != 3 else ''},{'train' if n < 6 else 'val'}" for n in range(8)]
    root = rewrite(tmp_path / "mine", "image,text,brief,full,split", *lines).parent
    options = {"shards": tmp_path / "shards"} if through_shards else {}
    data = module(root, styles={"fashion200k": "brief", "fashiongen": "full"}, batch_size=3, **options)
    data.prepare_data()
    loader, seen = data.train_loader(), set()
    for epoch in range(8):
        loader.set_epoch(epoch)
        for batch in loader:
            seen |= {*zip(batch.keys, batch.styles, batch.captions)}
    expected = {(str(n), "fashion200k", f"short {n}") for n in range(6)}
    expected |= {(str(n), "fashiongen", f"long {n}") for n in range(6) if n != 3}
    assert seen == expected
    (validation,) = data.eval_loaders("validation")
    found = {(k, s, c) for batch in validation for k, s, c in zip(batch.keys, batch.styles, batch.captions)}
    assert found == {("6", "fashiongen", "long 6"), ("7", "fashiongen", "long 7")}
    with pytest.raises(ValueError, match=r"no captions for the style fashioniq in a column 'said'; its columns are .*brief"):
        module(root, styles={"fashioniq": "said"}).train_loader()


def test_evaluation_reads_the_description_where_texts_alternate(root: Path) -> None:
    rewrite(root, "image,title,text,split", "0.jpg,dress,a red dress,train", "1.jpg,dress,a blue dress,val")
    (loader,) = module(root, text="alternate", flip=1.0).eval_loaders("validate")
    assert [text for batch in loader for text in batch.texts] == ["a blue dress"]


def test_flipped_images_are_mirrored_in_training_alone(root: Path) -> None:
    as_is, half, always = (
        {key: image for batch in loader for key, image in zip(batch.keys, batch.images)}
        for loader in (module(root, flip=flip).train_loader() for flip in (0.0, 0.5, 1.0))
    )
    mirrored = {key: image.flip(-1) for key, image in as_is.items()}
    assert all(torch.equal(always[key], mirrored[key]) for key in as_is)
    turned = [torch.equal(half[key], mirrored[key]) for key in as_is]
    assert 0 < sum(turned) < len(turned)
    assert all(t or torch.equal(half[key], as_is[key]) for t, key in zip(turned, as_is))
    plain, flipped = (module(root, flip=flip).eval_loaders("validate")[0] for flip in (0.0, 1.0))
    assert all(torch.equal(a.images, b.images) for a, b in zip(plain, flipped, strict=True))


def test_a_flip_that_is_no_probability_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="flip is 2, expected a probability between 0 and 1"):
        module(root, flip=2)


def test_shards_and_folder_give_the_same_batches(root: Path, tmp_path: Path) -> None:
    direct, packed = module(root), module(root, shards=tmp_path / "shards")
    packed.prepare_data()
    for a, b in zip(direct.train_loader(), packed.train_loader(), strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.images, b.images)


@pytest.mark.parametrize("world", [1, 3])
def test_every_rank_has_samples_by_world_and_batch_many_training_batches(root: Path, world: int) -> None:
    parts = [on_rank(module(root), rank, world).train_loader() for rank in range(world)]
    for _ in range(2):
        seen = [keys(loader) for loader in parts]
        assert [len(part) for part in seen] == [16 // (4 * world) * 4] * world
        assert len({key for part in seen for key in part}) == sum(map(len, seen))


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_delivers_everything_exactly_once_and_validation_serves_as_test(root: Path, world: int) -> None:
    expected = sorted(r.id for r in split_rows(read_catalogue(root / "catalogue.csv", root), 0.1)["val"])
    assert len(expected) == 4
    for stage in ("val_dataloader", "test_dataloader"):
        loaders = [getattr(on_rank(module(root), rank, world), stage)() for rank in range(world)]
        assert sorted(key for (loader,) in loaders for key in keys(loader)) == expected


def test_training_without_training_rows_is_refused(root: Path, tmp_path: Path) -> None:
    rewrite(root, "image,split", *(f"{i}.jpg,val" for i in range(8)))
    with pytest.raises(ValueError, match=r"catalogue.csv has no rows for train; its splits are val"):
        module(root).train_dataloader()
    module(root, shards=tmp_path / "shards").prepare_data()
    shutil.move(tmp_path / "shards/pairs-val", tmp_path / "shards/pairs-train")
    rewrite(root, "image,text,split", *(f"{i}.jpg,Red.,train" for i in range(8)))
    with pytest.raises(ValueError, match=r"catalogue/val \(pairs\) is an evaluation split: training on it is refused"):
        module(root, shards=tmp_path / "shards").train_dataloader()
    assert module(root).val_dataloader() == []
