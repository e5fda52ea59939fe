"""Captions for images that have none, written without a query in sight (Fashion-IQ-Cap, App. C of the paper).

A captioner gets an image, its category and keywords of the training split's texts; no argument lets another text in. One JSON line per
image says what was written and from what, so that the leak guard of :mod:`unifashion_pl.data.captions` can judge it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from tqdm import tqdm

from unifashion_pl.data.captions import LeakError, provenance_faults
from unifashion_pl.data.decode import BadInput, open_image, read_bytes, to_rgb
from unifashion_pl.data.plan import MissingDataError, compact_json, shortened
from unifashion_pl.files import replacing, write_text, writing
from unifashion_pl.reading import FormatError, from_json, read_json_lines, text_lines

#: Our words after Fig. 5; ``{garment}`` and ``{keywords}`` are filled in.
TEMPLATE = (
    "Describe the {garment} in this picture in detail: its style, colour, pattern and design. "
    "Say only what can be seen. Use those of these words that fit: {keywords}."
)
NO_WORDS = "."
#: What categories are called in a prompt, where they have another name there.
GARMENTS = {"toptee": "top or T-shirt"}
#: Function words, words of edits (App. C: a caption is no edit), words for the picture itself and the categories' own names.
_STOP = (
    "a about all also an and any are as at be been being both but by can do does for from had has have he her his i if in into is it "
    "its like me my no nor not of on one only or other out over own she should so some such than that the their them then there these "
    "they this those through to too up very was we were what when which while who will with would you your without just more less "
    "different same instead change similar shade slightly bit much little way look replace add make remove lot but rather image picture "
    "photo item model person woman man desire prefer want wear garment product show see first second dress shirt top tee blouse gown "
)
STOP_WORDS = frozenset(_STOP.split())
REFUSAL = re.compile(r"\b(i'?m sorry|i cannot|i can'?t|unable to|as an ai|no image|not able to)\b", re.IGNORECASE)
MARKDOWN = re.compile(r"[*_`#]{1,3}")


@dataclass(frozen=True)
class CaptionInput:
    """What a captioner may see of one image: its upright RGB pixels, its category and the category's keywords."""

    image: Image.Image
    category: str
    keywords: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """:data:`TEMPLATE`, filled in."""
        return self.filled(TEMPLATE)

    def filled(self, template: str) -> str:
        """A template of one's own with ``{garment}`` and ``{keywords}``, filled in."""
        return template.format(garment=GARMENTS.get(self.category, self.category), keywords=", ".join(self.keywords))


class Captioner(Protocol):
    """Writes one caption per subject.

    Attributes:
        record: provenance that all its captions share: ``captioner``, ``weights_hash``, ``template``, ``decoding``, ``inputs`` …;
            of these ``date`` alone may differ between runs that write one library.
    """

    @property
    def record(self) -> Mapping[str, Any]: ...

    def __call__(self, subjects: Sequence[CaptionInput], attempt: int) -> list[str]:
        """Captions; ``attempt`` counts from 0, later ones are asked after a refusal and should differ."""
        ...


@dataclass(frozen=True)
class Target:
    """An image to be captioned: its id, category and file."""

    id: str
    category: str
    path: Path


