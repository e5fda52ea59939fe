"""Multipart forms, whole and broken."""

from __future__ import annotations

import random
import tempfile

import pytest

from unifashion_pl.serving.errors import Refusal
from unifashion_pl.serving.form import PARTS, fields_of

TYPE = "multipart/form-data; boundary=edge"


def part(name: str, value: bytes, file: bool = False) -> bytes:
    more = b'; filename="x.png"\r\nContent-Type: image/png' if file else b""
    return b'--edge\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more + b"\r\n\r\n" + value + b"\r\n"


def test_texts_and_files_come_in_their_order() -> None:
    data = (
        part("text", "a grünes Kleid".encode())
        + part("image", b"\x00\xff--edge?", file=True)
        + part("text", b"")
        + b"--edge--\r\n"
    )
    assert fields_of(data, TYPE) == [("text", "a grünes Kleid"), ("image", b"\x00\xff--edge?"), ("text", "")]


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (part("text", b"a") + b"--edge--\r\n", "multipart/form-data", "no boundary"),
        (part("text", b"a"), TYPE, "cut off"),
        (b"", TYPE, "cut off"),
        (b"{}", TYPE, "cannot be read"),
        (part("text", b"\xff\xfe") + b"--edge--\r\n", TYPE, "UTF-8"),
        (b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n--edge--\r\n", TYPE, "no name"),
        (b"--edge\r\nX: " + b"a" * 9000 + b"\r\n\r\nx\r\n--edge--\r\n", TYPE, "eader"),
        (b"--edge\r\n" + b"X: a\r\n" * 5000 + b"\r\nx\r\n--edge--\r\n", TYPE, "eader"),
        (part("a", b"b") * (PARTS + 1) + b"--edge--\r\n", TYPE, f"more than {PARTS:,} parts"),
    ],
    ids=range(9),
)
def test_what_is_no_form_is_refused(data: bytes, kind: str, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        fields_of(data, kind)
    assert refused.value.code == "invalid_body"
    assert said in refused.value.message


def test_a_large_file_is_never_written_to_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, None)
    data = b"\x07" * (8 << 20)
    assert fields_of(part("image", data, file=True) + b"--edge--\r\n", TYPE) == [("image", data)]


def test_damaged_forms_are_read_or_refused() -> None:
    whole = part("text", b"a dress") + part("image", b"\x00\xff" * 20, file=True) + b"--edge--\r\n"
    chance, codes = random.Random(0), set()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            fields_of(bytes(damaged[: chance.randrange(len(damaged)) + 1]), TYPE)
        except Refusal as refusal:
            codes.add(refusal.code)
    assert codes == {"invalid_body"}
