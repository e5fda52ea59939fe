"""Worker processes that end with the process that asked for them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext


@contextmanager
def worker_pool(count: int, module: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes. If the block fails, or is interrupted, they are killed and gone when the error goes on.

    Args:
        count: of processes.
        module: what a process needs; where processes are forked from a server, it has imported that.
    """
    pool = ProcessPoolExecutor(count, mp_context=_context(module), initializer=_end_with_parent)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _context(module: str) -> BaseContext:
    """How workers start: forked from a process that has imported what they need and opened nothing, else anew.

    A process that was itself forked cannot share its parent's server.
    """
    if multiprocessing.parent_process() is not None or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _end_with_parent() -> None:
    """In a worker: Ctrl-C is the parent's to handle; without a parent it is of no use, and nothing else would tell it so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: wait([parent.sentinel]) and os._exit(1), daemon=True).start()
