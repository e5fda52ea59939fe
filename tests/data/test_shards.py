from __future__ import annotations

import hashlib
import multiprocessing
import tarfile
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
import webdataset as wds
from data.rawdata import jpeg, write_fashiongen, write_fashioniq
from filelock import FileLock
from unifashion_pl.datamodules import fashiongen, fashioniq

from unifashion_pl.data import shards
from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import MissingDataError, Plan
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.shards import tar_member, write_shards

#: Processes that need not import everything anew.
FORK = multiprocessing.get_context("fork")


def contents(folder: Path) -> dict[str, str]:
    """Hashes of everything that a finished split consists of."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*")) if p.name != ".lock"}


def train_plan(root: Path) -> Plan:
    return next(p for p in fashiongen.plans(root, shard_size=5) if p.split == "train")


def test_the_bytes_do_not_depend_on_the_number_of_workers(fashiongen_root: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        write_shards(train_plan(fashiongen_root), tmp_path / str(workers), workers=workers, progress=False)
    one, two = (contents(tmp_path / n / "pairs-train") for n in ("1", "2"))
    assert one == two
    assert len([n for n in one if n.endswith(".tar")]) == 8
    assert "index.json" in one


def test_no_clock_user_or_path_in_the_files(fashiongen_root: Path, tmp_path: Path) -> None:
    index = write_shards(train_plan(fashiongen_root), tmp_path, progress=False)
    assert str(tmp_path) not in index.read_text()
    assert str(fashiongen_root) not in index.read_text()
    for member in tarfile.open(next(index.parent.glob("*.tar"))):
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) == (0, 0, 0, "", "", 0o644)


def test_stock_webdataset_reads_every_sample(pair_shards: Path) -> None:
    folder = pair_shards / "pairs-train"
    index = ShardIndex.load(folder)
    urls = [str(folder / shard.name) for shard in index.shards]
    samples = list(wds.WebDataset(urls, shardshuffle=False))
    assert [s["__key__"] for s in samples] == [key for shard in index.shards for key in shard.keys]
    assert len(samples) == index.samples == index.expected == 36
    assert all({"image.jpg", "meta.json"} <= set(s) for s in samples)


def test_training_is_mixed_and_evaluation_in_source_order(pair_shards: Path) -> None:
    keys = {
        s: [k for shard in ShardIndex.load(pair_shards / f"pairs-{s}").shards for k in shard.keys]
        for s in ("train", "validation")
    }
    assert keys["validation"] == sorted(keys["validation"])
    assert keys["train"] != sorted(keys["train"])
    assert sorted(keys["train"]) == keys["validation"]


def test_what_is_finished_is_kept_and_the_result_is_the_same(fashiongen_root: Path, tmp_path: Path) -> None:
    plan = train_plan(fashiongen_root)
    folder = write_shards(plan, tmp_path, progress=False).parent
    before = contents(folder)
    tars = sorted(folder.glob("*.tar"))
    (folder / "index.json").unlink()
    tars[0].unlink()
    tars[1].with_suffix(".tar.json").unlink()
    with open(tars[2], "r+b") as file:
        file.seek(2000)
        file.write(b"flipped")
    tars[3].rename(folder / f"{tars[3].name}.4711.part")
    (folder / "fashiongen-pairs-train-00099.tar").write_bytes(b"of an earlier plan")
    kept = {path: path.stat().st_mtime_ns for path in tars[4:]}
    write_shards(plan, tmp_path, progress=False)
    assert contents(folder) == before
    assert {path: path.stat().st_mtime_ns for path in tars[4:]} == kept


def test_a_finished_split_is_left_alone_and_a_changed_plan_is_not(fashiongen_root: Path, tmp_path: Path) -> None:
    folder = write_shards(train_plan(fashiongen_root), tmp_path, progress=False).parent
    times = {p: p.stat().st_mtime_ns for p in folder.glob("*.tar*")}
    write_shards(train_plan(fashiongen_root), tmp_path, progress=False)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*.tar*")} == times
    old = ShardIndex.load(folder)
    lossless = next(p for p in fashiongen.plans(fashiongen_root, shard_size=5, lossless=True) if p.split == "train")
    write_shards(lossless, tmp_path, progress=False)
    new = ShardIndex.load(folder)
    assert new.hash != old.hash
    assert new.options == {"image": "png"}


def slowly(root: Path, out: Path, told: Any) -> None:
    """Build with a pause after every shard, which is told about."""
    write = shards._write_shard

    def slow(job: Any) -> Any:
        result = write(job)
        told.put(job.path.name)
        time.sleep(0.2)
        return result

    shards._write_shard = slow
    write_shards(train_plan(root), out, progress=False)


def test_a_killed_builder_goes_on_where_it_stopped(fashiongen_root: Path, tmp_path: Path) -> None:
    told = FORK.Queue()
    process = FORK.Process(target=slowly, args=(fashiongen_root, tmp_path / "killed", told))
    process.start()
    for _ in range(3):
        told.get(timeout=60)
    process.kill()
    process.join()
    folder = tmp_path / "killed" / "pairs-train"
    assert not (folder / "index.json").exists()
    with pytest.raises(FileNotFoundError, match="goes on where it stopped"):
        ShardIndex.load(folder)
    done = {p: p.stat().st_mtime_ns for p in folder.glob("*.tar")}
    assert 3 <= len(done) < 8
    write_shards(train_plan(fashiongen_root), tmp_path / "killed", progress=False)
    assert all(p.stat().st_mtime_ns == t for p, t in done.items())
    write_shards(train_plan(fashiongen_root), tmp_path / "whole", progress=False)
    assert contents(folder) == contents(tmp_path / "whole" / "pairs-train")


def test_a_second_builder_is_kept_out(fashiongen_root: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs-train").mkdir()
    with FileLock(tmp_path / "pairs-train" / ".lock"):
        built = FORK.Queue()
        process = FORK.Process(target=refused, args=(fashiongen_root, tmp_path, built))
        process.start()
        assert "another process is writing there" in built.get(timeout=60)
        process.join()


def refused(root: Path, out: Path, built: Any) -> None:
    """Put the error of building into a queue."""
    try:
        built.put(str(write_shards(train_plan(root), out, progress=False)))
    except RuntimeError as error:
        built.put(str(error))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A Fashion-IQ of which seven images are bad in seven ways."""
    root = write_fashioniq(tmp_path / "raw", train=8, val=5)
    images = root / "images"
    (images / "DTR00001.jpg").unlink()
    (images / "DTR00002.jpg").write_bytes(b"")
    (images / "DTR00005.jpg").write_bytes(b"<html>404</html>")
    (images / "STR00001.jpg").write_bytes(jpeg(1, 200, 200)[:900])
    (images / "DVA00000.jpg").write_bytes(b"")
    (images / "SVA00010.jpg").unlink()
    return root


