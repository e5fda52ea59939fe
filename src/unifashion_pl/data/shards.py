"""Writing shards: plain USTAR tar files whose bytes depend on the raw data only, not on workers, clock or machine.

Every shard is written to ``NAME.tar.<pid>.part``, synced and renamed, then gets a side file with its hash; a restart keeps what
agrees with its side file. ``index.json`` comes last, so that its presence means the split is complete.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unifashion_pl.data.index import NAME, Shard, ShardIndex, fingerprint, preflight
from unifashion_pl.data.plan import BadSample, Item, MissingDataError, Plan, Recipe, compact_json, shortened
from unifashion_pl.files import exclusive, replacing
from unifashion_pl.processes import worker_pool
from unifashion_pl.reading import FormatError, from_json, read_json

BLOCK = 512
FIELD = re.compile(r"[a-z0-9_]+\.[a-z0-9]+")


def tar_member(name: str, data: bytes) -> bytes:
    """A regular file as a USTAR header and padded content: mtime, uid and gid 0, mode 0644, no user names.

    Raises:
        ValueError: a name over 100 characters or a file over 8 GiB.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


@dataclass(frozen=True)
class _Job:
    """A shard to write; travels to a worker process."""

    path: Path
    items: Sequence[Item]
    recipe: Recipe
    plan_hash: str


@dataclass(frozen=True)
class _ShardResult:
    """Side file of a shard: what the index needs to know about it."""

    plan_hash: str
    shard: Shard
    missing: list[dict[str, str]]
    pixels: list[tuple[str, str]]


def write_shards(
    plan: Plan,
    out: str | Path,
    *,
    workers: int = 1,
    allow_missing: bool = False,
    progress: bool = True,
    wait: bool = False,
) -> Path:
    """Write the shards and index of a split into ``out/kind-split`` and return the index's path.

    A bad input takes only its own sample out and is recorded by name and reason. What an interrupted run has finished is kept, unless
    the plan or the raw files it was made from (their sizes and times) have changed since.

    Args:
        workers: processes; the bytes are the same for any number.
        allow_missing: build an evaluation split although samples are lost; the index then carries both counts.
        wait: wait for another process that is building the same split, instead of refusing.

    Raises:
        MissingDataError: an evaluation split loses samples and ``allow_missing`` is off, or nothing usable is left.
        WriteError: the disk is full, or the folder cannot be written; no half files are left, and finished shards are kept.
        RuntimeError: another process is building the same split, or a worker was killed.
    """
    folder = Path(out) / plan.folder
    with exclusive(folder, wait=-1 if wait else 0):
        jobs = [_Job(folder / name, items, plan.recipe, _plan_hash(plan, items)) for name, items in plan.shards()]
        if finished := _finished_index(folder, jobs, plan):
            return finished
        (folder / NAME).unlink(missing_ok=True)
        results = _write_all(plan, jobs, workers, progress)
        index = _index(plan, results)
        _refuse_losses(index, allow_missing)
        for stranger in {*folder.glob("*.tar")} - {
            job.path for job in jobs
        }:  # of an earlier plan: readers of *.tar would mix them in
            stranger.unlink()
            _side(stranger).unlink(missing_ok=True)
        return index.save(folder)


def _plan_hash(plan: Plan, items: Sequence[Item]) -> str:
    """What a shard is made from: the plan, and sizes and times of the raw files; image files if it reads such, else the containers."""
    raw = []
    for path in [needed.path for item in items for needed in plan.recipe.inputs(item)] or plan.sources:
        with suppress(OSError):
            found = path.stat()
            raw.append([path.name, found.st_size, found.st_mtime_ns])
    return hashlib.sha256(compact_json([plan.shard_hash(items), raw])).hexdigest()


def _finished_index(folder: Path, jobs: Sequence[_Job], plan: Plan) -> Path | None:
    """The index, if it is there and describes exactly these jobs and sources without losses."""
    if not (folder / NAME).is_file():
        return None
    try:
        index = ShardIndex.load(folder)
        preflight(folder, index)
    except (ValueError, FileNotFoundError):
        return None
    kept = all(_kept(job) for job in jobs) and not index.missing
    return folder / NAME if kept and index.source == _sources(plan) else None


def _kept(job: _Job) -> _ShardResult | None:
    """A finished shard's side file, if plan and content still agree with it and nothing was lost in it."""
    try:
        result: _ShardResult = read_json(_side(job.path), _ShardResult)
        data = job.path.read_bytes()
    except (OSError, FormatError):
        return None
    known = result.plan_hash == job.plan_hash and result.shard.name == job.path.name and not any(result.shard.faults())
    whole = len(data) == result.shard.bytes and hashlib.sha256(data).hexdigest() == result.shard.sha256
    return result if known and whole and not result.missing else None


def _side(path: Path) -> Path:
    return path.with_suffix(".tar.json")


