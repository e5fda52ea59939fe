"""What the site is made of beside its pages: source files that pages link to, the commands' own help, the shipped configs; and its links, checked.

Pages of ``docs/`` link to files of this repository, so that they read well where the repository is shown. On the site these files are pages
too, and a symbol's link (`` [`losses.itc_loss`][losses] ``) leads to the line that defines it.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
from contextlib import redirect_stdout, suppress
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from posixpath import relpath
from typing import Any
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

log = get_plugin_logger("site")
ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: Pages that lie elsewhere in the repository -> where they are on the site.
ELSEWHERE = {
    "benchmarks/RESULTS.md": "project/results.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "checkpoints/README.md": "project/tiny.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
LABEL = re.compile(r"^\[([^\]]+)\]:\s+(\S+)$", re.MULTILINE)
LINK = re.compile(r"\[(?P<text>(?:`[^`\n]+`|[^\]\[])+)\](?:\[(?P<label>[^\]\n]+)\]|\((?P<target>[^)\s]+)\))")
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):<code>~?(?:[\w.]*\.)?([\w]+(?:\.\w+)?)</code>")
#: Folders of pages that are made of files of the repository.
MADE = ("source/", "notebooks/")


# -- files of the repository as pages


def place_of(page: str) -> Path:
    """Where a page of the site lies in the repository."""
    return ROOT / next((path for path, name in ELSEWHERE.items() if name == page), f"docs/{page}")


def site_page(path: Path) -> str | None:
    """The page of a file of the repository; None of what has none: a folder, or what is no text."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    if name == "README.md":
        return "index.md"
    if path.suffix == ".ipynb":
        return f"notebooks/{path.stem}.md"
    return f"source/{name}.md" if path.is_file() and path.suffix not in (".safetensors", ".jpg", ".png") else None


