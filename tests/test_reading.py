from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypedDict

import pytest

from unifashion_pl import reading
from unifashion_pl.reading import (
    LONGEST,
    FormatError,
    from_json,
    from_yaml,
    is_inside,
    read_json,
    read_json_lines,
    read_text,
    read_yaml,
    text_lines,
)


class Kind(TypedDict):
    kind: Literal["a", "b"]


class Person(TypedDict):
    name: str
    joints: list[float]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Café".encode("utf-16"), "f.txt is not UTF-8 text: it is UTF-16; save it as UTF-8"),
        ("ab".encode("utf-16-le"), "f.txt:1: a NUL byte, which text does not have .is it UTF-16"),
        ("a\nCafé,x\n".encode("latin-1"), "f.txt:2: not UTF-8 text .byte 0xe9.; in Windows-1252 .* read 'Café,x'. Save it as"),
        (b"PK\x03\x04\x14", "it is an Excel workbook or zip archive"),
        (b"\x1f\x8b\x08", "it is gzip"),
        (b"a\n\0\0", "f.txt:2: a NUL byte"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "f.txt").write_bytes(data)
    with pytest.raises(FormatError, match=message):
        read_text(tmp_path / "f.txt")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    (tmp_path / "f.txt").write_bytes(b"x" * 1001)
    with pytest.raises(FormatError, match="f.txt has more than 1,000 bytes"):
        read_text(tmp_path / "f.txt")


def test_devices_are_refused() -> None:
    with pytest.raises(FormatError, match="/dev/zero is a device or a pipe, not a file"):
        read_text("/dev/zero")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_where_editors_end_them(tmp_path: Path, end: str) -> None:
    (tmp_path / "f.txt").write_text(end.join(["a\u2028b", "", " \t", "c\x85 ", ""]), "utf-8-sig", newline="")
    assert list(text_lines(tmp_path / "f.txt")) == [(1, "a\u2028b"), (4, "c\x85 ")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.json is not a person: .*; the file is empty"),
        ('{"name": "a", "joints": [1, "2"]}', r"p.json is not a person: Expected `float`, got `str` - at `\$.joints\[1\]`"),
        ('{"name": "a"}', "p.json is not a person: Object missing required field `joints`"),
        ('{"name": "a", "joints": [1e999]}', "p.json is not a person: Number out of range"),
        ('{"name": "a", "joints": [NaN]}', "p.json is not a person: JSON is malformed"),
        ('{"name": ' + "[" * 100_000, "p.json is not a person: "),
        ("[" * 100_000, "p.json is not a person: "),
    ],
)
def test_json_of_another_form_is_named_with_its_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_json(tmp_path / "p.json", Person, "a person")


def test_json_may_have_a_byte_order_mark_and_further_fields(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"name": "é", "joints": [1, 2.5], "more": null}', "utf-8-sig")
    assert read_json(tmp_path / "p.json", Person) == {"name": "é", "joints": [1.0, 2.5]}


def test_json_lines_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"a": 1}\r\n\r\n{"a": "\u2028"}\r\n{"a"', "utf-8-sig", newline="")
    found = read_json_lines(tmp_path / "p.jsonl", dict[str, int | str])
    assert [next(found), next(found)] == [(1, {"a": 1}), (3, {"a": "\u2028"})]
    with pytest.raises(FormatError, match="p.jsonl:4: "):
        next(found)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: !!python/object/apply:os.system [id]\n", "c.yaml:2 is not a config: could not determine a constructor"),
        ("a: [1\n", "c.yaml:2 is not a config: expected"),
        ("a: &a [*a]\n", "c.yaml is not a config: nested too deeply"),
        (BOMB, "c.yaml is not a config: its aliases stand for more than 100,000 values"),
        ("a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 2000 + "]\n", "aliases stand for more than"),
        ("a: 2026-13-45\n", "c.yaml is not a config: month must be in"),
        ("a: " + "9" * 5000 + "\n", "c.yaml is not a config: Exceeds the limit"),
        ("[" * 1200, "c.yaml is not a config: nested too deeply"),
        ("5\n", "c.yaml is not a config: Expected `object`, got `int`"),
        ("a: \x01\n", "c.yaml is not a config: unacceptable character"),
    ],
)
def test_yaml_that_is_no_plain_data_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_yaml(tmp_path / "c.yaml", dict[str, object], "a config")


def test_yaml_keys_become_text() -> None:
    assert from_yaml("\ufeffa: {4: [1, null], true: .inf}\n") == {"a": {"4": [1, None], "True": float("inf")}}


def test_names_that_stay_in_their_folder() -> None:
    assert all(map(is_inside, ("a.jpg", "a/b c.jpg", "a..b/c.jpg", "é:1.jpg")))
    assert not any(map(is_inside, ("", "/a", "..", "a/../../b", "a\\..\\b", "\\\\server\\b", "C:\\b", "c:b", "a\0b")))


def test_byte_order_marks_are_no_text_however_many_there_are(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(b"\xef\xbb\xbf\xef\xbb\xbfimage\n")
    assert read_text(tmp_path / "f.csv") == "image\n"


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.json")
    with pytest.raises(FormatError, match=r"f.json is a device or a pipe, not a file"):
        read_text(tmp_path / "f.json")


def test_what_a_parser_quotes_is_cut_before_its_end() -> None:
    with pytest.raises(FormatError, match="^f.json: Invalid enum value 'xxx.* … .*xxx' - at `\\$.kind`$") as refused:
        from_json(f'{{"kind": "{"x" * 10_000}"}}', Kind, "f.json")
    assert len(str(refused.value)) < LONGEST + 20
