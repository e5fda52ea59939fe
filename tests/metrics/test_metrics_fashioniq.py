from __future__ import annotations

import math
import random

import pytest
import torch

from unifashion_pl.metrics.fashioniq import FashionIQRecall


def one_hot_metric(examples, **kwargs) -> FashionIQRecall:
    """The worked example: query i is the i-th unit vector, so that gallery vectors hold the scores themselves."""
    metric = FashionIQRecall(ks=(1, 2), **kwargs)
    categories = examples["fashioniq"]["categories"]
    total = sum(len(c["queries"]) for c in categories.values())
    row = 0
    for name, content in categories.items():
        ids, queries = content["gallery"], content["queries"]
        tokens, captions = torch.zeros(len(ids), 1, total), torch.zeros(len(ids), total)
        for i, query in enumerate(queries):
            tokens[:, 0, row + i], captions[:, row + i] = torch.tensor(query["image"]), torch.tensor(query["caption"])
        metric.update_gallery(ids, [name] * len(ids), tokens, captions=captions)
        keys = [f"{name}-{i}" for i in range(len(queries))]
        targets, references = [q["target"] for q in queries], [q["ref"] for q in queries]
        metric.update_queries(keys, [name] * len(keys), references, targets, torch.eye(total)[row : row + len(keys)])
        row += len(queries)
    return metric


def random_data(seed: int, captions: bool = True, categories=("dress", "shirt"), images: int = 12, queries: int = 9):
    """Quarter-integer vectors: all scores are exact, ties are frequent."""
    generator, chooser = torch.Generator().manual_seed(seed), random.Random(seed)

    def vectors(*shape: int) -> torch.Tensor:
        return torch.randint(-2, 3, shape, generator=generator) / 4

    data = {}
    for category in categories:
        ids = [f"{category[0]}{i}" for i in range(images)]
        pairs = [chooser.sample(ids, 2) for _ in range(queries)]
        data[category] = {
            "ids": ids,
            "tokens": vectors(images, 3, 6),
            "captions": vectors(images, 6) if captions else None,
            "keys": [f"{category}-{i}" for i in range(queries)],
            "references": [a for a, _ in pairs],
            "targets": [b for _, b in pairs],
            "embeddings": vectors(queries, 6),
        }
    return data


def fill(metric: FashionIQRecall, data, batch: int = 100, shuffle: int | None = None) -> FashionIQRecall:
    steps = []
    for category, d in data.items():
        for rows in torch.arange(len(d["ids"])).split(batch):
            captions = d["captions"][rows] if d["captions"] is not None else None
            steps.append(
                ("update_gallery", ([d["ids"][i] for i in rows], [category] * len(rows), d["tokens"][rows], None, captions))
            )
        for rows in torch.arange(len(d["keys"])).split(batch):
            chosen = [[d[name][i] for i in rows] for name in ("keys", "references", "targets")]
            steps.append(("update_queries", (chosen[0], [category] * len(rows), *chosen[1:], d["embeddings"][rows])))
    if shuffle is not None:
        random.Random(shuffle).shuffle(steps)
    for name, arguments in steps:
        getattr(metric, name)(*arguments)
    return metric


def brute_force(data, ks):
    """All variants by plain Python over exact scores."""
    results = {}
    for gallery in ("original", "union", "targets"):
        for reference in ("ref-kept", "ref-removed"):
            for score in ("image", "caption", "both"):
                means = {k: [] for k in ks}
                for category, d in data.items():
                    image = torch.einsum("ne,gqe->ngq", d["embeddings"], d["tokens"]).amax(-1)
                    caption = d["embeddings"] @ d["captions"].T
                    scores = {"image": image, "caption": caption, "both": image + 0.5 * caption}[score]
                    pools = {
                        "original": set(d["ids"]),
                        "union": set(d["references"]) | set(d["targets"]),
                        "targets": set(d["targets"]),
                    }
                    hits = dict.fromkeys(ks, 0)
                    for i, (ref, target) in enumerate(zip(d["references"], d["targets"])):
                        value = dict(zip(d["ids"], scores[i].tolist()))
                        pool = pools[gallery] - {target} - ({ref} if reference == "ref-removed" else set())
                        worse_or_equal = sum(value[j] >= value[target] for j in pool)
                        for k in ks:
                            hits[k] += worse_or_equal < k
                    for k in ks:
                        recall = 100 * hits[k] / len(d["keys"])
                        results[f"{gallery}/{reference}/{score}/{category}/R@{k}"] = recall
                        means[k].append(recall)
                for k in ks:
                    results[f"{gallery}/{reference}/{score}/mean/R@{k}"] = sum(means[k]) / len(means[k])
                average = sum(results[f"{gallery}/{reference}/{score}/mean/R@{k}"] for k in ks) / len(ks)
                results[f"{gallery}/{reference}/{score}/Avg"] = average
    return results


