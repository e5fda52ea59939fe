"""Where the servers of this library listen, and under which names they are asked: one rule for `serve` and for `demo`."""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlsplit

from unifashion_pl.arguments import ArgumentError


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "shop.example")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of(authority: str) -> str:
    """The host in a header ``Host``, which anybody may have written: "" where there is none that could be meant.

    >>> [host_of(text) for text in ("LOCALHOST:80", "[::1]:80", "[::1", "127.0.0.1@shop.example", "127.0.0.1/..")]
    ['localhost', '::1', '', '', '']
    """
    try:
        found = urlsplit(f"//{authority}")
        found.port  # noqa: B018  # a port that is no number
    except ValueError:
        return ""
    whole = found.netloc == authority and found.username is None
    return found.hostname or "" if whole else ""


def require_near(host: str, cure: str) -> None:
    """
    Raises:
        ArgumentError: other machines could ask there; the message ends with the cure.
    """
    if not is_loopback(host):
        raise ArgumentError(f"--host {host} lets other machines ask: {cure}")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything slow is read, so that nobody waits in vain for a port that is taken.

    Args:
        port: 0 = any that is free.

    Raises:
        ArgumentError: a port that is none, or an address that is not there, or is taken.
    """
    if not 0 <= port <= 65535:
        raise ArgumentError(f"--port is {port}, expected a number from 1 to 65535, or 0 for any that is free")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ArgumentError(f"--host {host} is no address of this machine: {error}") from error
    found = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a server that was killed a moment ago does not hold its port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.listen(2048)
    except OSError as error:
        found.close()
        raise ArgumentError(
            f"cannot listen at {_joined(host, port)} ({error.strerror or error}): name another --port, or 0 for any that is free"
        ) from error
    return found


def address(found: socket.socket) -> str:
    """What to type into a browser."""
    return f"http://{_joined(*found.getsockname()[:2])}"


def _joined(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"
