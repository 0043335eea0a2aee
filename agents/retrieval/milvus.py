"""Index builds in Milvus, for a site that outgrows one machine. Milvus Lite, a file behind the same client, runs the tests.

A build is two Milvus collections: `..._passages` with BM25's weight of each term of each passage (a query is the counts of its
terms, and the inner product its score, the same as in files) and `..._windows` with the vectors. What a query needs before it
asks stays in the build's folder: manifest, vocabulary, and the documents that it holds.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings

from adaptrag.common.errors import Unavailable
from agents.retrieval.base import Half
from agents.retrieval.bm25 import WEIGHTS, term_matrix, tokenize
from agents.retrieval.segment import Segment, mapped

MOST = 16_384  # results of one search, Milvus's own limit
ROWS_A_REQUEST = 1000
STORE = "milvus"
HEAVY = ("dense.faiss", "passages.jsonl", "offsets.npy", "hashes.npy", "windows.npy")  # once uploaded, not needed here


@functools.cache
def _client(uri: str, token: str) -> Any:
    from pymilvus import MilvusClient

    with _told():
        return MilvusClient(uri=uri, token=token)


def client() -> Any:
    return _client(settings.ADAPTRAG_MILVUS_URI, settings.ADAPTRAG_MILVUS_TOKEN)


@contextmanager
def _told() -> Iterator[None]:
    """Milvus's errors as ours. A collection that is gone is a build that was replaced: FileNotFoundError, as with files."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        if "not found" in str(error).lower() or "not exist" in str(error).lower():
            raise FileNotFoundError(str(error)) from error
        raise Unavailable(f"Milvus at {settings.ADAPTRAG_MILVUS_URI} failed: {error}. Check ADAPTRAG_MILVUS_URI.") from error


def upload(folder: Path, name: str) -> None:
    """Move a finished folder's contents to Milvus under `name`; the folder keeps what queries need."""
    from pymilvus import DataType

    segment, milvus = Segment(folder), client()
    with _told():
        fields = [("row", DataType.INT64, {"is_primary": True}), ("document", DataType.INT64, {})]
        words = [*fields, ("words", DataType.SPARSE_FLOAT_VECTOR, {}), ("passage", DataType.JSON, {})]
        _create(milvus, f"{name}_passages", words, "words", "SPARSE_INVERTED_INDEX")
        weights = term_matrix(folder / "bm25", WEIGHTS)
        documents = segment.documents.tolist()
        for rows in _parts(segment.size):
            milvus.insert(
                f"{name}_passages",
                [
                    {
                        "row": row,
                        "document": documents[row],
                        "words": _sparse(weights, row),
                        "passage": segment.line(row),
                    }
                    for row in rows
                ],
            )
        fields = [("window", DataType.INT64, {"is_primary": True}), ("row", DataType.INT64, {}), *fields[1:]]
        size = segment.dense.vectors(np.zeros(1, np.int64)).shape[1]
        _create(milvus, f"{name}_windows", [*fields, ("meaning", DataType.FLOAT_VECTOR, {"dim": size})], "meaning", "AUTOINDEX")
        owners = np.repeat(np.arange(segment.size), np.diff(segment.windows)).tolist()
        for windows in _parts(segment.dense.count):
            vectors = segment.dense.vectors(np.array(windows))
            milvus.insert(
                f"{name}_windows",
                [
                    {"window": window, "row": owners[window], "document": documents[owners[window]], "meaning": vector}
                    for window, vector in zip(windows, vectors, strict=True)
                ],
            )
        for kind in ("passages", "windows"):
            milvus.flush(f"{name}_{kind}")
            milvus.load_collection(f"{name}_{kind}")
    (folder / "manifest.json").write_text(json.dumps({**segment.manifest, "store": STORE, "name": name}, indent=2))
    for path in [folder / file for file in HEAVY] + [one for one in (folder / "bm25").iterdir() if one.suffix == ".npy"]:
        path.unlink()


def _create(milvus: Any, name: str, fields: Sequence[tuple[str, Any, dict[str, Any]]], vector: str, index: str) -> None:
    schema = milvus.create_schema(auto_id=False, enable_dynamic_field=False)
    for field, kind, options in fields:
        schema.add_field(field, kind, **options)
    indexes = milvus.prepare_index_params()
    indexes.add_index(vector, index_type=index, metric_type="IP")
    milvus.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")


