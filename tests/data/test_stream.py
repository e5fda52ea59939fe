from __future__ import annotations

import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from unifashion_pl.data.assemble import GalleryAssembler, PairAssembler, QueryAssembler, TripletAssembler
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.stream import EvalLoader, Rank, TrainLoader, Workers, training_order
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform

PAIRS = PairAssembler(EncoderTransform(16), PixelTransform((16, 12)))


def train(folder: Path, batch_size: int = 5, **options: Any) -> TrainLoader[PairBatch]:
    return TrainLoader(ShardSource(folder / "pairs-train"), PAIRS, batch_size=batch_size, **options)


def keys(loader: Any, epochs: int = 1) -> list[list[str]]:
    return [batch.keys for _ in range(epochs) for batch in loader]


def test_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    blocks = [5] * 10 + [3]
    order = training_order(blocks, 0, 0)
    assert sorted(order) == list(range(53))
    assert (order == training_order(blocks, 0, 0)).all()
    assert (order != training_order(blocks, 0, 1)).any()
    assert (order != training_order(blocks, 1, 0)).any()


def test_samples_stay_in_windows_of_four_shards() -> None:
    order = training_order([5] * 12, 0, 3)
    for window in range(3):
        assert len({n // 5 for n in order[window * 20 : (window + 1) * 20]}) == 4


def test_the_order_of_a_seed_is_part_of_the_format() -> None:
    """Another order would make runs irreproducible and resumes wrong without a word."""
    assert training_order([3, 3, 3], 7, 2).tolist() == [2, 6, 0, 5, 1, 4, 8, 3, 7]
    assert training_order([2, 3], 0, 0).tolist() == [0, 2, 3, 1, 4]
    assert training_order([2] * 6, 5, 1).tolist() == [4, 10, 9, 7, 5, 11, 6, 8, 2, 3, 0, 1]


@pytest.mark.parametrize("num", [1, 2, 3])
def test_the_same_batches_for_any_number_of_workers(pair_shards: Path, num: int) -> None:
    alone, helped = train(pair_shards), train(pair_shards, workers=Workers(num))
    for _ in range(2):
        for a, b in zip(alone, helped, strict=True):
            assert a.keys == b.keys
            assert torch.equal(a.images, b.images)
            assert a.texts == b.texts


def test_spawned_workers_give_the_same_batches(pair_shards: Path) -> None:
    assert keys(train(pair_shards, workers=Workers(1, start_method="spawn"))) == keys(train(pair_shards))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_are_disjoint_and_equally_long(pair_shards: Path, world: int) -> None:
    loaders = [train(pair_shards, batch_size=2, rank=Rank(rank, world)) for rank in range(world)]
    per_rank = [keys(loader) for loader in loaders]
    assert {len(batches) for batches in per_rank} == {36 // (2 * world)} == {len(loaders[0])}
    seen = Counter(key for batches in per_rank for batch in batches for key in batch)
    assert set(seen.values()) == {1}
    assert len(seen) == 36 // (2 * world) * 2 * world


def test_the_remainder_changes_every_epoch(pair_shards: Path) -> None:
    loader = train(pair_shards, batch_size=8)
    left_out = [set(loader.source.keys) - {k for batch in loader for k in batch.keys} for _ in range(3)]
    assert all(len(left) == 4 for left in left_out)
    assert len({frozenset(left) for left in left_out}) == 3


def test_epochs_differ_also_with_persistent_workers_and_can_be_gone_to(pair_shards: Path) -> None:
    loader = train(pair_shards, workers=Workers(2))
    first, second = keys(loader), keys(loader)
    assert first != second
    assert loader.epoch == 2
    loader.set_epoch(1)
    assert keys(loader) == second


@pytest.mark.parametrize(("consumed", "workers"), [(0, 2), (3, 0), (3, 2), (7, 0), (9, 0), (9, 2)])
def test_a_resume_equals_the_uninterrupted_tail(pair_shards: Path, consumed: int, workers: int) -> None:
    whole = keys(train(pair_shards), epochs=2)
    loader = train(pair_shards, workers=Workers(2))
    taken = []
    while len(taken) < consumed:
        for batch in loader:
            taken.append(batch.keys)
            if len(taken) == consumed:
                break
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    assert (state["epoch"], state["batches"]) == divmod(consumed, 7)
    resumed = train(pair_shards, workers=Workers(workers))
    resumed.load_state_dict(state)
    rest = []
    while len(rest) < len(whole) - consumed:
        rest += keys(resumed)
    assert taken + rest == whole


def test_made_ahead_is_not_consumed(pair_shards: Path) -> None:
    loader = train(pair_shards, workers=Workers(2, prefetch=4))
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    assert loader.state_dict()["batches"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "batch_size was 5, now it is 4"),
        ({"rank": Rank(0, 2)}, "world was 1, now it is 2"),
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"exclude": ["r0000000"]}, "samples was 36, now it is 35"),
    ],
)
def test_a_resume_under_other_conditions_is_refused(pair_shards: Path, change: dict[str, Any], message: str) -> None:
    state = train(pair_shards).state_dict()
    with pytest.raises(ValueError, match=message):
        train(pair_shards, **{"batch_size": 5, **change}).load_state_dict(state)


