"""Units smaller than a passage, each an entry of an index of its own: single sentences, and children."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

from agents.retrieval.build import IndexedPassage

# A full stop before a space and what can begin a sentence; in scripts without spaces the mark alone; a line of its own.
_END = re.compile(
    r"""(?<=[.!?])["'”’)\]]*\s+(?=["'“‘(\[]?[A-Z0-9À-ÖØ-ÞА-Я])|(?<=[。！？])|\n\s*\n|\n(?=\s*(?:[-*•|#]|\d+[.)]\s))"""
)
_ABBREVIATED = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|No|Nos|vs|etc|e\.g|i\.e|cf|al|Fig|Figs|Inc|Ltd|Co|Jr|Sr)\.$"
)
_WORDS_END = re.compile(r"\s+")
SHORTEST, LONGEST = 16, 600  # characters; a heading or a "Yes." goes with what follows, a table without stops is cut


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence, in order and without the white space between them."""
    spans: list[tuple[int, int]] = []
    start = 0
    for end in [*_ends(text), len(text)]:
        begin, stop = _trimmed(text, start, end)
        if stop - begin >= SHORTEST and not (text.startswith("#", begin) and "\n" not in text[begin:stop]):
            spans += _cut(text, begin, stop)
            start = end
    begin, stop = _trimmed(text, start, len(text))
    if begin < stop:  # too short to stand alone, and nothing follows
        if spans:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((begin, stop))
    return spans


def _ends(text: str) -> Iterator[int]:
    for match in _END.finditer(text):
        if not _ABBREVIATED.search(text[max(0, match.start() - 8) : match.start()]):
            yield match.end()


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span in parts of at most LONGEST characters, cut between words where there are any."""
    while end - start > LONGEST:
        spaces = [match.start() for match in _WORDS_END.finditer(text, start + LONGEST // 2, start + LONGEST)]
        stop = spaces[-1] if spaces else start + LONGEST
        yield start, stop
        start, _ = _trimmed(text, stop, end)
    if start < end:
        yield start, end


def _windows(passage: IndexedPassage) -> Iterable[tuple[int, int]]:
    return [(start, end) for start, end in passage.windows] or [(0, len(passage.text))]


# kind -> the parts of a passage, as characters of its text. A child is what has a vector in the passages' own index too, so
# children cost no embedding.
UNITS: dict[str, Callable[[IndexedPassage], Iterable[tuple[int, int]]]] = {
    "sentence": lambda passage: sentences(passage.text),
    "child": _windows,
}


def units(kind: str, passages: Iterable[IndexedPassage]) -> list[IndexedPassage]:
    """The units of all passages in order; each keeps its passage's chunk, and says where in the document it stands."""
    return [
        dataclasses.replace(
            passage,
            text=passage.text[start:end],
            start=passage.start + start,
            end=passage.start + end,
            windows=[[0, end - start]],
        )
        for passage in passages
        for start, end in UNITS[kind](passage)
        if start < end
    ]
