"""Reading one folder that agents.retrieval.build wrote. Rows count from 0."""

from __future__ import annotations

import json
import mmap
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adaptrag.common.errors import Unavailable
from agents.retrieval.bm25 import Bm25, Statistics, read_bm25, read_statistics
from agents.retrieval.build import FORM
from agents.retrieval.dense import DenseIndex
from agents.retrieval.vectors import find_hashes, hash_keys


class Segment:
    """Files mapped into memory; BM25 and FAISS are opened when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        if self.manifest["form"] != FORM:
            raise Unavailable(
                f"The index at {folder} has form {self.manifest['form']}, not {FORM}: index the collection again."
            )
        self.folder = folder
        self.size: int = self.manifest["passages"]
        self.most_windows: int = self.manifest["most_windows"]
        self.documents = mapped(folder / "documents.npy")
        self.windows = mapped(folder / "windows.npy")
        self._offsets = mapped(folder / "offsets.npy")
        with (folder / "passages.jsonl").open("rb") as handle:
            self._passages = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._lock = threading.Lock()
        self._bm25: dict[str, Bm25] = {}

    def bm25(self, backend: str) -> Bm25:
        with self._lock:
            if backend not in self._bm25:
                self._bm25[backend] = read_bm25(self.folder / "bm25", backend)
            return self._bm25[backend]

    @cached_property
    def dense(self) -> DenseIndex:
        return DenseIndex(self.folder / "dense.faiss")

    def statistics(self) -> Statistics:
        return read_statistics(self.folder / "bm25")

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As agents.retrieval.vectors.VectorSource has it."""
        stored = np.load(self.folder / "hashes.npy", mmap_mode="r")
        found, rows = find_hashes(stored, np.argsort(hash_keys(stored)), hashes)
        return found, self.dense.vectors(rows)

    def rows_of(self, documents: frozenset[int]) -> np.ndarray:
        """Rows of these documents, ascending."""
        return np.flatnonzero(np.isin(self.documents, list(documents)))

    def allowed(self, hidden: np.ndarray) -> np.ndarray | None:
        """Bits, one a vector: those of passages that are not hidden. None where nothing is."""
        if not len(hidden):
            return None
        allowed = np.ones(self.windows[-1], bool)
        for begin, end in zip(self.windows[hidden], self.windows[hidden + 1], strict=True):
            allowed[begin:end] = False
        return np.packbits(allowed, bitorder="little")

    def nearest(self, vector: np.ndarray, k: int, allowed: np.ndarray | None) -> dict[int, float]:
        """Scores by row of the k best passages, best first. A passage's score is that of its best window."""
        total = self.dense.count
        most = min(total, k * (self.most_windows if self.dense.exact else 2))
        while True:
            scores, windows = self.dense.search(vector, most, allowed)
            rows = np.searchsorted(self.windows, windows, side="right") - 1
            best: dict[int, float] = {}
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                best.setdefault(row, score)
            if len(best) >= k or most == total or len(rows) < most:
                return best
            most = min(total, 2 * most)

    def similarities(self, vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float64 (len(rows),): the score of each passage's best window."""
        begins = self.windows[rows]
        counts = self.windows[rows + 1] - begins
        firsts = np.cumsum(counts) - counts
        windows = np.arange(counts.sum()) + np.repeat(begins - firsts, counts)
        # einsum stays on this thread; a BLAS product would start others for a fraction of a millisecond's work.
        scores = np.einsum("ij,j->i", self.dense.vectors(windows), vector[0])
        return np.maximum.reduceat(scores, firsts).astype(np.float64)

    def line(self, row: int) -> dict[str, Any]:
        """A passage's fields that don't depend on a query."""
        return json.loads(self._passages[self._offsets[row] : self._offsets[row + 1]])


def mapped(path: Path) -> np.ndarray:
    """A .npy file in memory-mapped form, as a plain array: slicing numpy's own memmap class costs ten times as much."""
    return np.asarray(np.load(path, mmap_mode="r"))
