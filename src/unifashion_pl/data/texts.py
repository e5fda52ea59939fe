"""How raw texts become the texts of a batch: joining rules, their random choices, and libraries of generated captions."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

TextRule = Literal["description", "name_description"]
BLIND_INPUTS = frozenset({"image", "category", "keywords"})


def fashiongen_text(name: str, description: str, rule: TextRule = "name_description") -> str:
    """Text of a catalogue row: the ``description`` alone, or name and description as two sentences.

    >>> fashiongen_text("Silk Dress", "Long dress in red.", "name_description")
    'Silk Dress. Long dress in red.'
    """
    name, description = name.strip(), description.strip()
    if rule == "description":
        return description
    if rule != "name_description":
        raise ValueError(f"unknown text rule {rule!r}; known are 'description' and 'name_description'")
    return ". ".join(part for part in (name.rstrip("."), description) if part)


def clean_modification(text: str) -> str:
    """A modifying text without ``. ? ,`` and blanks at its ends."""
    return text.strip(".?, \t\r\n")


def join_modifications(a: str, b: str, *, mode: Literal["eval", "train"] = "eval", rng_key: object = None) -> str:
    """The two modifying texts of a Fashion-IQ entry as one; an empty one leaves together with its "and".

    Args:
        a, b: raw texts.
        mode: ``eval`` is always "A and b"; ``train`` draws uniformly "A and b", "B and a", "A" or "B".
        rng_key: what the draw depends on, e.g. ``(seed, epoch, key)``; required in ``train``.

    >>> join_modifications("is longer.", " has sleeves")
    'Is longer and has sleeves'
    """
    texts = [t for t in (clean_modification(a), clean_modification(b)) if t]
    if mode == "train" and len(texts) == 2:
        if rng_key is None:
            raise ValueError("training texts are drawn at random: pass rng_key, e.g. (seed, epoch, key)")
        draw = random.Random(repr(rng_key)).randrange(4)
        texts = [texts, texts[::-1], texts[:1], texts[1:]][draw]
    elif mode not in ("eval", "train"):
        raise ValueError(f"unknown mode {mode!r}; known are 'eval' and 'train'")
    joined = " and ".join(texts)
    return joined[:1].upper() + joined[1:]


def join_phrases(phrases: Sequence[str], rng_key: object = None) -> str:
    """Phrases of a garment joined by commas; shuffled when a key for the draw is given."""
    kept = [p.strip() for p in phrases if p.strip()]
    if rng_key is not None:
        random.Random(repr(rng_key)).shuffle(kept)
    return ", ".join(kept)


def load_captions(path: str | Path) -> dict[str, str]:
    """A library of generated captions: JSON lines ``{"image": id, "caption": text, "inputs": ["image", "category", …]}``.

    Captions must be query-blind: a captioner that has read a query's text hands the answer to the gallery.

    Raises:
        FileNotFoundError: without the file.
        ValueError: naming the line, for broken lines, ids that come twice, captions without stated inputs, with inputs other than
            image, category and keywords, or with non-empty ``text_guidance``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"caption library {path} not found; expected JSON lines with image, caption and inputs")
    captions: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
            image, caption = entry["image"], entry["caption"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{where}: expected a JSON object with image and caption, found {line[:80]!r}") from error
        if not isinstance(image, str) or not isinstance(caption, str):
            raise ValueError(f"{where}: image and caption must be strings, found {image!r} and {caption!r}")
        inputs = entry.get("inputs")
        if not isinstance(inputs, list) or not set(inputs) <= BLIND_INPUTS or entry.get("text_guidance"):
            found = "text_guidance" if entry.get("text_guidance") else f"inputs {inputs!r}"
            raise ValueError(
                f"{where}: caption of {image} has {found}; expected inputs among {', '.join(sorted(BLIND_INPUTS))}. A captioner that "
                "read query texts leaks the answers: generate the captions anew from image and category"
            )
        if image in captions:
            raise ValueError(f"{where}: {image} has a caption already; keep one line per image")
        captions[image] = caption.strip()
    return captions