def test_a_bad_image_takes_its_own_samples_out_and_is_named(broken: Path, tmp_path: Path) -> None:
    plan = next(p for p in fashioniq.plans(broken) if p.split == "train")
    index = ShardIndex.load(write_shards(plan, tmp_path / "out", progress=False).parent)
    assert {(m["id"], m["role"], m["reason"]) for m in index.missing} == {
        ("DTR00001", "target", "missing"),
        ("DTR00002", "reference", "empty file"),
        ("DTR00005", "target", "text/html, not an image"),
        ("STR00001", "target", "truncated"),
    }
    assert (index.expected, index.samples) == (24, 20)
    assert index.metrics["dress"] == {"expected": 8, "usable": 5}
    whole = ShardIndex.load(write_shards(_mended(broken, plan), tmp_path / "out2", progress=False).parent)
    lost = {m["key"] for m in index.missing}
    assert index.shards[0].keys == [k for k in whole.shards[0].keys if k not in lost]


def _mended(broken: Path, plan: Plan) -> Plan:
    for number, path in enumerate(("DTR00001", "DTR00002", "DTR00005", "STR00001")):
        (broken / "images" / f"{path}.jpg").write_bytes(jpeg(number))
    return next(p for p in fashioniq.plans(broken) if p.split == plan.split and p.kind == plan.kind)


