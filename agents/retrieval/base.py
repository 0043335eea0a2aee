"""What retrieval hands to strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A retrieved chunk. `score` is the retriever's own (higher is better); start/end are offsets in the parsed document.

    matched: (start, end) of the smaller units that were found in it, where units were searched. via: the relations that led to
    it, where a graph did. url: its address, where it comes from outside the collection (chunk_id and document_id are then 0 or
    less).
    """

    chunk_id: int
    document_id: int
    document: str
    text: str
    score: float
    rank: int
    retriever: str
    heading: str = ""
    page: int | None = None
    start: int = 0
    end: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    kind: str = "text"  # text, schema and rows of a table, image
    place: dict[str, Any] = field(default_factory=dict)  # slide, sheet, table, rows, lines, image: see Chunk.place
    image_id: int | None = None
    matched: tuple[tuple[int, int], ...] = ()
    via: str = ""
    url: str = ""

    def as_source(self) -> dict[str, Any]:
        """The form that is logged on the interaction and returned by the API."""
        return {
            "chunk_id": self.chunk_id,
            "document_id": self.document_id,
            "document": self.document,
            "heading": self.heading,
            "page": self.page,
            "start": self.start,
            "end": self.end,
            "text": self.text,
            "score": round(self.score, 6),
            "rank": self.rank,
            "retriever": self.retriever,
            "scores": {name: round(value, 6) for name, value in self.scores.items()},
            "kind": self.kind,
            "place": self.place,
            "image_id": self.image_id,
            "matched": [list(span) for span in self.matched],
            "via": self.via,
            "url": self.url,
        }


class Half(Protocol):
    """One query's scores of the passages of a build, of words or of meaning."""

    def best(self, k: int) -> list[int]:
        """The k best rows (fewer where fewer have a score), best first, none that is hidden."""
        ...

    def of(self, rows: Sequence[int]) -> np.ndarray:
        """float64 (len(rows),): the exact scores of these rows."""
        ...


class SearchableBuild(Protocol):
    """An index that serves. Rows are its own numbers for passages; `gone` are documents deleted since it was made."""

    store: str  # files, milvus
    size: int
    language: str
    embedding_model: str

    def sparse(self, query: str, gone: frozenset[int]) -> Half: ...

    def dense(self, vector: np.ndarray, gone: frozenset[int]) -> Half:
        """vector: float32 (1, dimensions)."""
        ...

    def hidden_count(self, gone: frozenset[int]) -> int:
        """How many of the `size` rows no search returns."""
        ...

    def lines(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The fields of each row's Passage that don't depend on a query."""
        ...