@cache
def lines_of(path: Path) -> dict[str, int]:
    """``name`` and ``Class.name`` of what a Python file defines, and the line."""
    found: dict[str, int] = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        for name in _names(node):
            found.setdefault(name, node.lineno)
        if isinstance(node, ast.ClassDef):
            for inner in ast.walk(node):
                for name in _names(inner):
                    found.setdefault(f"{node.name}.{name}", inner.lineno)
                if isinstance(inner, ast.arg):
                    found.setdefault(f"{node.name}.{inner.arg}", inner.lineno)
    return found


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [getattr(t, "id", getattr(t, "attr", "")) for t in targets]
    return [a.asname or a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []


def line_of(path: Path, text: str) -> int | None:
    """The line that defines what a link's text names, of a Python file; None where it names none."""
    symbol = re.fullmatch(r"`([\w.]+)`", text)
    if symbol is None or path.suffix != ".py":
        return None
    parts = symbol[1].split(".")
    known = lines_of(path)
    for start in range(len(parts)):
        if (name := ".".join(parts[start:])) in known:
            return known[name]
    return None


def linked(page: Path) -> list[tuple[str, Path]]:
    """(text, file) of a page's links to files of the repository."""
    whole = page.read_text("utf-8")
    targets = dict(LABEL.findall(whole))
    found = [(m["text"], m["target"] or targets.get(m["label"], "")) for m in LINK.finditer(whole)]
    local = [(said, target.split("#")[0]) for said, target in found if not urlsplit(target).scheme and target[:1] != "#"]
    return [
        (said, path) for said, target in local if target and (path := (page.parent / target).resolve()).is_relative_to(ROOT)
    ]


def source_page(path: Path) -> str:
    """A file as a page whose lines can be linked to."""
    text = path.read_text("utf-8")
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    code = highlight(text, lexer, HtmlFormatter(linenos="inline", lineanchors="L", cssclass="highlight", wrapcode=True))
    return f"---\nsearch:\n  exclude: true\nhide: [navigation, toc]\n---\n# {path.relative_to(ROOT)}\n\n{code}\n"


def notebook_page(path: Path) -> str:
    """A notebook's texts and programs, without outputs."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    shown = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts]
    return "\n\n".join([*shown[:1], f"*A notebook to run: `{path.relative_to(ROOT).as_posix()}`.*", *shown[1:]]) + "\n"


# -- what commands and configs say of themselves


def commands_page() -> str:
    """Every command with its help, as the parsers print it."""
    from unifashion_pl.commands import COMMANDS as BESIDE
    from unifashion_pl.commands import parser

    def said(argv: list[str]) -> str:
        os.environ["COLUMNS"] = "92"  # of the help, whatever terminal this is
        with redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
            parser(argv).parse_args([*argv, "--help"])
        return printed.getvalue().rstrip()

    out = [
        "# Commands",
        "What each command prints with `--help`. `fit`, `validate`, `test` and `predict` are those of LightningCLI:",
        "",
    ]
    out += [
        "    unifashion fit --config NAME.yaml [--config MORE.yaml] [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]",
        "",
    ]
    out += ["Their options are the arguments of [the model](model.md), [the data](data.md) and Lightning's Trainer; "]
    out += [
        "`--print_config` behind them prints all of them with their values and trains nothing. [Configs](configs.md) lists the shipped files.",
        "",
    ]
    for command in BESIDE:
        if isinstance(command, tuple):
            name, about, actions = command
            out += [f"## {name}", f"{about[:1].upper()}{about[1:]}.", ""]
            for action in actions():
                words = [name, action.__name__.rstrip("_")]
                out += [f"### {' '.join(words)}", "```text", said(words), "```", ""]
        else:
            name = command.__name__.rstrip("_")
            out += [f"## {name}", "```text", said([name]), "```", ""]
    return "\n".join(out) + "\n"


def configs_page() -> str:
    """Every shipped config with its first words."""
    out = [
        "# Configs",
        "Files that `--config NAME` finds without a path. Each says in its first lines what it is and where its numbers come from.",
        "",
    ]
    for path in sorted((ROOT / "src/unifashion_pl/configs").rglob("*.yaml")):
        lines = path.read_text("utf-8").splitlines()
        head = [
            line.lstrip("#").strip() for line in lines[: next((i for i, s in enumerate(lines) if not s.startswith("#")), 0)]
        ]
        words = " ".join(line for line in head if line)
        first = re.split(r"(?<=[.:;])\s", words)[0].rstrip(":;.") if words else ""
        name = path.relative_to(ROOT / "src/unifashion_pl/configs").as_posix()
        out.append(
            f"* [`{name}`](../source/{path.relative_to(ROOT).as_posix()}.md): {first}."
            if first
            else f"* [`{name}`](../source/{path.relative_to(ROOT).as_posix()}.md)"
        )
    return "\n".join(out) + "\n"


# -- hooks of MkDocs


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: files that pages link to, commands, configs, and pages that lie elsewhere."""
    for path, name in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text("utf-8")))
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/configs.md", content=configs_page()))
    pages = [
        place_of(file.src_uri)
        for file in files.documentation_pages()
        if not file.generated_by or file.src_uri in ELSEWHERE.values()
    ]
    configs = (ROOT / "src/unifashion_pl/configs").rglob("*.yaml")
    wanted = {path for page in pages for _, path in linked(page)} | set(configs)
    wanted |= set((ROOT / "notebooks").glob("*.ipynb"))
    for path in sorted(wanted):
        name = site_page(path)
        if name is not None and name.startswith(MADE):
            content = notebook_page(path) if path.suffix == ".ipynb" else source_page(path)
            files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository lead to their pages here, those of symbols to the line."""
    uri = page.file.src_uri
    if uri.startswith((*MADE, "reference/")):
        return markdown
    here, targets = place_of(uri).parent, dict(LABEL.findall(markdown))

    def moved(match: re.Match[str]) -> str:
        target = match["target"] or targets.get(match["label"], "")
        address, _, anchor = target.partition("#")
        if not address or urlsplit(target).scheme:
            return match[0]
        path = (here / address).resolve()
        name = site_page(path) if path.is_relative_to(ROOT) else None
        if name is None:
            return match["text"]
        line = line_of(path, match["text"])
        anchor = f"L-{line}" if line else anchor
        return f"[{match['text']}]({relpath(name, uri.rpartition('/')[0] or '.')}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```[ ]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LABEL.sub("", LINK.sub(moved, part)) for part in parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """References of docstrings as names."""
    return ROLE.sub(r"<code>\1</code>", html)


class Links(HTMLParser):
    """Ids and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.addresses: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := found.get(name))}
        self.addresses |= {value for name in ("href", "src") if (value := found.get(name)) and tag != "base"}


def broken_links(site: Path) -> tuple[list[str], set[str]]:
    """Of a built site, links and anchors that lead nowhere, and addresses outside of it."""
    pages = {path: Links(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    wrong, outside = [], set()
    for path, found in pages.items():
        if path.name == "404.html":
            continue
        for address in sorted(found.addresses):
            parts = urlsplit(address)
            if parts.scheme == "data" or parts.scheme == "mailto":
                continue
            if parts.scheme or parts.netloc:
                outside.add(address)
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = place / "index.html" if place.is_dir() else place
            if not place.is_file() or (parts.fragment and place in pages and unquote(parts.fragment) not in pages[place].ids):
                wrong.append(f"{path.relative_to(site)}: {address}")
    return wrong, outside


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Check every link of the site; what leads out of it is listed in ``outside.txt``."""
    site = Path(config.site_dir)
    wrong, outside = broken_links(site)
    for link in wrong:
        log.warning("leads nowhere: %s", link)
    (site / "outside.txt").write_text("\n".join(sorted(outside)) + "\n", "utf-8")
    log.info("%d addresses outside of the site are listed in outside.txt, unchecked", len(outside))
