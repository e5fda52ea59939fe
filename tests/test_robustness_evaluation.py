"""Robustness on a model whose understanding is known: it reads statements one by one, and may be deaf to some words."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small import images, pair_batch, small_backbone
from torch import Tensor, nn

from unifashion_pl.backbone.tokenizer import Reading
from unifashion_pl.data.samples import Batch, GalleryBatch, PairBatch, QueryBatch
from unifashion_pl.data.texts import EVALUATION, modifying_text
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.evaluation.searches import ComposedQuery, Measured, multi_round, product_recall
from unifashion_pl.metrics.records import read_records
from unifashion_pl.metrics.robustness import REWRITINGS, negate, paraphrase
from unifashion_pl.module import UniFashionModule
from unifashion_pl.report.lines import place
from unifashion_pl.report.runfolder import read_lines
from unifashion_pl.tasks.retrieval import RetrievalModule
from unifashion_pl.wardrobe.catalogue import SIZES, fiq_distractors, fiq_parts, pair_products
from unifashion_pl.wardrobe.feedback import WardrobeFeedback
from unifashion_pl.wardrobe.layouts import write_fashioniq
from unifashion_pl.wardrobe.products import COLOURS as SPOKEN
from unifashion_pl.wardrobe.products import differences

COLOURS, PATTERNS = ["red", "blue", "black", "green", "white"], ["plain", "striped", "dotted", "floral"]
LOOKS = [(c, p) for c in COLOURS for p in PATTERNS]
SLOTS = [*COLOURS, *PATTERNS]


def picture(number: int) -> Tensor:
    """A uniform picture whose shade is its number."""
    return torch.full((3, 8, 8), number, dtype=torch.uint8)


def look_vector(colour: str, pattern: str) -> Tensor:
    vector = torch.zeros(len(SLOTS))
    vector[SLOTS.index(colour)], vector[SLOTS.index(pattern)] = 1.0, 0.75
    return vector


class Reader(nn.Module):
    """Embeds the look number of a picture; of a text it replaces the colour or pattern that it names, or avoids what it denies.

    Args:
        hears_no: whether denials are understood.
        deaf_to: a word that makes it ignore the statement.
    """

    def __init__(self, hears_no: bool = True, deaf_to: str = "nothing at all") -> None:
        super().__init__()
        self.hears_no, self.deaf_to = hears_no, deaf_to

    def look(self, image: Tensor) -> Tensor:
        return look_vector(*LOOKS[int(image[0, 4, 4]) % len(LOOKS)])

    def image_embeddings(self, backbone: nn.Module, pictures: Tensor, query_set: str = "reference") -> Tensor:
        return torch.stack([self.look(image) for image in pictures])[:, None]

    def project_images(self, queries: Tensor) -> Tensor:
        return queries

    def compose(self, backbone: nn.Module, references: Tensor, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.read(self.look(image), text.lower()) for image, text in zip(references, texts)])

    def text_embeddings(self, backbone: nn.Module, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.read(torch.zeros(len(SLOTS)), text) for text in texts])

    def read(self, vector: Tensor, text: str) -> Tensor:
        for statement in re.split(r" and |, ", text):
            for word in re.findall("|".join(SLOTS), statement):
                kind = COLOURS if word in COLOURS else PATTERNS
                if self.deaf_to in f" {statement}":
                    continue
                for other in kind:
                    vector[SLOTS.index(other)] = 0.0
                vector[SLOTS.index(word)] = -1.0 if self.hears_no and re.search(r"\b(not|no|without)\b", statement) else 1.0
        return vector


class Tower(nn.Module):
    """Passes pictures through as features, and their looks as query outputs."""

    def warn_if_cut(self, texts: list[str]) -> None:
        """Reads all of them."""

    def reading_of(self, text: str) -> Reading:
        """Every word is known."""
        return Reading(True, (), ())

    def __init__(self, head: Reader) -> None:
        super().__init__()
        self.vision = SimpleNamespace(image_size=8)
        self.head = [head]

    def image_features(self, pictures: Tensor) -> Tensor:
        return pictures

    def image_pass(self, features: Tensor, query_set: str = "reference") -> Tensor:
        return self.head[0].image_embeddings(self, features)


def make_model(**settings: Any) -> Any:
    """What the evaluator and the functions of inference need of a UniFashionModule."""
    model: Any = nn.Module()
    model.retrieval_head = Reader(**settings)
    model.caption_head = model.diffusion_head = None
    model.backbone = Tower(model.retrieval_head)
    model.device = torch.device("cpu")
    return model.eval()


def gallery() -> GalleryBatch:
    n = len(LOOKS)
    return GalleryBatch(
        keys=[f"g{i:02d}" for i in range(n)],
        images=torch.stack([picture(i) for i in range(n)]),
        categories=["dress"] * n,
        captions=[""] * n,
        in_union=[True] * n,
        dataset="fashioniq/val",
    )


def change(i: int, words: str) -> tuple[int, str]:
    """From look i to another colour and pattern, and a text that says so."""
    target = (i + 5) % len(LOOKS)
    colour, pattern = LOOKS[target]
    return target, words.format(colour=colour, pattern=pattern)


def queries(words: str = "Is {colour} and has {pattern} fabric", n: int = 20) -> QueryBatch:
    changes = [change(i, words) for i in range(n)]
    return QueryBatch(
        keys=[f"q{i:02d}" for i in range(n)],
        references=torch.stack([picture(i) for i in range(n)]),
        reference_ids=[f"g{i:02d}" for i in range(n)],
        target_ids=[f"g{t:02d}" for t, _ in changes],
        texts=[text for _, text in changes],
        categories=["dress"] * n,
        pixels=None,
        dataset="fashioniq/val",
    )


def views(n: int = 12) -> PairBatch:
    """Three views each of a few products."""
    texts = [f"a {COLOURS[i // 3]} dress number {i // 3}" for i in range(n)]
    return pair_batch(
        n,
        keys=[f"r{i:02d}" for i in range(n)],
        images=images(n),
        texts=texts,
        captions=[""] * n,
        styles=["fashiongen"] * n,
        products=torch.arange(n) // 3,
        product_names=[""] * n,
        categories=["dress"] * n,
        subcategories=["dress"] * n,
        pixels=None,
        dataset="fashiongen/validation",
    )


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch), size):
        rows = slice(start, start + size)
        yield type(batch)(**{k: v[rows] if isinstance(v, list | Tensor) else v for k, v in vars(batch).items()})  # type: ignore[arg-type]


def evaluate(model: Any, batches: Sequence[Batch], out: Path, **options: Any) -> dict[str, float]:
    """What the logger gets of an evaluation in test."""
    settings = {"composed_ks": (1, 5), "ablations": False, "shown": 0, "top_k": 4, "robustness": True, **options}
    evaluator = Evaluator(**settings)
    evaluator.start("test")
    for batch in batches:
        evaluator.update(model, batch)
    return evaluator.finish(out)


def measured(model: Any, batches: Sequence[Batch], out: Path, **options: Any) -> dict[str, dict[str, float | None]]:
    """``{rewriting: {metric: value}}`` of the records of :func:`evaluate`."""
    evaluate(model, batches, out, **options)
    found: dict[str, dict[str, float | None]] = {}
    for record in read_records(out / "results.json"):
        if record.protocol.startswith("robustness/"):
            found.setdefault(record.protocol.split("/")[1], {})[record.metric] = record.value
    return found


def test_a_model_that_understands_is_not_moved_by_other_words_and_obeys_denials(tmp_path: Path) -> None:
    found = measured(make_model(), [gallery(), queries()], tmp_path)
    assert set(found) == set(REWRITINGS)
    for rule in ("paraphrase-verb", "paraphrase-pronoun", "paraphrase-order", "paraphrase-all"):
        numbers = found[rule]
        assert numbers["changed"] == numbers["R@1"] == numbers["R@1/original"] == numbers["overlap@4"] == 100.0
        assert numbers["R@1/difference"] == numbers["rank_change"] == numbers["rank_falls"] == numbers["score_falls"] == 0.0
    assert found["paraphrase-spelling"] == {"changed": 0.0}
    denied = found["negation"]
    assert denied["R@1/original"] == denied["rank_falls"] == denied["score_falls"] == 100.0
    assert denied["R@5"] == 0.0
    assert denied["R@5/difference"] == -100.0
    assert denied["score_change"] == pytest.approx(-(1 + 0.75) - (1 + 0.75))


def test_a_model_deaf_to_no_is_found_out(tmp_path: Path) -> None:
    denied = measured(make_model(hears_no=False), [gallery(), queries()], tmp_path)["negation"]
    assert denied["changed"] == denied["R@1"] == denied["overlap@4"] == 100.0
    assert denied["score_falls"] == denied["rank_falls"] == 0.0


def test_a_model_that_hangs_on_words_is_found_out(tmp_path: Path) -> None:
    found = measured(make_model(deaf_to=" with "), [gallery(), queries()], tmp_path, top_k=1)
    hung, other = found["paraphrase-verb"], found["paraphrase-pronoun"]
    assert hung["R@1"] == hung["overlap@1"] == 0.0
    assert hung["R@1/difference"] == -100.0
    assert hung["rank_change"] == 3.0
    assert other["R@1"] == other["overlap@1"] == 100.0


def test_records_say_what_they_are_of_and_lines_recompute_them(tmp_path: Path) -> None:
    some = queries()
    some.texts[:7] = ["striped"] * 7
    measured(make_model(deaf_to=" with "), [gallery(), some], tmp_path)
    records = [r for r in read_records(tmp_path / "results.json") if r.protocol.startswith("robustness/paraphrase-verb/")]
    by = {r.metric: r for r in records}
    base = "robustness/paraphrase-verb/fashioniq/original/ref-kept/image(pooled,{}score=itc,text=and)"
    assert by["changed"].protocol == base.format("")
    assert (by["changed"].value, by["changed"].n) == (65.0, 20)
    recall = by["R@1"]
    assert (recall.protocol, recall.n, recall.n_expected) == (base.format("queries=changed,"), 13, 20)
    assert all(r.interval is not None and r.data_hash and r.weights_hash and r.code_version for r in records)
    assert all(r.interval.low - 1e-9 <= r.value <= r.interval.high + 1e-9 for r in records)  # type: ignore[union-attr, operator]
    lines = [x for x in read_lines(tmp_path / "predictions/robustness.jsonl") if x["rule"] == "paraphrase-verb"]
    assert len(lines) == 13
    assert {place(x, "rewritten_") for x in lines} == {4}
    assert recall.value == 100 * sum(place(x, "rewritten_") <= 1 for x in lines) / 13
    assert by["overlap@4"].value == pytest.approx(100 * sum(x["overlap"] for x in lines) / 13)
    assert by["rank_change"].value == pytest.approx(sum(abs(place(x, "rewritten_") - place(x)) for x in lines) / 13)
    first = next(x for x in lines if x["key"] == "q07")
    assert (first["text"], first["rewritten"]) == (some.texts[7], some.texts[7].replace("has", "with"))
    standard = {x["key"]: x["rank"] for x in read_lines(tmp_path / "predictions/composed.jsonl")}
    assert all(x["rank"] == standard[x["key"]] for x in lines)


def test_batch_size_and_repeats_change_nothing(tmp_path: Path) -> None:
    one = measured(make_model(deaf_to=" with "), [gallery(), queries()], tmp_path / "one")
    batches = [*pieces(queries(), 3), *pieces(gallery(), 7), *pieces(queries(), 8)]
    assert measured(make_model(deaf_to=" with "), batches, tmp_path / "two") == one
    files = [(tmp_path / name / "predictions/robustness.jsonl").read_text() for name in ("one", "two")]
    assert files[0] == files[1]


def take_part(rank: int, folder: str) -> dict[str, float]:
    """Evaluate an uneven share of the samples, some of them twice, as one of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2, timeout=timedelta(seconds=90))
    try:
        batches = [*pieces(gallery(), 7), *pieces(queries(), 3), *pieces(views(), 5)]
        own = batches[::2] if rank == 0 else [*batches[1::2], batches[4]]
        return evaluate(make_model(deaf_to=" with "), own, Path(folder) / "two", pair_protocols=("fashiongen_full",))
    finally:
        dist.destroy_process_group()


