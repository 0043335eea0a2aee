"""Vectors by the SHA-256 of their text: each text is embedded once per model, whoever needs it and whatever dies meanwhile."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from agents.retrieval.encoders import Embedder, embed_batches

HASH = 32
BATCHES_A_COMMIT = 8
HASHES_A_QUERY = 500
ROW_OVERHEAD = 80  # bytes that SQLite needs beside a vector, measured

Progress = Callable[[float, str], None]


class VectorSource(Protocol):
    """What holds vectors of texts already: an index build."""

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For hashes, uint8 (n, 32): which are known, bool (n,), and the vectors of those, float32 (known, dimensions)."""
        ...


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """uint8 (len(texts), 32)."""
    return np.frombuffer(b"".join(hashlib.sha256(text.encode()).digest() for text in texts), np.uint8).reshape(-1, HASH)


def find_hashes(stored: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of `wanted` are in `stored`, bool (n,), and in which rows, for those. order: sorts `stored` by hash_keys."""
    keys, sought = hash_keys(stored), hash_keys(wanted)
    places = np.minimum(np.searchsorted(keys, sought, sorter=order), len(order) - 1)
    rows = order[places]
    found = (stored[rows] == wanted).all(axis=1)
    return found, rows[found]


def hash_keys(hashes: np.ndarray) -> np.ndarray:
    """The first eight bytes as numbers: SHA-256 makes them as good as unique."""
    return np.ascontiguousarray(hashes[:, :8]).view(np.uint64).ravel()


class VectorCache:
    """One model's vectors in an SQLite file. What is committed survives a kill; `trim` bounds the file, the oldest go first."""

    def __init__(self, path: Path, dimensions: int) -> None:
        self._path, self._dimensions = path, dimensions

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, vectors = np.zeros(len(hashes), bool), []
        with self._connection() as connection:
            for begin in range(0, len(hashes), HASHES_A_QUERY):
                keys = [row.tobytes() for row in hashes[begin : begin + HASHES_A_QUERY]]
                sql = f"SELECT hash, vector FROM vectors WHERE hash IN ({','.join('?' * len(keys))})"  # noqa: S608
                there = dict(connection.execute(sql, keys))
                for offset, key in enumerate(keys):
                    if key in there:
                        found[begin + offset] = True
                        vectors.append(np.frombuffer(there[key], np.float32))
        return found, np.array(vectors, np.float32).reshape(-1, self._dimensions)

    def add(self, hashes: np.ndarray, vectors: np.ndarray) -> None:
        rows = [(key.tobytes(), vector.tobytes()) for key, vector in zip(hashes, vectors, strict=True)]
        with self._connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO vectors (hash, vector) VALUES (?, ?)", rows)

    def trim(self, most_bytes: int) -> None:
        with self._connection() as connection:
            most = most_bytes // (4 * self._dimensions + HASH + ROW_OVERHEAD)
            surplus = connection.execute("SELECT count(*) FROM vectors").fetchone()[0] - most
            if surplus > 0:
                oldest = "SELECT rowid FROM vectors ORDER BY rowid LIMIT ?"
                connection.execute(f"DELETE FROM vectors WHERE rowid IN ({oldest})", [surplus])  # noqa: S608
        if surplus > 0:
            with closing(sqlite3.connect(self._path, timeout=60)) as connection:
                connection.executescript("PRAGMA incremental_vacuum")  # execute() would free one page

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=60)) as connection:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("CREATE TABLE IF NOT EXISTS vectors (hash BLOB NOT NULL UNIQUE, vector BLOB NOT NULL)")
            with connection:
                yield connection


def vectors_of(
    texts: Sequence[str],
    hashes: np.ndarray,
    *,
    embedder: Embedder,
    known: Sequence[VectorSource],
    cache: VectorCache,
    threads: int,
    progress: Progress,
) -> np.ndarray:
    """float32 (len(texts), dimensions). What no source has is embedded once, and put into the cache as it comes."""
    vectors = np.empty((len(texts), embedder.dimensions), np.float32)
    missing = np.arange(len(texts))
    for source in known:
        if not len(missing):
            break
        found, values = source.find(hashes[missing])
        if found.any():
            vectors[missing[found]] = values
            missing = missing[~found]
    if not len(missing):
        return vectors
    _, first, places = np.unique(hash_keys(hashes[missing]), return_index=True, return_inverse=True)
    rows = missing[first]
    fresh = np.empty((len(rows), embedder.dimensions), np.float32)
    new = [texts[row] for row in rows]
    done, total, pending = 0, sum(map(len, new)) or 1, []
    for batch, values in embed_batches(embedder, new, threads):
        fresh[batch] = values
        pending += batch
        done += sum(len(new[row]) for row in batch)
        if len(pending) >= BATCHES_A_COMMIT * len(batch):
            cache.add(hashes[rows[pending]], fresh[pending])
            pending = []
        progress(done / total, f"embedding {len(new):,} texts")
    if pending:
        cache.add(hashes[rows[pending]], fresh[pending])
    vectors[missing] = fresh[places]
    return vectors
