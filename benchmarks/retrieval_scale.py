"""Made-up passages with the statistics of real ones, to measure sizes that no data set at hand has.

Words: real stretches of text with half of the words drawn anew from the corpus's frequencies. Vectors: between two real ones,
with noise; two for a passage. Ten passages make a document.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings

WORDS = 75  # a passage; two windows
WINDOWS = 2
PASSAGES_A_DOCUMENT = 10
REAL_VECTORS = 1000
NOISE = 0.02  # a component
EXACT = 100  # questions whose dense hits are compared with a scan's
PEERS_UP_TO = 20_000  # passages


class MadeVectors:
    """A source that knows every text: agents.retrieval.vectors.VectorSource."""

    def __init__(self, real: np.ndarray, seed: int) -> None:
        self._real, self._rng = real, np.random.default_rng(seed)

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [self._some(min(50_000, len(hashes) - begin)) for begin in range(0, len(hashes), 50_000)]
        return np.ones(len(hashes), bool), np.concatenate(parts)

    def _some(self, count: int) -> np.ndarray:
        first, second = (self._real[self._rng.integers(len(self._real), size=count)] for _ in range(2))
        share = self._rng.beta(4, 1.5, size=(count, 1)).astype(np.float32)
        noise = self._rng.standard_normal(first.shape, dtype=np.float32) * NOISE
        mixed = share * first + (1 - share) * second + noise
        return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def made_texts(documents: Mapping[str, str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    real = [text.split() for text in documents.values()]
    every = [word for words in real for word in words]  # drawing from all of them is drawing by frequency
    texts = []
    for _ in range(count):
        words = rng.choice(real)
        begin = rng.randrange(max(1, len(words) - WORDS))
        words = words[begin : begin + WORDS]
        words[::2] = rng.choices(every, k=len(words[::2]))
        texts.append(" ".join(words))
    return texts


def measure_scale(dataset: Path, count: int, most: int, peers: str) -> list[dict[str, Any]]:
    """Rows for BM25, dense and hybrid over `count` passages, and for the peers where these can hold so many."""
    from agents.models import Collection, IndexBuild
    from agents.retrieval.build import IndexedPassage, write_index
    from agents.retrieval.embedding import embedder
    from agents.retrieval.search import METHODS, retrieve
    from agents.retrieval.vectors import text_hashes, vectors_of
    from agents.services.collections import vector_cache
    from benchmarks.retrieval_memory import memory_of
    from benchmarks.retrieval_peers import hybrid_peer, rank_bm25
    from benchmarks.retrieval_site import corpus, read_questions, search_times

    documents = corpus(dataset)
    questions = dict(list(read_questions(dataset)[0].items())[: most or 100])
    model = embedder()
    sample = [" ".join(text.split()[:45]) for text in list(documents.values())[:REAL_VECTORS]]
    cache = vector_cache(model)
    real = vectors_of(
        sample, text_hashes(sample), embedder=model, known=[cache], cache=cache,
        threads=settings.ADAPTRAG_EMBEDDING_THREADS, progress=lambda *_: None,
    )  # fmt: skip
    texts = made_texts(documents, count, seed=1)
    passages = [
        IndexedPassage(
            chunk_id=row + 1, document_id=row // PASSAGES_A_DOCUMENT + 1, title="", source=f"made/{row}", text=text, heading="",
            page=None, start=0, end=len(text), windows=[[0, len(text) // 2], [len(text) // 2, len(text)]],
        )
        for row, text in enumerate(texts)
    ]  # fmt: skip
    folder = Path(settings.DATA_DIR) / "indexes" / "scale"
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    write_index(
        folder, passages, language="english", embedder=model, known=[MadeVectors(real, seed=2)], cache=cache,
        threads=settings.ADAPTRAG_EMBEDDING_THREADS, progress=lambda *_: None,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    del passages
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    collection = Collection.objects.create(name="scale")
    collection.current_build = IndexBuild.objects.create(
        collection=collection, state="ready", path="indexes/scale", chunks=count, embedding_model=model.name
    )
    collection.save()
    rows = []
    for method in METHODS:
        taken = search_times(lambda text, method=method: retrieve(collection, text, 10, method), questions)
        row = {"retriever": method, "passages": count, "questions": len(questions), "index_seconds": seconds}
        rows.append(row | {"memory_bytes": memory_of("scale", method, questions), "disk_bytes": size, **taken})
    rows[1]["agreement_with_scan@10"] = agreement(list(questions.values())[:EXACT])
    if count <= PEERS_UP_TO:
        whole = {str(row): text for row, text in enumerate(texts)}
        rows.append({**rank_bm25(whole, questions, "")[1], "passages": count})
        if peers:
            vectors = MadeVectors(real, seed=3)._some(count)
            asked = np.concatenate([model.embed([text]) for text in questions.values()])
            rows.append({**hybrid_peer(whole, vectors, questions, asked, peers)[1], "passages": count})
    return rows


def agreement(questions: list[str]) -> float:
    """Share of the ten nearest vectors of a scan that the index finds too."""
    from agents.retrieval.embedding import embed_query
    from agents.retrieval.store import open_segment

    dense = open_segment("indexes/scale").dense
    shared = 0
    for question in questions:
        vector = embed_query(question)
        found = dense.search(vector, 2 * 100)[1][:10]
        shared += len(set(found.tolist()) & set(dense.search(vector, dense.count)[1][:10].tolist()))
    return shared / (10 * len(questions))