def second(_: int, folder: str) -> None:
    torch.set_num_threads(1)
    (Path(folder) / "second.json").write_text(json.dumps(take_part(1, folder)))


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    other = mp.spawn(second, args=(str(tmp_path),), nprocs=1, join=False)
    first = take_part(0, str(tmp_path))
    other.join()
    model, batches = make_model(deaf_to=" with "), [gallery(), queries(), views()]
    one = evaluate(model, batches, tmp_path / "one", pair_protocols=("fashiongen_full",))
    assert first == json.loads((tmp_path / "second.json").read_text()) == pytest.approx(one)
    assert {name.split("/")[2] for name in one if "/robustness/" in name} == {"paraphrase-all", "negation", "product-level"}
    files = [(tmp_path / name / "predictions/robustness.jsonl").read_text() for name in ("one", "two")]
    assert files[0] == files[1]


def test_it_is_an_option_of_the_test_stage(tmp_path: Path) -> None:
    assert measured(make_model(), [gallery(), queries()], tmp_path, robustness=False) == {}
    assert not (tmp_path / "predictions/robustness.jsonl").exists()
    evaluator = Evaluator(composed_ks=(1,), robustness=True)
    for batch in (gallery(), queries()):
        evaluator.update(make_model(), batch)
    assert not any("robustness" in name for name in evaluator.finish(None))


