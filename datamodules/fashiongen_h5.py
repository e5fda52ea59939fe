"""The only way into FashionGen's HDF5 files: they are foreign, may point at other files and may declare any size.

What is opened here is inside the named file, of the expected types and shapes, and no larger than its own bytes can be.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from unifashion_pl.data.decode import BadInput
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.reading import FormatError, check_regular

IMAGES, PRODUCTS = "input_image", "input_productID"
TEXTS = ("input_name", "input_description", "input_category", "input_subcategory")
NEEDED = (IMAGES, PRODUCTS, *TEXTS)
#: Pixels of a row; the published files have 256 × 256.
MAX_ROW = 4096 * 4096
MAX_CHUNK = 512 << 20
MAX_COLUMN = 2 << 30
#: What deflate can make of a byte at most.
MAX_RATIO = 1032
#: Looks at everything that :func:`open_file` does, in a process of its own: on damaged structures the HDF5 library may loop for ever or
#: crash, and nothing in the same process could end that. The limit is in seconds of CPU time, so that slow disks are not taken for it.
PROBE = """
import sys
from collections.abc import Iterator
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
except ImportError:
    pass
import h5py
with h5py.File(sys.argv[1], "r") as file:
    for name in set(file):
        if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(data := file[name], h5py.Dataset):
            data.shape, data.dtype, data.external, data.is_virtual, data.id.get_storage_size()
            data.chunks and data.id.get_num_chunks()
"""
PROBE_SECONDS = 600
#: Rows of strings without a fixed length that are read at once: each may be as long as the file.
SLICE = 64


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file and check that the datasets that are needed are there, in it, and plausible.

    Raises:
        MissingDataError: not HDF5, datasets absent, elsewhere, of other types or shapes than one row per image, or of sizes that the
            file cannot hold.
    """
    try:
        check_regular(path)
        _probe(path, path.stat().st_size, path.stat().st_mtime_ns)
        file = h5py.File(path, "r")
    except FormatError as error:
        raise MissingDataError(str(error)) from error
    except OSError as error:
        size = f" ({path.stat().st_size:,} bytes)" if path.is_file() else ""
        raise MissingDataError(f"{path}{size} is not a complete HDF5 file: {error}. Download it again") from error
    try:
        if (fault := next(_faults(file, path.stat().st_size), None)) is not None:
            raise MissingDataError(f"{path}: {fault}")
    except MissingDataError:
        file.close()
        raise
    except Exception as error:  # h5py and HDF5 raise anything on damaged structures
        file.close()
        raise MissingDataError(f"{path} is a damaged HDF5 file: {error}. Download it again") from error
    return file


@cache
def _probe(path: Path, size: int, changed: int) -> None:
    """Refuse a file whose structure the HDF5 library cannot be trusted with; what is merely wrong is said by the checks that follow.

    Args:
        size, changed: a file that was replaced is looked at again.

    Raises:
        MissingDataError: the library loops or crashes on it.
    """
    try:
        ended = subprocess.run([sys.executable, "-c", PROBE, str(path)], capture_output=True, timeout=PROBE_SECONDS).returncode
    except subprocess.TimeoutExpired:
        ended = -1
    if ended < 0:
        raise MissingDataError(
            f"{path} is a damaged HDF5 file: the HDF5 library loops or crashes on its structure. Download it again"
        )


def _faults(file: h5py.File, size: int) -> Iterator[str]:
    """What is wrong with the datasets that are needed; later checks rely on those before them."""
    there = set(file)  # `in file` would follow links
    for name in (name for name in NEEDED if name in there):
        try:
            link = file.get(name, getlink=True)
        except TypeError:
            link = None
        if not isinstance(link, h5py.HardLink):
            where = f" to {getattr(link, 'filename', '')}{link.path}" if hasattr(link, "path") else ""
            yield f"{name} is a link{where}, not data of this file; links are not followed"
        data = file[name]
        if not isinstance(data, h5py.Dataset):
            there.discard(name)
        elif data.external or data.is_virtual:
            where = ", ".join(str(entry[0]) for entry in data.external or ()) or "virtual sources"
            yield f"the data of {name} lie outside of the file ({where}); other files are not read"
    if absent := [name for name in NEEDED if name not in there]:
        yield f"lacks {', '.join(absent)}; it has {', '.join(sorted(set(file) - set(absent)))}"
    images = file[IMAGES]
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        yield f"{IMAGES} is {images.dtype} {images.shape}, expected uint8 (rows, height, width, 3)"
    height, width = images.shape[1:3]
    if not 0 < height * width <= MAX_ROW:
        yield f"the images of {IMAGES} have {height} × {width} px, allowed are up to {MAX_ROW:,} pixels"
    for name in NEEDED[1:]:
        yield from _faults_of_column(name, file[name], images)
    for name in NEEDED:
        yield from _faults_of_storage(name, file[name], size)


