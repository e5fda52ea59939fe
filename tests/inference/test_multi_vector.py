"""The conventions of sentence-transformers' MultiVectorEncoder; its own evaluators where it is installed (it is no dependency)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import images, small_backbone

from unifashion_pl.gallery import gallery_of
from unifashion_pl.inference import MultiVectorEncoder, compose, encode_image, encode_text
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule

WORDS = ["a red dress", "a blue shirt", "black"]


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    torch.manual_seed(0)
    return UniFashionModule(small_backbone(0, initializer_range=0.3), RetrievalModule(hidden_size=32, embed_dim=8)).eval()


def by_hand(queries: list[torch.Tensor], documents: list[torch.Tensor]) -> np.ndarray:
    """MaxSim: the sum over a query's vectors of the largest product with a document's, one number at a time."""
    return np.array([[sum(max(float(q @ d) for d in document) for q in query) for document in documents] for query in queries])


def test_queries_and_documents_are_those_of_the_model(model: UniFashionModule, tmp_path: Path) -> None:
    pixels = images(3)
    place = tmp_path / "one.png"
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(place)
    ours = model.encoder()
    texts, tokens = encode_text(model, WORDS), encode_image(model, pixels)
    mixed = ours.encode_query([WORDS[0], pixels[1], {"text": WORDS[2]}, {"image": place}, str(place)])
    assert [tuple(one.shape) for one in mixed] == [(1, 8), (4, 8), (1, 8), (4, 8), (4, 8)]
    for one, expected in zip(mixed, (texts[:1], tokens[1], texts[2:], tokens[0], tokens[0])):
        torch.testing.assert_close(one, expected)
    torch.testing.assert_close(ours.encode_document(pixels[2]), tokens[2])
    torch.testing.assert_close(torch.stack(ours.encode_document(pixels)), tokens)
    assert isinstance(ours.encode_document(list(pixels), convert_to_numpy=True)[0], np.ndarray)
    assert ours.get_embedding_dimension() == ours.get_sentence_embedding_dimension() == 8
    composing = MultiVectorEncoder(model, "target")
    pairs = [{"image": pixel, "text": text} for pixel, text in zip(pixels, WORDS)]
    torch.testing.assert_close(torch.cat(composing.encode_query(pairs)), compose(model, pixels, WORDS))
    torch.testing.assert_close(torch.stack(composing.encode_document(list(pixels))), encode_image(model, pixels, "target"))


def test_similarity_is_maxsim_also_of_unequal_lengths_and_of_padded_tensors() -> None:
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8))
    numbers = torch.Generator().manual_seed(0)
    queries = [torch.randn(n, 8, generator=numbers) for n in (1, 4, 2)]
    documents = [torch.randn(n, 8, generator=numbers) - 3 for n in (3, 1, 5, 2)]
    plain, mean = MultiVectorEncoder(model, similarity_fn_name="maxsim"), MultiVectorEncoder(model)
    expected = by_hand(queries, documents)
    np.testing.assert_allclose(plain.similarity(queries, documents), expected, atol=1e-4)
    np.testing.assert_allclose(mean.similarity(queries, documents), expected / [[1], [4], [2]], atol=1e-4)
    padded = torch.nn.utils.rnn.pad_sequence(queries, batch_first=True)
    np.testing.assert_allclose(mean.similarity(padded, documents), expected / [[1], [4], [2]], atol=1e-4)
    np.testing.assert_allclose(plain.similarity(queries[1].numpy(), documents[0]), expected[1:2, :1], atol=1e-4)
    np.testing.assert_allclose(plain.similarity_pairwise(queries, documents[:3]), np.diag(expected), atol=1e-4)


def test_scores_are_those_of_a_gallery(model: UniFashionModule) -> None:
    pixels, ours = images(6), model.encoder()
    documents, gallery = ours.encode_document(list(pixels)), gallery_of(model, pixels, query_set="reference")
    for asked, hits in ((WORDS[1], gallery.search(WORDS[1], k=6)), (pixels[3], gallery.search(image=pixels[3], k=6))):
        scores = ours.similarity(ours.encode_query(asked), documents)[0]
        assert [scores[int(hit.id)].item() for hit in hits] == pytest.approx([hit.score for hit in hits], abs=1e-5)


@pytest.mark.parametrize(
    ("query_set", "task", "given", "said"),
    [
        ("reference", "query", {"text": "red", "image": images(1)[0]}, 'image [+] text asks for images by query_set="target"'),
        ("target", "query", "red", "was given text as query"),
        ("target", "document", "red", "was given text as document"),
        ("reference", "document", {"words": "red"}, "an input has words, expected text, image, or both"),
    ],
)
def test_what_a_query_set_cannot_do_is_said(
    model: UniFashionModule, query_set: str, task: str, given: object, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        MultiVectorEncoder(model, query_set).encode(given, task=task)  # type: ignore[arg-type]


def test_options_that_would_change_nothing_or_something_else_are_refused(model: UniFashionModule) -> None:
    for options in ({"device": "cuda"}, {"output_value": None}, {"prompt_name": "query"}, {"task": "rank"}):
        with pytest.raises(ValueError):
            model.encoder().encode("red", **options)  # type: ignore[arg-type]
    torch.testing.assert_close(model.encoder().encode_query("dress", prompt="a red "), encode_text(model, "a red dress"))


def test_sentence_transformers_evaluators_take_the_model(model: UniFashionModule, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", minversion="6.0", reason="sentence-transformers is no dependency")
    from sentence_transformers.multi_vector_encoder import evaluation
    from sentence_transformers.util.similarity import SimilarityFunction

    pixels, ours = images(12), model.encoder()
    queries = {"first": "a red dress", "second": "a blue shirt", "third": pixels[7]}
    corpus = {f"i{i:02d}": pixel for i, pixel in enumerate(pixels)}
    right = {"first": {"i03", "i05"}, "second": {"i00"}, "third": {"i07"}}
    measure = evaluation.MultiVectorInformationRetrievalEvaluator(
        queries, corpus, right, corpus_chunk_size=5, mrr_at_k=[12], map_at_k=[12], name="shop"
    )
    found = measure(ours, output_path=str(tmp_path))
    gallery = gallery_of(model, pixels, ids=list(corpus), query_set="reference")
    ranked = {
        name: [h.id for h in gallery.search(**({"text": q} if isinstance(q, str) else {"image": q}), k=12)]
        for name, q in queries.items()
    }
    places = {name: sorted(ids.index(one) + 1 for one in right[name]) for name, ids in ranked.items()}
    precision = [sum((i + 1) / place for i, place in enumerate(of_one)) / len(of_one) for of_one in places.values()]
    assert found["shop_meanmaxsim_map@12"] == pytest.approx(np.mean(precision))
    assert found["shop_meanmaxsim_mrr@12"] == pytest.approx(np.mean([1 / of_one[0] for of_one in places.values()]))
    assert ours.metrics == found
    triplets = evaluation.MultiVectorTripletEvaluator(["a red dress"] * 2, list(pixels[:2]), list(pixels[2:4]))
    texts, documents = ours.encode_query(["a red dress"]), ours.encode_document(list(pixels[:4]))
    scores = ours.similarity(texts, documents)[0]
    assert triplets(ours)["meanmaxsim_accuracy"] == float((scores[:2] > scores[2:]).float().mean())
    samples = [{"query": "a red dress", "positive": [pixels[3]], "negative": list(pixels[:3])}]
    place = 1 + int((scores[:3] >= scores[3]).sum())
    ranking = evaluation.MultiVectorRerankingEvaluator(samples, at_k=4)(ours)
    assert ranking["mrr@4"] == pytest.approx(1 / place)
    peer = SimilarityFunction.to_similarity_fn("maxsim")
    ours.similarity_fn_name = "maxsim"
    torch.testing.assert_close(ours.similarity(documents, documents), peer(documents, documents))