def test_texts_without_anything_to_rewrite_are_counted(tmp_path: Path) -> None:
    found = measured(make_model(), [gallery(), queries(" ")], tmp_path)
    assert all(numbers == {"changed": 0.0} for numbers in found.values())
    assert set(found) == set(REWRITINGS)


def test_products_of_pairs_count_once_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8)).eval()
    batch = views()
    found = measured(model, [batch], tmp_path, pair_ks=(1, 2, 4), pair_protocols=("fashiongen_full",))["product-level"]
    with torch.no_grad():
        assert model.retrieval_head is not None
        tokens = model.retrieval_head.image_embeddings(model.backbone, batch.images)
        vectors = model.retrieval_head.text_embeddings(model.backbone, batch.texts[::3])
    scores = torch.einsum("nqe,me->mnq", tokens, vectors).amax(2).view(4, 4, 3).amax(2)
    ranks = [int((row > row[i]).sum()) + 1 for i, row in enumerate(scores)]
    assert found == {f"t2i/R@{k}": 25.0 * sum(rank <= k for rank in ranks) for k in (1, 2, 4)}
    lines = read_lines(tmp_path / "predictions/robustness.jsonl")
    assert [line["rank"] for line in lines] == ranks
    assert found["t2i/R@4"] == 100.0


