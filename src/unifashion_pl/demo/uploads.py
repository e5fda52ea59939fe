"""Pictures that a browser sends: looked at in memory, within limits, and never written anywhere."""

from __future__ import annotations

import base64
from typing import Any

from PIL import Image

from unifashion_pl.data import decode
from unifashion_pl.names import quoted
from unifashion_pl.pages import inside, small

#: Formats by their names in :data:`unifashion_pl.data.formats.FORMATS`: what phones and cameras write.
KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WebP", "avif": "AVIF", "heic": "HEIC"}
#: Of one picture as it is sent.
MAX_BYTES = 12 << 20
#: Longer side of the picture that the page works with, in pixels.
SIDE = 1280


class Refused(ValueError):
    """Something that was asked of the page cannot be done as it is: what was found, what is expected, how to mend it.

    Attributes:
        status: of HTTP.
        picture: what shows the problem, or None.
    """

    def __init__(self, found: str, expected: str, cure: str, status: int = 422, picture: Image.Image | None = None) -> None:
        self.found, self.expected, self.cure, self.status, self.picture = found, expected, cure, status, picture
        super().__init__(found)

    def __str__(self) -> str:
        return f"{self.found}. Expected: {self.expected}. {self.cure}."

    def told(self) -> dict[str, Any]:
        """As the page shows it."""
        shown = None if self.picture is None else inside(small(self.picture, SIDE))
        return {"found": self.found, "expected": self.expected, "cure": self.cure, "picture": shown}


def size_of(number: int) -> str:
    """
    >>> size_of(12 << 20), size_of(700_000)
    ('12.0 MB', '0.7 MB')
    """
    return f"{number / (1 << 20):.1f} MB"


def too_large(number: int | None = None) -> Refused:
    """Of a picture, or a request, with more bytes than :data:`MAX_BYTES`; None = nobody counted them all."""
    said = "more" if number is None else size_of(number)
    return Refused(
        f"the file has {said}" if number is not None else f"the file has more than {size_of(MAX_BYTES)}",
        f"at most {size_of(MAX_BYTES)}",
        "Save it smaller, e.g. as JPEG with a longer side of 2,000 pixels",
        413,
    )


def read_picture(data: bytes) -> Image.Image:
    """The bytes of a file -> RGB, upright, without metadata, its longer side at most :data:`SIDE`.

    Raises:
        Refused: no picture, one of another format, damaged, or too large.
    """
    if len(data) > MAX_BYTES:
        raise too_large(len(data))
    cure = "Choose another photo, or save this one as JPEG or PNG with a longer side of at most 4,000 pixels"
    try:
        kind = decode.sniff(data)
        if kind not in KINDS:
            raise decode.BadInput(f"{kind.upper()}, which the page does not take")
        picture = decode.to_rgb(decode.decode_picture(data).image)
    except decode.BadInput as error:
        raise Refused(f"the file is no picture that can be used: {error.reason}", _kinds(), cure, 415) from error
    return small(picture, SIDE)


def from_address(address: str) -> Image.Image:
    """A data URI, which pages send, as :func:`read_picture`.

    Raises:
        Refused: as :func:`read_picture`, and something else than a data URI of a picture in base64.
    """
    head, comma, body = address.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise Refused(
            f"a picture is given as {quoted(address, 40)}", "a data URI of a picture in base64", "Send the file again", 400
        )
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise too_large(len(body) * 3 // 4)
    try:
        data = base64.b64decode(body, validate=True)
    except ValueError as error:  # of binascii, and of letters that are not ASCII
        raise Refused(f"a picture is no base64: {error}", "a data URI of a picture", "Send the file again", 400) from error
    return read_picture(data)


def _kinds() -> str:
    *most, last = KINDS.values()
    return f"{', '.join(most)} or {last}, at most {size_of(MAX_BYTES)}"