def _faults_of_column(name: str, data: h5py.Dataset, images: h5py.Dataset) -> Iterator[str]:
    """One value for each image: text, or for products also whole numbers."""
    if data.shape[:1] != images.shape[:1]:
        yield f"{name} has the shape {data.shape}, {IMAGES} {images.shape}; expected are equally many rows"
    if data.shape[1:] not in ((), (1,)):
        yield f"{name} has the shape {data.shape}, expected one value a row"
    text = h5py.check_string_dtype(data.dtype) is not None
    if not text and not (name == PRODUCTS and data.dtype.kind in "iu"):
        yield f"{name} is {data.dtype}, expected {'whole numbers' if name == PRODUCTS else 'texts'}"
    if data.size * data.dtype.itemsize > MAX_COLUMN:
        yield f"{name} declares {data.size * data.dtype.itemsize:,} bytes, allowed are {MAX_COLUMN:,}"


def _faults_of_storage(name: str, data: h5py.Dataset, size: int) -> Iterator[str]:
    """Declared sizes against the bytes that are there, and filters against those that are installed."""
    declared, stored = data.size * data.dtype.itemsize, data.id.get_storage_size()
    if stored > size or declared > MAX_RATIO * stored:
        yield (
            f"{name} declares {declared:,} bytes, of which {stored:,} are stored in a file of {size:,}. Was it written to its end? "
            "Download it again"
        )
    if data.chunks is not None and (chunk := int(np.prod(data.chunks, dtype=object)) * data.dtype.itemsize) > MAX_CHUNK:
        yield f"{name} is packed in chunks of {chunk:,} bytes, allowed are {MAX_CHUNK:,}"
    layout = data.id.get_create_plist()
    for code, _, _, title in map(layout.get_filter, range(layout.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            shown = title.decode("latin-1") if isinstance(title, bytes) else title
            yield f"{name} is packed by the HDF5 filter {code} ({shown}), which is not installed here"


def column(file: h5py.File, name: str) -> list[Any]:
    """All values of a text or product dataset, one a row: bytes, str or int.

    Raises:
        MissingDataError: they cannot be read.
    """
    data = file[name]
    step = SLICE if data.dtype.hasobject else max(1, len(data))
    values: list[Any] = []
    total = 0
    try:
        for start in range(0, len(data), step):
            part = np.asarray(data[start : start + step]).reshape(-1).tolist()
            total += sum(map(len, part)) if data.dtype.hasobject else 0
            if total > MAX_COLUMN:
                raise MissingDataError(f"{file.filename}: the texts of {name} have more than {MAX_COLUMN:,} bytes")
            values += part
    except MissingDataError:
        raise
    except Exception as error:
        raise MissingDataError(f"{file.filename}: {name} is damaged: {error}. Download the file again") from error
    return values


def image_row(images: h5py.Dataset, row: int) -> NDArray[np.uint8]:
    """One image, (height, width, 3).

    Raises:
        BadInput: its chunk is damaged or was never written.
    """
    try:
        place = getattr(images.id, "get_chunk_info_by_coord", None)  # not with HDF5 before 1.10.5
        if images.chunks is not None and place is not None and place((row, 0, 0, 0)).byte_offset is None:
            raise BadInput("missing HDF5 chunk: it was never written")
        pixels: NDArray[np.uint8] = images[row]
    except BadInput:
        raise
    except Exception as error:  # filters and HDF5 raise OSError, RuntimeError, ValueError …
        raise BadInput(f"damaged HDF5 chunk: {error}") from error
    return pixels