def test_worked_example(examples):
    metric = one_hot_metric(examples)
    results = metric.compute()
    queries = {line["key"]: line for line in metric.per_query()}
    for variant, expected in examples["fashioniq"]["expected"].items():
        for name, value in expected.items():
            if isinstance(value, dict):
                assert results[f"{variant}/{name}/R@1"] == pytest.approx(value["R@1"], abs=1e-5)
                assert results[f"{variant}/{name}/R@2"] == pytest.approx(value["R@2"], abs=1e-5)
                found = [
                    [rank - 1, ties]
                    for rank, ties in (q["ranks"][variant] for key, q in queries.items() if key.startswith(name))
                ]
                assert found == value["better_ties"]
            else:
                assert results[f"{variant}/{name}"] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_all_variants_equal_brute_force(seed):
    data, ks = random_data(seed), (1, 4)
    results = fill(FashionIQRecall(ks=ks, caption_weight=0.5), data).compute()
    expected = brute_force(data, ks)
    assert {name: value for name, value in results.items() if name != "n"} == pytest.approx(expected)
    assert results["n"] == 18


def test_batching_order_and_duplicates_do_not_matter():
    data = random_data(5)
    reference = fill(FashionIQRecall(ks=(1, 4)), data).compute()
    assert fill(FashionIQRecall(ks=(1, 4)), data, batch=2, shuffle=1).compute() == reference
    twice = fill(fill(FashionIQRecall(ks=(1, 4)), data, batch=3), data, batch=5, shuffle=2)
    assert twice.compute() == reference


def test_without_captions_there_is_only_the_image_score():
    results = fill(FashionIQRecall(), random_data(1, captions=False)).compute()
    assert {name.split("/")[2] for name in results if "/" in name} == {"image"}


def test_missing_target_names_the_id_or_is_dropped_and_counted():
    data = random_data(2)
    lost = data["dress"]["targets"][0]
    keep = [i for i, name in enumerate(data["dress"]["ids"]) if name != lost]
    data["dress"]["ids"] = [data["dress"]["ids"][i] for i in keep]
    for name in ("tokens", "captions"):
        data["dress"][name] = data["dress"][name][keep]
    with pytest.raises(ValueError, match=f"dress: targets missing from the gallery of 11 images: {lost}"):
        fill(FashionIQRecall(), data).compute()
    metric = fill(FashionIQRecall(allow_partial=True), data)
    dropped = data["dress"]["targets"].count(lost)
    assert metric.compute()["n"] == 18 - dropped
    record = metric.records(resamples=50)[0]
    assert record.dropped == {"target not in the gallery": dropped}
    assert f"[{18 - dropped}/18]" in record.protocol


def test_a_shrunken_split_is_an_error():
    data = random_data(2)
    with pytest.raises(ValueError, match="dress: 9 of 10 queries were evaluated"):
        fill(FashionIQRecall(expected={"dress": 10, "shirt": 9}), data).compute()
    metric = fill(FashionIQRecall(expected={"dress": 10, "shirt": 9}, allow_partial=True), data)
    record = metric.records(resamples=50)[0]
    assert record.protocol.startswith("fashioniq/original[18/19]/ref-kept/")
    assert record.n_expected == 10


def test_partial_captions_are_an_error_naming_images():
    metric = FashionIQRecall(ks=(1,))
    tokens, captions = torch.rand(3, 1, 4), torch.rand(3, 4)
    metric.update_gallery(["a", "b", "c"], ["dress"] * 3, tokens, None, captions, [True, False, True])
    metric.update_queries(["q"], ["dress"], ["a"], ["c"], torch.rand(1, 4))
    with pytest.raises(ValueError, match="1 of 3 gallery images have no caption, e.g. b"):
        metric.compute()
    metric.allow_partial = True
    assert "original/ref-kept/both/Avg" in metric.compute()
    assert metric.protocol(("original", "ref-kept", "both")).endswith("both(w=1,score=itc,text=and,captions=2/3)")