def _parts(count: int) -> Iterator[range]:
    for begin in range(0, count, ROWS_A_REQUEST):
        yield range(begin, min(count, begin + ROWS_A_REQUEST))


def _sparse(weights: Any, row: int) -> dict[int, float]:
    cells = slice(weights.indptr[row], weights.indptr[row + 1])
    # An empty vector can't be stored; a term beyond the vocabulary is in no query.
    return dict(zip(weights.indices[cells].tolist(), weights.data[cells].tolist(), strict=True)) or {weights.shape[1]: 1.0}


def name_of(collection_id: int, folder: str) -> str:
    """Of a build; Milvus takes letters, digits and underscores."""
    return f"{settings.ADAPTRAG_MILVUS_PREFIX}_{collection_id}_{folder.replace('-', '_')}"


def sweep(collection_id: int, kept: Sequence[str]) -> None:
    """Drop what Milvus holds of this collection besides the builds in these folders."""
    names = {f"{name_of(collection_id, folder)}_{kind}" for folder in kept for kind in ("passages", "windows")}
    with _told():
        for name in client().list_collections():
            if name.startswith(f"{settings.ADAPTRAG_MILVUS_PREFIX}_{collection_id}_") and name not in names:
                client().drop_collection(name)


class MilvusBuild:
    """agents.retrieval.base.SearchableBuild over Milvus."""

    store = STORE

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.size: int = manifest["passages"]
        self.language: str = manifest["language"]
        self.embedding_model: str = manifest["embedding_model"]
        self._name: str = manifest["name"]
        self._documents = mapped(folder / "documents.npy")
        self._vocabulary: dict[str, int] = json.loads((folder / "bm25/vocab.index.json").read_text())

    def sparse(self, query: str, gone: frozenset[int]) -> Half:
        tokens = Counter(self._vocabulary[token] for token in tokenize(query, self.language) if token in self._vocabulary)
        terms = {term: float(count) for term, count in tokens.items()}
        return _MilvusHalf(f"{self._name}_passages", "words", terms, gone, self.size, several=False) if terms else _NoHalf()

    def dense(self, vector: np.ndarray, gone: frozenset[int]) -> Half:
        return _MilvusHalf(f"{self._name}_windows", "meaning", vector[0], gone, self.size, several=True)

    def hidden_count(self, gone: frozenset[int]) -> int:
        return int(np.isin(self._documents, list(gone)).sum()) if gone else 0

    def lines(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        with _told():
            found = client().query(
                f"{self._name}_passages", filter=f"row in {list(rows)}", output_fields=["row", "passage"], limit=len(rows)
            )
        fields = {one["row"]: one["passage"] for one in found}
        return [fields[row] for row in rows]

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors stay in Milvus; the cache has those of a rebuild."""
        return np.zeros(len(hashes), bool), np.empty((0, 0), np.float32)


class _NoHalf:
    """A query without a known word."""

    def best(self, k: int) -> list[int]:
        return []

    def of(self, rows: Sequence[int]) -> np.ndarray:
        return np.zeros(len(rows))


class _MilvusHalf:
    """One query to one of a build's two Milvus collections. `several`: a row may have more hits, and counts by its best."""

    def __init__(self, name: str, field: str, query: Any, gone: frozenset[int], size: int, *, several: bool) -> None:
        self._name, self._field, self._query, self._size, self._several = name, field, query, size, several
        self._filter = f"document not in {sorted(gone)}" if gone else ""
        self._known: dict[int, float] = {}

    def best(self, k: int) -> list[int]:
        most = min(MOST, 2 * k if self._several else k)
        while True:
            hits = self._search(self._filter, most)
            if not self._several or len(hits) >= min(k, self._size) or most == MOST:
                self._known |= hits
                return sorted(hits, key=lambda row: (-hits[row], row))[:k]
            most = min(MOST, 2 * most)

    def of(self, rows: Sequence[int]) -> np.ndarray:
        if missing := [row for row in rows if row not in self._known]:
            self._known |= dict.fromkeys(missing, 0.0) | self._search(f"row in {missing}", MOST)
        return np.array([self._known[row] for row in rows], np.float64)

    def _search(self, condition: str, most: int) -> dict[int, float]:
        """The best score of each row among the best `most` hits."""
        with _told():
            (hits,) = client().search(
                self._name, data=[self._query], anns_field=self._field, filter=condition, limit=most, output_fields=["row"]
            )
        best: dict[int, float] = {}
        for hit in hits:
            best.setdefault(hit["entity"]["row"], hit["distance"])
        return best
