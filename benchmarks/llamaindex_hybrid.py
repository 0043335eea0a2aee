"""LlamaIndex's hybrid retriever over given texts and vectors; runs in .venv-peers (make bench-peers), never in the product.

.venv-peers/bin/python benchmarks/llamaindex_hybrid.py FOLDER   (made by benchmarks.retrieval_peers)
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import TextNode
from llama_index.retrievers.bm25 import BM25Retriever

K, TIMED = 10, 300
_GIVEN: dict[str, list[float]] = {}


class Given(BaseEmbedding):
    """Vectors that were made before, so that no embedding is in the times."""

    def _get_query_embedding(self, query: str) -> list[float]:
        return _GIVEN[query]

    def _get_text_embedding(self, text: str) -> list[float]:
        return _GIVEN[text]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return _GIVEN[query]


def main(folder: Path) -> None:
    documents = json.loads((folder / "documents.json").read_text())
    questions = json.loads((folder / "questions.json").read_text())
    vectors = np.load(folder / "documents.npy")
    _GIVEN.update(zip(questions.values(), np.load(folder / "questions.npy").tolist(), strict=True))
    before, begun = _resident(), time.perf_counter()
    nodes = [
        TextNode(id_=key, text=text, embedding=vector.tolist())
        for (key, text), vector in zip(documents.items(), vectors, strict=True)
    ]
    index = VectorStoreIndex(nodes, embed_model=Given())
    retriever = QueryFusionRetriever(
        [index.as_retriever(similarity_top_k=K), BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=K)],
        llm=MockLLM(), mode="reciprocal_rerank", similarity_top_k=K, num_queries=1, use_async=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    rankings, times, busy = {}, [], []
    for key, text in questions.items():
        begun, working = time.perf_counter(), time.process_time()
        rankings[key] = [found.node.node_id for found in retriever.retrieve(text)]
        times.append((time.perf_counter() - begun) * 1000)
        busy.append((time.process_time() - working) * 1000)
    ordered = sorted(times[:TIMED])
    result = {
        "rankings": rankings, "index_seconds": seconds, "memory_bytes": _resident() - before,
        "search_p50_ms": ordered[len(ordered) // 2], "search_p95_ms": ordered[int(len(ordered) * 0.95)],
        "search_cpu_p50_ms": sorted(busy[:TIMED])[len(ordered) // 2],
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