def shop() -> dict[str, Tensor]:
    return {f"g{i:02d}": picture(i) for i in range(len(LOOKS))}


def says(candidate: str, target: str) -> str | None:
    """Only the colour is spoken about first, then the pattern."""
    shown, wanted = LOOKS[int(candidate[1:])], LOOKS[int(target[1:])]
    if shown == wanted:
        return None
    return f"is {wanted[0]}" if shown[0] != wanted[0] else f"is {wanted[1]}"


def searches() -> list[ComposedQuery]:
    return [ComposedQuery(f"q{i:02d}", f"g{i:02d}", f"g{change(i, '')[0]:02d}") for i in range(20)]


def test_feedback_leads_to_the_target_in_two_rounds() -> None:
    found = multi_round(make_model(), shop(), searches(), says, rounds=3, ks=(1, 4))
    assert [found[f"success@1/round-{r}"] for r in (1, 2, 3)] == [0.0, 100.0, 100.0]
    assert all(len(line["rounds"]) == 2 and not line["gave_up"] for line in found.lines)
    line = found.lines[0]
    first, second = line["rounds"]
    assert (first["reference"], first["text"]) == ("g00", "is blue")
    assert first["rank"] > 1
    assert (second["reference"], second["text"], second["rank"]) == ("g04", "is striped", 1)
    record = next(r for r in found.records if r.metric == "success@4/round-1")
    assert (
        record.protocol
        == "robustness/multi-round/gallery/image(rounds=3,images=20,references=removed,found=by-round,score=itc)"
    )
    assert record.n == 20
    assert record.interval is not None
    assert record.weights_hash


