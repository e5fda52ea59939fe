"""`unifashion serve`: what it hands to the server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from unifashion_pl.cli import main
from unifashion_pl.commands.serve import ServedModel, opened


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server would be given."""
    pytest.importorskip("starlette", reason="the extra `serve` is not installed")
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        "unifashion_pl.serving.server.run",
        lambda service, host, port, token: found.update(service=service, host=host, port=port, token=token),
    )
    monkeypatch.setattr("unifashion_pl.gallery.store.require", lambda folder: folder)
    monkeypatch.delenv("UNIFASHION_TOKEN", raising=False)
    return found


def test_options_reach_the_server(handed: dict[str, Any]) -> None:
    main(
        ["serve", "index", "--port", "0", "--token", "abc", "--queue", "7", "--batch", "3", "--wait", "1.5", "--max-body", "2"]
    )
    assert (handed["host"], handed["port"], handed["token"]) == ("127.0.0.1", 0, "abc")
    limits = handed["service"].limits
    assert (limits.queue, limits.batch, limits.wait, limits.max_body) == (7, 3, 1.5, 2)
    assert handed["service"].index == Path("index")
    handed["service"].close()


@pytest.mark.parametrize(("words", "captions"), [([], True), (["--no-captions"], False)])
def test_captions_are_built_unless_they_are_not_wanted(handed: dict[str, Any], words: list[str], captions: bool) -> None:
    main(["serve", "index", *words])
    encoder, captioner = handed["service"]._load()
    assert (captioner is not None) == captions
    assert encoder.whole.width > 0
    handed["service"].close()


def test_an_export_answers_by_itself(exported: Path) -> None:
    encoder, captioner = opened(ServedModel(model=str(exported)))
    assert captioner is None
    assert not encoder.explains


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith(("unifashion_pl.serving.server", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("unifashion_pl.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "index"])
    assert stopped.value.code == 2
    assert "pip install 'unifashion-pl[serve]'" in capsys.readouterr().err
