"""Where the page listens: this machine alone unless said otherwise, and a port that is free."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")

from unifashion_pl.demo.server import address, listening


def test_any_free_port_and_its_address() -> None:
    with listening("127.0.0.1", 0) as found:
        host, port = found.getsockname()
        assert host == "127.0.0.1"
        assert address(found) == f"http://127.0.0.1:{port}"


def test_a_port_in_use_or_none_is_a_sentence_with_a_cure() -> None:
    with listening("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot listen at 127\.0\.0\.1:{port} .*name another --port"):
            listening("127.0.0.1", port)
    with pytest.raises(ValueError, match="--port is 70000, expected a number from 1 to 65535"):
        listening("127.0.0.1", 70000)
