"""Write a collection's index: passages in, a folder of files out. Knows no database.

manifest.json   form, language, embedding model, counts
passages.jsonl  what a search returns, one passage a line; offsets.npy finds line i
documents.npy   int64 (n,)      the document of passage i
hashes.npy      uint8 (n, 32)   SHA-256 of the embedded text of passage i
dense.faiss     inner-product index over unit vectors
bm25/           see agents.retrieval.bm25
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from agents.ingestion.chunking import search_prefix
from agents.retrieval.bm25 import Bm25Passage, write_bm25
from agents.retrieval.encoders import Embedder, embed_batches
from agents.retrieval.files import flush

FORM = 1  # of the folder; a reader refuses another one
HASH = 32
BATCHES_A_CHECKPOINT = 8

Progress = Callable[[float, str], None]


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


class VectorCheckpoint:
    """Vectors that no finished build holds yet: records of hash and vector, appended and flushed.

    A process that dies leaves whole records and perhaps a torn last one, which is cut off.
    """

    def __init__(self, path: Path, dimensions: int) -> None:
        self._path = path
        self._record = np.dtype([("hash", f"V{HASH}"), ("vector", np.float32, (dimensions,))])

    def read(self) -> dict[bytes, np.ndarray]:
        if not self._path.exists():
            return {}
        whole = self._path.stat().st_size // self._record.itemsize
        records = np.fromfile(self._path, self._record, count=whole)
        return {record["hash"].tobytes(): record["vector"] for record in records}

    def append(self, hashes: Sequence[bytes], vectors: np.ndarray) -> None:
        records = np.empty(len(hashes), self._record)
        records["hash"] = np.frombuffer(b"".join(hashes), f"V{HASH}")
        records["vector"] = vectors
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as handle:
            handle.truncate(handle.tell() // self._record.itemsize * self._record.itemsize)
            handle.write(records.tobytes())
        flush(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def write_index(
    folder: Path,
    passages: Sequence[IndexedPassage],
    *,
    language: str,
    embedder: Embedder,
    known: dict[bytes, np.ndarray],
    checkpoint: VectorCheckpoint,
    threads: int,
    progress: Progress,
) -> None:
    """Fill the empty folder with the index of at least one passage. `known` has vectors by hash; the rest is embedded."""
    import faiss

    texts = [passage.window_texts() for passage in passages]
    hashes = [hashlib.sha256(text.encode()).digest() for windows in texts for text in windows]
    vectors = _vectors(list(chain.from_iterable(texts)), hashes, embedder, known, checkpoint, threads, progress)
    progress(0.9, "writing the index")
    dense = faiss.IndexFlatIP(embedder.dimensions)
    dense.add(vectors)
    faiss.write_index(dense, str(folder / "dense.faiss"))
    sparse = [Bm25Passage(document=one.document_id, prefix=one.prefix, text=one.text) for one in passages]
    write_bm25(folder / "bm25", sparse, language)
    lines = [passage.as_line() for passage in passages]
    (folder / "passages.jsonl").write_bytes(b"".join(lines))
    np.save(folder / "offsets.npy", _starts(lines))
    np.save(folder / "windows.npy", _starts(texts))
    np.save(folder / "documents.npy", np.array([passage.document_id for passage in passages], np.int64))
    np.save(folder / "hashes.npy", np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH))
    manifest = {
        "form": FORM, "passages": len(passages), "vectors": len(hashes), "most_windows": max(map(len, texts)),
        "language": language, "embedding_model": embedder.name,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _starts(parts: Sequence[Sized]) -> np.ndarray:
    """Where each part begins when they lie one after another, and where the last one ends; int64 (len(parts) + 1,)."""
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return starts


def _vectors(
    texts: list[str],
    hashes: list[bytes],
    embedder: Embedder,
    known: dict[bytes, np.ndarray],
    checkpoint: VectorCheckpoint,
    threads: int,
    progress: Progress,
) -> np.ndarray:
    """float32 (len(texts), dimensions). Each text that `known` and the checkpoint lack is embedded once."""
    known = {**known, **checkpoint.read()}
    missing = {key: text for key, text in zip(hashes, texts, strict=True) if key not in known}
    keys, new = list(missing), list(missing.values())
    done, total = 0, sum(map(len, new))
    pending: list[tuple[list[bytes], np.ndarray]] = []
    for rows, vectors in embed_batches(embedder, new, threads):
        pending.append(([keys[row] for row in rows], vectors))
        known.update(zip(*pending[-1], strict=True))
        done += sum(len(new[row]) for row in rows)
        if len(pending) == BATCHES_A_CHECKPOINT:
            _save(checkpoint, pending)
        progress(0.9 * done / total, f"embedding {len(new):,} texts")
    if pending:
        _save(checkpoint, pending)
    return np.stack([known[key] for key in hashes])


def _save(checkpoint: VectorCheckpoint, pending: list[tuple[list[bytes], np.ndarray]]) -> None:
    checkpoint.append([key for keys, _ in pending for key in keys], np.concatenate([vectors for _, vectors in pending]))
    pending.clear()
