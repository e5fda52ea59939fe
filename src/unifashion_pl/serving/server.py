"""A process that serves: its socket, its signals, its end."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from types import FrameType

import uvicorn

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.listening import address, listen, require_near
from unifashion_pl.serving.app import make_app
from unifashion_pl.serving.arriving import connections
from unifashion_pl.serving.service import Service

#: The token, where other users of the machine do not see it.
TOKEN = "UNIFASHION_TOKEN"
#: Seconds that the batch which is being answered may take when the server ends.
BATCH = 30
#: Seconds that a connection stays open without a request: longer than proxies keep theirs (60 as a rule), so that none sends one into a closed door.
IDLE = 75


def token_of(given: str | None, host: str) -> str | None:
    """The token that requests have to bring.

    Raises:
        ArgumentError: an empty one, one that no header can hold, or none where other machines may ask.
    """
    token = os.environ.get(TOKEN) if given is None else given
    if token is None:
        require_near(
            host,
            f"set {TOKEN} (or --token), which every request has to bring, "
            "or leave the server at 127.0.0.1, behind a proxy of your own",
        )
        return None
    if not token.isascii() or not token.isprintable() or not token.strip() or token != token.strip():
        raise ArgumentError(
            "the token is empty, or has blanks at its ends or letters that no header may hold: take letters and digits"
        )
    return token


class Server(uvicorn.Server):
    """uvicorn's, which tells the service of its end before it ends."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end: no more requests are taken, those that wait are answered, or refused when their time is over."""
        self.service.stopping = True
        super().handle_exit(sig, frame)


def run(service: Service, host: str, port: int, token: str | None = None) -> None:
    """Serve until a signal ends it.

    Raises:
        Exception: why model or index could not be opened.
    """
    place = listen(host, port)
    home = address(place)
    print(f"opening {service.index} …", file=sys.stderr, flush=True)
    config = uvicorn.Config(
        make_app(service, token),
        http=connections(service.limits.wait),
        ws="none",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=int(service.limits.wait) + BATCH,
    )
    server = Server(config, service)

    def opened() -> None:
        if service.fault is not None:
            server.should_exit = True
        elif service.gallery is not None:
            print(f"{len(service.gallery):,} images of {service.index} at {home}, described at {home}/docs", flush=True)

    service.opened = opened
    _log()
    with warnings.catch_warnings():
        # each text's remarks stand in its answer; Python would keep every one that it has shown
        warnings.simplefilter("ignore", UserWarning)
        try:
            server.run(sockets=[place])
        except (KeyboardInterrupt, SystemExit):
            if not server.should_exit:  # uvicorn raises the signal again by which it has ended in order
                raise
    if service.fault is not None:
        raise service.fault


def _log() -> None:
    """One line a request on stderr, with its time and id; never what was asked."""
    own = logging.getLogger("unifashion_pl.serving")
    if threading.current_thread() is threading.main_thread() and not own.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        own.addHandler(handler)
        own.setLevel(logging.INFO)
        own.propagate = False
