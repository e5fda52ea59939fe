"""The page's server: on this machine alone, unless another address is named."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable
from contextlib import closing

import uvicorn

from unifashion_pl.demo.answers import Answers
from unifashion_pl.demo.app import LOOPBACK, application


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; taken before any model is read, so that nobody waits in vain.

    Args:
        port: 0 = any that is free.

    Raises:
        ValueError: the port is in use, or is none. OSError: the address is none of this machine.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"--port is {port}, expected a number from 1 to 65535, or 0 for any that is free")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}:{port} ({error.strerror or error}): name another --port, or 0 for any that is free"
        ) from error


def address(found: socket.socket) -> str:
    """What to type into a browser."""
    host, port = found.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(answers: Answers, found: socket.socket, host: str, opened: bool, told: Callable[[str], None]) -> None:
    """Answer until Ctrl-C.

    Args:
        host: as it was named.
        opened: open a browser.
    """
    app = application(answers, local=host in LOOPBACK)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2)
    told(f"The page: {address(found)}    (Ctrl-C ends it)")
    if opened:
        webbrowser.open(address(found))
    with closing(found):
        uvicorn.Server(config).run(sockets=[found])
