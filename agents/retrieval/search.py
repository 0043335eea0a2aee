"""Questions to passages: BM25, dense, or both fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from adaptrag.common.errors import InvalidInput, Unavailable
from adaptrag.common.prepared import Prepared
from agents.errors import NothingIngested, UnknownCollection
from agents.models import Collection
from agents.retrieval.base import Half, Passage, SearchableBuild
from agents.retrieval.fusion import fuse
from agents.retrieval.store import open_build

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
            build, gone = current_build(collection)
            if method == "graph":
                from agents.retrieval.graph import retrieve_graph

                return retrieve_graph(collection, query, k)
            if around is not None:
                from agents.retrieval.around import retrieve_around

                return retrieve_around(collection, query, k, method, around, meanings)
            return [passage for _, passage in search_build(build, gone, query, k, method, pool, meanings)]
        except FileNotFoundError as error:
            # A newer build may have taken its place, and its files, since the query that named it; the next look finds that.
            if attempt == ATTEMPTS - 1:
                raise _missing(collection) from error
    raise AssertionError("unreachable")


def search_build(
    build: SearchableBuild,
    gone: frozenset[int],
    query: str,
    k: int,
    method: str,
    pool: int,
    meanings: Sequence[str] = (),
) -> list[tuple[int, Passage]]:
    """(row, passage) of the k best of one build, without the documents that are gone."""
    halves: dict[str, Half] = {}
    if method in ("bm25", "hybrid"):
        halves["bm25"] = build.sparse(query, gone)
    if method in ("dense", "hybrid"):
        halves["dense"] = build.dense(_query_vector(build, meanings or (query,)), gone)
    if method == "hybrid":
        rows = sorted(set().union(*(half.best(max(pool, k)) for half in halves.values())))
    else:
        rows = halves[method].best(k)
    if not rows:
        return []
    scores = {name: half.of(rows) for name, half in halves.items()}
    order = range(len(rows))
    if method == "hybrid":
        scores = {"hybrid": fuse(scores["bm25"], scores["dense"]), **scores}
        order = np.argsort(-scores["hybrid"], kind="stable")[:k].tolist()
    found = build.lines([rows[i] for i in order])
    ranked = []
    for rank, (i, line) in enumerate(zip(order, found, strict=True), 1):
        own = {name: float(values[i]) for name, values in scores.items()}
        ranked.append((rows[i], Passage(**line, rank=rank, retriever=method, score=own[method], scores=own)))
    return ranked


def current_build(collection: Collection) -> tuple[SearchableBuild, frozenset[int]]:
    """The build that serves a collection now, and the documents in it that were deleted since. One query."""
    rows = _builds(collection.name)
    if not rows:
        raise UnknownCollection(f"The collection {collection.name!r} was deleted.")
    path = rows[0][0]
    if path:
        build = open_build(path)
        gone = frozenset(document for _, document in rows if document is not None)
        if build.hidden_count(gone) < build.size:
            return build, gone
    raise NothingIngested(
        f"The collection {collection.name!r} has nothing to search yet. Add documents, or wait until they are indexed.",
        collection=collection.name,
    )


def _missing(collection: Collection) -> Unavailable:
    return Unavailable(
        f"The index files of the collection {collection.name!r} are missing. Index it again in the admin.",
        collection=collection.name,
    )


def _query_vector(build: SearchableBuild, texts: Sequence[str]) -> np.ndarray:
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
