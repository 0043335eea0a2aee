"""Reading index builds: each process keeps a few open."""

from __future__ import annotations

import json
import mmap
import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path

import numpy as np
from django.conf import settings

from adaptrag.common.errors import Unavailable
from agents.retrieval.base import Passage
from agents.retrieval.bm25 import Bm25, read_bm25
from agents.retrieval.build import FORM, HASH

OPEN_BUILDS = 16


class OpenBuild:
    """One build's files, mapped into memory; BM25 and FAISS are opened when first asked for. Rows count from 0."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["form"] != FORM:
            raise Unavailable(f"The index at {folder} has form {manifest['form']}, not {FORM}: index the collection again.")
        self.folder = folder
        self.size: int = manifest["passages"]
        self.most_windows: int = manifest["most_windows"]
        self.language: str = manifest["language"]
        self.embedding_model: str = manifest["embedding_model"]
        self.documents = mapped(folder / "documents.npy")
        self.windows = mapped(folder / "windows.npy")
        self._offsets = mapped(folder / "offsets.npy")
        with (folder / "passages.jsonl").open("rb") as handle:
            self._passages = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._lock = threading.Lock()
        self._bm25: dict[str, Bm25] = {}
        self._removed: tuple[frozenset[int], np.ndarray] = (frozenset(), np.empty(0, np.int64))

    def bm25(self, backend: str) -> Bm25:
        with self._lock:
            if backend not in self._bm25:
                self._bm25[backend] = read_bm25(self.folder / "bm25", backend)
            return self._bm25[backend]

    @cached_property
    def dense(self):
        """The FAISS index; its vectors are mapped, not copied."""
        import faiss

        path = self.folder / "dense.faiss"
        # With a second thread a search took 36 ms instead of 10 while the other core was busy.
        faiss.omp_set_num_threads(1)
        path.stat()  # raises FileNotFoundError; FAISS has its own error for it
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)

    @cached_property
    def vectors(self) -> np.ndarray:
        """float32 (vectors, dimensions), a view of the index's own."""
        import faiss

        return faiss.rev_swig_ptr(self.dense.get_xb(), self.dense.ntotal * self.dense.d).reshape(self.dense.ntotal, -1)

    def known_vectors(self) -> dict[bytes, np.ndarray]:
        """Vectors by the hash of their text."""
        hashes = np.load(self.folder / "hashes.npy").tobytes()
        return {hashes[row * HASH : (row + 1) * HASH]: vector for row, vector in enumerate(self.vectors)}

    def removed_rows(self, removed: frozenset[int]) -> np.ndarray:
        """Rows of documents that were deleted since the build, ascending."""
        known, rows = self._removed
        if known != removed:
            rows = np.flatnonzero(np.isin(self.documents, list(removed)))
            self._removed = (removed, rows)
        return rows

    def passage(self, row: int, *, rank: int, retriever: str, score: float, scores: dict[str, float]) -> Passage:
        line = self._passages[self._offsets[row] : self._offsets[row + 1]]
        return Passage(**json.loads(line), rank=rank, retriever=retriever, score=score, scores=scores)


def mapped(path: Path) -> np.ndarray:
    """A .npy file in memory-mapped form, as a plain array: slicing numpy's own memmap class costs ten times as much."""
    return np.asarray(np.load(path, mmap_mode="r"))


_lock = threading.Lock()
_open: OrderedDict[str, OpenBuild] = OrderedDict()


def open_build(path: str) -> OpenBuild:
    """The build in the folder `path` under the data folder; no two builds ever have the same. Raises FileNotFoundError."""
    with _lock:
        if path in _open:
            _open.move_to_end(path)
            return _open[path]
    build = OpenBuild(Path(settings.DATA_DIR) / path)
    with _lock:
        _open[path] = build
        while len(_open) > OPEN_BUILDS:
            _open.popitem(last=False)  # its files are unmapped when the last search that uses it ends
    return build
