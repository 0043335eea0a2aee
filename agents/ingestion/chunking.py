"""A document's text to passages."""

from __future__ import annotations

import functools
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agents.ingestion.base import ParsedDocument
from agents.ingestion.text import ATX

# WordPiece gives up on longer words and counts them as one token; a base64 blob must still be cut.
LONGEST_WORD = 100
COUNTED_AT_ONCE = 4096  # characters
# The splitter's time grows with the square of what it is given: a line of 160,000 characters takes it 21 s, a million of
# headings or list items minutes.
LONGEST_LINE, STRETCH = 10_000, 50_000
MOST_HEADINGS = 2000  # characters of headings that wait for a text to stand over
LINE = re.compile(r"[^\n]+")
WHITE_SPACE = re.compile(r"\s")
PREFIX_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class ChunkDraft:
    """A passage: text[start:end] of the document's text, the headings that it stands under, the page where it starts.

    windows: (start, end) in the passage's own text of the parts that are embedded, each with a vector of its own.
    """

    ordinal: int
    text: str
    heading: str
    page: int | None
    start: int
    end: int
    windows: tuple[tuple[int, int], ...]
    kind: str = "text"
    place: dict[str, Any] = field(default_factory=dict)
    image: int | None = None  # number of the document's image that it speaks of


def split(document: ParsedDocument, capacity: int, window: int, count: Callable[..., int]) -> list[ChunkDraft]:
    """Passages of at most `capacity` tokens in windows of at most `window`, cut at the highest boundary (section, block,
    sentence, word) that fits.

    count: tokens of a text, additive over words divided by white space; it may stop above its second argument.
    """
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    def fitting(size: int) -> Callable[[str], int]:
        return lambda text: count(text, size)

    kind = MarkdownSplitter if document.markdown else TextSplitter
    passages, windows = kind.from_callback(fitting(capacity), capacity), kind.from_callback(fitting(window), window)
    headings, pages = _Headings(document), _Numbers(document, "page")
    slides, lines = _Numbers(document, "slide"), _Numbers(document, "line")

    def cut(splitter: MarkdownSplitter | TextSplitter, text: str) -> Iterator[tuple[int, int]]:
        pieces = [
            (start + offset, piece)
            for start, end in _stretches(text)
            for offset, piece in splitter.chunk_indices(text[start:end])
        ]
        return _with_their_headings(pieces, document.markdown)

    return [
        ChunkDraft(
            ordinal=ordinal,
            text=(text := document.text[start:end]),
            windows=tuple(cut(windows, text)),
            heading=headings.at(start + (_length_of_headings(text) if document.markdown else 0)),
            page=pages.at(start),
            start=start,
            end=end,
            place=_place(slides, lines, start, end),
        )
        for ordinal, (start, end) in enumerate(cut(passages, document.text))
    ]


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    """The text in parts that the splitter is quick with: cut before paragraphs, and inside lines that are too long."""
    start = 0
    for line in LINE.finditer(text):
        at, end = line.span()
        long, size = end - at > LONGEST_LINE, at - start
        if size and (long or size > 2 * STRETCH or (size > STRETCH and text[at - 2] == "\n")):
            yield start, at
            start = at
        while long and end - start > LONGEST_LINE:
            stop = _boundary(text, start + LONGEST_LINE // 2, start + LONGEST_LINE)
            yield start, stop
            start = stop
    yield start, len(text)


def _boundary(text: str, low: int, high: int) -> int:
    """Behind the last sentence that ends there, else the last space, else `high`."""
    return next((at + 1 for sign in (". ", "。", " ") if (at := text.rfind(sign, low, high)) >= 0), high)


def _with_their_headings(pieces: list[tuple[int, str]], markdown: bool) -> Iterator[tuple[int, int]]:
    """(start, end) of each piece. One that is nothing but headings, because what follows didn't fit, goes with what follows."""
    waiting: int | None = None
    for index, (start, piece) in enumerate(pieces):
        end = start + len(piece)
        first = start if waiting is None else waiting
        more = markdown and index + 1 < len(pieces) and end - first <= MOST_HEADINGS
        if more and _length_of_headings(piece) == len(piece):
            waiting = first
            continue
        yield first, end
        waiting = None


def search_prefix(title: str, heading: str) -> str:
    """What is embedded and indexed together with a passage: alone it often doesn't name what it is about."""
    if not heading or heading == title or heading.startswith(f"{title} > "):
        return (heading or title)[:PREFIX_CHARACTERS]
    return " > ".join(filter(None, (title, heading)))[:PREFIX_CHARACTERS]


def token_counter(encode: Callable[[str], int]) -> Callable[..., int]:
    """`encode` counts the tokens of a text; the counter remembers words, which is 20 times as fast on a whole document.

    With `most`, it stops somewhere above that: a splitter asks of ever longer texts whether they fit, and to count them whole
    takes time with the square of their length.
    """

    @functools.lru_cache(maxsize=200_000)
    def of_word(word: str) -> int:
        if len(word) > LONGEST_WORD:
            return sum(of_word(word[at : at + LONGEST_WORD]) for at in range(0, len(word), LONGEST_WORD))
        return max(encode(word), len(word) // 4 if len(word) == LONGEST_WORD else 0)

    def count(text: str, most: float = math.inf) -> int:
        total = start = 0
        while start < len(text) and total <= most:
            end = start + COUNTED_AT_ONCE
            if end < len(text) and (space := WHITE_SPACE.search(text, end, end + LONGEST_WORD)):
                end = space.start()
            total += sum(map(of_word, text[start:end].split()))
            start = end
        return total

    return count


def _length_of_headings(text: str) -> int:
    """Characters before the first line that is no heading; all of them if there is none."""
    length = 0
    for line in text.split("\n"):
        if line.strip() and not ATX.match(line):
            return length
        length += len(line) + 1
    return len(text)


class _Headings:
    """The path of headings ("Title > Section > Part") at a position."""

    def __init__(self, document: ParsedDocument) -> None:
        self._starts: list[int] = []
        self._paths: list[str] = []
        path: list[tuple[int, str]] = []
        for mark in document.marks:
            if mark.kind == "heading":
                path = [(level, text) for level, text in path if level < mark.level] + [(mark.level, mark.text)]
                self._starts.append(mark.start)
                self._paths.append(" > ".join(text for _, text in path)[:500])

    def at(self, position: int) -> str:
        index = bisect_right(self._starts, position)
        return self._paths[index - 1] if index else ""


class _Numbers:
    """The number of the page, slide or line at a position."""

    def __init__(self, document: ParsedDocument, kind: str) -> None:
        self._starts = [mark.start for mark in document.marks if mark.kind == kind]
        self._numbers = [mark.level for mark in document.marks if mark.kind == kind]

    def at(self, position: int) -> int | None:
        index = bisect_right(self._starts, position)
        return self._numbers[index - 1] if index else None


def _place(slides: _Numbers, lines: _Numbers, start: int, end: int) -> dict[str, Any]:
    if (slide := slides.at(start)) is not None:
        return {"slide": slide}
    if (first := lines.at(start)) is not None:
        return {"lines": [first, lines.at(end - 1)]}
    return {}
