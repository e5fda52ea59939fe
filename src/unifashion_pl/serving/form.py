"""A multipart form, read in memory: what people send is never written to a disk."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from unifashion_pl.serving.errors import Refusal

#: Parts of a form, and bytes of the headers of one.
PARTS, HEADERS = 1_200, 8_192


def fields_of(data: bytes, content_type: str) -> list[tuple[str, str | bytes]]:
    """Names and values in their order; of files their bytes.

    Raises:
        Refusal: no form, one that is cut off, too many parts, or a text that is not UTF-8.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refusal("invalid_body", "the Content-Type multipart/form-data names no boundary")
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise Refusal("invalid_body", f"the form cannot be read: {error}") from error
    if not reader.ended:
        raise Refusal("invalid_body", "the form is cut off: its last boundary is missing")
    return reader.fields


class _Reader:
    """Takes what the parser finds."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str | bytes]] = []
        self.ended = False
        self._name, self._value, self._content = b"", b"", bytearray()
        self._size = 0
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> dict[str, object]:
        """By the parser's names."""
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        if len(self.fields) >= PARTS:
            raise Refusal("invalid_body", f"the form has more than {PARTS:,} parts")
        self._headers, self._content, self._size = {}, bytearray(), 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._require_short(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._require_short(end - start)
        self._value += data[start:end]

    def _require_short(self, more: int) -> None:
        self._size += more
        if self._size > HEADERS:
            raise Refusal("invalid_body", f"a part of the form has headers of more than {HEADERS:,} bytes")

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise Refusal("invalid_body", "a part of the form has no name")
        try:
            name = options[b"name"].decode()
            value = bytes(self._content) if b"filename" in options else self._content.decode()
        except UnicodeDecodeError as error:
            raise Refusal("invalid_body", f"a part of the form is neither a file nor UTF-8: {error.reason}") from error
        self.fields.append((name, value))

    def _end(self) -> None:
        self.ended = True
