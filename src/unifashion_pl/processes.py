"""Worker processes that end with the process that asked for them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.spawn import get_preparation_data
from multiprocessing.synchronize import Event


@contextmanager
def worker_pool(count: int, module: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes. If the block fails, or is interrupted, they are killed and gone when the error goes on.

    Args:
        count: of processes.
        module: what a process needs; where processes are forked from a server, it has imported that.

    Raises:
        RuntimeError: no process came as far as its work, as in a script that has no main guard.
    """
    context = _context(module)
    begun, (ended, alive) = context.Event(), context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(begun, ended))
    try:
        yield pool
    except BaseException as error:
        alive.close()  # also tells a process that was just being started, which the pool does not know yet
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(error, BrokenProcessPool) and not begun.is_set():
            raise RuntimeError(
                "worker processes ended before they began; why stands above. Every worker first imports the script that was run: what "
                'the script does belongs below `if __name__ == "__main__":`'
            ) from error
        raise
    pool.shutdown()


def refuse_while_importing() -> None:
    """Say what Python says where a worker, importing the script that was run, comes to work that is the script's own.

    Raises:
        RuntimeError: this process is one. It may not wait for its parent, which waits for it.
    """
    get_preparation_data("")


def _context(module: str) -> BaseContext:
    """How workers start: forked from a process that has imported what they need and opened nothing, else anew.

    A process that was itself forked cannot share its parent's server.
    """
    if multiprocessing.parent_process() is not None or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _begin(begun: Event, ended: Connection) -> None:
    """In a worker: Ctrl-C is the parent's to handle; without a parent that waits it is of no use, and nothing else would tell it so."""
    begun.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: wait([ended]) and os._exit(1), daemon=True).start()
