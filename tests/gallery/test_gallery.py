"""Galleries against brute force, on a real small model; what is asked of them."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from galleries import N, make_model, pictures, same
from PIL import Image

from unifashion_pl.gallery import Gallery
from unifashion_pl.gallery import gallery_of as build
from unifashion_pl.module import UniFashionModule

TEXTS = [f"a {c} {g}" for c in ("red", "blue", "black") for g in ("dress", "shirt", "skirt")]


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return make_model()


@pytest.fixture
def gallery(model: UniFashionModule) -> Gallery:
    return build(model, pictures(), ids=[f"i{n}" for n in range(N)])


@pytest.fixture
def captioned(model: UniFashionModule) -> Gallery:
    return build(model, pictures(), ids=[f"i{n}" for n in range(N)], captions=[*TEXTS[:-1], ""], query_set="target")


def test_text_search_equals_brute_force(model: UniFashionModule, gallery: Gallery) -> None:
    scores = (model.encode_text("a red dress") @ model.encode_image(pictures()).flatten(0, 1).T).view(N, 4).amax(1)
    hits = gallery.search(text="a red dress", k=4)
    assert [h.id for h in hits] == [f"i{n}" for n in scores.argsort(descending=True)[:4].tolist()]
    assert [h.score for h in hits] == pytest.approx(scores.sort(descending=True).values[:4].tolist(), abs=1e-6)


def test_composed_search_uses_target_queries_and_names_the_token(model: UniFashionModule, gallery: Gallery) -> None:
    vector, tokens = model.compose(pictures()[0], "longer"), model.encode_image(pictures(), "target")
    hit = gallery.search(text="longer", image=pictures()[0], k=1)[0]
    scores = torch.einsum("e,mqe->mq", vector[0], tokens)
    best = int(scores.amax(1).argmax())
    assert (hit.id, hit.token) == (f"i{best}", int(scores[best].argmax()))
    assert f"query token {hit.token}" in hit.explanation


def test_an_image_finds_itself(gallery: Gallery) -> None:
    hit = gallery.search(image=pictures()[3], k=1)[0]
    assert hit.id == "i3"
    assert hit.score == pytest.approx(1.0, abs=1e-5)
    assert hit.token is None
    assert gallery.search(image=pictures()[3], k=1, exclude=["i3"])[0].id != "i3"


def test_captions_add_to_the_score(captioned: Gallery) -> None:
    plain = {h.id: h for h in captioned.search(text="in red", image=pictures()[0], k=N, caption_weight=0.0)}
    for hit in captioned.search(text="in red", image=pictures()[0], k=N, caption_weight=2.0):
        assert hit.image_score == pytest.approx(plain[hit.id].score, abs=1e-6)
        assert hit.score == pytest.approx(hit.image_score + 2 * (hit.caption_score or 0.0), abs=1e-6)
        assert (hit.caption is None) == (hit.id == "i8")


def test_wrong_query_set_is_refused(model: UniFashionModule, captioned: Gallery) -> None:
    with pytest.raises(RuntimeError, match="made with target queries and cannot search by text or by image"):
        captioned.search(text="red")
    with pytest.raises(RuntimeError, match="query_set='target' or 'both'"):
        build(model, pictures(2), query_set="reference").search(text="red", image=pictures()[0])
    for other in ("other", ["both"], None):
        with pytest.raises(ValueError, match="unknown query set .*; known are reference, target, both"):
            Gallery(model, other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown query set 'both'; known are reference, target"):
        captioned.by_vector(torch.ones(8), "both")


def test_saved_and_loaded(model: UniFashionModule, captioned: Gallery, tmp_path: Path) -> None:
    folder = captioned.save(tmp_path / "g")
    loaded = Gallery.load(folder, model)
    question = {"text": "in red", "image": pictures()[0]}
    assert same(loaded.search(**question), captioned.search(**question))  # type: ignore[arg-type]
    names = sorted(p.name for p in folder.iterdir())
    assert names[:2] == [".lock", "index.db"]
    assert len(names) == 3
    captioned.save(folder)
    assert sorted(p.name for p in folder.iterdir()) == names


def test_a_gallery_of_another_model_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path)
    with pytest.raises(ValueError, match="made by another model"):
        Gallery.load(tmp_path, make_model(1))
    with pytest.raises(FileNotFoundError, match="none is not there: `unifashion index build"):
        Gallery.load(tmp_path / "none", make_model())
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none is no index \(it has no index.db\): `unifashion index build"):
        Gallery.load(tmp_path / "none", make_model())
    with closing(sqlite3.connect(tmp_path / "index.db")) as base, base:
        base.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
    with pytest.raises(ValueError, match="format 99"):
        Gallery.load(tmp_path, make_model())


def test_add_and_remove(model: UniFashionModule, gallery: Gallery) -> None:
    before = gallery.search(text="a red dress", k=N)
    gallery.remove("i2").remove(["i5", "i7"])
    assert len(gallery) == N - 3
    assert same([h for h in before if h.id not in ("i2", "i5", "i7")], gallery.search(text="a red dress", k=N))
    gallery.add(pictures()[[2, 5, 7]], ids=["i2", "i5", "i7"])
    assert same(gallery.search(text="a red dress", k=N), before)


def test_errors_change_nothing(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match="there already: i1"):
        gallery.add(pictures(2), ids=["new", "i1"])
    with pytest.raises(ValueError, match="there already: a"):
        gallery.add(pictures(2), ids=["a", "a"])
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        gallery.add(pictures(2), ids=["a", "b"], captions=["x"])
    with pytest.raises(KeyError, match="not in the gallery of 9 images: zz"):
        gallery.remove(["i1", "zz"])
    with pytest.raises(ValueError, match="give a text, an image, or both"):
        gallery.search()
    with pytest.raises(ValueError, match="one image, got 2"):
        gallery.search(image=pictures(2))
    assert gallery.ids == [f"i{n}" for n in range(N)]
    assert "i1" in gallery


def test_empty_gallery(model: UniFashionModule) -> None:
    with pytest.raises(ValueError, match="the gallery is empty"):
        Gallery(model).search(text="red")


def test_paths_are_ids(model: UniFashionModule, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    made = build(model, [tmp_path / "a.png", Image.new("RGB", (40, 40))])
    assert made.ids == [str(tmp_path / "a.png"), "1"]


def test_equal_scores_come_in_the_order_of_ids(model: UniFashionModule) -> None:
    made = build(model, pictures()[[0, 0, 0]], ids=["c", "a", "b"])
    assert [h.id for h in made.search(text="red")] == ["a", "b", "c"]


def test_images_without_names_can_be_added_after_some_were_removed(model: UniFashionModule) -> None:
    gallery = build(model, list(pictures(3)))
    assert gallery.ids == ["0", "1", "2"]
    gallery.remove("0").add([pictures(4)[3]])
    assert gallery.ids == ["1", "2", "3"]


def test_an_id_is_the_same_however_it_is_written(model: UniFashionModule, tmp_path: Path) -> None:
    made = build(model, pictures(4), ids=np.arange(101, 105))
    assert made.ids == ["101", "102", "103", "104"]
    for one in (101, "101", np.int64(101), torch.tensor(101), Path("101")):
        assert one in made
        for some in (one, [one], (one, 999), {"101"}, np.array([101]), range(101, 102), iter([one])):
            assert [h.id for h in made.search(image=pictures()[0], exclude=some)].count("101") == 0  # type: ignore[arg-type]
    assert 105 not in made
    assert len(made.search(text="red", exclude=["no-such", Path("none")])) == 4
    assert made.remove(101).remove(np.array([102])).remove("103").ids == ["104"]
    assert build(model, pictures()[0], ids="whole").ids == ["whole"]
    for wrong in (1.0, True, None, b"101", [None], [1.5], np.array([1.0, 2.0]), [[1]], ["\udcff"]):
        for ask in (
            lambda: made.search(text="red", exclude=wrong),  # noqa: B023
            lambda: made.remove(wrong),  # noqa: B023
            lambda: build(model, pictures()[0], ids=[wrong]),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=r"an id is|half a character"):
                ask()
    with pytest.raises(ValueError, match="3 images but 1 ids"):
        build(model, pictures(3), ids="abc")
    with pytest.raises(ValueError, match="3 images but 1 captions"):
        build(model, pictures(3), captions="red")
    with pytest.raises(TypeError, match="an id is 101.0"):
        101.0 in made  # noqa: B015


@pytest.mark.parametrize("k", [0, -1, 1.5, 2.0, True, "2", None, float("nan"), [1, 2]])
def test_a_number_of_hits_is_a_whole_number_from_1(gallery: Gallery, k: object) -> None:
    for ask in (gallery.search, gallery.session, lambda text, k: gallery.by_vector(torch.ones(8), "reference", k)):
        with pytest.raises(ValueError, match="k is .*, expected (a whole number|at least 1)"):
            ask(text="red", k=k)
    assert len(gallery.search(text="red", k=np.int64(2))) == len(gallery.session(text="red", k=torch.tensor(2)).hits) == 2  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:not in this model's vocabulary")
@pytest.mark.parametrize("text", ["", "   ", "\n", "!!!", "...", "???", "赤いドレス", "красное платье", "ثوب أحمر", "\u200b"])
def test_what_cannot_be_read_is_no_request(gallery: Gallery, text: str) -> None:
    for ask in (
        lambda: gallery.search(text=text),
        lambda: gallery.search(text=text, image=pictures()[0]),
        lambda: gallery.session(text=text),
        lambda: gallery.session(pictures()[0], text=text),
        lambda: gallery.session(pictures()[0]).refine(text),
    ):
        with pytest.raises(
            ValueError, match="nothing of .* can be read by this model's tokenizer: expected words .Latin|refine needs a text"
        ):
            ask()


def test_words_that_are_not_read_are_named(gallery: Gallery) -> None:
    with pytest.warns(UserWarning, match="not in this model's vocabulary, so not read: 'платье'$"):
        assert len(gallery.search(text="red платье", k=2)) == 2
    with pytest.warns(UserWarning, match="read letter by letter, so without a meaning: 'zzqx'$"):
        gallery.search(text="red zzqx dress")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gallery.search(text="a red – long – dress, size 38")


def test_one_request_is_one_request(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match="search takes one text, got 2"):
        gallery.search(text=["red", "blue"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a text or a list of texts, got int"):
        gallery.search(text=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected an image, a path or a list of them, got bytes"):
        gallery.search(image=b"\xff\xd8")  # type: ignore[arg-type]
    for weight in (float("nan"), float("inf"), "1", None, True):
        with pytest.raises(ValueError, match="caption_weight is .*, expected a weight from -1,000 to 1,000"):
            gallery.search(text="red", caption_weight=weight)  # type: ignore[arg-type]
    assert same(gallery.search(text="red", caption_weight=np.float32(0)), gallery.search(text="red", caption_weight=0.0))  # type: ignore[arg-type]


def test_vectors_without_numbers_find_nothing(gallery: Gallery, model: UniFashionModule) -> None:
    query = model.encode_text("red")[0]
    expected = gallery.by_vector(query, "reference")
    for same_query in (query.numpy(), query.tolist(), query.double()):
        assert same(gallery.by_vector(same_query, "reference"), expected)  # type: ignore[arg-type]
    for wrong, said in (
        (query * float("nan"), "holds NaN or infinite"),
        (query.double() * 1e300, "holds NaN or infinite"),
        (query * 0, "all zero"),
        (query[None], r"of shape \(1, 8\), expected one vector of 8 numbers"),
        (query[:4], r"of shape \(4,\)"),
        (query > 0, "torch.bool"),
        ("red", "expected 8 numbers"),
        (None, "expected 8 numbers"),
        (torch.full((8,), 3e38), "scores are NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=said):
            gallery.by_vector(wrong, "reference")  # type: ignore[arg-type]
    broken = make_model()
    with torch.no_grad():
        broken.retrieval_head.vision_proj.weight[0, 0] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="the vectors of a, b are NaN or infinite"):
        build(broken, pictures(2), ids=["a", "b"])


def test_a_caption_that_cannot_be_read_counts_as_none(model: UniFashionModule) -> None:
    with pytest.warns(UserWarning, match="can read nothing of 1 captions, which count as none: 'красное платье'"):
        made = build(model, pictures(2), ids=["a", "b"], captions=["красное платье", " "])
    assert {h.caption_score for h in made.search(text="a red dress")} == {0.0}
    assert made.captions == ["красное платье", " "]


def test_numbers_as_long_as_names_do_not_end_a_gallery(model: UniFashionModule) -> None:
    made = build(model, list(pictures(2)), ids=["9" * 5000, "7"])
    assert made.add([pictures()[4]]).ids[-1] == "8"


def test_warnings_stand_beside_the_line_that_asked(model: UniFashionModule, gallery: Gallery) -> None:
    picture = pictures()[0]
    for ask in (
        lambda: gallery.search(text="red \u6f22"),
        lambda: gallery.search(text="red \u6f22", image=picture),
        lambda: model.encode_text("red \u6f22"),
        lambda: model.gallery([picture], captions=["\u6f22"]),
    ):
        with pytest.warns(UserWarning, match="vocabulary|tokenizer") as found:
            ask()
        assert {warning.filename for warning in found} == {__file__}