def test_a_model_that_hears_nothing_never_arrives_by_words() -> None:
    model = make_model(deaf_to=" ")
    found = multi_round(model, shop(), searches(), says, rounds=3)
    assert found["success@1/round-3"] == 0.0
    for line in found.lines:
        shown = [r["reference"] for r in line["rounds"]]
        assert len(set(shown)) == len(shown)
        assert line["target"] not in shown


def test_given_texts_start_and_silence_passes_on_or_ends() -> None:
    goal = "g05"
    query = ComposedQuery("q", "g00", goal, "is blue")
    skips = multi_round(make_model(), shop(), [query], lambda c, t: None if c == "g04" else "is striped", rounds=2)
    assert skips.lines[0]["rounds"][0]["text"] == "is blue"
    assert skips.lines[0]["rounds"][1]["reference"] == "g06"
    ends = multi_round(make_model(), shop(), [query], lambda c, t: None, rounds=3)
    assert len(ends.lines[0]["rounds"]) == 1
    assert ends.lines[0]["gave_up"]
    assert [ends[f"success@1/round-{r}"] for r in (1, 2, 3)] == [0.0, 0.0, 0.0]


def test_wrong_questions_are_refused() -> None:
    model, good = make_model(), ComposedQuery("q", "g00", "g05")
    for wrong, message in (
        ([], "no queries"),
        ([good, good], "come twice: q"),
        ([ComposedQuery("q", "g00", "x")], "not in the gallery of 20 images: x"),
        ([ComposedQuery("q", "g00", "g00")], "same image in queries q"),
    ):
        with pytest.raises(ValueError, match=message):
            multi_round(model, shop(), wrong, says)
    with pytest.raises(ValueError, match="rounds is 0"):
        multi_round(model, shop(), [good], says, rounds=0)
    with pytest.raises(ValueError, match="feedback on g00 for g05 is ' '"):
        multi_round(model, shop(), [good], lambda c, t: " ")
    with pytest.raises(ValueError, match="without a text: q"):
        product_recall(model, shop(), [good], str)
    with pytest.raises(KeyError, match="no value of 'R@7'; there are none"):
        Measured()["R@7"]


def test_product_recall_of_composed_queries(tmp_path: Path) -> None:
    asked = [ComposedQuery(q.key, q.reference, q.target, says(q.reference, q.target)) for q in searches()]
    by_image = product_recall(make_model(), shop(), asked, str, ks=(1, 2))
    by_colour = product_recall(make_model(), shop(), asked, lambda key: LOOKS[int(key[1:])][0], ks=(1, 2))
    assert by_image["R@1"] == 0.0
    assert by_colour["R@1"] == 100.0
    assert by_colour.records[0].protocol == "robustness/product-level/gallery/ref-kept/image(images=20,products=5,score=itc)"
    folder = by_colour.write(tmp_path / "test")
    assert read_records(folder / "results.json") == by_colour.records
    assert read_lines(folder / "predictions/robustness.jsonl") == [{"schema": 2, **line} for line in by_colour.lines]


