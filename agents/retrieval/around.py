"""Search small units, return what stands around them: windows of sentences, or the parents of children."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from adaptrag.common.prepared import Prepared
from agents.errors import IndexNotReady
from agents.models import Collection, DerivedIndex, Document
from agents.retrieval.base import Passage
from agents.retrieval.search import POOL, search_build
from agents.retrieval.store import OpenBuild, open_build

UNITS_A_PASSAGE = 4  # units looked at for each wider passage asked for: several of them often lie in one

_derived = Prepared(lambda name, kind: DerivedIndex.objects.filter(collection__name=name, kind=kind).values_list("path"))


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a unit grows to: `sides` neighbours on each side, or (sides=None) its whole section, within `chars` characters."""

    unit: str
    sides: int | None = None
    chars: int = 2000


def derived_path(collection: Collection, kind: str) -> str:
    """Where the newest derived index lies, relative to the data folder. Raises IndexNotReady."""
    rows = _derived(collection.name, kind)
    if not rows:
        raise IndexNotReady(
            f"The collection {collection.name!r} has no index of the kind {kind!r} yet. It is being made; ask again in a "
            "while, or ask another agent.",
            collection=collection.name,
            kind=kind,
        )
    return rows[0][0]


def retrieve_around(
    collection: Collection, query: str, k: int, method: str, around: Around, meanings: Sequence[str] = ()
) -> list[Passage]:
    """At most k stretches of text, each grown from units that the query found; best first by their best unit.

    `matched` of a passage has the spans of its units, in characters of the document. Stretches that touch, and those of units
    of one stored passage, are merged. Raises IndexNotReady.
    """
    build = open_build(derived_path(collection, around.unit))
    wanted = k * UNITS_A_PASSAGE
    while True:
        hits = search_build(build, frozenset(), query, min(wanted, build.size), method, POOL, meanings)
        # Deleted since the index was made: its files are on their way to be replaced, what they held must not come out.
        there = set(Document.objects.filter(pk__in={hit.document_id for _, hit in hits}).values_list("pk", flat=True))
        kept = [(row, hit) for row, hit in hits if hit.document_id in there]
        if len(kept) == len(hits) or len(kept) >= k or wanted >= build.size:
            return _grown(build, kept, k, around)
        wanted *= 4


@dataclass
class _Stretch:
    first: int
    last: int
    best: Passage
    chunks: set[int]
    hits: list[Passage]


def _grown(build: OpenBuild, hits: list[tuple[int, Passage]], k: int, around: Around) -> list[Passage]:
    stretches: list[_Stretch] = []
    for row, hit in hits:
        first, last = _extent(build, row, hit, around)
        touching = [
            one
            for one in stretches
            if one.best.document_id == hit.document_id
            and (hit.chunk_id in one.chunks or (first <= one.last + 1 and last >= one.first - 1))
        ]
        if not touching:
            if len(stretches) < k:
                stretches.append(_Stretch(first=first, last=last, best=hit, chunks={hit.chunk_id}, hits=[hit]))
            continue
        one, *others = touching
        one.first, one.last = min(first, *(s.first for s in touching)), max(last, *(s.last for s in touching))
        one.hits = [*one.hits, *(h for other in others for h in other.hits), hit]
        one.chunks |= {hit.chunk_id}.union(*(other.chunks for other in others))
        stretches = [s for s in stretches if s not in others]
    return [_joined(build, stretch, rank) for rank, stretch in enumerate(stretches, 1)]


def _extent(build: OpenBuild, row: int, hit: Passage, around: Around) -> tuple[int, int]:
    """First and last row of what the unit grows to: of one document, of one section where whole sections are asked for."""
    first = last = row
    room = around.chars - len(hit.text)
    down, up = True, True
    while down or up:
        for step in (1, -1):
            if not (down if step > 0 else up):
                continue
            edge = last + 1 if step > 0 else first - 1
            within = around.sides is None or abs(edge - row) <= around.sides
            other = _line(build, edge) if within and 0 <= edge < build.size else None
            fits = (
                other is not None
                and other.document_id == hit.document_id
                and (around.sides is not None or other.heading == hit.heading)
                and len(other.text) + 1 <= room
            )
            if fits:
                room -= len(other.text) + 1
                first, last = min(first, edge), max(last, edge)
            elif step > 0:
                down = False
            else:
                up = False
    return first, last


def _joined(build: OpenBuild, stretch: _Stretch, rank: int) -> Passage:
    """The stretch as one passage. White space between units is as long as it was, so offsets into the document hold."""
    parts: list[str] = []
    lines = [_line(build, row) for row in range(stretch.first, stretch.last + 1)]
    for before, line in zip([None, *lines], lines, strict=False):
        gap = 0 if before is None else line.start - before.end
        parts.append(("\n" * gap if gap > 1 else " " * gap) + line.text)
    return dataclasses.replace(
        stretch.best,
        text="".join(parts),
        start=lines[0].start,
        end=lines[-1].end,
        page=lines[0].page,
        rank=rank,
        matched=tuple(sorted({(hit.start, hit.end) for hit in stretch.hits})),
    )


def _line(build: OpenBuild, row: int) -> Passage:
    return build.passage(row, rank=0, retriever="", score=0.0, scores={})
