"""The addresses of a server, and what every request meets: an id, the token, a sentence when it is refused, a line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unifashion_pl.listening import host_of, is_loopback
from unifashion_pl.names import quoted
from unifashion_pl.serving import metrics, openapi
from unifashion_pl.serving.arriving import body_of, size_of
from unifashion_pl.serving.bodies import CaptionBody, EmbedBody, SearchBody, from_body, from_form, pictures_of
from unifashion_pl.serving.errors import Refusal
from unifashion_pl.serving.form import fields_of
from unifashion_pl.serving.lane import Lane
from unifashion_pl.serving.limits import DECODERS
from unifashion_pl.serving.service import Ask, Describe, Pixels, Service, refused

B = TypeVar("B", bound=msgspec.Struct)
T = TypeVar("T")
logger = logging.getLogger("unifashion_pl.serving")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Addresses that need no token: what runs a server asks them.
OPEN = ("/health", "/ready")
JSON, FORM = "application/json", "multipart/form-data"
#: Of the page, which needs nothing from elsewhere.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def make_app(service: Service, token: str | None = None) -> Starlette:
    """The application.

    Args:
        token: that a request has to bring, ``Authorization: Bearer TOKEN``; None = none, and ``/reload`` is for this machine alone.
    """
    answering = _Answering(service, token)
    routes = [
        Route("/search", answering.search, methods=["POST"]),
        Route("/embed", answering.embed, methods=["POST"]),
        Route("/caption", answering.caption, methods=["POST"]),
        Route("/reload", answering.reload, methods=["POST"]),
        Route("/health", answering.health),
        Route("/ready", answering.ready),
        Route("/metrics", answering.metrics),
        Route("/openapi.json", answering.description),
        Route("/docs", answering.page),
    ]
    known = frozenset(route.path for route in routes)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Front, service=service, token=token, known=known)],
        exception_handlers={HTTPException: _not_there},
        lifespan=answering.lifespan,
    )
    app.router.redirect_slashes = False
    return app


async def _not_there(request: Request, error: Exception) -> Response:
    """What the router refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        raise Refusal("method_not_allowed", f"{request.method} is none of {allowed.get('Allow', '')}", headers=allowed)
    raise Refusal("not_found", "no such address: /docs lists those that there are")


class Front:
    """What stands before every address.

    Args:
        known: addresses, by which requests are counted.
    """

    def __init__(self, app: ASGIApp, service: Service, token: str | None, known: frozenset[str]) -> None:
        self.app, self.service, self.token, self.known = app, service, token, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        address = scope["path"] if scope["path"] in self.known else "other"
        start, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", id.encode())]
            await send(message)

        try:
            self._require_right(request, address)
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            status = 499
        except Exception as error:
            refusal = refused(self.service, error)
            if refusal is None:
                logger.error("request %s to %s failed", id, address, exc_info=error)
                refusal = Refusal("internal", "an error of the server; its log has it under this request's id")
            if not status:
                body = msgspec.json.encode(refusal.as_json(id))
                await Response(body, refusal.status, refusal.headers, JSON)(scope, receive, sending)
        finally:
            taken = time.monotonic() - start
            self.service.metrics.requests.labels(address, str(status)).inc()
            self.service.metrics.seconds.labels(address).observe(taken)
            logger.log(
                logging.DEBUG if address in OPEN else logging.INFO,
                "%s %s %d %.1f ms %s",
                scope["method"],
                address,
                status,
                taken * 1e3,
                id,
            )

    def _require_right(self, request: Request, address: str) -> None:
        """The token; without one the name of this machine: a page of elsewhere whose name leads here has no answer to read."""
        if address in OPEN:
            return
        if self.token is None:
            host = request.headers.get("host", "")
            if not is_loopback(host_of(host)):
                raise Refusal(
                    "misdirected",
                    f"asked as {quoted(host)}, and without a token it is answered to 127.0.0.1 and localhost alone: "
                    "have the proxy send that as Host, or give the server a token",
                )
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self.token.encode()):
            raise Refusal(
                "unauthorized", "expected the header Authorization: Bearer TOKEN", headers={"www-authenticate": "Bearer"}
            )