def test_evaluation_splits_refuse_losses_unless_allowed(broken: Path, tmp_path: Path) -> None:
    plans = {p.kind: p for p in fashioniq.plans(broken) if p.split == "val"}
    with pytest.raises(MissingDataError, match=r"reference DVA00000: empty file.*4 of 5.*--allow-missing"):
        write_shards(plans["queries"], tmp_path, progress=False)
    assert not (tmp_path / "queries-val" / "index.json").exists()
    index = ShardIndex.load(write_shards(plans["gallery"], tmp_path, progress=False, allow_missing=True).parent)
    assert (index.expected, index.samples) == (39, 37)
    assert index.metrics == {
        "dress": {"expected": 13, "usable": 12},
        "shirt": {"expected": 13, "usable": 12},
        "toptee": {"expected": 13, "usable": 13},
    }


def test_a_mended_file_is_taken_up_by_the_next_run(broken: Path, tmp_path: Path) -> None:
    plan = next(p for p in fashioniq.plans(broken) if p.split == "train")
    folder = write_shards(plan, tmp_path, progress=False).parent
    write_shards(_mended(broken, plan), tmp_path, progress=False)
    index = ShardIndex.load(folder)
    assert (index.samples, index.missing) == (24, [])


def test_replaced_pictures_are_taken_up_and_only_in_their_shards(tmp_path: Path) -> None:
    """A whole picture in the place of another whole one: no plan and no loss tells of it."""
    root = write_fashioniq(tmp_path / "raw")
    gallery = next(p for p in fashioniq.plans(root) if p.kind == "gallery")
    object.__setattr__(gallery, "shard_size", 10)
    folder = write_shards(gallery, tmp_path, progress=False).parent
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tar")}
    (root / "images/DVA00003.jpg").write_bytes(jpeg(77))
    write_shards(gallery, tmp_path, progress=False)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tar")}
    changed = [number for number, name in enumerate(sorted(before)) if after[name] != before[name]]
    source = ShardSource(folder)
    number = next(n for n, key in enumerate(source.keys) if key.endswith("DVA00003"))
    assert changed == [number // 10]
    assert source.read(number).fields["image.jpg"] == jpeg(77)


def test_another_container_is_taken_up(fashiongen_root: Path, tmp_path: Path) -> None:
    root = write_fashiongen(tmp_path / "raw")
    old = ShardIndex.load(write_shards(train_plan(root), tmp_path, progress=False).parent)
    with h5py.File(root / "fashiongen_256_256_train.h5", "r+") as file:
        file["input_image"][3] = 255 - file["input_image"][3]
    new = ShardIndex.load(write_shards(train_plan(root), tmp_path, progress=False).parent)
    assert sum(a.sha256 != b.sha256 for a, b in zip(old.shards, new.shards)) == 1
    assert new.source != old.source


def test_equal_pixels_are_listed(tmp_path: Path) -> None:
    root = write_fashioniq(tmp_path / "raw")
    (root / "images/DVA00011.jpg").write_bytes((root / "images/DVA00010.jpg").read_bytes())
    gallery = next(p for p in fashioniq.plans(root) if p.kind == "gallery")
    assert ShardIndex.load(write_shards(gallery, tmp_path, progress=False).parent).duplicates == [["DVA00010", "DVA00011"]]


def test_tar_members_are_plain_ustar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_member("k.meta.json", b"{}") + bytes(1024))
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.extractfile("k.meta.json").read() == b"{}"  # type: ignore[union-attr]
    assert (tmp_path / "x.tar").read_bytes()[257:263] == b"ustar\0"


def test_products_must_be_consecutive(tmp_path: Path) -> None:
    root = write_fashiongen(tmp_path)
    with h5py.File(root / "fashiongen_256_256_train.h5", "r+") as file:
        file["input_productID"][-1] = 0
    with pytest.raises(MissingDataError, match="product 0 comes back at row 35"):
        list(fashiongen.plans(root))
