"""Files and folders that are there whole or not at all, and sentences for a disk that cannot take them.

The one writer of this library: nothing that it made before is lost because it could not finish something new.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import multiprocessing
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from filelock import FileLock, Timeout

from unifashion_pl.processes import refuse_while_importing

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
#: A refusal of the system inside the message of a library that is no Python: safetensors, torch.
NUMBER = re.compile(r"\(os error (\d+)\)|errno = (\d+)")
AT_FDCWD, EXCHANGE = -100, 2
PART, OLD, LOCK = ".part", ".old", ".lock"


class WriteError(OSError):
    """A file that could not be written; the message says which, why and how to go on."""

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Full disks and missing rights become sentences; refusals that concern other files, as those read in the block, stay as they are.

    Raises:
        WriteError: with ``path``, the system's reason and the cure.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None or refusal.errno not in CURES or not _concerns(refusal, path):
            raise
        raise WriteError(
            f"cannot write {path}: {refusal.strerror or refusal}. What is finished is kept: "
            f"{CURES[refusal.errno]} and run the same command again"
        ) from error


def _refusal(error: BaseException) -> OSError | None:
    """The system's refusal: the error itself, what torch hides behind one of its own, or what safetensors puts into words."""
    if isinstance(error, OSError):
        return error
    if isinstance(error.__context__, OSError) and isinstance(error, RuntimeError) and "inline_container" in str(error):
        return error.__context__
    found = NUMBER.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def _concerns(error: OSError, path: Path) -> bool:
    """Whether a refusal is about writing ``path``: it names no file, as a full disk does, or that one, a part of it, or a folder above."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return True
    named, path = Path(os.fsdecode(error.filename)).absolute(), path.absolute()
    beside = {path.name, "." + path.name}
    own = any(
        place.parent == path.parent and place.name.split(PART)[0].rpartition(".")[0] in beside
        for place in (named, *named.parents)
    )
    return own or named == path or path.is_relative_to(named) or named.is_relative_to(path)


def check_writable(path: str | Path, *, folder: bool = False) -> Path:
    """Refuse a place for results before the work for them begins; nothing is made there.

    Args:
        path: of a file, or with ``folder`` of a folder, that will be written.

    Raises:
        WriteError: something else is there, or the system refuses a file there.
    """
    path = Path(path)
    with writing(path):
        if _is_device(path) and not folder:
            return path
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        parent = path.absolute() if folder else path.absolute().parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{parent} is a file")
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except FileNotFoundError as error:  # folders of the kernel answer so
            raise PermissionError(errno.EACCES, f"no file can be made in {parent}") from error
        except OSError as error:  # in the name of the folder, not of the file that was tried
            raise OSError(error.errno, error.strerror, str(parent)) from error
    return path


@contextmanager
def replacing_path(path: str | Path) -> Iterator[Path]:
    """A file's name beside ``path``, for a library that writes files itself; it becomes ``path`` when the block ends well.

    If the block fails, nothing is left of it, and an older file stays as it is. If the process is killed, ``NAME.<pid>.part`` is left,
    which the next writer of the same file removes. Permissions follow the umask. A device such as ``/dev/stdout`` is written to itself.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
        RuntimeError: the process that asked for the file is gone; another may be doing its work already.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    with writing(path):
        if _is_device(path):
            yield path
            return
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        try:
            with open(part, "wb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield part
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(part, mode)  # some libraries make private files
            refuse_orphans(path)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def refuse_orphans(path: Path) -> None:
    """A worker whose parent is gone does not finish its file.

    Raises:
        RuntimeError: it is one.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise RuntimeError(f"{path} is not written: the process that asked for it is gone")


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


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a safetensors file by :func:`replacing_path`; tensors are made contiguous."""
    from safetensors.torch import save_file

    with replacing_path(path) as part:
        # safetensors leaves files of any name if it is killed
        room = part.with_name(part.name.removesuffix(PART) + f".room{PART}")
        try:
            room.mkdir()
            content = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(content, room / "tensors", {"format": "pt"})
            os.replace(room / "tensors", part)
        finally:
            shutil.rmtree(room, ignore_errors=True)
    return Path(path)


def write_checkpoint(path: str | Path, content: Any) -> Path:
    """Write what ``torch.save`` takes by :func:`replacing`."""
    import torch

    with replacing(path) as file:
        torch.save(content, file)
    return Path(path)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder beside ``path`` that becomes ``path`` when the block ends well, exchanged in one step where the system can.

    What the block leaves to the older folder it has to copy itself. If the process is killed, ``.NAME.<pid>.part`` is left, which the
    next writer of the same folder removes.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    path = Path(path).resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    with writing(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.with_name("." + path.name))
        for older in path.parent.glob(f".{glob.escape(path.name)}.*{OLD}"):  # put aside by a process which then was killed
            if path.exists():  # the newer one took its place
                shutil.rmtree(older, ignore_errors=True)
            else:
                os.replace(older, path)
        try:
            part.mkdir()
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as opened:
                        os.fsync(opened.fileno())
            refuse_orphans(path)
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
        RuntimeError: another process still writes there after ``wait`` seconds, or at once as :func:`refuse_while_importing` says.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK, "ab") as file:  # with the umask's permissions
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        lock = FileLock(folder.resolve() / LOCK, mode=mode, is_singleton=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            refuse_while_importing()
            if wait != 0:
                print(f"{folder}: another process is writing there; waiting for it", file=sys.stderr, flush=True)
            try:
                lock.acquire(timeout=wait)
            except Timeout as error:
                raise RuntimeError(f"{folder}: another process is writing there; try again when it has ended") from error
    try:
        with writing(folder):
            _remove_all_parts(folder, lock)
        yield folder
    finally:
        with suppress(OSError):
            _remove_all_parts(folder, lock)  # of workers that were ended
        lock.release()


def _remove_all_parts(folder: Path, lock: Any) -> None:
    for leftover in folder.glob(f"*{PART}") if lock.lock_counter == 1 else ():  # who asked again may be in the middle of a file
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what processes that are gone left below a folder: files and folders ``*.<pid>.part``."""
    for leftover in sorted(folder.rglob(f"*{PART}")):
        _remove_if_abandoned(leftover, leftover.name.removesuffix(PART).rpartition(".")[2])


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that are gone left of a file or folder."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*{PART}"):
        _remove_if_abandoned(leftover, leftover.name.removeprefix(path.name + ".").partition(".")[0])


def _remove_if_abandoned(leftover: Path, writer: str) -> None:
    if writer.isdecimal() and (int(writer) == os.getpid() or not _runs(int(writer))):
        with suppress(OSError):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _runs(pid: int) -> bool:
    if os.name == "nt":  # a signal there would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _take_place(part: Path, path: Path) -> None:
    if path.exists() and _exchange(os.fsencode(part), os.fsencode(path)):
        return
    if path.exists():  # no such call on this system: a moment without the folder, which the next writer would mend
        os.replace(path, part.with_suffix(OLD))
    os.replace(part, path)
    shutil.rmtree(part.with_suffix(OLD), ignore_errors=True)


def follow_umask(folder: Path) -> None:
    """Give the files below a folder that was just made the permissions of new ones, where a library made them for their writer alone."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _exchange(one: bytes, other: bytes) -> bool:
    """Exchange two folders in one step: Linux and macOS can."""
    with suppress(AttributeError, OSError, TypeError):
        system = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return bool(system.renamex_np(one, other, EXCHANGE) == 0)
        return bool(system.renameat2(AT_FDCWD, one, AT_FDCWD, other, EXCHANGE) == 0)
    return False
