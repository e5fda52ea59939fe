"""Foreign HDF5 files: what points elsewhere, declares what it does not hold, or is packed oddly is refused by name."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data.rawdata import write_fashiongen
from unifashion_pl.datamodules import fashiongen, fashiongen_h5

from unifashion_pl.data.plan import BadSample, MissingDataError

ROWS = 6
PIXELS = np.full((ROWS, 16, 16, 3), 7, np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The validation file of 6 rows of 16 × 16 px."""
    return write_fashiongen(tmp_path, products=3, views=2, side=16) / "fashiongen_256_256_validation.h5"


def change(path: Path, name: str, how: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        how(file)


def linked(file: h5py.File, name: str, link: Any) -> None:
    file[name] = link


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(PIXELS.shape, "u1")
    layout[:] = h5py.VirtualSource("other.h5", "x", PIXELS.shape)
    file.create_virtual_dataset("input_image", layout)


def elsewhere(name: str, where: Path) -> Callable[[h5py.File], object]:
    return lambda file: file.create_dataset(name, (ROWS, 1), "S16", external=[(str(where), 0, 16 * ROWS)])


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        (
            "input_name",
            elsewhere("input_name", Path("/etc/passwd")),
            "the data of input_name lie outside of the file (/etc/passwd)",
        ),
        ("input_image", virtual, "the data of input_image lie outside of the file"),
        (
            "input_name",
            lambda f: linked(f, "input_name", h5py.ExternalLink("other.h5", "/x")),
            "input_name is a link to other.h5/x",
        ),
        (
            "input_name",
            lambda f: linked(f, "input_name", h5py.SoftLink("/input_category")),
            "input_name is a link to /input_category",
        ),
        (
            "input_name",
            lambda f: f.create_dataset("input_name", data=[f["input_image"].ref] * ROWS, dtype=h5py.ref_dtype),
            "input_name is object, expected texts",
        ),
        (
            "input_name",
            lambda f: f.create_dataset("input_name", data=np.zeros(ROWS, [("a", "i4")])),
            "input_name is [('a', '<i4')]",
        ),
        ("input_name", lambda f: f.create_dataset("input_name", data=np.arange(ROWS)), "input_name is int64, expected texts"),
        (
            "input_productID",
            lambda f: f.create_dataset("input_productID", data=np.ones(ROWS)),
            "float64, expected whole numbers",
        ),
        ("input_name", lambda f: f.create_dataset("input_name", data=[[b"a", b"b"]] * ROWS), "expected one value a row"),
        (
            "input_image",
            lambda f: f.create_dataset(
                "input_image", (ROWS, 60_000, 60_000, 3), "u1", chunks=(1, 64, 64, 3), compression="gzip"
            ),
            "60000 × 60000 px, allowed are",
        ),
        (
            "input_image",
            lambda f: f.create_dataset("input_image", (ROWS, 256, 256, 3), "u1"),
            "input_image declares 1,179,648 bytes, of which 0 are stored",
        ),
        (
            "input_name",
            lambda f: f.create_dataset("input_name", (ROWS, 1), f"S{2**30}", chunks=(1, 1), compression="gzip"),
            "input_name declares 6,442,450,944 bytes, allowed are",
        ),
    ],
)
def test_what_a_foreign_file_may_not_do(path: Path, name: str, how: Callable[[h5py.File], object], message: str) -> None:
    change(path, name, how)
    with pytest.raises(MissingDataError, match=re.escape(message)) as caught:
        fashiongen.plan_split(path.parent, "validation")
    assert str(path) in str(caught.value)


def test_another_files_bytes_do_not_come_in(path: Path, tmp_path: Path) -> None:
    """Without the check the text would be read, and with a dangling link it would be called absent."""
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"password12345678" * ROWS)
    change(path, "input_name", elsewhere("input_name", secret))
    with h5py.File(path) as file:
        assert file["input_name"][0, 0] == b"password12345678"
    with pytest.raises(MissingDataError, match=r"lie outside of the file .*secret\.txt"):
        fashiongen_h5.open_file(path)
    change(path, "input_name", lambda f: linked(f, "input_name", h5py.ExternalLink("nowhere.h5", "/x")))
    with pytest.raises(MissingDataError, match="input_name is a link to nowhere"):
        fashiongen_h5.open_file(path)


