"""What no input may do: run code, open a connection, read beside its own folder, hang, take all memory."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from unifashion_pl.datamodules.fashiongen_h5 import PROBE

#: Hostile inputs name functions of a module of this name; importing or calling it is noticed.
CANARY = "fuzz_canary"
#: Files outside of an input's folder that hostile inputs name hold this.
SECRET = b"THIS-FILE-IS-NOT-PART-OF-THE-INPUT"
#: CPU seconds of one input, and the address space that it may take beyond what the process has.
SECONDS = 20.0
BYTES = 3 << 30

_PROGRAMS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
#: Programs of our own: typeshed_client asks the interpreter for its path, so that jsonargparse can look types up; HDF5 files are looked at in
#: a process of their own.
_HARMLESS = ("import sys, json; print(json.dumps(sys.path))", PROBE)


class Forbidden(BaseException):
    """Not an Exception, so that no reader takes it for a damaged file."""


class TooSlow(BaseException):
    """An input took more than :data:`SECONDS`."""


class _Watch:
    """The audit hook of this process: it cannot be taken away, so that it is told when to look."""

    def __init__(self) -> None:
        self.outside: str | None = None
        self.seen: list[str] = []
        self.installed = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.outside is None:
            return
        if event == "subprocess.Popen" and list(args[1])[:3] in ([sys.executable, "-c", program] for program in _HARMLESS):
            return
        if event in _PROGRAMS or event in _NETWORK:
            self.forbid(f"{event}{args!r}"[:200])
        elif event == "import" and str(args[0]).split(".")[0] == CANARY:
            self.forbid(f"import of {args[0]}")
        elif (
            event == "open"
            and isinstance(args[0], str | bytes)
            and os.path.abspath(os.fsdecode(args[0])).startswith(self.outside)
        ):
            self.forbid(f"open of {args[0]!r}")

    def forbid(self, what: str) -> None:
        self.seen.append(what)
        raise Forbidden(what)


_WATCH = _Watch()


def make_outside(folder: Path) -> Path:
    """A folder that no input may make anybody read: a file of bytes and a picture."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    folder.mkdir(parents=True)
    (folder / "secret.txt").write_bytes(SECRET * 400)
    note = PngInfo()
    note.add_text("secret", SECRET.decode())
    Image.new("RGB", (8, 8)).save(folder / "secret.png", pnginfo=note)
    return folder


def use_canary(folder: Path) -> None:
    """Put a module of the name :data:`CANARY` where a current folder's modules are found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{CANARY}.py").write_text("def call(*args, **kwargs):\n    return {}\n\n\nclass Model:\n    pass\n")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@contextmanager
def guarded(outside: Path, seconds: float = SECONDS) -> Iterator[list[str]]:
    """Run a block under all limits; yields what was forbidden, also where somebody swallowed it.

    Raises:
        Forbidden, TooSlow: in the block, where it happens. MemoryError comes from the system.
    """
    if not _WATCH.installed:
        sys.addaudithook(_WATCH)
        _WATCH.installed = True
    _WATCH.seen = []
    before = signal.signal(signal.SIGPROF, _too_slow)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if (taken := _address_space()) is not None:
                resource.setrlimit(resource.RLIMIT_AS, (taken + BYTES, limits[1]))
            signal.setitimer(signal.ITIMER_PROF, seconds)
            _WATCH.outside = str(outside)
            yield _WATCH.seen
        finally:
            _WATCH.outside = None
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
            resource.setrlimit(resource.RLIMIT_AS, limits)


def _too_slow(signum: int, frame: FrameType | None) -> None:
    raise TooSlow(f"more than {SECONDS:g} s of CPU time")


def _address_space() -> int | None:
    """Bytes, None on systems that do not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None
