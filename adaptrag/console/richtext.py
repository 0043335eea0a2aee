"""A model's answer as HTML: everything is escaped first, then a little Markdown is allowed back in."""

from __future__ import annotations

import re
from itertools import groupby
from operator import itemgetter

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from agents.classifier import content_words

_FENCE = re.compile(r"^```[^\n]*\n(.*?)(?:\n```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^\s*(?:([-*•])|(\d{1,3})[.)])\s+(.*)$")
_HEADING = re.compile(r"^#{1,6}\s+(.*)$")
_CODE = re.compile(r"`([^`\n]+)`")
_BOLD = re.compile(r"\*\*(\S(?:[^*\n]*\S)?)\*\*")
_CITE = re.compile(r"\[(\d{1,2})\]")


def answer_html(text: str, sources: int = 0, anchor: str = "") -> SafeString:
    """Paragraphs, lists, headings (as bold text), code and bold; `[n]` links to `#<anchor>-n` where 1 <= n <= sources.

    No link, image or tag of the text itself survives, so a document or a model cannot place any.
    """
    text = text.replace("\r\n", "\n").strip()
    parts, position = [], 0
    for fence in _FENCE.finditer(text):
        parts += _blocks(text[position : fence.start()], sources, anchor)
        parts.append(f"<pre><code>{escape(fence[1])}</code></pre>")
        position = fence.end()
    parts += _blocks(text[position:], sources, anchor)
    return mark_safe("".join(parts))  # noqa: S308 every piece was escaped above


def marked(text: str, question: str) -> SafeString:
    """The text, escaped, with the question's content words marked where they occur (also as the start of a longer word)."""
    stems = {word.lower()[: max(4, len(word) - 2)] for word in content_words(question) if len(word) > 2}
    if not stems:
        return escape(text)
    found = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(stems, key=len, reverse=True)))})\w*", re.IGNORECASE)
    pieces, position = [], 0
    for match in found.finditer(text):
        pieces += [escape(text[position : match.start()]), "<mark>", escape(match[0]), "</mark>"]
        position = match.end()
    return mark_safe("".join([*pieces, escape(text[position:])]))  # noqa: S308 every piece was escaped above


def _blocks(text: str, sources: int, anchor: str) -> list[str]:
    blocks = []
    for paragraph in re.split(r"\n\s*\n", text):
        for kind, lines in groupby(_lines(paragraph, sources, anchor), key=itemgetter(0)):
            htmls = [html for _, html in lines]
            if kind == "p":
                blocks.append(f"<p>{'<br>'.join(htmls)}</p>")
            elif kind == "heading":
                blocks += [f"<p><strong>{html}</strong></p>" for html in htmls]
            else:
                blocks.append(f"<{kind}>{''.join(f'<li{html}</li>' for html in htmls)}</{kind}>")
    return blocks


def _lines(paragraph: str, sources: int, anchor: str) -> list[tuple[str, str]]:
    """(kind of block, HTML) of each line; an item's HTML starts behind its `<li`. A line below an item continues it."""
    lines: list[tuple[str, str]] = []
    for line in filter(str.strip, paragraph.splitlines()):
        if item := _ITEM.match(line):
            number = f' value="{item[2]}"' if item[2] else ""
            lines.append(("ol" if item[2] else "ul", f"{number}>{_inline(item[3], sources, anchor)}"))
        elif heading := _HEADING.match(line):
            lines.append(("heading", _inline(heading[1], sources, anchor)))
        elif lines and lines[-1][0] in ("ul", "ol"):
            kind, html = lines[-1]
            lines[-1] = (kind, f"{html} {_inline(line.strip(), sources, anchor)}")
        else:
            lines.append(("p", _inline(line.strip(), sources, anchor)))
    return lines


def _inline(text: str, sources: int, anchor: str) -> str:
    pieces = []
    for index, piece in enumerate(_CODE.split(text)):
        if index % 2:
            pieces.append(f"<code>{escape(piece)}</code>")
            continue
        html = _BOLD.sub(r"<strong>\1</strong>", str(escape(piece)))
        if anchor:
            html = _CITE.sub(lambda match: _cite(match, sources, anchor), html)
        pieces.append(html)
    return "".join(pieces)


def _cite(match: re.Match[str], sources: int, anchor: str) -> str:
    number = int(match[1])
    if not 1 <= number <= sources:
        return match[0]
    return f'<a class="cite" href="#{escape(anchor)}-{number}" title="Source {number}">{number}</a>'
