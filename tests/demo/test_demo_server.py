"""The page's server: it tells where it is, and gives its port back at its end."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")
import uvicorn

from unifashion_pl.demo import server
from unifashion_pl.demo.answers import Answers
from unifashion_pl.demo.app import ARRIVAL
from unifashion_pl.listening import address, listen
from unifashion_pl.serving.arriving import Connection


def test_it_tells_its_address_opens_it_and_gives_the_port_back(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    served: list[Any] = []
    told: list[str] = []
    monkeypatch.setattr(server.webbrowser, "open", opened.append)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.extend([self.config.http, *sockets]))
    found = listen("127.0.0.1", 0)
    home = address(found)
    server.serve(answers, found, True, told.append)
    assert told == [f"The page: {home}    (Ctrl-C ends it)"]
    assert opened == [home]
    protocol, place = served
    assert issubclass(protocol, Connection)
    assert protocol.seconds == ARRIVAL
    assert place is found
    listen("127.0.0.1", int(home.rpartition(":")[2])).close()
