"""Vectors on their way: shards, batches that are committed one by one, and the few files that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unifashion_pl.gallery import staging, store
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.scan import Corpus
from unifashion_pl.gallery.segments import segment_from
from unifashion_pl.gallery.staging import WHOLE, Shard
from unifashion_pl.gallery.stored import IndexSettings, Note
from unifashion_pl.reading import FormatError

SETTINGS = IndexSettings("reference", "model")


def rows(start: int, count: int) -> tuple[list[IndexItem], np.ndarray]:
    items = [IndexItem(f"i{n}", "", f"{n}.png", None, {"bytes": n}) for n in range(start, start + count)]
    return items, np.arange(start, start + count, dtype=np.float32)[:, None, None].repeat(3, 1).repeat(4, 2) + 1


def appended(folder: Path, sizes: list[int]) -> None:
    staging.begin(folder, SETTINGS, WHOLE)
    start = 0
    for size in sizes:
        items, vectors = rows(start, size)
        staging.append(folder, SETTINGS, items, [-1] * size, segment_from({"reference": vectors}, "fp32"))
        start += size


def check(folder: Path, ids: list[str]) -> int:
    """Every row has its own vectors -> files."""
    stored = store.check(folder, staged=True)
    assert stored.rows.ids() == ids
    found = Corpus(stored.segments, stored.rows.live()).floats("reference", np.arange(len(ids)))
    if ids:
        assert found is not None
        assert found[:, 0, 0].tolist() == [float(id[1:]) + 1 for id in ids]
    assert {segment.file for segment in stored.segments.values()} == {path.name for path in folder.glob("vectors-*")}
    return len(stored.segments)


def test_shards_share_the_rows_and_an_id_stays_where_it_is() -> None:
    ids = [f"sku-{n}" for n in range(1000)]
    for of in (1, 2, 7):
        owners = [[index for index in range(of) if Shard(index, of).has(id)] for id in ids]
        assert {len(one) for one in owners} == {1}
        assert min(owners.count([index]) for index in range(of)) > 700 / of
    for wrong in ("2/2", "1", "0/0", "-1/2", "a/b", "1/2/3", ""):
        with pytest.raises(ValueError, match="expected I/N with I from 0 to N - 1"):
            Shard.read(wrong)


def test_ranks_are_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert Shard.here() == WHOLE
    monkeypatch.setenv("SLURM_PROCID", "5")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert str(Shard.here()) == "5/8"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Shard.here() == Shard(1, 2)


def test_batches_are_committed_one_by_one_and_become_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SMALL", 10)
    appended(tmp_path, sizes := [4, 4, 4, 12, 3, 3])
    ids = [f"i{n}" for n in range(sum(sizes))]
    assert check(tmp_path, ids) == 6
    staging.compact(tmp_path)
    assert check(tmp_path, ids) == 3
    staging.compact(tmp_path)
    assert check(tmp_path, ids) == 3
    staging.drop(tmp_path, gone := [f"i{n}" for n in (0, 5, *range(12, 24), 29)])
    staging.compact(tmp_path)
    check(tmp_path, [id for id in ids if id not in gone])


def test_a_file_of_rows_that_are_all_gone_goes(tmp_path: Path) -> None:
    appended(tmp_path, [2])
    staging.drop(tmp_path, ["i0", "i1"])
    staging.compact(tmp_path)
    assert check(tmp_path, []) == 0


@pytest.mark.parametrize("moment", range(4))
def test_joining_that_is_interrupted_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    monkeypatch.setattr(staging, "SMALL", 4)
    appended(tmp_path, [2] * 8)
    usual, turns = store.put_meta, iter(range(99))

    def dying(*arguments: object) -> str:
        if next(turns) == moment:
            raise KeyboardInterrupt
        return usual(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "put_meta", dying)
    with pytest.raises(KeyboardInterrupt):
        staging.compact(tmp_path)
    monkeypatch.setattr(store, "put_meta", usual)
    staging.compact(tmp_path)
    assert check(tmp_path, [f"i{n}" for n in range(16)]) == 4


def test_notes_and_what_is_none(tmp_path: Path) -> None:
    assert staging.note_of(tmp_path) is None
    staging.begin(tmp_path, SETTINGS, Shard(1, 3))
    assert staging.note_of(tmp_path) == Note(1, 3)
    staging.put_note(tmp_path, Note(1, 3, True, {"a": "missing"}))
    appended_items, vectors = rows(0, 1)
    staging.append(tmp_path, SETTINGS, appended_items, [-1], segment_from({"reference": vectors}, "fp32"))
    assert staging.note_of(tmp_path) == Note(1, 3, True, {"a": "missing"})
    with pytest.raises(ValueError, match="holds shard 1/3, not 0/1"):
        staging.rows_in(tmp_path, SETTINGS, WHOLE)
    (item,) = (staging.rows_in(tmp_path, SETTINGS, Shard(1, 3)) or {}).values()
    assert item == appended_items[0]


def test_what_is_staged_is_no_index_and_no_place_for_one(tmp_path: Path) -> None:
    staging.begin(tmp_path, SETTINGS, WHOLE)
    for refused in (store.read, store.check, staging.refuse, lambda place: store.take_out(place, ["a"])):
        with pytest.raises(ValueError, match="is no index: it holds vectors of `unifashion index embed`"):
            refused(tmp_path)
    store.put(tmp_path, SETTINGS, IndexRows(), {})
    staging.refuse(tmp_path)
    staging.refuse(tmp_path / "nothing")
    (tmp_path / store.BASE).write_bytes(b"damaged")
    staging.refuse(tmp_path)


def test_damage_has_a_cure_that_helps(tmp_path: Path) -> None:
    appended(tmp_path, [3])
    next(tmp_path.glob("vectors-*")).unlink()
    with pytest.raises(
        FormatError, match="which is not there: embed what is there again, by the command that did, with --anew"
    ):
        staging.rows_in(tmp_path, SETTINGS, WHOLE)
    (tmp_path / store.BASE).write_bytes(b"damaged")
    with pytest.raises(FormatError, match="embed what is there again, by the command that did, with --anew"):
        staging.rows_in(tmp_path, SETTINGS, WHOLE)
    staging.begin(tmp_path, SETTINGS, WHOLE)
    assert staging.rows_in(tmp_path, SETTINGS, WHOLE) == {}