def test_a_resume_on_other_data_is_refused(pair_shards: Path) -> None:
    loader = train(pair_shards)
    with pytest.raises(ValueError, match=f"index was 'abc', now it is '{loader.source.hash}'"):
        loader.load_state_dict({**loader.state_dict(), "index": "abc"})


def test_excluded_samples_never_come(pair_shards: Path) -> None:
    gone = ["r0000001", "r0000030"]
    loader = train(pair_shards, batch_size=2, exclude=gone)
    assert loader.samples == 34
    assert not {k for batch in keys(loader, 3) for k in batch} & set(gone)


def test_training_on_an_evaluation_split_is_refused(pair_shards: Path, triplet_shards: Path, tmp_path: Path) -> None:
    shutil.copytree(pair_shards / "pairs-validation", tmp_path / "pairs-train")
    with pytest.raises(ValueError, match="fashiongen/validation.*training on it is refused"):
        train(tmp_path)
    with pytest.raises(ValueError, match="refused"):
        TrainLoader(ShardSource(triplet_shards / "queries-val"), TripletAssembler(EncoderTransform(8)), batch_size=2)


def test_preflight_of_sizes_and_fields(pair_shards: Path) -> None:
    with pytest.raises(ValueError, match=r"36 samples for training, but one batch takes 2 × 20"):
        train(pair_shards, batch_size=20, rank=Rank(0, 2))
    with pytest.raises(ValueError, match="needs reference, target"):
        TrainLoader(ShardSource(pair_shards / "pairs-train"), TripletAssembler(EncoderTransform(8)), batch_size=2)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 3), (3, 0), (4, 2)])
