"""Caption libraries: JSON Lines beside the shards, one generated caption per image id, with a record of what the captioner saw."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unifashion_pl.data.plan import some

BLIND_INPUTS = frozenset({"image", "category", "keywords"})


def read_captions(path: str | Path, *, expected: Iterable[str] | None = None, allow_unsafe: bool = False) -> dict[str, str]:
    """Image id -> caption of a library whose lines hold at least ``image``, ``caption`` and ``inputs``.

    Args:
        path: the ``.jsonl`` file.
        expected: ids that a gallery holds; the library has to have exactly these.
        allow_unsafe: skip the guard; results must then be called leaked.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not such an object, an id that occurs twice, captions whose record is absent or names inputs
            beyond image, category and keywords of the training split, or other ids than expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no caption library {path}: expected a JSON Lines file with image, caption and inputs on every line"
        )
    captions: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        image, caption = _entry(line, f"{path}:{number}", allow_unsafe)
        if image in captions:
            raise ValueError(f"{path}:{number}: a second caption for {image}; one caption per image")
        captions[image] = caption
    if expected is not None and not allow_unsafe:
        _compare(path, set(captions), set(expected))
    return captions


def _entry(line: str, where: str, allow_unsafe: bool) -> tuple[str, str]:
    try:
        entry: Any = json.loads(line)
        image, caption = entry["image"], entry["caption"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: expected a JSON object with image and caption, found {line[:60]!r} ({error})") from error
    if not allow_unsafe:
        _guard(entry, where)
    return str(image), " ".join(str(caption).split())


def _guard(entry: dict[str, Any], where: str) -> None:
    """What a caption's writer saw must not include a query."""
    if entry.get("text_guidance"):
        raise ValueError(
            f"{where}: this caption was written with text_guidance, i.e. with a query's text in the prompt; it is refused"
        )
    inputs = entry.get("inputs")
    if not inputs:
        raise ValueError(f"{where}: no record of what the captioner saw (inputs); captions without provenance are refused")
    if beyond := set(inputs) - BLIND_INPUTS:
        raise ValueError(
            f"{where}: the captioner saw {', '.join(sorted(beyond))}; allowed are {', '.join(sorted(BLIND_INPUTS))}, so that no query leaks"
        )
    if "keywords" in inputs and entry.get("keyword_split") != "train":
        raise ValueError(
            f"{where}: its keywords come from {entry.get('keyword_split')!r}; only keywords from the train split are allowed"
        )


def _compare(path: Path, found: set[str], expected: set[str]) -> None:
    if lacking := sorted(expected - found):
        raise ValueError(f"{path}: {len(lacking):,} of {len(expected):,} gallery images have no caption: {some(lacking)}")
    if beyond := sorted(found - expected):
        raise ValueError(f"{path}: {len(beyond):,} captions belong to no image of the gallery: {some(beyond)}")