def test_non_finite_scores_name_the_query():
    data = random_data(3)
    data["shirt"]["embeddings"][4, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite for queries shirt-4"):
        fill(FashionIQRecall(), data).compute()


def test_one_key_with_two_targets_is_an_error():
    metric = FashionIQRecall()
    metric.update_queries(["q"], ["dress"], ["a"], ["b"], torch.rand(1, 4))
    metric.update_queries(["q"], ["dress"], ["a"], ["c"], torch.rand(1, 4))
    with pytest.raises(ValueError, match="'q' was given twice with different target"):
        metric.compute()


def test_given_union_flags_are_used_and_must_hold_the_targets():
    metric = FashionIQRecall(ks=(1,))
    tokens = torch.tensor([[[3.0]], [[2.0]], [[1.0]]])
    metric.update_gallery(["a", "b", "c"], ["dress"] * 3, tokens, [False, True, True])
    metric.update_queries(["q"], ["dress"], ["c"], ["b"], torch.ones(1, 1))
    results = metric.compute()
    assert (results["original/ref-kept/image/Avg"], results["union/ref-kept/image/Avg"]) == (0.0, 100.0)
    other = FashionIQRecall(ks=(1,))
    other.update_gallery(["a", "b"], ["dress"] * 2, tokens[:2], [True, False])
    other.update_queries(["q"], ["dress"], ["a"], ["b"], torch.ones(1, 1))
    with pytest.raises(ValueError, match="outside the allowed candidates"):
        other.compute()


def test_no_overlap_numbers_leave_out_the_marked_queries():
    metric = FashionIQRecall(ks=(1,))
    metric.update_gallery(["a", "b"], ["dress"] * 2, torch.tensor([[[1.0]], [[0.0]]]))
    metric.update_queries(["p", "q"], ["dress"] * 2, ["b", "a"], ["a", "b"], torch.ones(2, 1), [False, True])
    results = metric.compute()
    assert results["original/ref-kept/image/dress/R@1"] == 50.0
    assert results["original/ref-kept/image/no-overlap/dress/R@1"] == 100.0
    assert any(r.protocol.endswith("/no-overlap") and r.n == 1 for r in metric.records(resamples=20))


def test_records_and_predictions(examples):
    metric = one_hot_metric(examples)
    records = metric.records(resamples=200, seed=3, weights_hash="abc")
    assert len(records) == 3 * 2 * 3 * (2 * 2 + 2 + 1)
    by_name = {(r.protocol.split("(")[0], r.metric): r for r in records}
    single = by_name["fashioniq/original/ref-kept/both", "dress/R@1"]
    assert (single.n, single.unit, single.seed, single.weights_hash) == (3, "percent", 3, "abc")
    assert single.interval.method == "wilson"
    assert single.interval.low < single.value < single.interval.high
    average = by_name["fashioniq/original/ref-kept/both", "Avg"]
    assert (average.n, average.ties) == (5, 1)
    assert average.interval.method == "bootstrap(clusters=reference,B=200,seed=category)"
    line = metric.per_query()[0]
    assert line["key"] == "dress-0"
    assert (line["rank"], line["ties"]) == (1, 0)
    assert line["top"]["image"][0] == ["d1", 0.8125]


def test_reset_forgets_everything(examples):
    metric = one_hot_metric(examples)
    metric.compute()
    metric.reset()
    assert metric.compute() == {}
    assert metric.per_query() == []


def test_unknown_scores_are_refused():
    with pytest.raises(ValueError, match="unknown scores"):
        FashionIQRecall(scores=("image", "text"))


@pytest.mark.parametrize("seed", range(3))
def test_several_right_answers_by_hand(seed: int) -> None:
    """The rank is that of the first right one among the wrong ones; nDCG counts all; both against plain Python."""
    data = random_data(seed, captions=False, categories=("colour",), images=14, queries=10)["colour"]
    chooser = random.Random(seed)
    pairs = list(zip(data["references"], data["targets"]))
    others = [[i for i in data["ids"] if i not in pair] for pair in pairs]
    right = [[target, *chooser.sample(others[i], i % 4)] for i, (_, target) in enumerate(pairs)]
    metric = FashionIQRecall(ks=(1, 3), measures=("nDCG@5",))
    metric.update_gallery(data["ids"], ["colour"] * 14, data["tokens"])
    named = (data["keys"], ["colour"] * 10, data["references"], data["targets"], data["embeddings"])
    metric.update_queries(*named, right=right)
    found = metric.compute()
    scores = torch.einsum("ne,gqe->ngq", data["embeddings"], data["tokens"]).amax(-1)
    hits: dict[int, list[bool]] = {1: [], 3: []}
    gains = []
    for row, answers in zip(scores.tolist(), right):
        value = dict(zip(data["ids"], row))
        best = max(value[name] for name in answers)
        above = sum(value[name] >= best for name in data["ids"] if name not in answers)
        for k in hits:
            hits[k].append(above < k)
        order = sorted(data["ids"], key=lambda name: (-value[name], name in answers, name))
        gain = sum(1 / math.log2(place + 1) for place, name in enumerate(order[:5], 1) if name in answers)
        gains.append(gain / sum(1 / math.log2(place + 1) for place in range(1, min(5, len(answers)) + 1)))
    for k, of_k in hits.items():
        assert found[f"original/ref-kept/image/colour/R@{k}"] == pytest.approx(10 * sum(of_k))
    assert found["original/ref-kept/image/colour/nDCG@5"] == pytest.approx(100 * sum(gains) / 10)
    assert metric.protocol(("original", "ref-kept", "image")).endswith("image(score=itc,text=and,right=any)")