class _Answering:
    """The addresses."""

    def __init__(self, service: Service, token: str | None) -> None:
        self.service, self.limits, self.token = service, service.limits, token
        self._held = 0
        self._decoders = asyncio.Semaphore(DECODERS)
        self._document = openapi.document(self.limits)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Opens model and index while the server already says that it is not ready; the hang-up signal opens the index anew."""
        opening = threading.Thread(target=self._open, name="opening", daemon=True)
        opening.start()
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[Any]]()

        def again() -> None:
            task = loop.create_task(asyncio.to_thread(self._reload_quietly))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        hang_up = getattr(signal, "SIGHUP", None) if threading.current_thread() is threading.main_thread() else None
        if hang_up is not None:
            loop.add_signal_handler(hang_up, again)
        yield
        if hang_up is not None:
            loop.remove_signal_handler(hang_up)
        await asyncio.to_thread(self.service.close)

    def _open(self) -> None:
        try:
            self.service.open()
        except Exception as error:
            self.service.fault = error
        self.service.opened()

    def _reload_quietly(self) -> None:
        with contextlib.suppress(Refusal):  # the log has it
            self.service.reload()

    async def search(self, request: Request) -> Response:
        until = time.monotonic() + self.limits.wait
        async with self._read(request, SearchBody, self.service.searches) as body:
            if body.text is None and body.image is None and not body.like:
                raise Refusal("invalid_request", "give a text, an image, or both, or examples as like")
            how = body.options()
            squares = await self._pixels(body, until)
        like, unlike = (
            [square for name, square in squares.items() if name.startswith(f"{kind}[")] or None for kind in ("like", "unlike")
        )
        how = replace(how, like=like, unlike=unlike)
        asked = Ask(body.text, squares.get("image"), how, tuple(body.facets or ()))
        return _json(await self._answer(self.service.searches, asked, until))

    async def embed(self, request: Request) -> Response:
        until = time.monotonic() + self.limits.wait
        async with self._read(request, EmbedBody, self.service.searches) as body:
            if body.text is None and body.image is None:
                raise Refusal("invalid_request", "give a text, an image, or both")
            squares = await self._pixels(body, until)
        return _json(await self._answer(self.service.searches, Ask(body.text, squares.get("image")), until))

    async def caption(self, request: Request) -> Response:
        until = time.monotonic() + self.limits.wait
        async with self._read(request, CaptionBody, self.service.captions) as body:
            self.service.require_style(body.style)
            squares = await self._pixels(body, until)
        return _json(await self._answer(self.service.captions, Describe(squares["image"], body.style), until))

    async def reload(self, request: Request) -> Response:
        if self.token is None and not _is_near(request):
            raise Refusal(
                "forbidden", "without a token /reload is for programs of the server's own machine, asked without a proxy"
            )
        before, now = await asyncio.to_thread(self.service.reload)
        return _json({"before": before, "images": now})

    async def health(self, request: Request) -> Response:
        return _json({"alive": True})

    async def ready(self, request: Request) -> Response:
        return _json({"ready": True, **self.service.told()})

    async def metrics(self, request: Request) -> Response:
        return Response(self.service.metrics.text(), media_type=metrics.KIND)

    async def description(self, request: Request) -> Response:
        return _json(self._document)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(openapi.page(self._document), headers={"content-security-policy": POLICY})

    @contextlib.asynccontextmanager
    async def _read(self, request: Request, kind: type[B], lane: Lane) -> AsyncIterator[B]:
        """The body, while its bytes count among those that are held; refused before it is read where it would not be answered."""
        self.service.require_ready()
        with lane.place():
            size = self._expected(request)
            if self._held + size > self.limits.held_bytes:
                raise Refusal("too_many_requests", "more is being sent than the server holds at once", lane.seconds)
            self._held += size
            try:
                data = await body_of(request, self.limits.body_bytes, self.limits.wait)
                media = request.headers["content-type"]
                yield from_body(data, kind) if _name(media) == JSON else from_form(fields_of(data, media), kind)
            finally:
                self._held -= size

    def _expected(self, request: Request) -> int:
        """Bytes of a body that may be read; of one that does not say it, the most that it may have.

        Raises:
            Refusal: another type, or too large.
        """
        name = _name(request.headers.get("content-type", ""))
        if name not in (JSON, FORM):
            raise Refusal("unsupported_media_type", f"the Content-Type is {quoted(name)}, expected {JSON} or {FORM}")
        return size_of(request, self.limits.body_bytes)

    async def _pixels(self, body: msgspec.Struct, until: float) -> dict[str, Pixels]:
        """Pictures of a body as the tower sees them, decoded a few at once."""
        made = {}
        for name, data in pictures_of(body).items():
            await self._in_time(self._decoders.acquire(), until)
            try:
                made[name] = await asyncio.to_thread(self.service.pixels, data, name)
            finally:
                self._decoders.release()
        return made

    async def _in_time(self, awaited: Awaitable[T], until: float) -> T:
        try:
            return await asyncio.wait_for(awaited, max(until - time.monotonic(), 0.001))
        except asyncio.TimeoutError as error:
            raise self._late(self.service.searches) from error

    async def _answer(self, lane: Lane, asked: Any, until: float) -> Any:
        """The lane's answer. What waits too long is refused; what is being answered already is waited for."""
        future: Future[Any] = lane.put(asked)
        wrapped = asyncio.wrap_future(future)
        await asyncio.wait({wrapped}, timeout=max(until - time.monotonic(), 0.001))
        if not wrapped.done() and lane.withdraw(future):
            raise self._late(lane)
        return await wrapped

    def _late(self, lane: Lane) -> Refusal:
        return Refusal(
            "waited_too_long", f"the request waited {self.limits.wait:g} seconds, which is as long as one may", lane.seconds
        )


def _name(media: str) -> str:
    """A media type without what stands behind it."""
    return media.partition(";")[0].strip().lower()


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)


def _is_near(request: Request) -> bool:
    """Whether a program of this machine asks, itself: no proxy for somebody else, no page in a browser."""
    between = ("origin", "forwarded", "x-forwarded-for", "x-real-ip")
    if request.client is None or any(name in request.headers for name in between):
        return False
    return is_loopback(request.client.host)
