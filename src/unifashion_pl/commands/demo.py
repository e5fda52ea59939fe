"""``demo``: a page in the browser in which a model can be tried."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from unifashion_pl.commands.options import Model

if TYPE_CHECKING:
    from unifashion_pl.demo.catalogue import Catalogue
    from unifashion_pl.demo.models import Models

#: Where the page is, where nothing else is said.
HOST, PORT = "127.0.0.1", 8600


def demo(
    *,
    index: Annotated[
        Path | None,
        {"metavar": "FOLDER", "help": "of `index build`, to be searched; default: drawn garments, embedded when it starts"},
    ] = None,
    host: Annotated[str, "where to listen; this machine's own alone: 127.0.0.1, ::1, localhost"] = HOST,
    port: Annotated[int, "0 = any that is free"] = PORT,
    browser: Annotated[bool, "open the page in a browser"] = False,
    model: Model,
) -> None:
    """Show the model on a page in the browser: search, composed search, captions, try-on, design.

    Without ``--model`` it shows the run of `make demo` if the current folder has one, else the shipped model.

    Raises:
        ModuleNotFoundError: the extra ``demo`` is not installed.
        ArgumentError: a host that lets other machines ask, or a port in use.
        ValueError: an index of another model.
    """
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise ModuleNotFoundError(f"the page needs {' and '.join(missing)}: pip install 'unifashion-pl[demo]'")
    from unifashion_pl.demo.answers import Answers
    from unifashion_pl.demo.server import serve
    from unifashion_pl.listening import listen, require_near

    require_near(
        host,
        "the page asks for no password and encrypts nothing. Leave it at 127.0.0.1, and reach it from elsewhere by "
        f"ssh -L {port}:127.0.0.1:{port} MACHINE; for programs there is `unifashion serve`, with a token",
    )
    place = listen(host, port)
    models = _models(
        model if index is None or model.model else replace(model, model="tiny")
    )  # as `index build` and `index search`
    answers = Answers(models, _catalogue(index, models))
    serve(answers, place, browser, lambda line: print(line, flush=True))


def _models(model: Model) -> Models:
    from unifashion_pl.demo.models import chosen

    return chosen(
        model.model, Path.cwd(), lambda source: replace(model, model=source).load(), lambda what: _say(f"reading {what} …")
    )


def _catalogue(index: Path | None, models: Models) -> Catalogue | None:
    """What is searched; None where the model cannot search."""
    from unifashion_pl.demo.catalogue import indexed, wardrobe

    if index is not None:
        return indexed(index, models.main.model)
    if models.main.model.retrieval_head is None:
        return None

    def told(done: int, of: int) -> None:
        end = "\n" if done == of else ""
        if sys.stderr.isatty() or done == of:
            print(f"\rdrawing garments to search in: {done} of {of}", end=end, file=sys.stderr, flush=True)

    return wardrobe(models.main.model, told)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
