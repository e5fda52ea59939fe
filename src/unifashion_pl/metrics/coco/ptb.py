"""A pure-Python tokeniser that reproduces what CoreNLP 3.4.1's ``PTBTokenizer -lowerCase`` prints for captions.

Written from the observable behaviour of the program (its output on probe sentences), not from its source. Like the original it
always takes the longest token that starts at the current position. Out of scope: telephone numbers and file names with blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


# ruff: noqa: SIM905
_KEEP_STOP = """al cf co ct dr ft ga jr ky lt md mo mr ms mt ph rd rt sq sr st va vs vt wm adj adm adv ala apr aug ave bhd cie col
cos cpl dak dec det drs ens esq est etc ext feb fla fri gen gov hon inc ind jan jos jul jun kan ltd maj mar mfg mme mon mrs mtg
neb nev nov oct pfc plc pte pty pvt rep rev sen sep seq sfc sgt spc ste sys tel thu tue wed wis wyo alex ariz assn asst atty bldg
blvd brig bros capt cmdr colo conn corp dept elec govs insp intl invt kans mich minn mlle mont msgr natl okla penn ppte ppty pres
prof ptes ptys reps sens sept supt tenn tues univ wisc assoc bancorp calif comdr lieut messrs thurs treas""".split()
_KEEP_STOP_CAPITAL = "az ark del ill la mass miss ore pa tex wash".split()
_KEEP_STOP_NUMBER = "ca no op pp art fig nos figs prop".split()
_OPENERS = """a an as at he if in it so we but her now one our she the yet you here last many more once some such that then they
this what when about according after earlier however other since their there these while""".split()
_SPLIT_WORDS = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SINGLE = {"–": "--", "—": "--", "―": "--", "…": "...", "“": "``", "”": "''", "«": "``", "»": "''"}
_SINGLE |= {"‘": "`", "’": "'", "‹": "`", "›": "'", '"': "''", "€": "$", "£": "#", "¢": "cents", **_BRACKETS}
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''"}
# Numeric signs count as letters for `re`; while lexing they are private-use characters, which do not.
_NUMERIC = dict(zip("½¼¾⅓⅔²³¹⅛⅜⅝⅞", ("1/2", "1/4", "3/4", "1/3", "2/3", *"²³¹⅛⅜⅝⅞")))
_PREPARE = {ord(sign): chr(0xE000 + i) for i, sign in enumerate(_NUMERIC)} | {0xAD: "", 0x200B: " ", 0xFEFF: " "}
_SINGLE |= {chr(0xE000 + i): token for i, token in enumerate(_NUMERIC.values())}

_W = r"[^\W_]"
_L = r"[^\W\d_]"
_ASCII = "[A-Za-z0-9]+(?:[-@_][A-Za-z0-9]+)*"
_END = rf"(?!{_W})"
_QUOTE = "['’]"

Split = Callable[[str], list[str]]


def _whole(token: str) -> list[str]:
    return [token]


def _word(token: str) -> list[str]:
    return list(_SPLIT_WORDS.get(token, (token,)))


def _contraction(token: str) -> list[str]:
    """``don't`` -> ``do n't``."""
    return [part for part in (token[:-3], token[-3:].replace("’", "'")) if part]


def _joined(token: str) -> list[str]:
    """A token with blanks inside, which the original prints as no-break spaces."""
    return [re.sub(r"\s", "\u00a0", token)]


_RULES: list[tuple[re.Pattern[str], Split]] = [
    (re.compile(pattern), split)
    for pattern, split in [
        (rf"{_W}+(?:[-@_‐‑]{_W}+)*", _word),
        (rf"{_ASCII}(?:/{_ASCII}){{1,2}}", _whole),
        (rf"{_W}+(?:[-_.]{_W}+)*\.(?=[,;:])", _whole),
        (rf"{_L}*[nN][{_QUOTE[1:-1]}`][tT](?!{_L})", _contraction),
        (rf"{_L}+(?:[.!?](?:-{_W}|{_L}){_W}*(?:[-_]{_W}+)*)+", _whole),
        (rf"(?:[A-Za-z]\.){{2,}}(?:-{_W}+(?:-{_W}+)*)?", _whole),
        (rf"[A-Za-z]\.(?!\s+(?:(?:{'|'.join(f'{w.capitalize()}|{w.upper()}' for w in _OPENERS)})(?!\S)|Mr\.))", _whole),
        (r"[Pp]h\.[Dd]\.?", _whole),
        (rf"(?i:{'|'.join(_KEEP_STOP)})\.", _whole),
        (rf"(?:{'|'.join(f'{w.capitalize()}|{w.upper()}' for w in _KEEP_STOP_CAPITAL)})\.", _whole),
        (rf"(?i:{'|'.join(_KEEP_STOP_NUMBER)})\.(?=\s?\d)", _whole),
        (r"[A-Z]+(?:[&+][A-Z]+)+|[A-Z]\+\+|[A-Z]{1,3}\$", _whole),
        (rf"(?:[A-HJ-XZdlno]|[DLNOJ]){_QUOTE}{_L}+(?:-{_W}+)*|[Mm][Aa]'[Aa][Mm]", _whole),
        (
            rf"(?:'(?:[sSmMdD]|ll|LL|re|RE|ve|VE)(?!{_L})|’(?:[sSmMdD]|ll|LL|re|RE|ve|VE))",
            lambda token: [token.replace("’", "'")],
        ),
        (rf"{_QUOTE}[nN]{_QUOTE}|{_QUOTE}(?:til|cause|n){_END}|{_QUOTE}em", _whole),
        (rf"'(?:[tT][iI][sS]|[tT][wW][aA][sS]){_END}", lambda token: [token[:2], token[2:]]),
        (rf"{_QUOTE}\d\d(?:s|(?!\S))", _whole),
        (r"\d+\.x(?!\w)|[yY]'(?=all)", _whole),
        (rf"(?:[djlDJL]|[oO]l){_QUOTE}(?!{_W})", _whole),
        (r"[-+]?[.,:]?\d+(?:[.,:-]\d+)*", _whole),
        (r"\d{1,4} \d{1,3}/\d{1,4}", _joined),
        (r"https?://[^\s<>\"]*[^\s<>\".,;:!?()]", _whole),
        (r"[^\W_]+(?:\.[\w-]+)*\.(?:com|org|net|edu|co\.uk)(?:/[^\s<>\"]*[^\s<>\".,;:!?()])?(?!\w)", _whole),
        (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", _whole),
        (r"@[A-Za-z]\w*|#[A-Za-z]+", _whole),
        (r"</?[A-Za-z]\w*(?:\s+[\w-]+=\"[^\"<>]*\")*\s*/?>", _joined),
        (rf"[:;=][-o*']?[][(){{}}DPpO\\|@]{_END}|:3{_END}", lambda token: [token.replace("(", "-lrb-").replace(")", "-rrb-")]),
        (r"&(?:amp|lt|gt|quot);", lambda token: [_ENTITIES[token]]),
        (r"&#\d+", _whole),
        (r"-{2,}", lambda token: ["--"] if len(token) < 5 else [token]),
        (r"\.{3,}", lambda token: ["..."]),
        (r"[!?]+|\*+|<<|>>|``|''", _whole),
    ]
]
_PLAIN = re.compile(r"[A-Za-z]{2,}(?=[ ,;)]|$)")


def tokenize(text: str) -> list[str]:
    """Tokens of one caption, lower-cased, punctuation still in (see ``PUNCTUATION`` for what metrics drop).

    >>> tokenize("It isn't a T-shirt, w/o sleeves (approx. 3/4).")
    ['it', 'is', "n't", 'a', 't-shirt', ',', 'w/o', 'sleeves', '-lrb-', 'approx', '.', '3/4', '-rrb-', '.']
    """
    text = text.translate(_PREPARE).replace("&nbsp;", " ")
    tokens: list[str] = []
    position = 0
    while position < len(text):
        if text[position].isspace() or ord(text[position]) > 0xFFFF:
            position += 1
            continue
        plain = _PLAIN.match(text, position)
        end, split = (plain.end(), _word) if plain else _longest(text, position)
        tokens += split(text[position:end].lower())
        position = end
    return tokens


def _longest(text: str, position: int) -> tuple[int, Split]:
    """End and splitting rule of the longest token that starts at ``position``; a lone character if no rule fits."""
    best = position
    chosen: Split = _single
    for pattern, split in _RULES:
        found = pattern.match(text, position)
        if found and found.end() > best:
            best, chosen = found.end(), split
    return max(best, position + 1), chosen


def _single(token: str) -> list[str]:
    return [_SINGLE.get(token, token)]
