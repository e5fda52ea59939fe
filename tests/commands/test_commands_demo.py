"""``unifashion demo``: which model, what is searched, and what is told before the page is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unifashion_pl.cli import main
from unifashion_pl.commands import demo
from unifashion_pl.demo import server
from unifashion_pl.module import UniFashionModule


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the page would show; it is not served."""
    found: list[Any] = []
    monkeypatch.setattr(server, "serve", lambda answers, place, opened, told: (found.append(answers), place.close()))
    return found


def test_a_model_and_its_index_are_shown(
    tmp_path: Path, retriever: Path, shown: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "red").save("red.png")
    UniFashionModule.from_pretrained(retriever).gallery(["red.png"]).save("index")
    main(["demo", "--model", str(retriever), "--index", "index", "--port", "0"])
    assert shown[0].catalogue.name == "1 images of the index index"
    assert shown[0].models.sentence() == f"the model {retriever}"
    assert shown[0].state()["missing"]["tryon"].startswith("this model has not learned")
    assert f"reading the model {retriever} …" in capsys.readouterr().err


def test_an_index_without_a_model_is_taken_for_the_shipped_one_s_as_index_search_does(
    tmp_path: Path, retriever: Path, shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")
    UniFashionModule.from_pretrained(retriever).gallery([Image.new("RGB", (40, 40))], ids=["a"]).save(tmp_path / "index")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--index", str(tmp_path / "index"), "--port", "0"])
    assert stopped.value.code == 2
    assert "was made by another model" in capsys.readouterr().err
    assert shown == []


def test_an_address_of_the_network_is_refused_as_by_serve_without_a_token(
    tmp_path: Path, shown: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")
    monkeypatch.setattr(demo, "_models", lambda model: None)
    monkeypatch.setattr(demo, "_catalogue", lambda index, models: None)
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--host", "0.0.0.0", "--port", "0"])
    assert stopped.value.code == 2
    assert "no password" in (said := capsys.readouterr().err)
    assert "ssh -L" in said
    assert shown == []
    main(["demo", "--host", "127.0.0.1", "--port", "0"])
    assert len(shown) == 1


def test_without_the_extra_its_name_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(["demo"])
    assert stopped.value.code == 2
    assert "pip install 'unifashion-pl[demo]'" in capsys.readouterr().err
