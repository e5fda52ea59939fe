"""What a server says no with: a status, a code for programs, and a sentence for people."""

from __future__ import annotations

import math
from typing import Any

from unifashion_pl.origin import raised_here
from unifashion_pl.reading import FormatError

#: Code -> status, and what it means.
CODES: dict[str, tuple[int, str]] = {
    "invalid_body": (400, "the body is no JSON, no multipart form, or not UTF-8"),
    "unauthorized": (401, "the server has a token, and the request not"),
    "forbidden": (403, "asked from another machine than the server's, without a token"),
    "not_found": (404, "no such address"),
    "method_not_allowed": (405, "the address takes other methods, see the header Allow"),
    "timeout": (408, "the body took too long to arrive"),
    "conflict": (409, "the index in the folder cannot take the place of the one that is served"),
    "too_large": (413, "the body is larger than is allowed"),
    "unsupported_media_type": (415, "the body is neither application/json nor multipart/form-data"),
    "misdirected": (421, "asked under another name than this machine's, without a token"),
    "invalid_request": (422, "a field that cannot be meant; the message says which, what was found and what was expected"),
    "unreadable_image": (422, "a picture that cannot be read, or has more pixels than are allowed"),
    "too_many_requests": (429, "the queue is full: ask again after Retry-After seconds"),
    "internal": (500, "an error of the server, whose log has it under the request's id"),
    "not_available": (501, "this model or this index cannot do that"),
    "starting": (503, "model and index are not open yet"),
    "stopping": (503, "the server is about to end"),
    "waited_too_long": (503, "the request waited longer than the server allows"),
}


class Refusal(Exception):
    """A request that is not answered.

    Args:
        code: of :data:`CODES`. message: what was found, what was expected.
        retry_after: seconds after which asking again makes sense.
        headers: of the response.
    """

    def __init__(
        self, code: str, message: str, retry_after: float | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, CODES[code][0]
        self.headers = dict(headers or {})
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))
        if self.retry_after is not None:
            self.headers["retry-after"] = str(self.retry_after)

    def as_json(self, request_id: str) -> dict[str, Any]:
        """The body of the response."""
        told: dict[str, Any] = {"code": self.code, "message": self.message, "request_id": request_id}
        if self.retry_after is not None:
            told["retry_after"] = self.retry_after
        return {"error": told}


def refusal_of(error: BaseException) -> Refusal | None:
    """What an error of the library says about a request; None where it is an error of the server.

    What is wrong with a file (:class:`~unifashion_pl.reading.FormatError`) and what other libraries raise is no matter of the request.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, FormatError) or not raised_here(error):
        return None
    if isinstance(error, ValueError):
        return Refusal("invalid_request", str(error))
    return Refusal("not_available", str(error)) if type(error) is RuntimeError else None
