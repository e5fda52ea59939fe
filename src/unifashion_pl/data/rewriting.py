"""Modifying texts in other words, and denied.

The rules are a small phrase table for modifying texts as Fashion-IQ has them ("is red and has long sleeves"); they know no model and no
dataset.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial

from unifashion_pl.arguments import choice

Table = Sequence[tuple[str, str]]

_COMPARED = r"(?:more|less|fewer|\w{2,}er)\b"
_SUBJECT = r"^((?:(?!is |are |it's )\w+ ){0,2})"
_JOINT = re.compile(r"(\s+and\s+|\s*,\s+(?:and\s+)?)")
_VERB = re.compile(r"(?:is|are|has|have|with|without|it|it's)\b")
_START = re.compile(rf"(?:{_VERB.pattern}|(?:more|less|fewer|longer|shorter)\b)")
_DENIED = re.compile(r"\b(?:not|no|without)\b|n't\b")

#: Rewritings of one statement, by rule; of every rule the first pattern that matches is applied, once.
PHRASES: dict[str, Table] = {
    "phrase": (
        (r"^(?:is )?(short|long)[- ]sleeved$", r"has \1 sleeves"),
        (r"^has (short|long) sleeves$", r"is \1-sleeved"),
        (r"^is sleeveless$", "has no sleeves"),
        (r"^has no sleeves$", "is sleeveless"),
        (r"^is strapless$", "has no straps"),
        (r"^has no straps$", "is strapless"),
        (r"^is (longer|shorter)$", r"\1"),
        (r"^(longer|shorter)$", r"is \1"),
        (r"^fewer ", "not as many "),
        (r"^not as many ", "fewer "),
        (r" in colou?r$", ""),
        (r"\binstead of\b", "rather than"),
        (r"\brather than\b", "instead of"),
    ),
    "verb": (
        (rf"^(?:it )?(?:has|have) no (?!{_COMPARED})", "without "),
        (r"^(?:it )?(?:has|have) (?!no )", "with "),
        (r"^without (?:an? |the |any )?", "has no "),
        (r"^with ", "has "),
    ),
    "pronoun": (
        (r"^it(?: is|'s) ", "is "),
        (r"^it has ", "has "),
        (r"^(is|has) ", r"it \1 "),
    ),
}
PARAPHRASES = (*PHRASES, "spelling", "order")

#: Denials of one statement; the first pattern that matches is applied, once.
DENIALS: Table = (
    (r"\b(is|are|it's)(?: not|n't)\b", r"\1"),
    (r"\bdo(?:es)?(?: not|n't) have\b", "has"),
    (r"\b(has|have) no\b", r"\1"),
    (r"^without\b", "with"),
    (r"^(?:not|no) ", ""),
    (rf"{_SUBJECT}(?:has|have) (?={_COMPARED}|\d|(?:one|two|three|four|five|six)\b)", r"\1does not have "),
    (rf"{_SUBJECT}(has|have) (?:an? |the )?", r"\1\2 no "),
    (r"\b(is|are|it's)(?=\s)", r"\1 not"),
    (r"^with\b", "without"),
    (r"^(?=\S)", "not "),
)


def statements(text: str) -> tuple[list[str], list[str]]:
    """The statements of a modifying text and what joins them (one fewer).

    A text is cut only before a word that opens a statement, so that "black and white stripes" stays whole, and not where a denial
    reaches over the joint ("is not longer and more red").

    >>> statements("is red and has black and white stripes, longer")
    (['is red', 'has black and white stripes', 'longer'], [' and ', ', '])
    """
    parts = _JOINT.split(text)
    found, joints = [parts[0]], []
    for joint, part in zip(parts[1::2], parts[2::2]):
        if _START.match(part) and not _reaches(found[-1], part):
            joints.append(joint)
            found.append(part)
        else:
            found[-1] += joint + part
    return found, joints


def _reaches(first: str, second: str) -> bool:
    """Whether a denial in the first statement may be read as denying the second, which has no verb of its own."""
    return _DENIED.search(first) is not None and _VERB.match(second) is None


def paraphrase(text: str, rule: str = "all") -> str:
    """The text in other words of the same meaning; unchanged where the rule has nothing to say.

    Args:
        text: a modifying text; blanks at its ends go, its first letter keeps its case.
        rule: ``phrase`` ("is sleeveless" <-> "has no sleeves", ...), ``verb`` ("has" <-> "with", "has no" <-> "without"),
            ``pronoun`` ("is" <-> "it is"), ``spelling`` (color/colour, gray/grey), ``order`` (statements in reverse), or ``all``,
            one after the other.

    Raises:
        ValueError: unknown rule.

    >>> paraphrase("Is red and has long sleeves", "verb")
    'Is red and with long sleeves'
    >>> paraphrase("Is gray in color and has long sleeves")
    'It is long-sleeved and it is grey'
    """
    if rule == "all":
        for name in PARAPHRASES:
            text = paraphrase(text, name)
        return text
    if choice(rule, "paraphrase rule", (*PARAPHRASES, "all")) == "spelling":
        swaps = {"color": "colour", "colour": "color", "gray": "grey", "grey": "gray"}
        return _keeping_case(text, lambda inner: re.sub(r"\b(?:colou?r|gr[ae]y)", lambda match: swaps[match[0]], inner))
    if rule == "order":
        return _keeping_case(text, _reordered)
    return _keeping_case(text, lambda inner: _each(*statements(inner), PHRASES[rule]))


def negate(text: str) -> str:
    """The text with every statement denied, a denial being taken back; unchanged only where there is no word.

    Here "and" always separates: "is red and white" becomes "is not red and not white", so that nothing of the wish stays true.

    >>> negate("Is red and has stripes"), negate("has no sleeves"), negate("longer")
    ('Is not red and has no stripes', 'has sleeves', 'not longer')
    """

    def denied(inner: str) -> str:
        parts = _JOINT.split(inner)
        return _each(parts[0::2], parts[1::2], DENIALS)

    return _keeping_case(text, denied)


#: What robustness is measured with, by name: every rule of paraphrasing, all of them together, and the denial.
REWRITINGS: dict[str, Callable[[str], str]] = {
    **{f"paraphrase-{rule}": partial(paraphrase, rule=rule) for rule in (*PARAPHRASES, "all")},
    "negation": negate,
}


def _each(parts: Sequence[str], joints: Sequence[str], table: Table) -> str:
    """Every part rewritten by the first pattern of the table that matches it, joined as before."""
    return _joined([_rewritten(part, table) for part in parts], joints)


def _rewritten(part: str, table: Table) -> str:
    for pattern, replacement in table:
        if re.search(pattern, part):
            return re.sub(pattern, replacement, part, count=1)
    return part


def _joined(parts: Sequence[str], joints: Sequence[str]) -> str:
    return parts[0] + "".join(joint + part for joint, part in zip(joints, parts[1:]))


def _reordered(text: str) -> str:
    """Statements in reverse, unless a denial would then reach over a joint that it did not reach over before."""
    parts, joints = statements(text)
    mixed = any(_reaches(later, earlier) for earlier, later in itertools.pairwise(parts))
    return text if mixed else _joined(parts[::-1], joints[::-1])


def _keeping_case(text: str, work: Callable[[str], str]) -> str:
    """``work`` on the text with a small first letter (but "V-neck"), which is made as it was."""
    text = text.strip()
    inner = text[:1].lower() + text[1:] if re.match(r"[A-Z][a-z]|A\b(?!-)", text) else text
    made = work(inner)
    return made[:1].upper() + made[1:] if text[:1].isupper() else made
