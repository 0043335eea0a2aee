"""The dense half: one FAISS index of unit vectors, exact while that is quick, a graph (HNSW) above.

Malkov & Yashunin, 2018. EXACT_BELOW and the graph's constants are measured: docs/decisions/0007-index-at-scale.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

EXACT_BELOW = 20_000  # vectors
LINKS, BUILD_WIDTH = 16, 80
NARROWEST, WIDEST, VECTORS_A_WIDTH = 200, 2000, 500  # a search looks at one in so many vectors, within these bounds
EXACT_SHARE = 16  # more than one in so many vectors wanted: scanning all is quicker than the graph


def write_dense(path: Path, vectors: np.ndarray, threads: int) -> None:
    """vectors: float32 (n, dimensions), n >= 1. The graph keeps them in half precision."""
    import faiss

    if len(vectors) < EXACT_BELOW:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
    else:
        half = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexHNSWSQ(vectors.shape[1], half, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_WIDTH
        index.train(vectors[:1])  # half precision has nothing to learn
        faiss.omp_set_num_threads(threads)
        try:
            index.add(vectors)
        finally:
            faiss.omp_set_num_threads(1)
    faiss.write_index(index, str(path))


class DenseIndex:
    """A FAISS index, its vectors and graph mapped into memory."""

    def __init__(self, path: Path) -> None:
        import faiss

        # With a second thread a search took 36 ms instead of 10 while the other core was busy.
        faiss.omp_set_num_threads(1)
        path.stat()  # raises FileNotFoundError; FAISS has its own error for it
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        self.count: int = self._index.ntotal
        self.exact = isinstance(self._index, faiss.IndexFlat)
        self._storage = self._index if self.exact else faiss.downcast_index(self._index.storage)

    def search(self, vector: np.ndarray, most: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows) of at most `most` vectors, best first. vector: float32 (1, dimensions); allowed: bits, one a row."""
        import faiss

        selector = None if allowed is None else faiss.IDSelectorBitmap(self.count, faiss.swig_ptr(allowed))
        if self.exact or most * EXACT_SHARE > self.count:
            scores, rows = self._storage.search(vector, most, params=faiss.SearchParameters(sel=selector))
        else:
            width = max(min(max(NARROWEST, self.count // VECTORS_A_WIDTH), WIDEST), most)
            scores, rows = self._index.search(vector, most, params=faiss.SearchParametersHNSW(efSearch=width, sel=selector))
        found = rows[0] >= 0
        return scores[0][found], rows[0][found]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """float32 (len(rows), dimensions)."""
        return self._storage.reconstruct_batch(np.ascontiguousarray(rows, np.int64))