def test_evaluation_sees_every_sample_exactly_once(triplet_shards: Path, world: int, workers: int) -> None:
    source = ShardSource(triplet_shards / "queries-val")
    assembler = QueryAssembler(EncoderTransform(8))
    ranks = [EvalLoader(source, assembler, batch_size=3, rank=Rank(r, world), workers=Workers(workers)) for r in range(world)]
    seen = [[k for batch in loader for k in batch.keys] for loader in ranks]
    assert sorted(k for part in seen for k in part) == sorted(source.keys)
    assert max(map(len, seen)) - min(map(len, seen)) <= 1
    assert [len(loader) for loader in ranks] == [-(-len(part) // 3) for part in seen]


def test_more_ranks_than_samples_leave_some_without(triplet_shards: Path) -> None:
    source = ShardSource(triplet_shards / "queries-val")
    loader = EvalLoader(source, QueryAssembler(EncoderTransform(8)), batch_size=3, rank=Rank(16, 17))
    assert len(loader) == 0
    assert list(loader) == []


def test_evaluation_keeps_index_order(triplet_shards: Path) -> None:
    source = ShardSource(triplet_shards / "gallery-val")
    loader = EvalLoader(source, GalleryAssembler(EncoderTransform(8)), batch_size=7, workers=Workers(2))
    assert [f"{c}-{k}" for batch in loader for c, k in zip(batch.categories, batch.keys)] == source.keys


@pytest.fixture
def damaged(pair_shards: Path, tmp_path: Path) -> Path:
    """Two samples with a flipped byte."""
    shutil.copytree(pair_shards, tmp_path / "damaged")
    source = ShardSource(tmp_path / "damaged" / "pairs-train")
    for number in (2, 9):
        shard, i = divmod(number, 5)
        with open(source.folder / source.index.shards[shard].name, "r+b") as file:
            file.seek(source.index.shards[shard].offsets[i] + 700)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
    return tmp_path / "damaged"


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_samples_stop_training_by_default(damaged: Path, workers: int) -> None:
    loader = train(damaged, workers=Workers(workers))
    with pytest.raises(RuntimeError, match=r"1 damaged samples, allowed are max_bad=0.*CRC-32.*max_bad"):
        keys(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_allowed_damage_is_reported_once_and_replaced(damaged: Path, workers: int) -> None:
    loader = train(damaged, max_bad=2, workers=Workers(workers))
    bad = {loader.source.keys[2], loader.source.keys[9]}
    with pytest.warns(UserWarning, match="damaged sample") as caught:
        batches = keys(loader, epochs=3)
    assert {len(batch) for batch in batches} == {5}
    assert not {k for batch in batches for k in batch} & bad
    assert len([w for w in caught if "damaged sample" in str(w.message)]) == 2
    assert set(loader.bad) == bad


def test_damage_is_counted_over_epochs_and_resumed_runs(damaged: Path) -> None:
    """One is met in a first run, the other after a resume: together they are more than one."""
    first = train(damaged, batch_size=1, max_bad=1)
    with pytest.warns(UserWarning, match="damaged sample 1 of at most 1"):
        next(batch for batch in first if first.bad)
    resumed = train(damaged, batch_size=1, max_bad=1)
    resumed.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert resumed.bad == first.bad
    with pytest.raises(RuntimeError, match="2 damaged samples, allowed are max_bad=1"):
        keys(resumed)


def test_a_batch_of_nothing_but_damage_gives_way_to_samples_before_it(damaged: Path) -> None:
    """As where a mixed batch takes one sample of a dataset: there is no other one in it to be copied."""
    loader, whole = train(damaged, batch_size=1, max_bad=2), keys(train(damaged, batch_size=1, max_bad=2))
    bad = {loader.source.keys[2], loader.source.keys[9]}
    assert len(whole) == 36
    assert not {key for batch in whole for key in batch} & bad
    planned = [loader.source.keys[numbers[0]] for numbers in loader.batches(0)]
    expected = [
        key if key not in bad else next(k for k in reversed(planned[:i]) if k not in bad) for i, key in enumerate(planned)
    ]
    assert [key for (key,) in whole] == expected


def test_the_same_damage_is_one_sample_whatever_is_said_about_it(damaged: Path) -> None:
    loader = train(damaged, max_bad=1)
    loader._report([("r1", "cut"), ("r1", "gone")])
    assert loader.bad == {"r1": "cut"}


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_stops_evaluation(damaged: Path, workers: int) -> None:
    source = ShardSource(damaged / "pairs-train")
    with pytest.raises(RuntimeError, match=rf"{source.keys[2]} \(sample 2 of .*CRC-32"):
        keys(EvalLoader(source, PAIRS, batch_size=4, workers=Workers(workers)))


def test_a_first_look_moves_nothing_and_needs_no_worker(pair_shards: Path) -> None:
    loader, whole = train(pair_shards, workers=Workers(2)), keys(train(pair_shards), epochs=2)
    loader.position = 8
    assert loader.peek(3).keys == whole[8][:3]
    assert loader.peek(99).keys == whole[8]
    assert loader.position == 8
    assert [batch.keys for batch in loader] == whole[8:]


def test_workers_without_work_are_told(pair_shards: Path) -> None:
    assert train(pair_shards, workers=Workers(7)).idle_workers() == ""
    sentence = train(pair_shards, batch_size=6, rank=Rank(0, 2), workers=Workers(5)).idle_workers()
    assert "an epoch has 3 batches on each rank (36 samples, 2 × 6 a step), so 2 of 5 workers have nothing to do" in sentence


@pytest.mark.parametrize("gpu", [False, True])
def test_batches_lie_in_pinned_memory_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    samples = TensorDataset(torch.zeros(2))
    assert Workers(0).loader(samples, [0, 1], False).pin_memory is gpu
