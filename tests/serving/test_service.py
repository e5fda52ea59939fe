"""The index behind a server: batches answer what single searches do, one that is wrong fails alone, an index is opened anew."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import N, gallery_of, pictures, png, same_hits, service_of

from unifashion_pl.gallery import Gallery
from unifashion_pl.gallery.asking import SearchOptions
from unifashion_pl.module import UniFashionModule
from unifashion_pl.serving.bodies import EmbedAnswer, SearchAnswer
from unifashion_pl.serving.errors import Refusal
from unifashion_pl.serving.service import Ask, Describe, Service, answer, describe, refused


def told(found: SearchAnswer) -> dict[str, Any]:
    return {"hits": [{name: getattr(hit, name) for name in hit.__struct_fields__} for hit in found.hits]}


def asks(service: Service) -> list[Ask]:
    """Of every kind, mixed."""
    squares = [service.pixels(png(picture), "image") for picture in pictures()]
    plain, filtered = SearchOptions(k=4), SearchOptions(k=3, where="price < 50", group="product")
    return [
        Ask("a red dress", None, plain),
        Ask(None, squares[0], plain),
        Ask("in blue", squares[1], plain),
        Ask("a shirt", None, plain),
        Ask("a shirt", None, filtered),
        Ask(None, squares[2], plain),
        Ask("longer", squares[3], plain),
        Ask(None, None, SearchOptions(k=4, like=[squares[4], squares[5]], unlike=[squares[6]])),
        Ask(None, squares[2], SearchOptions(k=4, appearance=0.0)),
        Ask("a shirt", None, SearchOptions(k=4, words=1.0, exclude=["p3"])),
    ]


def test_a_batch_of_every_kind_is_answered_as_one_by_one(service: Service, gallery: Gallery) -> None:
    wanted = asks(service)
    together, alone = answer(gallery, wanted), [answer(gallery, [ask])[0] for ask in wanted]
    for ask, one, two in zip(wanted, together, alone, strict=True):
        assert ask.how is not None
        hits = gallery.search(ask.text, ask.image, **vars(ask.how))
        assert len(hits) == ask.how.k
        assert same_hits(told(one), hits)
        assert same_hits(told(two), hits)


def test_those_of_one_kind_are_asked_in_one_call(service: Service, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    search = Gallery.search_many

    def counted(self: Gallery, texts: Any = None, images: Any = None, **options: Any) -> Any:
        calls.append(len(texts or images or [0]))
        return search(self, texts, images, **options)

    monkeypatch.setattr(Gallery, "search_many", counted)
    answer(gallery, asks(service))
    assert sorted(calls) == [1, 1, 1, 1, 2, 2, 2]


def test_pixels_of_the_tower_s_size_are_asked_as_their_picture(service: Service, gallery: Gallery) -> None:
    for picture in pictures(3):
        square = service.pixels(png(picture), "image")
        assert square.shape == (32, 32, 3)
        one, two = gallery.search(image=picture, k=N), gallery.search(image=square, k=N)
        assert [(hit.id, hit.score) for hit in one] == [(hit.id, hit.score) for hit in two]


def test_one_that_cannot_be_meant_fails_alone(service: Service, gallery: Gallery) -> None:
    how = SearchOptions(k=2)
    found = answer(
        gallery,
        [
            Ask("a dress", None, how),
            Ask("  ", None, how),
            Ask("a shirt", None, how),
            Ask("a", None, SearchOptions(where="x > 1")),
        ],
    )
    assert [type(one) for one in found[:3]] == [SearchAnswer, type(found[1]), SearchAnswer]
    for wrong, said in ((found[1], "can be read"), (found[3], "unknown column 'x'")):
        refusal = refused(service, wrong)
        assert refusal is not None
        assert refusal.code == "invalid_request"
        assert said in refusal.message
    assert same_hits(told(found[2]), gallery.search("a shirt", k=2))


def test_vectors_are_those_of_the_gallery(service: Service, gallery: Gallery) -> None:
    square = service.pixels(png(pictures()[0]), "image")
    found = answer(gallery, [Ask("a dress", None), Ask(None, square), Ask("in blue", square), Ask("a shirt", None)])
    assert [type(one) for one in found] == [EmbedAnswer] * 4
    for one, (texts, images) in zip(
        found, ((["a dress"], None), (None, [square]), (["in blue"], [square]), (["a shirt"], None)), strict=True
    ):
        (vectors,), within = gallery.vectors(texts, images)
        assert one.query_set == within
        assert np.allclose(one.vectors, vectors, atol=1e-6)
        assert np.allclose(np.linalg.norm(one.vectors, axis=-1), 1, atol=1e-5)
        assert one.model == gallery.encoder.side.fingerprint


def test_words_that_are_not_read_are_noted(gallery: Gallery) -> None:
    (found,) = answer(gallery, [Ask("a ☃ dress", None, SearchOptions(k=1))])
    assert any("not in this model's vocabulary" in note for note in found.notes)
    (found,) = answer(gallery, [Ask("a dress", None, SearchOptions(k=1))])
    assert found.notes == []


def test_facets_are_counted_and_unknown_ones_refused(service: Service, gallery: Gallery) -> None:
    how = SearchOptions(k=1, where="price < 50")
    found, wrong = answer(gallery, [Ask("a dress", None, how, ("category",)), Ask("a dress", None, how, ("nothing",))])
    assert {one.value: one.count for one in found.facets["category"]} == gallery.facets("category", "price < 50")
    refusal = refused(service, wrong)
    assert refusal is not None
    assert "unknown column 'nothing'" in refusal.message


class Captioner:
    """Says the style and the red of a corner."""

    caption_head = type("Head", (), {"styles": {"fashiongen": "", "fashioniq": ""}})()


def test_captions_are_made_by_style(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def caption(model: Any, images: Any, style: str, batch_size: int) -> list[str]:
        calls.append((style, len(images)))
        if style == "broken":
            raise RuntimeError("no")
        return [f"{style} {image[0, 0, 0]}" for image in images]

    monkeypatch.setattr("unifashion_pl.inference.captions.caption", caption)
    batch = [Describe(np.full((4, 4, 3), i, np.uint8), style) for i, style in enumerate(("a", "b", "a", "broken", "b"))]
    found = describe(Captioner(), batch)  # type: ignore[arg-type]
    assert calls == [("a", 2), ("b", 2), ("broken", 1)]
    assert [getattr(one, "caption", None) for one in found] == ["a 0", "b 1", "a 2", None, "b 4"]
    assert isinstance(found[3], RuntimeError)


def test_styles_are_those_of_the_model(service: Service) -> None:
    with pytest.raises(Refusal) as none:
        service.require_style("fashiongen")
    assert none.value.code == "not_available"
    assert service.styles == []
    own = Service(service.index, service._load)
    own.gallery, own.captioner = service.gallery, Captioner()  # type: ignore[assignment]
    own.require_style("fashioniq")
    with pytest.raises(Refusal, match="unknown style 'x'; known are fashiongen, fashioniq"):
        own.require_style("x")
    own.close()


def test_a_picture_that_is_none_is_refused_with_its_field(service: Service) -> None:
    for data in (b"x", b"", png(pictures()[0])[:100]):
        with pytest.raises(Refusal, match=r"like\[1\] is no readable image") as refusal:
            service.pixels(data, "like[1]")
        assert refusal.value.status == 422


def test_an_index_is_opened_anew_and_the_older_one_still_answers(model: UniFashionModule, tmp_path: Path) -> None:
    gallery_of(model, tmp_path / "index")
    service = service_of(tmp_path / "index", model)
    with pytest.raises(Refusal, match="being opened"):
        service.reload()
    service.open()
    older = service.gallery
    assert older is not None
    grown = gallery_of(model, tmp_path / "index", N + 3)
    assert service.reload() == (N, N + 3)
    assert service.gallery is not older
    assert service.told()["images"] == N + 3
    how = SearchOptions(k=N + 3)
    assert same_hits(told(service.searches.put(Ask("a dress", None, how)).result(20)), grown.search("a dress", k=N + 3))
    assert len(answer(older, [Ask("a dress", None, how)])[0].hits) == N
    service.close()


def test_an_index_of_another_model_or_none_is_not_taken_over(model: UniFashionModule, tmp_path: Path) -> None:
    gallery_of(model, tmp_path / "index")
    service = service_of(tmp_path / "index", model)
    service.open()
    base = tmp_path / "index" / "index.db"
    whole = base.read_bytes()
    for content in (b"no database at all, but long enough to be taken for one" * 40, b""):
        base.write_bytes(content)
        with pytest.raises(Refusal) as refusal:
            service.reload()
        assert refusal.value.code == "conflict"
        assert str(tmp_path) not in refusal.value.message
        assert service.told()["images"] == N
    base.write_bytes(whole)
    assert service.reload() == (N, N)
    service.close()


def test_requests_beside_many_reloads_are_all_answered(model: UniFashionModule, tmp_path: Path) -> None:
    own = gallery_of(model, tmp_path / "index")
    service = service_of(tmp_path / "index", model, queue=100)
    service.open()
    ended = threading.Event()

    def again() -> None:
        while not ended.is_set():
            service.reload()

    reloading = threading.Thread(target=again)
    reloading.start()
    futures = [service.searches.put(Ask("a red dress", None, SearchOptions(k=3))) for _ in range(60)]
    found = [future.result(30) for future in futures]
    ended.set()
    reloading.join(20)
    wanted = own.search("a red dress", k=3)
    assert all(same_hits(told(one), wanted) for one in found)
    service.close()


def test_paths_of_this_machine_are_not_told(model: UniFashionModule, tmp_path: Path) -> None:
    made = Service(tmp_path / "index", service_of(tmp_path, model)._load, hidden={"/models/export": "the model"})
    assert made.public(f"{tmp_path / 'index'} was made by /models/export") == "the index was made by the model"
    made.close()
    assert made.public(f"{tmp_path / 'index'}/index.db") == "the index/index.db"
    assert made.public(f"{tmp_path / 'index-older'}") == f"{tmp_path / 'index-older'}"


def test_a_bare_name_is_no_place_and_stays_a_word_of_the_message(model: UniFashionModule, tmp_path: Path) -> None:
    made = Service(Path("index"), service_of(tmp_path, model)._load, hidden={"dress": "the model"})
    said = "index is not there: `unifashion index build --out index` makes an index"
    assert made.public(said) == said
    assert made.public("nothing of 'dress' can be read") == "nothing of 'dress' can be read"
