"""Files and folders that are there whole or not at all, and sentences for a disk that cannot take them.

The one writer of this library: nothing that it made before is lost because it could not finish something new.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from torch import Tensor

#: Errors of a disk or of rights: what the user can do about it. All others are errors of the program and stay as they are.
CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EACCES: "mend the folder's permissions, or name another folder",
    errno.EPERM: "mend the folder's permissions, or name another folder",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.EIO: "look at the disk's health, or name a folder on another one",
    errno.ENOTDIR: "a file stands where a folder is needed: name another place",
    errno.EISDIR: "a folder stands where a file is needed: name another place",
    errno.EEXIST: "a file stands where a folder is needed: name another place",
}
AT_FDCWD, RENAME_EXCHANGE = -100, 2
PART, LOCK = ".part", ".lock"


class WriteError(OSError):
    """A file that could not be written; the message says which, why and how to go on."""

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Full disks and missing rights become sentences.

    Raises:
        WriteError: with ``path``, the system's reason and the cure.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if error.errno not in CURES:
            raise
        raise WriteError(
            f"cannot write {path}: {error.strerror or error}. What is finished is kept: "
            f"{CURES[error.errno]} and run the same command again"
        ) from error


def check_writable(path: str | Path, *, folder: bool = False) -> Path:
    """Refuse a place for results before the work for them begins; folders on the way are made.

    Args:
        path: of a file, or with ``folder`` of a folder, that will be written.

    Raises:
        WriteError: something else is there, or the system refuses a file there.
    """
    path = Path(path)
    with writing(path):
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        parent = path if folder else path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=parent):
                pass
        except FileNotFoundError as error:  # folders of the kernel answer so
            raise PermissionError(errno.EACCES, f"no file can be made in {parent}") from error
    return path


@contextmanager
def replacing_path(path: str | Path) -> Iterator[Path]:
    """A file's name beside ``path``, for a library that writes files itself; it becomes ``path`` when the block ends well.

    If the block fails, nothing is left of it, and an older file stays as it is. If the process is killed, ``NAME.<pid>.part`` is left,
    which the next writer of the same file removes. Permissions follow the umask.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
        RuntimeError: the process that asked for the file is gone; another may be doing its work already.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        try:
            yield part
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(part, 0o666 & ~_umask())
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                raise RuntimeError(f"{path} is not written: the process that asked for it is gone")
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """:func:`replacing_path`, opened for writing bytes."""
    with replacing_path(path) as part, open(part, "wb") as file:
        yield file


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text by :func:`replacing`."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
    return Path(path)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file by :func:`replacing_path`; tensors are made contiguous."""
    from safetensors.torch import save_file

    with replacing_path(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, {"format": "pt", **(metadata or {})})
    return Path(path)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder beside ``path`` that becomes ``path`` when the block ends well, exchanged in one step where the system can.

    What the block leaves to the older folder it has to copy itself. If the process is killed, ``.NAME.<pid>.part`` is left, which the
    next writer of the same folder removes.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    path = Path(path).absolute()
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    with writing(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.with_name("." + path.name))
        try:
            part.mkdir()
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as opened:
                        os.fsync(opened.fileno())
            _take_place(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def exclusive(folder: str | Path, *, wait: float = -1) -> Iterator[Path]:
    """One writer of a folder at a time; what an interrupted one left there is removed. The folder is made.

    Who holds a folder may ask for it again: a change of several steps is one block, around steps that lock by themselves.

    Args:
        wait: seconds for another writer to end; below 0 = as long as it takes, and a line says so.

    Raises:
        WriteError: the folder cannot be written.
        RuntimeError: another process still writes there after ``wait`` seconds.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.resolve() / LOCK, mode=0o666 & ~_umask(), is_singleton=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait != 0:
                print(f"{folder}: another process is writing there; waiting for it", flush=True)
            try:
                lock.acquire(timeout=wait)
            except Timeout as error:
                raise RuntimeError(f"{folder}: another process is writing there; try again when it has ended") from error
    try:
        for leftover in folder.glob(f"*{PART}"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        yield folder
    finally:
        lock.release()


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that are gone left of a file or folder."""
    for leftover in path.parent.glob(f"{path.name}.*{PART}"):
        writer = leftover.name.removeprefix(path.name + ".").removesuffix(PART)
        if writer.isdecimal() and (int(writer) == os.getpid() or not _runs(int(writer))):
            with suppress(OSError):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _take_place(part: Path, path: Path) -> None:
    if not path.exists():
        os.replace(part, path)
        return
    with suppress(AttributeError, OSError):
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        if rename(AT_FDCWD, os.fsencode(part), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE) == 0:
            return
    older = part.with_suffix(".old")  # no such call on this system: a moment without a folder
    os.replace(path, older)
    os.replace(part, path)
    shutil.rmtree(older, ignore_errors=True)


def follow_umask(folder: Path) -> None:
    """Give the files below a folder the permissions of new ones, where a library made them for their writer alone."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
