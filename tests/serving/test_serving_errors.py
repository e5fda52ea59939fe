"""What a server says no with."""

from __future__ import annotations

import pytest
import torch

from unifashion_pl.arguments import count
from unifashion_pl.reading import from_json
from unifashion_pl.serving.errors import CODES, Refusal, refusal_of


def raised(call: object, *given: object) -> Exception:
    with pytest.raises(Exception) as found:
        call(*given)  # type: ignore[operator]
    return found.value


def test_a_refusal_has_a_code_a_sentence_and_seconds_from_1() -> None:
    found = Refusal("too_many_requests", "full", 0.2)
    assert found.status == 429
    assert found.headers == {"retry-after": "1"}
    assert found.as_json("abc") == {
        "error": {"code": "too_many_requests", "message": "full", "request_id": "abc", "retry_after": 1}
    }
    assert Refusal("waited_too_long", "", 2.1).retry_after == 3
    assert "retry_after" not in Refusal("not_found", "gone").as_json("a")["error"]


def test_what_cannot_be_meant_is_told_and_errors_of_the_server_are_not() -> None:
    told = refusal_of(raised(count, "x", "k"))
    assert told is not None
    assert (told.code, told.message) == ("invalid_request", "k is 'x' (str), expected a whole number")
    assert refusal_of(raised(from_json, "{", int)) is None  # a damaged file
    assert refusal_of(raised(torch.zeros(2).view, 3)) is None  # torch's own RuntimeError
    assert refusal_of(raised(int, "x")) is None  # Python's own ValueError
    assert refusal_of(ValueError("never raised")) is None
    own = Refusal("conflict", "other model")
    assert refusal_of(own) is own


def test_what_a_model_has_not_learned_is_not_available() -> None:
    from unifashion_pl import learned

    class Knows:
        learned = frozenset({"retrieval"})

    told = refusal_of(raised(learned.require, Knows(), "caption"))
    assert told is not None
    assert (told.code, told.status) == ("not_available", 501)


def test_every_code_has_a_status_of_errors_and_a_meaning() -> None:
    assert all(400 <= status < 600 and meaning for status, meaning in CODES.values())