def test_wardrobe_feedback_knows_every_image_that_the_wardrobe_draws(tmp_path: Path) -> None:
    spec, seed = SIZES["tiny"], 3
    truth = write_fashioniq(tmp_path, spec, seed, lambda function, jobs: (repr(product).encode() for product, *_ in jobs))
    feedback = WardrobeFeedback.of("tiny", seed)
    listed = {i for file in (tmp_path / "image_splits").iterdir() for i in json.loads(file.read_text())}
    assert set(feedback.products) == listed
    shared = [feedback.products[i] for i in fiq_distractors(seed, "val")]
    assert shared == pair_products(seed, "validation", 10)[8:]
    for key, product in feedback.products.items():
        assert (tmp_path / f"images/{key}.jpg").read_text() == repr(product)
    for key, facts in truth.items():
        assert {**feedback.products[key].attributes()}.items() <= facts.items()
    with pytest.raises(KeyError, match="B000000000 is not among the 102 images"):
        feedback("B000000000", next(iter(truth)))


def test_wardrobe_feedback_names_the_differences() -> None:
    feedback = WardrobeFeedback.of("tiny")
    part = next(p for p in fiq_parts(SIZES["tiny"], 0) if p.name == "val")
    names, rng = list(zip(part.ids, part.split.products)), random.Random(0)
    spoken = 0
    for _ in range(40):
        (a, shown), (b, wanted) = rng.sample(names, 2)
        text = feedback(a, b)
        assert text == feedback(a, b)
        assert (text is None) == (not differences(shown, wanted))
        if text and "colour" in differences(shown, wanted):
            spoken += 1
            assert wanted.colour in text.lower()
    assert spoken > 10
    assert feedback(part.ids[0], part.ids[0]) is None
    other = next(p for p in fiq_parts(SIZES["tiny"], 0) if p.category != part.category)
    assert feedback(part.ids[0], other.ids[0]) is None


def test_rewritings_keep_what_the_wardrobe_speaks_of() -> None:
    noun = re.compile(rf"\b(?:{'|'.join(SPOKEN)}|stripes|checks|dots|flowers|lettering|buttons|neck|collar)\b")
    parts = [p for p in fiq_parts(SIZES["tiny"], 0) if p.name != "test"]
    texts = [modifying_text(t.texts, EVALUATION, "") for p in parts for t in p.split.triplets]
    for rewrite in REWRITINGS.values():
        for text in texts:
            words = [sorted(noun.findall(x.lower().replace("gray", "grey"))) for x in (text, rewrite(text))]
            assert words[0] == words[1]
    assert all(negate(text) != text != paraphrase(text) for text in texts)


def test_the_shipped_model_goes_through_several_rounds_of_the_wardrobe() -> None:
    from unifashion_pl.wardrobe import render_product

    model = UniFashionModule.from_pretrained("tiny")
    part = next(p for p in fiq_parts(SIZES["tiny"], 0) if p.name == "val")
    drawn = {i: render_product(p, "front", 64, i) for i, p in zip(part.ids, part.split.products)}
    asked = [ComposedQuery(f"q{n}", part.ids[t.reference], part.ids[t.target]) for n, t in enumerate(part.split.triplets)]
    found = multi_round(model, drawn, asked, WardrobeFeedback.of("tiny"), rounds=3, data="wardrobe-tiny")
    curve = [found[f"success@1/round-{r}"] for r in (1, 2, 3)]
    assert curve == sorted(curve)
    assert all(math.isfinite(value) and 0 <= value <= 100 for value in curve)
    assert found["success@10/round-3"] >= curve[-1]
    assert multi_round(model, drawn, asked, WardrobeFeedback.of("tiny"), rounds=3, data="wardrobe-tiny") == found
