"""Questions to passages: BM25, dense, or both fused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from django.conf import settings

from adaptrag.common.errors import InvalidInput, Unavailable
from adaptrag.common.prepared import Prepared
from agents.errors import NothingIngested, UnknownCollection
from agents.models import Collection
from agents.retrieval.base import Passage
from agents.retrieval.bm25 import tokenize
from agents.retrieval.fusion import fuse
from agents.retrieval.store import OpenBuild, open_build

if TYPE_CHECKING:
    from agents.retrieval.around import Around

_builds = Prepared(
    lambda name: (
        Collection.objects.filter(name=name)
        .order_by()
        .values_list("current_build__path", "current_build__tombstones__document_id")
    )
)

METHODS = ("bm25", "dense", "hybrid")
POOL = 100  # candidates of each half that a hybrid search fuses
ATTEMPTS = 3


def retrieve(
    collection: Collection,
    query: str,
    k: int,
    method: str = "hybrid",
    *,
    pool: int = POOL,
    meanings: Sequence[str] = (),
    around: Around | None = None,
) -> list[Passage]:
    """The k best passages (fewer if BM25 alone finds fewer with a word of the query), best first, without deleted documents.

    Each passage's `scores` has what each half gave it. The method "graph" follows relations from what hybrid finds (and takes
    no options). `meanings` are texts whose mean vector the dense half searches instead of the query's; `around` searches
    smaller units and returns what they grow to. Raises NothingIngested if there is no passage to find.
    """
    if method not in (*METHODS, "graph"):
        raise InvalidInput(f"There is no retrieval method {method!r}. Use one of {', '.join(METHODS)}, graph.")
    if k < 1:
        raise InvalidInput(f"top_k is {k}; ask for at least one passage.")
    for attempt in range(ATTEMPTS):
        try:
            build, removed = current_build(collection)
            if method == "graph":
                from agents.retrieval.graph import retrieve_graph

                return retrieve_graph(collection, query, k)
            if around is not None:
                from agents.retrieval.around import retrieve_around

                return retrieve_around(collection, query, k, method, around, meanings)
            return [passage for _, passage in search_build(build, removed, query, k, method, pool, meanings)]
        except FileNotFoundError as error:
            # A newer build may have taken its place, and its files, since the query that named it; the next look finds that.
            if attempt == ATTEMPTS - 1:
                raise _missing(collection) from error
    raise AssertionError("unreachable")


def search_build(
    build: OpenBuild, removed: np.ndarray, query: str, k: int, method: str, pool: int, meanings: Sequence[str] = ()
) -> list[tuple[int, Passage]]:
    """(row, passage) of the k best of one build."""
    if method == "bm25":
        scores = _bm25_scores(build, query, removed)
        return _passages(build, method, [(row, {"bm25": float(scores[row])}) for row in _best(scores, k)])
    vector = _query_vector(build, meanings or (query,))
    if method == "dense":
        return _passages(build, method, [(row, {"dense": score}) for row, score in _dense(build, vector, k, removed)])
    scores = _bm25_scores(build, query, removed)
    pool = max(pool, k)
    rows = sorted({row for row, _ in _dense(build, vector, pool, removed)}.union(_best(scores, pool)))
    sparse, dense = scores[rows].astype(np.float64), _dense_scores(build, vector, rows)
    fused = fuse(sparse, dense)
    found = [
        (rows[i], {"hybrid": float(fused[i]), "bm25": float(sparse[i]), "dense": float(dense[i])})
        for i in np.argsort(-fused, kind="stable")[:k]
    ]
    return _passages(build, method, found)


def current_build(collection: Collection) -> tuple[OpenBuild, np.ndarray]:
    """The build that serves a collection now, and the rows of it that were deleted since. One query."""
    rows = _builds(collection.name)
    if not rows:
        raise UnknownCollection(f"The collection {collection.name!r} was deleted.")
    path = rows[0][0]
    if path:
        build = open_build(path)
        removed = build.removed_rows(frozenset(gone for _, gone in rows if gone is not None))
        if len(removed) < build.size:
            return build, removed
    raise NothingIngested(
        f"The collection {collection.name!r} has nothing to search yet. Add documents, or wait until they are indexed.",
        collection=collection.name,
    )


def _missing(collection: Collection) -> Unavailable:
    return Unavailable(
        f"The index files of the collection {collection.name!r} are missing. Index it again in the admin.",
        collection=collection.name,
    )


def _bm25_scores(build: OpenBuild, query: str, removed: np.ndarray) -> np.ndarray:
    scores = build.bm25(settings.ADAPTRAG_BM25_BACKEND).scores(tokenize(query, build.language))
    scores[removed] = 0
    return scores


def _best(scores: np.ndarray, k: int) -> list[int]:
    """Rows with the k highest scores above 0, best first; equal scores in the order of the rows."""
    if k < len(scores):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= threshold) if threshold > 0 else np.flatnonzero(scores)
    else:
        rows = np.flatnonzero(scores)
    return rows[np.argsort(-scores[rows], kind="stable")[:k]].tolist()


def _query_vector(build: OpenBuild, texts: Sequence[str]) -> np.ndarray:
    """float32 (1, dimensions): of one text, or the mean direction of several."""
    from agents.retrieval.embedding import embed_query, embedder

    if embedder().name != build.embedding_model:
        raise Unavailable(
            f"The index was made with the embedding model {build.embedding_model}, but {embedder().name} is configured. "
            "Index the collection again."
        )
    if len(texts) == 1:
        return embed_query(texts[0])
    mean = np.mean([embed_query(text) for text in texts], axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def _dense(build: OpenBuild, vector: np.ndarray, k: int, removed: np.ndarray) -> list[tuple[int, float]]:
    """(row, score) of the k best passages. A passage's score is that of its best window."""
    gone = set(removed.tolist())
    # As many vectors as hold k passages that are still there, whatever the passages.
    enough = min(build.dense.ntotal, (k + len(gone)) * build.most_windows)
    scores, windows = build.dense.search(vector, enough)
    rows = np.searchsorted(build.windows, windows[0], side="right") - 1
    best: dict[int, float] = {}
    for row, score in zip(rows.tolist(), scores[0].tolist(), strict=True):
        if row not in gone:
            best.setdefault(row, score)
    return list(islice(best.items(), k))


def _dense_scores(build: OpenBuild, vector: np.ndarray, rows: list[int]) -> np.ndarray:
    """float64 (len(rows),): the score of each passage's best window."""
    begins = build.windows[rows]
    counts = build.windows[np.asarray(rows) + 1] - begins
    firsts = np.cumsum(counts) - counts
    windows = np.arange(counts.sum()) + np.repeat(begins - firsts, counts)
    # einsum stays on this thread; a BLAS product would start others for a fraction of a millisecond's work.
    return np.maximum.reduceat(np.einsum("ij,j->i", build.vectors[windows], vector[0]), firsts).astype(np.float64)


def _passages(build: OpenBuild, method: str, found: list[tuple[int, dict[str, float]]]) -> list[tuple[int, Passage]]:
    return [
        (row, build.passage(row, rank=rank, retriever=method, score=scores[method], scores=scores))
        for rank, (row, scores) in enumerate(found, 1)
    ]
