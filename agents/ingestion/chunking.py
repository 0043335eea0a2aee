"""A document's text to passages."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agents.ingestion.base import ParsedDocument
from agents.ingestion.text import ATX

# WordPiece gives up on longer words and counts them as one token; a base64 blob must still be cut.
LONGEST_WORD = 100
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


def split(document: ParsedDocument, capacity: int, window: int, count: Callable[[str], int]) -> list[ChunkDraft]:
    """Passages of at most `capacity` tokens in windows of at most `window`, cut at the highest boundary (section, block,
    sentence, word) that fits.

    count: tokens of a text, additive over words divided by white space.
    """
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind = MarkdownSplitter if document.markdown else TextSplitter
    passages, windows = kind.from_callback(count, capacity), kind.from_callback(count, window)
    headings, pages = _Headings(document), _Numbers(document, "page")
    slides, lines = _Numbers(document, "slide"), _Numbers(document, "line")

    def cut(splitter: MarkdownSplitter | TextSplitter, text: str) -> Iterator[tuple[int, int]]:
        return _with_their_headings(splitter.chunk_indices(text), document.markdown)

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


def _with_their_headings(pieces: list[tuple[int, str]], markdown: bool) -> Iterator[tuple[int, int]]:
    """(start, end) of each piece. One that is nothing but headings, because what follows didn't fit, goes with what follows."""
    waiting: int | None = None
    for index, (start, piece) in enumerate(pieces):
        end = start + len(piece)
        if markdown and index + 1 < len(pieces) and _length_of_headings(piece) == len(piece):
            waiting = start if waiting is None else waiting
            continue
        yield (start if waiting is None else waiting), end
        waiting = None


def search_prefix(title: str, heading: str) -> str:
    """What is embedded and indexed together with a passage: alone it often doesn't name what it is about."""
    if not heading or heading == title or heading.startswith(f"{title} > "):
        return (heading or title)[:PREFIX_CHARACTERS]
    return " > ".join(filter(None, (title, heading)))[:PREFIX_CHARACTERS]


def token_counter(encode: Callable[[str], int]) -> Callable[[str], int]:
    """`encode` counts the tokens of a text; the counter remembers words, which is 20 times as fast on a whole document."""

    @functools.lru_cache(maxsize=200_000)
    def of_word(word: str) -> int:
        return max(encode(word), len(word) // 4 if len(word) > LONGEST_WORD else 0)

    def count(text: str) -> int:
        return sum(map(of_word, text.split()))

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
