"""The page over HTTP: one at a time, from this page alone, within limits, with nothing that a browser would fetch from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unifashion_pl.demo.answers import Answers, CaptionAsked, PaintAsked, SearchAsked, told
from unifashion_pl.demo.uploads import KINDS, MAX_BYTES, Refused, too_large
from unifashion_pl.listening import host_of, is_loopback
from unifashion_pl.names import quoted
from unifashion_pl.pages import environment
from unifashion_pl.provenance import __version__
from unifashion_pl.reading import FormatError, from_json
from unifashion_pl.serving.arriving import body_of
from unifashion_pl.serving.errors import Refusal

#: Of a request that holds up to three pictures, as text; and how many requests wait for the one that is at work.
MAX_REQUEST, WAITING = 3 * MAX_BYTES * 4 // 3, 8
#: Seconds that a request may take to arrive: photos may come through a tunnel to another machine.
ARRIVAL = 60
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
KIND_OF = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def application(answers: Answers) -> Starlette:
    """The page and what it asks; a page from elsewhere whose name leads here reads nothing."""
    turn = _Turn()
    kinds: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
        "search": (SearchAsked, answers.search),
        "caption": (CaptionAsked, answers.caption),
        "tryon": (PaintAsked, answers.tryon),
        "design": (PaintAsked, answers.design),
    }

    async def page(request: Request) -> Response:
        return Response(_page(), media_type="text/html")

    async def state(request: Request) -> Response:
        return JSONResponse(await to_thread.run_sync(answers.state))

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        kind = KIND_OF.get(name.rpartition(".")[2])
        content = _static().get(name)
        return Response(status_code=404) if kind is None or content is None else Response(content, media_type=kind)

    async def look(request: Request) -> Response:
        data = await _body(request, MAX_BYTES)
        return await turn.take(lambda: answers.look(data))

    async def ask(request: Request) -> Response:
        kind, answer = kinds[request.url.path.strip("/")]
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise Refused("the request is no JSON", "application/json", "Ask from the page", 415)
        asked = from_json(await _body(request, MAX_REQUEST), kind, "the request")
        return await turn.take(lambda: answer(asked))

    routes = [
        Route("/", page),
        Route("/state", state),
        Route("/static/{name}", static),
        Route("/look", look, methods=["POST"]),
        *(Route(f"/{name}", ask, methods=["POST"]) for name in kinds),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {Refused: _refused, FormatError: _refused}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.add_middleware(_Guard)
    return app


class _Turn:
    """One request at the model, the others in a short line."""

    def __init__(self) -> None:
        self.one = anyio.CapacityLimiter(1)
        self.waiting = 0

    async def take(self, work: Callable[[], dict[str, Any]]) -> Response:
        """What work gives, or a sentence about why it gives nothing."""
        if self.waiting > WAITING:
            raise Refused(f"{self.waiting} requests are being worked on", f"at most {WAITING}", "Try again in a moment", 503)
        self.waiting += 1
        try:
            return JSONResponse(await to_thread.run_sync(work, limiter=self.one))
        except (ValueError, RuntimeError, LookupError, OSError, TypeError) as error:
            return _answer(error)
        finally:
            self.waiting -= 1


class _Guard:
    """Who may ask, and what browsers are told."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        refusal = self._refusal({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        with suppress(ClientDisconnect):  # nobody is left who could be answered
            await (self.app if refusal is None else _answer(refusal))(scope, receive, sent)

    def _refusal(self, headers: dict[str, str]) -> Refused | None:
        host = headers.get("host", "")
        if not is_loopback(host_of(host)):
            return Refused(
                f"the page was asked for as {quoted(host)}",
                "this machine's own name",
                "Open http://127.0.0.1 with the port",
                421,
            )
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return Refused(f"{quoted(origin)} asks", "this page alone", "Open the page itself", 403)
        return None


async def _body(request: Request, most: int) -> bytes:
    """All of a request, in memory.

    Raises:
        Refused: it is longer than ``most``, or was not there in time.
    """
    try:
        return await body_of(request, most, ARRIVAL)
    except Refusal as error:
        if error.code == "too_large":
            raise too_large() from error
        raise Refused(error.message, "all of it by then", "Send it again, or save the picture smaller", error.status) from error


async def _refused(request: Request, error: Exception) -> Response:
    return _answer(error)


def _answer(error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else 422
    return JSONResponse({"error": told(error)}, status_code=status)


@cache
def _static() -> dict[str, bytes]:
    folder = files("unifashion_pl.demo") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in KIND_OF}


@cache
def _page() -> str:
    template = environment("unifashion_pl.demo").get_template("demo.html.j2")
    accepted = ",".join(f"image/{name.lower()}" for name in KINDS.values())
    return template.render(version=__version__, accepted=accepted, most=MAX_BYTES, limit=f"{MAX_BYTES >> 20} MB")
