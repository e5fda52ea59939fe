"""Hypothesis strategies that damage valid files: bytes, text, JSON, safetensors, and what hostile people would write into them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from fuzz.guard import CANARY
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

#: Files of an input that differ from the valid ones; None = not there.
Change = Mapping[str, bytes | None]
MARKER = "touch fuzz-canary-ran"
#: What an attacker names where a file names classes and functions. None of it does harm if it should run.
CALLS: tuple[dict[str, Any], ...] = (
    {"class_path": "os.system", "init_args": {"command": MARKER}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}},
    {"class_path": f"{CANARY}.call"},
    {"class_path": f"{CANARY}.Model", "init_args": {}},
    {"class_path": "builtins.exec", "init_args": {"source": f"import {CANARY}"}},
    {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "a/b", "model": "c"}},
    {"_target_": f"{CANARY}.call"},
    {"auto_map": {"AutoConfig": f"{CANARY}.Model"}, "trust_remote_code": True},
)
#: Replaced by the name of a file outside of the input's folder.
OUTSIDE = "@OUTSIDE@"
STRINGS = (
    "", " ", "\x00", "a\x00b", "é", "ﬀ\u202e", "\ud83d", "..", "../../..", f"{OUTSIDE}/secret.txt", f"{OUTSIDE}/secret.png", f"../{OUTSIDE}/secret.png",
    "/", "/dev/zero", "/proc/self/mem", "C:\\x.jpg", "http://127.0.0.1:9/x.jpg", "<script>alert(1)</script>", "%s%n{}{0.__class__}", "a" * 300,
    "a" * 70_000, "nan", "-1", "1e999", "None", "null", "true", "[", "{", "0x10", f"{CANARY}.call", "os.system", "tiny", "{}", "x/{0}/{y}",
)  # fmt: skip
NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    256,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    -(2**63),
    2**64,
    10**30,
    0.5,
    -0.0,
    1e-320,
    1e308,
    4_000_000_000,
)

scalars: SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(),
    st.floats(),
    st.sampled_from(STRINGS),
    st.text(max_size=12),
)
junk: SearchStrategy[Any] = st.one_of(
    scalars,
    scalars,
    st.lists(scalars, max_size=4),
    st.dictionaries(st.text(max_size=6), scalars, max_size=3),
    st.sampled_from(CALLS).map(deepcopy),
    st.sampled_from(({}, [], [[]], [{}], {"a": {"b": {"c": []}}}, [None] * 3)).map(deepcopy),
)


@st.composite
def damaged_bytes(draw: DrawFn, seed: bytes, most: int = 4) -> bytes:
    """A few local faults: flipped, overwritten, inserted, removed, repeated bytes, a cut, extreme numbers."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.one_of(st.integers(0, max(0, len(data) - 1)), st.integers(0, min(64, max(0, len(data) - 1)))))
        length = draw(st.sampled_from((1, 2, 4, 8, 30, 200, 3000)))
        fault = draw(st.sampled_from(("flip", "byte", "number", "insert", "remove", "repeat", "zero", "cut")))
        if fault == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif fault == "byte" and data:
            data[at] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x22)))
        elif fault == "number":
            value = draw(st.sampled_from((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000)))
            word = struct.pack(draw(st.sampled_from((">I", "<I"))), value)
            data[at : at + 4] = word
        elif fault == "insert":
            data[at:at] = draw(st.binary(max_size=12)) * draw(st.sampled_from((1, 1, 40)))
        elif fault == "remove":
            del data[at : at + length]
        elif fault == "repeat":
            data[at:at] = data[at : at + length]
        elif fault == "zero":
            data[at : at + length] = bytes(min(length, len(data) - at))
        elif fault == "cut":
            del data[at:]
    return bytes(data)


@st.composite
def damaged_value(draw: DrawFn, value: Any, most: int = 2) -> Any:
    """A value of lists and dictionaries with wrong types, lost, doubled and renamed entries, and hostile ones."""
    value = deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        value = _edited(draw, value)
    return value


