"""HTML to text in Markdown's form, so that headings, lists and tables keep their meaning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agents.ingestion.base import Limits, ParsedDocument
from agents.ingestion.text import clean, markdown_document

if TYPE_CHECKING:
    from bs4 import Tag

SKIPPED = ("script", "style", "noscript", "template", "svg", "iframe", "object", "nav", "head")
BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption", "figure",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html", "li", "main", "ol", "p", "pre", "section",
    "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
))  # fmt: skip
CELL = " | "
HEADINGS = {f"h{level}": level for level in range(1, 7)}
SPACE = re.compile(r"\s+")
BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*){2,}")


def parse_html(name: str, data: bytes, limits: Limits) -> ParsedDocument:
    """The text of <main> where there is one, else of the body; navigation and scripts are left out."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "html.parser")
    title = SPACE.sub(" ", soup.title.get_text()).strip() if soup.title else ""
    for tag in soup(SKIPPED):
        tag.decompose()
    root = soup.find("main") or soup.body or soup
    text = BLANK_LINES.sub("\n\n", clean(_markdown(root))).strip("\n")
    metadata = {"encoding": str(soup.original_encoding)} if soup.original_encoding else {}
    return markdown_document(text, title=clean(title)[:500], metadata=metadata)


def _markdown(root: Tag) -> str:
    """Walks the tree with a stack of its own: pages may nest deeper than Python's."""
    from bs4 import NavigableString, Tag
    from bs4.element import PreformattedString

    pieces: list[str] = []
    stack: list[tuple[object, bool]] = [(root, False)]
    preformatted = 0
    while stack:
        node, leaving = stack.pop()
        if isinstance(node, Tag):
            if node.name == "pre":
                preformatted += -1 if leaving else 1
            pieces.append(_after(node) if leaving else _before(node))
            if not leaving:
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(node.contents))
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
            pieces.append(str(node) if preformatted else SPACE.sub(" ", str(node)))
    lines = "".join(pieces).split("\n")
    return "\n".join(line.rstrip().removesuffix(CELL.rstrip()).rstrip() for line in lines)


def _before(tag: Tag) -> str:
    if tag.name in HEADINGS:
        return f"\n\n{'#' * HEADINGS[tag.name]} "
    return {"li": "\n- ", "br": "\n", "pre": "\n\n```\n", "tr": "\n", "dt": "\n", "dd": "\n"}.get(tag.name) or (
        "\n\n" if tag.name in BLOCKS else ""
    )


def _after(tag: Tag) -> str:
    if tag.name == "pre":
        return "\n```\n\n"
    if tag.name in ("td", "th"):
        return CELL
    return "\n\n" if tag.name in BLOCKS - {"li", "tr", "dt", "dd"} else ""
