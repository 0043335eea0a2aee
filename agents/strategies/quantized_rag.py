"""Hybrid retrieval, and an answer by a quantized build of this site's own model."""

from __future__ import annotations

from agents.strategies.hybrid_rag import HybridRAG


class QuantizedRAG(HybridRAG):
    name = "quantized_rag"
    title = "Quantized RAG"
    summary = (
        "Searches as hybrid_rag does and answers with a quantized build: the agent's artifact, made by manage.py quantize."
    )