def _edited(draw: DrawFn, value: Any) -> Any:
    """One edit somewhere inside."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 12)) == 0:
        return _changed(draw, value)
    key = draw(st.sampled_from(list(value))) if isinstance(value, dict) else draw(st.integers(0, len(value) - 1))
    if isinstance(value[key], dict | list) and value[key] and draw(st.integers(0, 3)):
        value[key] = _edited(draw, value[key])
        return value
    edit = draw(st.sampled_from(("change", "change", "change", "remove", "rename", "double", "add")))
    if edit == "change":
        value[key] = _changed(draw, value[key])
    elif edit == "remove":
        del value[key]
    elif edit == "rename" and isinstance(value, dict):
        value[draw(st.text(max_size=6))] = value.pop(key)
    elif isinstance(value, list):
        value.insert(key, deepcopy(value[key]) if edit == "double" else draw(junk))
    else:
        value[draw(st.sampled_from(("note", "class_path", "dict_kwargs", "format", "", "init_args")))] = draw(junk)
    return value


def _changed(draw: DrawFn, value: Any) -> Any:
    edit = draw(st.sampled_from(("junk", "junk", "junk", "wrap", "text", "near")))
    if edit == "wrap":
        return [value] if draw(st.booleans()) else {"a": value}
    if edit == "text":
        return str(value)[:200]
    if edit == "near" and isinstance(value, int | float):
        return draw(st.sampled_from((value + 1, value - 1, -value, value * 1000, float(value), not value)))
    if edit == "near" and isinstance(value, str):
        return draw(st.sampled_from((value + "x", value[:-1], value.upper(), value + "\n", value * 3)))
    return draw(junk)


@st.composite
def with_calls(draw: DrawFn, value: Any) -> Any:
    """A valid value in which one dictionary, anywhere, also names something to be called, or is replaced by it."""
    value = deepcopy(value)
    places = [(value, None)] if isinstance(value, dict) else []
    for node, _ in places:
        places += [(child, key) for key, child in node.items() if isinstance(child, dict)]
    node, _ = draw(st.sampled_from(places))
    call = deepcopy(draw(st.sampled_from(CALLS)))
    way = draw(st.integers(0, 3))
    if way == 0:
        node |= call
    elif way == 1 and node:
        node[draw(st.sampled_from(list(node)))] = call
    else:
        node[draw(st.sampled_from(("note", "config", "model", "timm_kwargs", "dict_kwargs", "x")))] = (
            [call] if way == 2 else call
        )
    return value


@st.composite
def encoded(draw: DrawFn, text: str) -> bytes:
    """Text as bytes: mostly UTF-8, else with a byte order mark, in another encoding, cut, or damaged."""
    data = text.encode("utf-8", "surrogatepass")
    way = draw(st.integers(0, 19))
    if way == 0:
        return b"\xef\xbb\xbf" + data
    if way == 1:
        return text.encode("utf-16", "surrogatepass")
    if way == 2:
        return text.encode("latin-1", "replace") + b"\xe9"
    if way == 3:
        return data[: draw(st.integers(0, len(data)))]
    if way in (4, 5):
        return draw(damaged_bytes(data, 2))
    if way == 6:
        return data.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r", b"\x0b", b"\n\n", b"\xe2\x80\xa8"))))
    return data


@st.composite
def damaged_json(draw: DrawFn, seed: bytes, most: int = 2) -> bytes:
    """A JSON file with other values, sometimes nested too deeply to be read, or damaged as text."""
    way = draw(st.integers(0, 39))
    if way == 0:
        return draw(
            st.sampled_from((b"", b"[" * 5000, b'{"a":' * 3000, b"[" * 3000 + b"]" * 3000, b"null", b"1", b'"x"', b"1" * 5000))
        )
    text = json.dumps(draw(damaged_value(json.loads(seed), most)), ensure_ascii=draw(st.booleans()))
    return draw(encoded(text))


@st.composite
def damaged_lines(draw: DrawFn, seed: bytes) -> bytes:
    """JSON Lines: one line with other values, or lost, doubled or cut lines."""
    lines = [line for line in seed.decode().split("\n") if line]
    at = draw(st.integers(0, len(lines) - 1))
    if draw(st.integers(0, 5)):
        lines[at] = json.dumps(draw(damaged_value(json.loads(lines[at]))), ensure_ascii=False)
    else:
        lines[at : at + 1] = draw(
            st.sampled_from(([], [lines[at]] * 2, [lines[at][:-2]], ["[]"], ["null"], [lines[at], "", lines[0]]))
        )
    return draw(encoded("\n".join(lines) + "\n"))


@st.composite
def damaged_text(draw: DrawFn, seed: bytes, specials: Sequence[str]) -> bytes:
    """Text of lines: characters that mean something to its format in wrong places, lost and doubled lines, words exchanged."""
    text = seed.decode()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        end = text.find("\n", at) + 1 or len(text)
        way = draw(st.sampled_from(("special", "special", "string", "line", "again", "cut", "join")))
        if way == "special":
            text = text[:at] + draw(st.sampled_from(tuple(specials))) + text[at:]
        elif way == "string":
            text = text[:at] + draw(st.sampled_from(STRINGS)) + text[at:]
        elif way == "line":
            text = text[:at] + text[end:]
        elif way == "again":
            text = text[:at] + text[at:end] * 2 + text[end:]
        elif way == "cut":
            text = text[:at]
        else:
            text = text[: max(0, end - 1)] + text[end:]
    return draw(encoded(text))


@st.composite
def damaged_safetensors(draw: DrawFn, seed: bytes) -> bytes:
    """A header of other names, types, shapes and places, or damaged bytes."""
    size = struct.unpack("<Q", seed[:8])[0]
    way = draw(st.integers(0, 7))
    if way < 2:
        return draw(damaged_bytes(seed))
    if way < 5:
        return draw(_other_tensors(seed))
    header = draw(damaged_json(seed[8 : 8 + size]))
    stated = draw(st.sampled_from((len(header), len(header), len(header), len(header), 0, len(header) + 1, 2**40, 2**64 - 1)))
    return struct.pack("<Q", stated) + header + seed[8 + size :]


@st.composite
def _other_tensors(draw: DrawFn, seed: bytes) -> bytes:
    """A faultless file of tensors with other names, sizes, types and values."""
    from safetensors.torch import load, save

    tensors = load(seed)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(tensors)))
        tensor = tensors.pop(name)
        way = draw(st.sampled_from(("drop", "name", "fewer", "flat", "scalar", "empty", "nan", "half", "int", "bool")))
        made = {"flat": tensor.flatten(), "scalar": tensor.flatten().sum(), "empty": tensor[:0] if tensor.ndim else tensor, "half": tensor.bfloat16(),
                "fewer": tensor[1:] if tensor.ndim else tensor, "int": tensor.long(), "bool": tensor > 0, "nan": tensor.float() * float("nan")}  # fmt: skip
        if way == "name":
            tensors[draw(st.sampled_from((name + "x", "tokens.other", "x", "", "../x")))] = tensor
        elif way != "drop" or not tensors:
            tensors[name] = made.get(way, tensor).contiguous()
    return save(tensors, {"format": "pt"} if draw(st.booleans()) else None)


def of_files(members: Mapping[str, SearchStrategy[bytes]]) -> SearchStrategy[Change]:
    """One of several files is damaged, or now and then is absent or empty."""

    @st.composite
    def change(draw: DrawFn) -> Change:
        name = draw(st.sampled_from(sorted(members)))
        way = draw(st.integers(0, 59))
        return {name: None if way == 0 else b"" if way == 1 else draw(members[name])}

    return change()


Damage = Callable[[bytes], SearchStrategy[bytes]]
