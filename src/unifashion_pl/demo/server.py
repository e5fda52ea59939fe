"""The page's server."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable
from contextlib import closing

import uvicorn

from unifashion_pl.demo.answers import Answers
from unifashion_pl.demo.app import ARRIVAL, application
from unifashion_pl.listening import address
from unifashion_pl.serving.arriving import connections


def serve(answers: Answers, found: socket.socket, opened: bool, told: Callable[[str], None]) -> None:
    """Answer until Ctrl-C.

    Args:
        opened: open a browser.
    """
    app = application(answers)
    config = uvicorn.Config(
        app,
        http=connections(ARRIVAL),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    told(f"The page: {address(found)}    (Ctrl-C ends it)")
    if opened:
        webbrowser.open(address(found))
    with closing(found):
        uvicorn.Server(config).run(sockets=[found])