@dataclass(frozen=True)
class Keywords:
    """Most frequent lemmas of each category's training texts, with the number of texts that hold them."""

    counts: dict[str, list[tuple[str, int]]]
    split: str = "train"
    made_by: dict[str, str] = field(default_factory=dict)

    def of(self, category: str) -> tuple[str, ...]:
        """Lemmas of a category, the most frequent first."""
        return tuple(lemma for lemma, _ in self.counts.get(category, []))

    @property
    def hash(self) -> str:
        """SHA-256 over categories, lemmas and split, 16 digits."""
        return _hash({"split": self.split, "lemmas": {c: [w for w, _ in words] for c, words in sorted(self.counts.items())}})

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready content."""
        return {"split": self.split, "hash": self.hash, "made_by": self.made_by, "counts": self.counts}


def keywords_of(texts: Mapping[str, Sequence[str]], most: int = 40) -> Keywords:
    """Attribute words of the *training* texts (App. C, Fig. 4): lower case, lemmatised, without stop words; counted once a text.

    Args:
        texts: category -> modifying texts of the training split.
        most: lemmas kept per category.

    Raises:
        ModuleNotFoundError: simplemma is not installed.
    """
    try:
        import simplemma
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "keywords are lemmatised by simplemma, which is not installed: pip install 'unifashion-pl[annotate]'"
        ) from error
    lemma_of = cache(lambda word: simplemma.lemmatize(word, lang="en").lower())
    counts = {}
    for category, lines in texts.items():
        found: Counter[str] = Counter()
        for line in lines:
            words = {lemma_of(word) for word in re.findall(r"[a-z]+", line.lower())}
            found.update(word for word in words if len(word) > 2 and word not in STOP_WORDS)
        counts[category] = sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))[:most]
    return Keywords(counts, made_by={"lemmatiser": f"simplemma {version('simplemma')}"})


def _hash(value: Any) -> str:
    return hashlib.sha256(compact_json(value)).hexdigest()[:16]


def annotate(
    targets: Sequence[Target],
    captioner: Captioner,
    keywords: Keywords,
    out: str | Path,
    *,
    batch_size: int = 8,
    attempts: int = 3,
    allow_missing: bool = False,
    progress: bool = True,
) -> Path:
    """Write a caption library, one JSON line per image; an interrupted run goes on where it stopped.

    Lines are appended and synced batch by batch, and sorted by id at the end.

    Args:
        targets: images, one per id.
        keywords: of the training split; nothing else of the dataset's texts reaches the captioner.
        attempts: how often an image is asked about when the answer is a refusal or empty; what then stands is ``.`` with ``"empty": true``.
        allow_missing: leave images out that cannot be read, with a warning that names them.

    Raises:
        MissingDataError: images are absent or broken and ``allow_missing`` is off.
        ValueError: an id occurs twice, or ``out`` holds captions of another captioner, template or other keywords.
        LeakError: the captioner's record says that it saw more than image, category and keywords of the training split.
    """
    out = Path(out)
    record = _record(captioner, keywords)
    if len({t.id for t in targets}) < len(targets):
        raise ValueError(f"{len(targets) - len({t.id for t in targets})} ids occur twice among the images to be captioned")
    done = _captioned_ids(out, record)
    todo = [target for target in sorted(targets, key=lambda t: t.id) if target.id not in done]
    bad: list[str] = []
    with tqdm(total=len(todo), desc="captions", unit="image", disable=not (progress and todo)) as bar, writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "a", encoding="utf-8") as file:
            for start in range(0, len(todo), batch_size):
                part = todo[start : start + batch_size]
                for line in _lines(part, captioner, keywords, record, attempts, bad):
                    file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
                bar.update(len(part))
                if bad and not allow_missing:
                    raise MissingDataError(
                        f"{len(bad):,} images cannot be captioned: {shortened(bad)}. Mend them and run the same command again, or pass "
                        "--allow-missing to leave such images out"
                    )
    if bad:
        warnings.warn(f"{len(bad):,} images have no caption: {shortened(bad, 20)}", stacklevel=2)
    lines = sorted((line for _, line in text_lines(out)), key=lambda line: str(from_json(line, dict[str, Any])["image"]))
    return write_text(out, "".join(f"{line}\n" for line in lines))


def _record(captioner: Captioner, keywords: Keywords) -> dict[str, Any]:
    """What all lines of a run share."""
    record = {**captioner.record, "library": f"unifashion-pl {version('unifashion-pl')}"}
    if "keywords" in record.get("inputs", []):
        record |= {"keywords_hash": keywords.hash, "keywords_split": keywords.split}
    record["template_hash"] = _hash(record.get("template"))
    if faults := provenance_faults(record):
        raise LeakError(f"the captioner's record does not prove that it sees no query: {'; '.join(faults)}")
    return record


def _captioned_ids(out: Path, record: Mapping[str, Any]) -> set[str]:
    """Ids that ``out`` has captions of; a line that was cut off by an interruption is taken away."""
    if not out.is_file():
        return set()
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with replacing(out) as file:
            file.write(whole)
    done = set()
    for number, entry in read_json_lines(out, dict[str, Any], "a line of a caption library"):
        if differing := sorted(k for k in record if k != "date" and entry.get(k) != record[k]):
            raise ValueError(
                f"{out}:{number} was written with another {', '.join(differing)}: one library has one captioner, template and list of "
                "keywords. Name another file, or remove this one"
            )
        if "image" not in entry:
            raise FormatError(f"{out}:{number}: no image; name another file, or remove this one")
        done.add(str(entry["image"]))
    return done


def _lines(
    part: Sequence[Target], captioner: Captioner, keywords: Keywords, record: Mapping[str, Any], attempts: int, bad: list[str]
) -> Iterator[dict[str, Any]]:
    """The part's lines; of files that cannot be read a word goes into ``bad``."""
    subjects: dict[str, CaptionInput] = {}
    lines: dict[str, dict[str, Any]] = {}
    for target in part:
        try:
            data = read_bytes(target.path)
            image = to_rgb(open_image(data, str(target.path)))
        except BadInput as error:
            bad.append(f"{target.id}: {error.reason}")
            continue
        subjects[target.id] = CaptionInput(image, target.category, keywords.of(target.category))
        found = {"image": target.id, "sha256": hashlib.sha256(data).hexdigest(), "category": target.category}
        lines[target.id] = {**found, **caption_entry(""), **record}
    for attempt in range(attempts):
        asked = [id for id, line in lines.items() if "empty" in line]
        for id, text in zip(asked, captioner([subjects[id] for id in asked], attempt) if asked else ()):
            del lines[id]["empty"]
            lines[id] |= {**caption_entry(text), **({"attempts": attempt + 1} if attempt else {})}
    yield from lines.values()


def clean_caption(text: str) -> str:
    """A caption on one line without markdown; "" if it is a refusal or holds no word.

    >>> clean_caption("\\n**Red** dress,\\nwith dots.")
    'Red dress, with dots.'
    """
    words = " ".join(MARKDOWN.sub("", text).split())
    return "" if REFUSAL.search(words) or not re.search(r"\w", words) else words


def caption_entry(text: str) -> dict[str, Any]:
    """What a line says of an answer; an empty one is ``.``, because evaluation takes an empty caption for an absent one."""
    words = clean_caption(text)
    return {"caption": words} if words else {"caption": NO_WORDS, "empty": True}
