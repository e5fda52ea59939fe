"""A captioner for :func:`unifashion_pl.datamodules.annotate.annotate` that asks a server of OpenAI's chat interface, over HTTP.

vLLM, llama.cpp, Ollama, LM Studio and hosted services speak it. Each question is a chat of its own with one image and one text, so
that no answer can know of another image. Standard library alone.
"""

from __future__ import annotations

import base64
import io
import os
import re
import string
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, TypedDict
from urllib.parse import SplitResult, urlsplit

from PIL import Image
from typing_extensions import NotRequired
from unifashion_pl.datamodules.annotate import TEMPLATE, CaptionInput

from unifashion_pl import arguments
from unifashion_pl.arguments import ArgumentError
from unifashion_pl.data.plan import compact_json
from unifashion_pl.reading import FormatError, from_json

SEED = 0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: Statuses after which the same question may be answered; all others are final.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
#: Fields of a prompt, and what each lets the model know.
FIELDS = {"garment": "category", "keywords": "keywords"}
MAX_ANSWER = 4 << 20
QUALITY = 95
THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
WHAT = "a chat completion (choices[0].message.content)"


class EndpointError(RuntimeError):
    """What a server would not do; the message names it without its key."""


class _Passing(Exception):
    """A failure after which it is asked again; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, said: str, wait: float | None = None) -> None:
        super().__init__(said)
        self.wait = wait


class _Stopped(Exception):
    """Not asked any more, because another question has failed or the run was ended."""


class _Stays(urllib.request.HTTPRedirectHandler):
    """No redirection is followed: urllib would take the key along to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class EndpointCaptioner:
    """A vision-language model behind ``URL/chat/completions``; greedy, after a refusal by sampling.

    Failures that pass (:data:`PASSING`, cut or refused connections, time-outs, answers that are no JSON) are asked again after 1, 2, 4 …
    times ``backoff`` seconds or what ``Retry-After`` says. The key stands in no record, message or attribute that is shown.

    Args:
        url: of the interface, e.g. ``http://127.0.0.1:8000/v1``; no user, password or query in it.
        model: the name that the server knows it by.
        prompt: with ``{garment}`` and ``{keywords}`` or without them; nothing else can be filled in.
        key_env: the *name* of the environment variable that holds the key; None = no key.
        max_new_tokens: of a caption.
        timeout: seconds without a byte after which a question has failed.
        retries: how often it is asked again.
        backoff: seconds before it is asked again for the first time.
        max_wait: the longest wait, in seconds; a server that asks for a longer one ends the run, which can be gone on with later.
        concurrency: questions at a time (``batch_size`` of ``annotate`` bounds it too).
        max_side: larger images are scaled down to it; what is sent is a JPEG.

    Raises:
        ArgumentError: a URL, prompt, number or variable that cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        prompt: str = TEMPLATE,
        key_env: str | None = None,
        max_new_tokens: int = 96,
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 1.0,
        max_wait: float = 60.0,
        concurrency: int = 4,
        max_side: int = 1024,
    ) -> None:
        parts = _checked_url(url)
        self.url = (
            url.rstrip("/") if parts.path.rstrip("/").endswith("/chat/completions") else f"{url.rstrip('/')}/chat/completions"
        )
        self.host = parts.netloc.lower()
        if not model.strip():
            raise ArgumentError(
                "the endpoint's model has no name: expected the one that the server knows it by, as its /models lists it"
            )
        self._key = _Key(key_env)
        if self._key and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            warnings.warn(
                f"the key of {key_env} goes to {self.host} unencrypted: use https where others can listen", stacklevel=2
            )
        self.model, self.prompt = model, prompt
        self.timeout, self.backoff, self.max_wait = (
            _positive(timeout, "timeout"), _positive(backoff, "backoff"), _positive(max_wait, "max_wait")
        )  # fmt: skip
        self.retries = arguments.count(retries + 1, "retries + 1") - 1
        self.concurrency, self.max_side = arguments.count(concurrency, "concurrency"), arguments.count(max_side, "max_side")
        self.max_new_tokens = arguments.count(max_new_tokens, "max_new_tokens")
        self.record: Mapping[str, Any] = {
            "captioner": model,
            "endpoint": self.host,
            "weights_hash": f"not known: served by {self.host}",
            "template": prompt,
            "decoding": {"temperature": 0, "max_tokens": max_new_tokens, "image": f"JPEG {QUALITY}, at most {max_side} pixels"},
            "seed": SEED,
            "inputs": ["image", *_inputs(prompt)],
            "date": datetime.now(timezone.utc).date().isoformat(),
        }
        direct = [urllib.request.ProxyHandler({})] if parts.hostname in LOOPBACK else []
        self._opener = urllib.request.build_opener(_Stays, *direct)

    def __call__(self, subjects: Sequence[CaptionInput], attempt: int) -> list[str]:
        """See :class:`~unifashion_pl.datamodules.annotate.Captioner`; the ``attempt`` seeds the sampling.

        Raises:
            EndpointError: the server cannot be reached, refuses, or says what is no chat completion.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(min(self.concurrency, max(len(subjects), 1))) as pool:
            asked = [pool.submit(self._caption, subject, attempt, stop) for subject in subjects]
            try:
                wait(asked, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        failures = [error for answer in asked if not answer.cancelled() and (error := answer.exception())]
        if failures:
            raise next((error for error in failures if not isinstance(error, _Stopped)), failures[0])
        return [answer.result() for answer in asked]

    def _caption(self, subject: CaptionInput, attempt: int, stop: threading.Event) -> str:
        """One caption; a failure, and whatever ends the others, sets ``stop``, after which nothing is asked."""
        if stop.is_set():
            raise _Stopped
        try:
            return self._persist(self._question(subject, attempt), stop)
        except BaseException:
            stop.set()
            raise

    def _persist(self, question: bytes, stop: threading.Event) -> str:
        for tried in range(self.retries + 1):
            try:
                return self._answer(question)
            except _Passing as failure:
                pause = min(self.backoff * 2**tried, self.max_wait) if failure.wait is None else failure.wait
                said = str(failure)
            if pause > self.max_wait:
                raise EndpointError(
                    f"{self.host} {said} and asks to wait {pause:.0f} s, more than the {self.max_wait:g} s that may be waited. "
                    "What is finished is kept: run the same command again later"
                )
            if tried < self.retries and stop.wait(pause):
                raise _Stopped
        raise EndpointError(
            f"{self.host} was asked {self.retries + 1} times and at last {said}. What is finished is kept: see that the server "
            f"answers at {self.url} and run the same command again"
        )

    def _question(self, subject: CaptionInput, attempt: int) -> bytes:
        content = [
            {"type": "text", "text": subject.filled(self.prompt)},
            {"type": "image_url", "image_url": {"url": data_url(subject.image, self.max_side)}},
        ]
        sampling = {"temperature": 1.0 if attempt else 0.0, "seed": SEED + attempt, "max_tokens": self.max_new_tokens}
        return compact_json(
            {"model": self.model, "messages": [{"role": "user", "content": content}], **sampling, "stream": False}
        )

    def _answer(self, question: bytes) -> str:
        """
        Raises:
            _Passing: a failure that passes.
            EndpointError: one that does not.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._key.headers()}
        request = urllib.request.Request(self.url, question, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                body = response.read(MAX_ANSWER + 1)
                if response.length and len(body) <= MAX_ANSWER:
                    raise _Passing("cut its answer off")
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, HTTPException) as error:  # URLError, refused and cut connections, time-outs
            reason = self._key.hidden(str(getattr(error, "reason", "") or error or type(error).__name__))
            raise _Passing(f"gave no answer ({reason})") from None
        if len(body) > MAX_ANSWER:
            raise EndpointError(f"{self.host} answered with more than {MAX_ANSWER:,} bytes, expected a caption")
        return self._text(body)

    def _text(self, body: bytes) -> str:
        try:
            said: _Completion = from_json(body, _Completion, "the answer", WHAT)
        except FormatError as error:
            raise _Passing(f"answered what is not {WHAT}: {_excerpt(self._key.hidden(body))!r} ({error})") from None
        if not said["choices"]:
            raise _Passing(f"answered without any of the choices that {WHAT} has")
        content = said["choices"][0]["message"].get("content") or ""
        text = content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
        return THOUGHT.sub("", self._key.hidden(text)).strip()

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            try:
                said = _excerpt(self._key.hidden(error.read(4096)))
            except (OSError, HTTPException):
                said = ""
        named = f"answered {error.code} {self._key.hidden(error.reason or '')}".strip() + (f" ({said})" if said else "")
        if error.code in PASSING:
            return _Passing(named, _seconds(error.headers.get("Retry-After")))
        if 300 <= error.code < 400:
            cure = "redirections are not followed: name the address itself"
        elif error.code in (401, 403):
            named_key = (
                f"the key of the variable {self._key.name}" if self._key else "a question without a key: name its variable"
            )
            cure = f"it does not take {named_key}"
        elif error.code == 404:
            cure = f"it knows no {self.url} or no model {self.model!r}: compare both with what its /models lists"
        else:
            cure = f"expected is a model that reads images; the one named is {self.model!r}"
        return EndpointError(f"{self.host} {named}: {cure}")


class _Key:
    """The key of an environment variable: read when it is sent, hidden wherever a server repeats it."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        if name is not None and not self._value():
            raise ArgumentError(  # without what was named: it may be the key
                "the environment variable that was named for the endpoint's key is not set: put the key into one, as OPENAI_API_KEY, "
                "and name it; the key itself belongs into no command"
            )
        if not re.fullmatch(r"[!-~]*", self._value()):
            raise ArgumentError(
                f"the environment variable {name} holds blanks or signs that no key has: expected printable ASCII"
            )

    def __bool__(self) -> bool:
        return self.name is not None

    def _value(self) -> str:
        return "" if self.name is None else os.environ.get(self.name, "").strip()

    def headers(self) -> dict[str, str]:
        """What is sent beside a question."""
        value = self._value()
        return {"Authorization": f"Bearer {value}"} if value else {}

    def hidden(self, said: str | bytes) -> str:
        """A server's words without the key."""
        text, value = said if isinstance(said, str) else said.decode("utf-8", "replace"), self._value()
        return text.replace(value, "***") if value else text


def data_url(image: Image.Image, max_side: int) -> str:
    """An RGB image as a JPEG in a ``data:`` URL, scaled down where a side is longer than ``max_side`` pixels."""
    if max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _checked_url(url: str) -> SplitResult:
    expected = "expected an address such as http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        _ = parts.port  # read to be checked
    except ValueError:
        raise ArgumentError(f"the endpoint's address cannot be read: {expected}") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ArgumentError(
            f"the endpoint's address holds a user, a password, a query or a fragment, {expected}; a key comes from an environment "
            "variable, which is named"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f\x7f-\U0010ffff]", url):
        raise ArgumentError(f"the endpoint's address is {url!r}, {expected}")
    return parts


def _inputs(prompt: str) -> list[str]:
    """What a prompt tells of an image.

    Raises:
        ArgumentError: it asks for more than :data:`FIELDS`, or for nothing.
    """
    expected = "expected a text with {garment}, {keywords} or neither; a brace that is meant is written twice"
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(prompt) if name is not None]
    except ValueError as error:
        raise ArgumentError(f"the prompt cannot be filled in ({error}): {expected}") from None
    if strange := sorted({name for name, spec, how in fields if name not in FIELDS or spec or how}):
        raise ArgumentError(f"the prompt asks for {', '.join(f'{{{name}}}' for name in strange)}: {expected}")
    if not prompt.strip():
        raise ArgumentError(f"the prompt is empty: {expected}")
    return [FIELDS[name] for name in FIELDS if name in {found for found, _, _ in fields}]


def _positive(value: float, name: str) -> float:
    if (found := arguments.number(value, name)) <= 0:
        raise ArgumentError(f"{name} is {found:g}, expected more than 0 seconds")
    return found


def _seconds(said: str | None) -> float | None:
    """``Retry-After``: seconds, or a date (RFC 9110, 10.2.3); None = not said, or not understood."""
    if said is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", said.strip()):
        return float(said)
    try:
        then = parsedate_to_datetime(said)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
    return max(0.0, (then - datetime.now(timezone.utc)).total_seconds())


def _excerpt(said: str, most: int = 200) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return text if len(text) <= most else f"{text[:most]}…"


class _Part(TypedDict):
    text: NotRequired[str | None]


class _Message(TypedDict):
    content: NotRequired[str | list[_Part] | None]


class _Choice(TypedDict):
    message: _Message


class _Completion(TypedDict):
    choices: list[_Choice]
