"""Open index builds: what a search asks, whichever engine holds them. Each process keeps a few open."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings

from agents.retrieval.base import Half, Passage, SearchableBuild
from agents.retrieval.bm25 import tokenize
from agents.retrieval.build import BASE, HIDDEN
from agents.retrieval.segment import Segment

OPEN_BUILDS = 16
SAMPLE = 64  # a selection from many scores first looks at one in so many

_NOTHING = np.empty(0, np.int64)


class OpenBuild:
    """A build in files: one segment, or a base and the newer passages beside it, whose rows follow those of the base."""

    store = "files"

    def __init__(self, path: str) -> None:
        newest = open_segment(path)
        self.segments = [newest]
        self._superseded = _NOTHING
        if base := newest.manifest.get(BASE):
            self.segments = [open_segment(base), newest]
            self._superseded = np.load(newest.folder / HIDDEN)
        self._starts = np.cumsum([0, *(segment.size for segment in self.segments)])
        self.size = int(self._starts[-1])
        self.language: str = newest.manifest["language"]
        self.embedding_model: str = newest.manifest["embedding_model"]
        self._hidden: tuple[frozenset[int], list[np.ndarray], list[np.ndarray | None]] | None = None

    def hidden(self, gone: frozenset[int]) -> np.ndarray:
        """Rows that no search returns: replaced by newer passages, or of documents that are gone."""
        parts = self._masks(gone)[1]
        return np.concatenate([rows + start for rows, start in zip(parts, self._starts, strict=False)])

    def hidden_count(self, gone: frozenset[int]) -> int:
        return len(self.hidden(gone))

    def _masks(self, gone: frozenset[int]) -> tuple[frozenset[int], list[np.ndarray], list[np.ndarray | None]]:
        masks = self._hidden
        if masks is None or masks[0] != gone:
            rows = [segment.rows_of(gone) if gone else _NOTHING for segment in self.segments]
            rows[0] = np.union1d(rows[0], self._superseded)
            masks = (gone, rows, [one.allowed(of) for one, of in zip(self.segments, rows, strict=True)])
            self._hidden = masks
        return masks

    def sparse(self, query: str, gone: frozenset[int]) -> Half:
        tokens = tokenize(query, self.language)
        parts = [segment.bm25(settings.ADAPTRAG_BM25_BACKEND).scores(tokens) for segment in self.segments]
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        scores[self.hidden(gone)] = 0
        return SparseScores(scores)

    def dense(self, vector: np.ndarray, gone: frozenset[int]) -> Half:
        return DenseScores(self.segments, self._starts, vector, self._masks(gone)[2])

    def lines(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        if len(self.segments) == 1:
            return [self.segments[0].line(row) for row in rows]
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        return [
            self.segments[owner].line(row - int(self._starts[owner])) for row, owner in zip(rows, owners.tolist(), strict=True)
        ]

    def passage(self, row: int, *, rank: int, retriever: str, score: float, scores: dict[str, float]) -> Passage:
        return Passage(**self.lines([row])[0], rank=rank, retriever=retriever, score=score, scores=scores)

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As agents.retrieval.vectors.VectorSource has it."""
        found, vectors = self.segments[0].find(hashes)
        for segment in self.segments[1:]:
            rest = np.flatnonzero(~found)
            more, values = segment.find(hashes[rest])
            places, all_found = np.flatnonzero(found), found.copy()
            all_found[rest[more]] = True
            merged = np.empty((int(all_found.sum()), vectors.shape[1]), np.float32)
            order = np.flatnonzero(all_found)
            merged[np.searchsorted(order, places)] = vectors
            merged[np.searchsorted(order, rest[more])] = values
            found, vectors = all_found, merged
        return found, vectors


class SparseScores:
    """BM25 scores of every row."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores

    def best(self, k: int) -> list[int]:
        """Rows with the k highest scores above 0, best first; equal scores in the order of the rows."""
        scores = self._scores
        if k < len(scores):
            rows = np.flatnonzero(scores >= max(_floor(scores, k), np.finfo(np.float32).tiny))
            if k < len(rows):
                kept = scores[rows]
                rows = rows[kept >= np.partition(kept, len(kept) - k)[len(kept) - k]]
        else:
            rows = np.flatnonzero(scores)
        return rows[np.argsort(-scores[rows], kind="stable")[:k]].tolist()

    def of(self, rows: Sequence[int]) -> np.ndarray:
        return self._scores[rows].astype(np.float64)


def _floor(scores: np.ndarray, k: int) -> float:
    """A score that at least k rows reach, found from a sample where there are many; 0 if the sample doesn't tell."""
    sample = scores[::SAMPLE]
    place = 2 * k // SAMPLE + 8
    if place >= len(sample):
        return 0.0
    floor = float(np.partition(sample, len(sample) - place)[len(sample) - place])
    return floor if np.count_nonzero(scores >= floor) >= k else 0.0


class DenseScores:
    """Similarities, searched when they are asked for. allowed: bits a segment, None where nothing is hidden."""

    def __init__(
        self, segments: list[Segment], starts: np.ndarray, vector: np.ndarray, allowed: list[np.ndarray | None]
    ) -> None:
        self._segments, self._starts, self._vector, self._allowed = segments, starts, vector, allowed

    def best(self, k: int) -> list[int]:
        found: dict[int, float] = {}
        for segment, start, allowed in zip(self._segments, self._starts.tolist(), self._allowed, strict=False):
            found |= {start + row: score for row, score in segment.nearest(self._vector, k, allowed).items()}
        return sorted(found, key=found.get, reverse=True)[:k] if len(self._segments) > 1 else list(found)[:k]

    def of(self, rows: Sequence[int]) -> np.ndarray:
        wanted, scores = np.asarray(rows, np.int64), np.empty(len(rows))
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        for number, segment in enumerate(self._segments):
            mine = owners == number
            if mine.any():
                scores[mine] = segment.similarities(self._vector, wanted[mine] - self._starts[number])
        return scores


_lock = threading.Lock()
_open: OrderedDict[str, SearchableBuild] = OrderedDict()
_segments: OrderedDict[str, Segment] = OrderedDict()


def open_build(path: str) -> OpenBuild:
    """The build in the folder `path` under the data folder; no two builds ever have the same. Raises FileNotFoundError."""
    return _opened(_open, path, _read_build)


def _read_build(path: str) -> SearchableBuild:
    folder = Path(settings.DATA_DIR) / path
    if json.loads((folder / "manifest.json").read_text()).get("store") == "milvus":
        from agents.retrieval.milvus import MilvusBuild

        return MilvusBuild(folder)
    return OpenBuild(path)


def open_segment(path: str) -> Segment:
    """One folder's files, opened once for all builds that stand on them."""
    return _opened(_segments, path, lambda path: Segment(Path(settings.DATA_DIR) / path))


def _opened(kept: OrderedDict[str, Any], path: str, read: Callable[[str], Any]) -> Any:
    with _lock:
        if path in kept:
            kept.move_to_end(path)
            return kept[path]
    found = read(path)
    with _lock:
        kept[path] = found
        while len(kept) > OPEN_BUILDS:
            kept.popitem(last=False)  # its files are unmapped when the last search that uses it ends
    return found
