"""Hybrid retrieval, and an answer by a model with an adapter that was trained on this site's own log."""

from __future__ import annotations

from agents.strategies.hybrid_rag import HybridRAG


class LoraRAG(HybridRAG):
    name = "lora_rag"
    title = "LoRA RAG"
    summary = (
        "Searches as hybrid_rag does and answers with a fine-tuned model: the agent's artifact, or the adapter folder that "
        "LORA_ADAPTERS_PATH names."
    )
