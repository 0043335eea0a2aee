"""Write a collection's index: passages in, a folder of files out. Knows no database.

A delta is such a folder too: the passages that are newer than those of a base, and which of the base's they replace.

manifest.json   form, language, embedding model, counts; of a delta, the base's folder
passages.jsonl  what a search returns, one passage a line; offsets.npy finds line i
documents.npy   int64 (n,)      the document of passage i
hashes.npy      uint8 (v, 32)   SHA-256 of the embedded text of vector i
windows.npy     int64 (n + 1,)  the first vector of passage i
dense.faiss     inner-product index over unit vectors, see agents.retrieval.dense
hidden.npy      int64, of a delta: the base's rows that it replaces or that are gone
bm25/           see agents.retrieval.bm25
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from agents.ingestion.chunking import search_prefix
from agents.retrieval.bm25 import Bm25Passage, Statistics, write_bm25
from agents.retrieval.dense import write_dense
from agents.retrieval.encoders import Embedder
from agents.retrieval.vectors import Progress, VectorCache, VectorSource, text_hashes, vectors_of

FORM = 2  # of the folder; a reader refuses another one
BASE, HIDDEN = "base", "hidden.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedPassage:
    """A passage as it goes into an index; passages of one document follow each other in their order."""

    chunk_id: int
    document_id: int
    title: str
    source: str
    text: str
    heading: str
    page: int | None
    start: int
    end: int
    windows: Sequence[Sequence[int]]
    kind: str = "text"
    place: dict[str, Any] = field(default_factory=dict)
    image_id: int | None = None

    @property
    def prefix(self) -> str:
        return search_prefix(self.title, self.heading)

    def window_texts(self) -> list[str]:
        """The texts that are embedded, at least one."""
        parts = [self.text[start:end] for start, end in self.windows] or [self.text]
        return [f"{self.prefix}\n{part}" if self.prefix else part for part in parts]

    def as_line(self) -> bytes:
        """The fields of agents.retrieval.base.Passage that don't depend on a query."""
        fields = {
            "chunk_id": self.chunk_id, "document_id": self.document_id, "document": self.title or self.source,
            "text": self.text, "heading": self.heading, "page": self.page, "start": self.start, "end": self.end,
            "kind": self.kind, "place": self.place, "image_id": self.image_id,
        }  # fmt: skip
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True, kw_only=True)
class Base:
    """The index that a delta is searched beside: its folder under the data folder, its BM25 statistics, its rows to hide."""

    path: str
    statistics: Statistics
    hidden: np.ndarray


def write_index(
    folder: Path,
    passages: Sequence[IndexedPassage],
    *,
    language: str,
    embedder: Embedder,
    known: Sequence[VectorSource],
    cache: VectorCache,
    threads: int,
    progress: Progress,
    base: Base | None = None,
) -> None:
    """Fill the empty folder with the index of at least one passage. What `known` and the cache lack is embedded."""
    texts = [passage.window_texts() for passage in passages]
    hashes = text_hashes(list(chain.from_iterable(texts)))
    vectors = vectors_of(
        list(chain.from_iterable(texts)),
        hashes,
        embedder=embedder,
        known=known,
        cache=cache,
        threads=threads,
        progress=lambda fraction, message: progress(0.9 * fraction, message),
    )
    progress(0.9, "writing the index")
    write_dense(folder / "dense.faiss", vectors, threads)
    del vectors
    sparse = [Bm25Passage(document=one.document_id, prefix=one.prefix, text=one.text) for one in passages]
    write_bm25(folder / "bm25", sparse, language, base.statistics if base else None)
    lines = [passage.as_line() for passage in passages]
    (folder / "passages.jsonl").write_bytes(b"".join(lines))
    np.save(folder / "offsets.npy", _starts(lines))
    np.save(folder / "windows.npy", _starts(texts))
    np.save(folder / "documents.npy", np.array([passage.document_id for passage in passages], np.int64))
    np.save(folder / "hashes.npy", hashes)
    manifest = {
        "form": FORM, "passages": len(passages), "vectors": len(hashes), "most_windows": max(map(len, texts)),
        "newest_chunk": max(passage.chunk_id for passage in passages), "language": language, "embedding_model": embedder.name,
    }  # fmt: skip
    if base:
        np.save(folder / HIDDEN, base.hidden)
        manifest[BASE] = base.path
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _starts(parts: Sequence[Sized]) -> np.ndarray:
    """Where each part begins when they lie one after another, and where the last one ends; int64 (len(parts) + 1,)."""
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return starts
