"""A document's text to passages."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agents.ingestion.base import ParsedDocument
from agents.ingestion.text import ATX

# WordPiece gives up on longer words and counts them as one token; a base64 blob must still be cut.
LONGEST_WORD = 100
PREFIX_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class ChunkDraft:
    """A passage: text[start:end] of the document's text, the headings that it stands under, the page where it starts."""

    ordinal: int
    text: str
    heading: str
    page: int | None
    start: int
    end: int


def split(document: ParsedDocument, capacity: int, count: Callable[[str], int]) -> list[ChunkDraft]:
    """Passages of at most `capacity` tokens, cut at the highest boundary (section, block, sentence, word) that fits.

    count: tokens of a text, additive over words divided by white space.
    """
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    splitter = (MarkdownSplitter if document.markdown else TextSplitter).from_callback(count, capacity)
    headings, pages = _Headings(document), _Pages(document)
    return [
        ChunkDraft(
            ordinal=ordinal,
            text=document.text[start:end],
            heading=headings.at(start + _length_of_headings(document, start, end)),
            page=pages.at(start),
            start=start,
            end=end,
        )
        for ordinal, (start, end) in enumerate(_with_their_headings(splitter.chunk_indices(document.text), document))
    ]


def _with_their_headings(pieces: list[tuple[int, str]], document: ParsedDocument) -> Iterator[tuple[int, int]]:
    """(start, end) of each piece. One that is nothing but headings, because what follows didn't fit, goes with what follows."""
    waiting: int | None = None
    for index, (start, text) in enumerate(pieces):
        end = start + len(text)
        if index + 1 < len(pieces) and _length_of_headings(document, start, end) == len(text):
            waiting = start if waiting is None else waiting
            continue
        yield (start if waiting is None else waiting), end
        waiting = None


def search_text(title: str, heading: str, text: str) -> str:
    """What is embedded and put into the BM25 index: a passage alone often doesn't name what it is about."""
    prefix = (
        title if not heading or heading == title else heading if heading.startswith(f"{title} > ") else f"{title} > {heading}"
    )
    return f"{prefix[:PREFIX_CHARACTERS]}\n{text}" if prefix else text


def token_counter(encode: Callable[[str], int]) -> Callable[[str], int]:
    """`encode` counts the tokens of a text; the counter remembers words, which is 20 times as fast on a whole document."""

    @functools.lru_cache(maxsize=200_000)
    def of_word(word: str) -> int:
        return max(encode(word), len(word) // 4 if len(word) > LONGEST_WORD else 0)

    def count(text: str) -> int:
        return sum(map(of_word, text.split()))

    return count


def _length_of_headings(document: ParsedDocument, start: int, end: int) -> int:
    """Characters from `start` to the first line that is no heading."""
    length = 0
    for line in document.text[start:end].split("\n") if document.markdown else ():
        if line.strip() and not ATX.match(line):
            return length
        length += len(line) + 1
    return end - start if document.markdown else 0


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


class _Pages:
    def __init__(self, document: ParsedDocument) -> None:
        self._starts = [mark.start for mark in document.marks if mark.kind == "page"]
        self._numbers = [mark.level for mark in document.marks if mark.kind == "page"]

    def at(self, position: int) -> int | None:
        index = bisect_right(self._starts, position)
        return self._numbers[index - 1] if index else None
