"""What `benchmark retrieval` measures beside: rank-bm25 as its README uses it, and LlamaIndex's hybrid retriever."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Rankings = dict[str, list[str]]
LLAMA_INDEX = Path(__file__).with_name("llamaindex_hybrid.py")


def rank_bm25(documents: Mapping[str, str], questions: Mapping[str, str], _: str) -> tuple[Rankings, dict[str, Any]]:
    """Whole documents, words in lower case."""
    from rank_bm25 import BM25Okapi

    from benchmarks.retrieval_site import TIMED, percentiles, resident, times

    before, begun, ids = resident(), time.perf_counter(), list(documents)
    index = BM25Okapi([text.lower().split() for text in documents.values()])
    seconds = time.perf_counter() - begun

    def search(text: str) -> list[str]:
        return index.get_top_n(text.lower().split(), ids, 10)

    rankings = {key: search(text) for key, text in questions.items()}
    memory = resident() - before
    taken = percentiles(times(search, list(questions.values())[:TIMED]))
    busy = percentiles(times(search, list(questions.values())[:TIMED], time.thread_time))
    return rankings, {
        "retriever": "rank-bm25 alone", "index_seconds": seconds, "memory_bytes": memory, **taken,
        "search_p50_ms": taken["p50_ms"], "search_p95_ms": taken["p95_ms"],
        "search_cpu_p50_ms": busy["p50_ms"],
    }  # fmt: skip


def llama_index(documents: Mapping[str, str], questions: Mapping[str, str], python: str) -> tuple[Rankings, dict[str, Any]]:
    """LlamaIndex's BM25Retriever and VectorStoreIndex under its QueryFusionRetriever, on vectors by the same encoder."""
    from django.conf import settings

    from agents.retrieval.embedding import embedder
    from agents.retrieval.vectors import text_hashes, vectors_of
    from agents.services.collections import vector_cache

    model = embedder()
    cache = vector_cache(model)

    def embedded(texts: list[str]) -> np.ndarray:
        return vectors_of(
            texts, text_hashes(texts), embedder=model, known=[cache], cache=cache,
            threads=settings.ADAPTRAG_EMBEDDING_THREADS, progress=lambda *_: None,
        )  # fmt: skip

    begun = time.perf_counter()
    vectors = embedded(list(documents.values()))
    seconds = time.perf_counter() - begun
    return hybrid_peer(documents, vectors, questions, embedded(list(questions.values())), python, seconds)


def hybrid_peer(
    documents: Mapping[str, str],
    vectors: np.ndarray,
    questions: Mapping[str, str],
    question_vectors: np.ndarray,
    python: str,
    embedding_seconds: float = 0.0,
) -> tuple[Rankings, dict[str, Any]]:
    """Run the peer in its own environment. Its times have no embedding in them."""
    with tempfile.TemporaryDirectory(prefix="adaptrag-peer-") as name:
        folder = Path(name)
        (folder / "documents.json").write_text(json.dumps(dict(documents)))
        (folder / "questions.json").write_text(json.dumps(dict(questions)))
        np.save(folder / "documents.npy", vectors)
        np.save(folder / "questions.npy", question_vectors)
        done = subprocess.run(
            [python, str(LLAMA_INDEX), str(folder)], capture_output=True, text=True, timeout=1200, check=False
        )
        if done.returncode:
            raise RuntimeError(f"LlamaIndex failed:\n{done.stderr[-2000:]}")
        found = json.loads((folder / "result.json").read_text())
    rankings = found.pop("rankings")
    return rankings, {"retriever": "LlamaIndex hybrid", **found, "index_seconds": found["index_seconds"] + embedding_seconds}
