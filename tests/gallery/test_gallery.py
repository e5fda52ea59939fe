"""Galleries and sessions against brute force, on a real small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small import images, small_backbone

from unifashion_pl.gallery import Gallery, Hit, Session
from unifashion_pl.inference import gallery as build
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule

N = 9
TEXTS = [f"a {c} {g}" for c in ("red", "blue", "black") for g in ("dress", "shirt", "skirt")]


def make_model(seed: int = 0) -> UniFashionModule:
    torch.manual_seed(seed)
    # weights large enough that the outputs of an untrained model differ by more than rounding
    model = UniFashionModule(small_backbone(seed, initializer_range=0.3), RetrievalModule(hidden_size=32, embed_dim=8))
    with torch.no_grad():
        model.backbone.target_query_tokens.add_(torch.randn(1, 4, 32) * 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return make_model()


def pictures(n: int = N) -> torch.Tensor:
    """Coarse random patterns: unlike fine noise, an untrained tower tells them apart."""
    return F.interpolate(images(n, 2, seed=5).float(), size=(32, 32), mode="nearest").byte()


def same(one: list[Hit], two: list[Hit]) -> bool:
    """Equal but for the last bits, which depend on where tensors lie in memory."""
    return [h.id for h in one] == [h.id for h in two] and [h.score for h in one] == pytest.approx(
        [h.score for h in two], abs=1e-6
    )


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
    with pytest.raises(ValueError, match="query_set is 'other'"):
        Gallery(model, "other")


def test_saved_and_loaded(model: UniFashionModule, captioned: Gallery, tmp_path: Path) -> None:
    folder = captioned.save(tmp_path / "g")
    loaded = Gallery.load(folder, model)
    question = {"text": "in red", "image": pictures()[0]}
    assert same(loaded.search(**question), captioned.search(**question))  # type: ignore[arg-type]
    assert sorted(p.name for p in folder.iterdir()) == ["gallery.json", "gallery.safetensors"]
    captioned.save(folder)


def test_a_gallery_of_another_model_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path)
    with pytest.raises(ValueError, match="made by another model"):
        Gallery.load(tmp_path, make_model(1))
    with pytest.raises(FileNotFoundError, match=r"no gallery.json"):
        Gallery.load(tmp_path / "none", make_model())
    content = json.loads((tmp_path / "gallery.json").read_text())
    (tmp_path / "gallery.json").write_text(json.dumps({**content, "format": 99}))
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


def test_session_adds_wishes_and_takes_them_back(gallery: Gallery) -> None:
    session = gallery.session(pictures()[0], k=3)
    start = session.hits
    first = session.refine("longer sleeves")
    second = session.refine(" in red ")
    assert second == gallery.search(text="longer sleeves and in red", image=pictures()[0], k=3)
    assert session.texts == ("longer sleeves", "in red")
    assert session.undo() == first
    assert session.undo() == start == session.hits
    with pytest.raises(ValueError, match="nothing to undo"):
        session.undo()


def test_session_may_look_from_a_hit(gallery: Gallery) -> None:
    session = Session(gallery, text="a red dress", k=2)
    session.look_from(pictures()[4])
    assert session.hits[0].id == "i4"
    assert session.texts == ()
    assert session.refine("shorter") == gallery.search(text="shorter", image=pictures()[4], k=2)
    assert len(session) == 2


def test_failed_steps_leave_the_session(model: UniFashionModule) -> None:
    session = build(model, pictures(), query_set="reference").session(pictures()[0])
    with pytest.raises(RuntimeError, match="made with reference queries"):
        session.refine("longer")
    with pytest.raises(ValueError, match="refine needs a text"):
        session.refine("  ")
    assert session.texts == ()
    with pytest.raises(ValueError, match="starts from"):
        Session(session.gallery)


def test_images_without_names_can_be_added_after_some_were_removed(model: UniFashionModule) -> None:
    gallery = build(model, list(pictures(3)))
    assert gallery.ids == ["0", "1", "2"]
    gallery.remove("0").add([pictures(4)[3]])
    assert gallery.ids == ["1", "2", "3"]
