"""Files that are there whole or not at all, and sentences for a disk that cannot take them."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Errors of a disk or of rights: what the user can do about it. All others are errors of the program and stay as they are.
CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EACCES: "mend the folder's permissions, or name another folder",
    errno.EPERM: "mend the folder's permissions, or name another folder",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.EIO: "look at the disk's health, or name a folder on another one",
}


class WriteError(RuntimeError):
    """A file that could not be written; the message says which, why and how to go on."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written beside ``path``; it takes that name only when it is complete and on the disk.

    If the block fails, nothing is left of it. If the process is killed, ``NAME.<pid>.part`` is left.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
        RuntimeError: the process that asked for the file is gone; another may be doing its work already.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with writing(path):
        try:
            with open(part, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                raise RuntimeError(f"{path} is not written: the process that asked for it is gone")
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Full disks and missing rights become sentences.

    Raises:
        WriteError: with ``path``, the system's reason and the cure.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in CURES:
            raise
        raise WriteError(
            f"cannot write {path}: {error.strerror or error}. What is finished is kept: "
            f"{CURES[error.errno]} and run the same command again"
        ) from error
