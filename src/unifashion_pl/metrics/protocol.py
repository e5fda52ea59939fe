"""How a number was measured, as a value: what stands in ``results.json`` as one string."""

from __future__ import annotations

from dataclasses import dataclass, replace

Detail = tuple[str, str | None]
#: Kinds of pictures; their protocols name the dataset.
PICTURES = ("reconstruction", "tryon", "design")
#: What composed retrieval ranks by, beside the audit of what it reads.
SCORES = ("image", "caption", "both")
AUDIT = "caption-audit"
#: The variant that the paper reports: whole gallery, reference kept, ranked by images.
HEADLINE = ("original", "ref-kept", "image")
#: Labels of numbers whose gallery captions may know the queries.
UNSAFE = ("leaked", "suspicious")


@dataclass(frozen=True)
class Protocol:
    """Numbers of different protocols do not compare.

    ``str`` writes ``[robustness/KIND/][DATASET/]FAMILY[/GALLERY[PART]/REFERENCE/SCORE](DETAILS)[/FURTHER][/chance]``, :meth:`parse` reads it.

    Attributes:
        family: what is measured, e.g. ``fashiongen_100``, ``fashioniq``, ``coco``, ``first-mention``, ``tryon``; whatever a metric of
            somebody else calls itself.
        dataset: e.g. ``vitonhd/test-paired``; "" where the protocol does not name it (:attr:`ResultRecord.dataset` always does).
        robustness: a rewriting of the queries, ``product-level`` or ``multi-round``; "" = nothing of the kind.
        gallery: ``original``, ``union`` or ``targets``.
        part: ``18/19`` where only so many of the queries were asked.
        reference: ``ref-kept`` or ``ref-removed``: whether the query's own image may be found.
        score: ``image``, ``caption`` or ``both``; ``caption-audit`` of the captions themselves.
        withheld: what a painted person was not given: ``garment``, ``text`` or ``sketch``.
        details: names and values; a name alone has None.
        further: what sets numbers apart beyond: ``no-overlap``, how pictures were resized, which CLIP model read them.
        chance: whether it is what chance reaches, instead of a model.

    >>> found = Protocol.parse("fashioniq/original[18/19]/ref-kept/both(w=1,score=itc,text=and)/chance")
    >>> found.family, found.gallery, found.part, found.reference, found.score, found.detail("w"), found.chance
    ('fashioniq', 'original', '18/19', 'ref-kept', 'both', '1', True)
    >>> str(replace(found, gallery="union", part="", chance=False).adding(captions="leaked"))
    'fashioniq/union/ref-kept/both(w=1,score=itc,text=and,captions=leaked)'
    """

    family: str
    dataset: str = ""
    robustness: str = ""
    gallery: str = ""
    part: str = ""
    reference: str = ""
    score: str = ""
    withheld: str = ""
    details: tuple[Detail, ...] = ()
    further: tuple[str, ...] = ()
    chance: bool = False

    def __str__(self) -> str:
        inside = ",".join(self.said)
        behind = "/".join((*self.further, "chance") if self.chance else self.further)
        return self.name + (f"({inside})" if self.details else "") + (f"/{behind}" if behind else "")

    @classmethod
    def parse(cls, text: str) -> Protocol:
        """Inverse of ``str``; of a text that has another form, all is the family but details at its end."""
        head, opened, rest = text.partition("(")
        inside, _, behind = rest.partition(")")
        names, further, robustness = head.split("/"), behind.split("/")[1:], ""
        if names[0] == "robustness" and len(names) > 2:
            _, robustness, *names = names
        if not opened:
            names, further = names[:1], names[1:]
        chance = further[-1:] == ["chance"]
        found = replace(
            cls._named("/".join(names)),
            robustness=robustness,
            details=_details(inside) if opened else (),
            further=tuple(further[:-1] if chance else further),
            chance=chance,
        )
        if str(found) == text and "(" not in inside:
            return found
        head, opened, inside = text.removesuffix(")").rpartition("(")
        other = cls(head, details=_details(inside) if opened else ())
        return other if str(other) == text else cls(text)

    @classmethod
    def _named(cls, head: str) -> Protocol:
        """From what stands before the details."""
        before, _, rest = head.partition("[")
        part, _, after = rest.partition("]")
        names = (before + after).split("/")
        gallery = reference = score = withheld = dataset = ""
        if len(names) > 2 and names[-2].startswith("ref-"):
            *names, reference, score = names
            if len(names) > 1:
                *names, gallery = names
        elif len(names) > 2 and names[-1] == AUDIT:
            *names, gallery, score = names
        elif len(names) > 1 and names[-1] in SCORES:
            *names, score = names
        if len(names) > 1 and names[-1].endswith("-withheld"):
            withheld = names.pop().removesuffix("-withheld")
        if names[-1] in PICTURES:
            dataset, names = "/".join(names[:-1]), names[-1:]
        return cls("/".join(names), dataset, "", gallery, part, reference, score, withheld)

    @property
    def name(self) -> str:
        """What stands before the details."""
        gallery = self.gallery + (f"[{self.part}]" if self.part else "")
        withheld = f"{self.withheld}-withheld" if self.withheld else ""
        parts = (self.dataset, self.family, gallery, self.reference, self.score, withheld)
        tested = f"robustness/{self.robustness}/" if self.robustness else ""
        return tested + "/".join(part for part in parts if part)

    @property
    def said(self) -> list[str]:
        """The details as texts."""
        return [name if value is None else f"{name}={value}" for name, value in self.details]

    def detail(self, name: str) -> str | None:
        """Value of a detail; None if there is none."""
        return dict(self.details).get(name)

    def adding(self, **details: object) -> Protocol:
        """The same with further details behind those that there are."""
        return replace(self, details=(*self.details, *((name, str(value)) for name, value in details.items())))

    def beyond(self, *names: str) -> Protocol:
        """The same with further names behind the details."""
        return replace(self, further=(*self.further, *names))

    @property
    def composed(self) -> bool:
        """Whether it is composed retrieval, each category by itself, or chance in it."""
        return bool(self.gallery and self.reference) and not self.robustness

    @property
    def variant(self) -> tuple[str, str, str]:
        """Gallery, reference rule and score."""
        return self.gallery, self.reference, self.score

    @property
    def half(self) -> str:
        """What composed retrieval asks with: ``itc`` for the whole query, else one half of it, or ``bm25`` for words alone."""
        return self.detail("score") or "itc"

    @property
    def unsafe(self) -> str:
        """``leaked`` or ``suspicious`` where gallery captions may know the queries, else ""."""
        return next((value for name, value in self.details if name == "captions" and value in UNSAFE), "")

    @property
    def shortened(self) -> bool:
        """Whether only a part of the data was seen: composed retrieval has its own words for it."""
        return bool(self.part) or any(name in ("shortened", "gallery") and "/" in (value or "") for name, value in self.details)


def _details(text: str) -> tuple[Detail, ...]:
    pairs = (item.partition("=") for item in text.split(","))
    return tuple((name, value if given else None) for name, given, value in pairs)
