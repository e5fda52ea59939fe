"""Where servers listen: this machine alone unless said otherwise, and a port that is free."""

from __future__ import annotations

import socket

import pytest

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.listening import address, host_of, is_loopback, listen, require_near


def test_names_of_this_machine() -> None:
    names = ("127.8.8.8", "::1", "localhost", "LOCALHOST", "0.0.0.0", "", "127.0.0.1.evil.example", "::")
    assert [is_loopback(host) for host in names] == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("127.0.0.1:8000", "127.0.0.1"),
        ("LocalHost", "localhost"),
        ("[::1]:80", "::1"),
        ("[::1", ""),
        ("[", ""),
        ("127.0.0.1:abc", ""),
        ("127.0.0.1:99999", ""),
        ("shop.example@127.0.0.1", ""),
        ("127.0.0.1/..", ""),
        ("127.0.0.1#shop.example", ""),
        ("\xff\xfe", "\xff\xfe"),
        ("", ""),
    ],
)
def test_a_host_is_read_as_browsers_read_it_or_not_at_all(authority: str, host: str) -> None:
    assert host_of(authority) == host


def test_other_machines_are_refused_with_the_cure() -> None:
    require_near("::1", "")
    with pytest.raises(ArgumentError, match=r"--host 0\.0\.0\.0 lets other machines ask: take a token"):
        require_near("0.0.0.0", "take a token")


def test_any_free_port_and_its_address() -> None:
    with listen("127.0.0.1", 0) as found:
        host, port = found.getsockname()
        assert host == "127.0.0.1"
        assert address(found) == f"http://127.0.0.1:{port}"
        socket.create_connection((host, port), timeout=5).close()  # before anybody has called listen again


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_of_ipv6_stands_in_brackets() -> None:
    try:
        found = listen("::1", 0)
    except ArgumentError as error:
        assert "cannot listen at [::1]:0" in str(error)  # noqa: PT017
        pytest.skip("this machine has no ::1")
    with found:
        assert address(found) == f"http://[::1]:{found.getsockname()[1]}"


def test_what_cannot_be_listened_on_is_a_sentence_with_a_cure() -> None:
    with listen("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
        with pytest.raises(ArgumentError, match=rf"cannot listen at 127\.0\.0\.1:{port} .*name another --port"):
            listen("127.0.0.1", port)
    for wrong in (70000, -1):
        with pytest.raises(ArgumentError, match=f"--port is {wrong}, expected a number from 1 to 65535"):
            listen("127.0.0.1", wrong)
    with pytest.raises(ArgumentError, match="is no address of this machine"):
        listen("no such host", 0)
