"""Text rules: how a dataset's raw texts become what the models read. A random choice depends on (seed, epoch, key) only."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PairText = Literal["description", "name_description", "name", "alternate"]
Joiner = Literal["and", "comma"]
EDGES = ".?, \t\r\n\u00a0"


@dataclass(frozen=True)
class Draw:
    """The source of a sample's random choices; None as ``epoch`` means evaluation: nothing is random."""

    seed: int
    epoch: int | None

    def rng(self, key: str) -> random.Random:
        """A generator of its own for every (seed, epoch, key)."""
        return random.Random(f"{self.seed}/{self.epoch}/{key}")


EVALUATION = Draw(0, None)


def product_text(name: str, description: str, rule: PairText, draw: Draw = EVALUATION) -> str:
    """Text of a product.

    ``description`` is what the authors use for captions, ``name_description`` (name, full stop, description; after FAME-ViL) the
    default for retrieval, ``name`` the name alone. An empty part drops out. ``alternate`` is the description in evaluation and in
    even epochs of training, the name in odd ones, so that a model reads short and long queries, but never both in one batch, where
    a short one would be true of images that count as its negatives; if one is empty, it is the other.

    >>> product_text("Silk dress", "Long sleeves.", "name_description")
    'Silk dress. Long sleeves.'
    """
    name, description = name.strip(), description.strip()
    if rule == "name_description":
        return ". ".join(part for part in (name.rstrip(".") if description else name, description) if part)
    if rule == "description":
        return description
    if rule == "name":
        return name
    if rule == "alternate":
        return (name or description) if draw.epoch is not None and draw.epoch % 2 else (description or name)
    raise ValueError(f"unknown text rule {rule!r}; expected description, name_description, name or alternate")


def styled(captions: Mapping[str, str], usual: str, draw: Draw, key: str) -> tuple[str, str]:
    """Style and caption of a sample that has captions in several styles: in training drawn anew for every epoch, else the usual style's, or
    the first's by name. A sample without any has the usual style and "".

    >>> styled({"fashiongen": "A red dress.", "fashion200k": "red dress"}, "fashiongen", EVALUATION, "0001")
    ('fashiongen', 'A red dress.')
    """
    names = sorted(captions)
    if draw.epoch is not None and names:
        usual = draw.rng(f"style/{key}").choice(names)
    style = usual if usual in captions or not names else names[0]
    return style, captions.get(style, "")


def modifying_text(captions: Sequence[str], draw: Draw, key: str, joiner: Joiner = "and") -> str:
    """The texts of a Fashion-IQ entry as one modifying text: t of §3.2.1, concatenated (§4.2).

    Evaluation: "A and b". Training: one of "A and b", "B and a", "A", "B", each with probability 1/4. Blanks and ``. ? ,`` go from
    both ends of every text, the first letter becomes upper case; an empty text drops out with its "and". ``comma`` joins by ", ".

    >>> modifying_text(["is red.", " has sleeves"], EVALUATION, "dress-val-00000")
    'Is red and has sleeves'
    """
    parts = [part for part in (text.strip(EDGES) for text in captions) if part]
    if draw.epoch is not None and len(parts) > 1:
        first, second = parts[0], parts[1]
        parts = draw.rng(key).choice([[first, second], [second, first], [first], [second]])
    joined = (" and " if joiner == "and" else ", ").join(parts)
    return joined[:1].upper() + joined[1:]


def phrases_text(phrases: Sequence[str], draw: Draw, key: str) -> str:
    """Phrases of a garment (multimodal VITON-HD) joined by ", "; shuffled in training only. Empty ones drop out."""
    parts = [phrase for phrase in (text.strip() for text in phrases) if phrase]
    if draw.epoch is not None:
        draw.rng(key).shuffle(parts)
    return ", ".join(parts)


def number_of(name: str) -> int:
    """A name as a non-negative int64: itself if it is a plain number, else the first 63 bits of its SHA-256.

    >>> number_of("12345")
    12345
    """
    if len(name) < 20 and name.isascii() and name.isdigit() and str(int(name)) == name and int(name) < 2**62:
        return int(name)
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
