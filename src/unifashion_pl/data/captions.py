"""Caption libraries: JSON Lines beside the shards, one generated caption per image id, with a record of what the captioner saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from unifashion_pl.data.plan import shortened
from unifashion_pl.reading import converted, read_json_lines

BLIND_INPUTS = frozenset({"image", "category", "keywords"})
PROVENANCE = ("captioner", "weights_hash", "template", "decoding", "inputs")


class LeakError(ValueError):
    """Captions that may know the queries; the message says which and why."""


def provenance_faults(record: Mapping[str, Any], required: Sequence[str] = PROVENANCE) -> list[str]:
    """Why a caption may have been written with a query in sight; empty = it was not.

    Args:
        record: a line of a caption library.
        required: fields that must be there and not empty: all of :data:`PROVENANCE` for captions that are evaluated.
    """
    faults = [f"no {name}" for name in required if not record.get(name)]
    inputs = record.get("inputs") or []
    inputs = [inputs] if isinstance(inputs, str) else inputs
    if beyond := sorted(set(map(str, inputs)) - BLIND_INPUTS):
        faults.append(f"made from {', '.join(beyond)}")
    if "keywords" in inputs and record.get("keywords_split") != "train":
        faults.append(f"keywords of split {record.get('keywords_split')!r}")
    if str(record.get("text_guidance") or "").strip():
        faults.append("text_guidance is not empty")
    return faults


def check_provenance(
    records: Iterable[Mapping[str, Any]],
    gallery_ids: Iterable[str] | None = None,
    required: Sequence[str] = PROVENANCE,
    allow_unsafe: bool = False,
) -> str | None:
    """Refuse gallery captions that may know the queries.

    Args:
        records: lines with ``image`` (id), ``caption`` and provenance fields.
        gallery_ids: the ids the captions must be of; None = not checked.
        allow_unsafe: do not raise.

    Returns:
        None if all is well; with ``allow_unsafe`` the reason, which must be printed as *leaked* beside every number.

    Raises:
        LeakError: naming the first offending images and all reasons.
    """
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    seen = set()
    for record in records:
        image = str(record.get("image", "?"))
        seen.add(image)
        for fault in provenance_faults(record, required):
            reasons[fault] += 1
            examples.setdefault(fault, image)
    if gallery_ids is not None and (strange := sorted(seen - set(gallery_ids))):
        reasons["not in the gallery"] = len(strange)
        examples["not in the gallery"] = strange[0]
    if not reasons:
        return None
    text = "; ".join(f"{reason} ({count}, e.g. {examples[reason]})" for reason, count in reasons.most_common())
    message = f"gallery captions are not known to be query-blind: {text}"
    if allow_unsafe:
        return message
    raise LeakError(
        f"{message}; every caption needs {', '.join(required)}, or allow_unsafe_captions=true to call the results leaked"
    )


def read_library(
    path: str | Path,
    *,
    expected: Iterable[str] | None = None,
    required: Sequence[str] = PROVENANCE,
    allow_unsafe: bool = False,
) -> dict[str, dict[str, Any]]:
    """Image id -> line of a library, ``caption`` cleaned, the other fields as they are.

    Args:
        path: the ``.jsonl`` file.
        expected: ids that a gallery holds; the library has to have exactly these.
        required: fields of provenance that every line must have.
        allow_unsafe: skip the guard; results must then be called leaked.

    Raises:
        FileNotFoundError: no such file.
        LeakError: captions whose record is incomplete or names inputs beyond image, category and keywords of the training split.
        ValueError: a line that is not such an object, an id that occurs twice, or other ids than expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no caption library {path}: expected a JSON Lines file with image, caption and {', '.join(required)} on every line"
        )
    library: dict[str, dict[str, Any]] = {}
    for number, raw in read_json_lines(path, dict[str, Any], f"an object with image, caption and {', '.join(required)}"):
        entry = {**raw, **converted(raw, _Entry, f"{path}:{number}", "an object with image and caption")}
        entry |= {"image": str(entry["image"]), "caption": " ".join(entry["caption"].split())}
        if not allow_unsafe and (faults := provenance_faults(entry, required)):
            raise LeakError(
                f"{path}:{number}: this caption is not known to be query-blind: {'; '.join(faults)}; expected are the fields "
                f"{', '.join(required)} with inputs out of {', '.join(sorted(BLIND_INPUTS))} (keywords_split: train); write the "
                "captions anew from those, or allow_unsafe_captions=true and call the results leaked"
            )
        if entry["image"] in library:
            raise ValueError(f"{path}:{number}: a second caption for {entry['image']}; one caption per image")
        library[entry["image"]] = entry
    if expected is not None and not allow_unsafe:
        ids = set(expected)
        if lacking := sorted(ids - set(library)):
            raise ValueError(f"{path}: {len(lacking):,} of {len(ids):,} gallery images have no caption: {shortened(lacking)}")
        if beyond := sorted(set(library) - ids):
            raise ValueError(f"{path}: {len(beyond):,} captions belong to no image of the gallery: {shortened(beyond)}")
    return library


def read_captions(path: str | Path, *, allow_unsafe: bool = False) -> dict[str, str]:
    """Image id -> caption of a library for training, whose lines hold at least ``image``, ``caption`` and ``inputs``.

    Arguments and errors as in :func:`read_library`.
    """
    library = read_library(path, required=("inputs",), allow_unsafe=allow_unsafe)
    return {image: entry["caption"] for image, entry in library.items()}


class _Entry(TypedDict):
    """What is read of every line, whatever else it says."""

    image: str | int
    caption: str
    inputs: NotRequired[list[str] | str | None]