def _write_all(plan: Plan, jobs: Sequence[_Job], workers: int, progress: bool) -> list[_ShardResult]:
    results = {number: result for number, job in enumerate(jobs) if (result := _kept(job)) is not None}
    todo = {number: job for number, job in enumerate(jobs) if number not in results}
    made = ((number, _write_shard(job)) for number, job in todo.items())
    if workers > 1 and len(todo) > 1:
        made = _in_processes(todo, min(workers, len(todo)))
    kept = sum(len(jobs[number].items) for number in results)
    with tqdm(total=len(plan.items), initial=kept, desc=plan.name, unit="sample", disable=not progress) as bar:
        for number, results[number] in made:
            bar.update(len(jobs[number].items))
    return [results[number] for number in range(len(jobs))]


def _in_processes(jobs: Mapping[int, _Job], workers: int) -> Generator[tuple[int, _ShardResult], None, None]:
    one = next(iter(jobs.values()))
    try:
        with worker_pool(workers, type(one.recipe).__module__) as pool:
            futures = {pool.submit(_write_shard, job): number for number, job in jobs.items()}
            for future in as_completed(futures):
                yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a process that wrote shards into {one.path.parent} was killed, perhaps for want of memory. What is finished is "
            "kept: run the same command again, with fewer workers if it happens again"
        ) from error


def _write_shard(job: _Job) -> _ShardResult:
    digest = hashlib.sha256()
    offsets, crcs, keys = [0], [], []
    missing: list[dict[str, str]] = []
    pixels: list[tuple[str, str]] = []
    with replacing(job.path) as file:

        def write(data: bytes) -> None:
            file.write(data)
            digest.update(data)

        for item, made in job.recipe.make(job.items):
            if isinstance(made, BadSample):
                missing.append({"id": made.id, "role": made.role, "reason": made.reason, "key": item.key, "group": item.group})
                continue
            if wrong := [name for name in made.fields if not FIELD.fullmatch(name)]:  # tar readers would lose or change it
                raise ValueError(
                    f"field {wrong[0]!r} cannot go into a shard: expected a lower-case name and extension, e.g. image.jpg"
                )
            data = b"".join(tar_member(f"{item.key}.{name}", made.fields[name]) for name in sorted(made.fields))
            write(data)
            offsets.append(offsets[-1] + len(data))
            crcs.append(zlib.crc32(data))
            keys.append(item.key)
            if made.pixels is not None:
                pixels.append((made.id, made.pixels))
        write(bytes(2 * BLOCK))
    size = offsets[-1] + 2 * BLOCK
    result = _ShardResult(
        job.plan_hash, Shard(job.path.name, size, digest.hexdigest(), len(keys), offsets, crcs, keys), missing, pixels
    )
    with replacing(_side(job.path)) as file:
        file.write(compact_json(asdict(result)))
    return result


def _index(plan: Plan, results: Sequence[_ShardResult]) -> ShardIndex:
    missing = [entry for result in results for entry in result.missing]
    lost = Counter(entry["group"] for entry in missing)
    groups = Counter(item.group for item in plan.items)
    shards = [result.shard for result in results]
    equal: dict[str, set[str]] = {}
    for id, pixels in (pair for result in results for pair in result.pixels):
        equal.setdefault(pixels, set()).add(id)
    return ShardIndex(
        dataset=plan.dataset,
        split=plan.split,
        kind=plan.kind,
        fields=list(plan.fields),
        optional=list(plan.optional),
        options=from_json(compact_json(dict(plan.options))),
        encoders=dict(plan.encoders),
        source=_sources(plan),
        shards=shards,
        samples=sum(shard.samples for shard in shards),
        expected=len(plan.items),
        missing=missing,
        duplicates=sorted(sorted(ids) for ids in equal.values() if len(ids) > 1),
        metrics={group: {"expected": n, "usable": n - lost[group]} for group, n in sorted(groups.items())},
        subsets={name: sorted(keys) for name, keys in plan.subsets.items()},
        notes=list(plan.notes),
    )


def _sources(plan: Plan) -> dict[str, dict[str, Any]]:
    return {str(path.relative_to(plan.root).as_posix()): fingerprint(path) for path in plan.sources}


def _refuse_losses(index: ShardIndex, allow_missing: bool) -> None:
    if not index.samples:
        raise MissingDataError(f"{index.name}: none of the {index.expected:,} {index.kind} is usable: {_losses(index)}")
    if index.missing and index.split != "train" and not allow_missing:
        counts = "; ".join(
            f"{g}: {c['usable']:,} of {c['expected']:,}" for g, c in index.metrics.items() if c["usable"] < c["expected"]
        )
        raise MissingDataError(
            f"{index.name}: {len(index.missing):,} of {index.expected:,} {index.kind} cannot be built ({_losses(index)}). "
            f"Left are {counts}. "
            "Results on a part of an evaluation split are not comparable: mend the files, or pass --allow-missing to build it anyway"
        )


def _losses(index: ShardIndex) -> str:
    return shortened(f"{entry['role']} {entry['id']}: {entry['reason']}" for entry in index.missing)