def test_rows_that_were_never_written_are_bad_samples(path: Path) -> None:
    """HDF5 would give black pictures."""

    def partly(file: h5py.File) -> None:
        data = file.create_dataset("input_image", PIXELS.shape, "u1", chunks=(2, 16, 16, 3), compression="gzip")
        data[:4] = PIXELS[:4]

    change(path, "input_image", partly)
    plan = fashiongen.plan_split(path.parent, "validation")
    made = [found for _, found in plan.recipe.make(plan.items)]
    bad = [found for found in made if isinstance(found, BadSample)]
    assert [(sample.id, sample.reason) for sample in bad] == [
        (f"r000000{row}", "missing HDF5 chunk: it was never written") for row in (4, 5)
    ]


def test_a_filter_that_is_not_installed_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(
        path, "input_image", lambda f: f.create_dataset("input_image", data=PIXELS, chunks=(1, 16, 16, 3), compression="lzf")
    )
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: code != h5py.h5z.FILTER_LZF)
    with pytest.raises(
        MissingDataError, match=r"input_image is packed by the HDF5 filter 32000 \(lzf\), which is not installed"
    ):
        fashiongen_h5.open_file(path)


def test_any_error_of_a_chunk_is_one_bad_sample(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fashiongen.plan_split(path.parent, "validation")
    real = h5py.Dataset.__getitem__

    def read(self: h5py.Dataset, row: Any, *more: Any) -> Any:
        if self.name == "/input_image" and row == 2:
            raise RuntimeError("unspecified error in H5Z_filter_call")
        return real(self, row, *more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", read)
    bad = [found for _, found in plan.recipe.make(plan.items) if isinstance(found, BadSample)]
    assert [sample.reason for sample in bad] == ["damaged HDF5 chunk: unspecified error in H5Z_filter_call"]


def test_changed_bytes_are_refused_or_cost_rows_and_raise_nothing_else(path: Path) -> None:
    change(
        path, "input_image", lambda f: f.create_dataset("input_image", data=PIXELS, chunks=(2, 16, 16, 3), compression="gzip")
    )
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.choices(range(len(data)), k=3):
            data[place] = rng.choice((0, 255, rng.randrange(256)))
        path.write_bytes(data)
        try:
            plan = fashiongen.plan_split(path.parent, "validation")
            assert len(list(plan.recipe.make(plan.items))) == len(plan.items)
        except MissingDataError:
            refused += 1
    assert 0 < refused < 60


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.h5")
    with pytest.raises(MissingDataError, match=r"f.h5 is a device or a pipe"):
        fashiongen_h5.open_file(tmp_path / "f.h5")


@pytest.mark.parametrize("program", ["while True: pass", "import os; os.abort()"])
def test_structures_on_which_the_library_loops_or_crashes_end_in_a_sentence(
    path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashiongen_h5, "PROBE", program)
    monkeypatch.setattr(fashiongen_h5, "PROBE_SECONDS", 1.0)
    with pytest.raises(MissingDataError, match=f"{path} is a damaged HDF5 file: the HDF5 library loops or crashes"):
        fashiongen_h5.open_file(path)


def test_the_probe_looks_at_what_is_opened(path: Path) -> None:
    looked = subprocess.run([sys.executable, "-c", fashiongen_h5.PROBE, str(path)], capture_output=True, check=False)
    assert (looked.returncode, looked.stderr) == (0, b"")
    path.write_bytes(path.read_bytes()[:100])
    assert (
        subprocess.run([sys.executable, "-c", fashiongen_h5.PROBE, str(path)], capture_output=True, check=False).returncode == 1
    )
