"""Writing the whole wardrobe: in parallel, atomically, the same bytes for any number of processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unifashion_pl.files import replacing_folder
from unifashion_pl.processes import worker_pool
from unifashion_pl.wardrobe.catalogue import WardrobeSpec, spec_of
from unifashion_pl.wardrobe.design import write_mgd
from unifashion_pl.wardrobe.dirt import KINDS, soil
from unifashion_pl.wardrobe.layouts import write_fashion200k, write_fashiongen, write_fashioniq
from unifashion_pl.wardrobe.tryon import write_vitonhd
from unifashion_pl.wardrobe.variants import VARIANTS

FORMAT = 6
#: Layouts that are written only on request: MGD's two parts, and other people's copies of the datasets.
LAYOUTS = ("mgd", *VARIANTS)


def _call(job: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    function, args = job
    return function(*args)


class _Runner:
    """Maps drawing jobs over processes in order, with one progress bar."""

    def __init__(self, pool: ProcessPoolExecutor | None, bar: tqdm[Any]) -> None:
        self.pool, self.bar = pool, bar

    def __call__(self, function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        work = [(function, job) for job in jobs]
        results = map(_call, work) if self.pool is None else self.pool.map(_call, work, chunksize=32)
        for result in results:
            self.bar.update()
            yield result


def write_wardrobe(
    out: Path | str,
    *,
    spec: WardrobeSpec | str = "demo",
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    layouts: Sequence[str] = (),
    dirt: Sequence[str] = (),
) -> Path:
    """Write the procedural catalogue in the raw layouts of FashionGen, Fashion200K, Fashion-IQ and VITON-HD.

    A finished wardrobe of the same spec and seed is returned at once; an interrupted one is never mistaken for it.

    Args:
        out: folder to be made; ``fashiongen/ fashion200k/ fashion-iq/ viton-hd/ wardrobe.json`` come into it.
        spec: a size of :data:`SIZES` or a spec of your own.
        workers: processes, default one per core; the bytes do not depend on it.
        layouts: further folders out of :data:`LAYOUTS`, or ``all``.
        dirt: what is to be broken, out of :data:`~unifashion_pl.wardrobe.dirt.KINDS`, or ``all``; ``dirt.json`` then says where.

    Raises:
        ValueError: unknown size, layout or dirt, or ``out`` holds something else.
        WriteError: the disk is full, or the folder cannot be written; nothing is left.
    """
    spec = spec_of(spec)
    out = Path(out)
    layouts, dirt = choose(layouts, LAYOUTS, "layouts"), choose(dirt, KINDS, "dirt")
    identity: dict[str, Any] = {"format": FORMAT, "seed": seed, "spec": json.loads(json.dumps(asdict(spec)))}
    identity |= {name: list(value) for name, value in (("layouts", layouts), ("dirt", dirt)) if value}
    if (out / "wardrobe.json").is_file():
        found = json.loads((out / "wardrobe.json").read_text("utf-8"))
        if {k: v for k, v in found.items() if k != "truth"} == identity:
            return out
        raise ValueError(
            f"{out} holds a wardrobe of another size, seed or version, or with other layouts or dirt: choose another folder, or remove it first"
        )
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no wardrobe.json: choose another folder")
    count = workers if workers is not None else os.cpu_count() or 1
    with replacing_folder(out) as part:
        _write(part, spec, seed, count, progress, identity)
        if dirt:
            soil(part, dirt, seed)
    return out


def _write(part: Path, spec: WardrobeSpec, seed: int, workers: int, progress: bool, identity: dict[str, Any]) -> None:
    bar = tqdm(desc="drawing the wardrobe", unit=" pictures", disable=not progress, mininterval=1.0)
    with bar, worker_pool(workers, __name__) if workers > 1 else nullcontext() as pool:
        run = _Runner(pool, bar)
        truth = {
            "fashiongen": write_fashiongen(part / "fashiongen", spec, seed, run),
            "fashion-iq": write_fashioniq(part / "fashion-iq", spec, seed, run),
            "viton-hd": write_vitonhd(part / "viton-hd", spec, seed, run),
        }
        write_fashion200k(part / "fashion200k", spec, seed, run)
        layouts = identity.get("layouts", ())
        if "mgd" in layouts:
            truth["mgd"] = write_mgd(part / "mgd", spec, seed, run)
        for name in layouts:
            if name in VARIANTS:
                source, make = VARIANTS[name]
                make(part / source, part / name)
    content = json.dumps({**identity, "truth": truth}, sort_keys=True, ensure_ascii=False)
    (part / "wardrobe.json").write_text(content + "\n", "utf-8")


def choose(names: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """Of the known names those that are wanted, in their own order; ``all`` stands for all.

    Raises:
        ValueError: unknown ones.
    """
    wanted = set(known) if "all" in names else set(names)
    if unknown := sorted(wanted - set(known)):
        raise ValueError(f"unknown {what} {', '.join(unknown)}; known are {', '.join(known)}, or all")
    return tuple(name for name in known if name in wanted)
