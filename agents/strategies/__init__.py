"""RAG strategies. A new one is a module here and a line in STRATEGIES."""

from __future__ import annotations

from agents.strategies.agentic_rag import AgenticRAG
from agents.strategies.base import AgentAnswer, AgentRequest, Strategy
from agents.strategies.corrective_rag import CorrectiveRAG
from agents.strategies.graph_rag import GraphRAG
from agents.strategies.hybrid_rag import HybridRAG
from agents.strategies.hyde_rag import HydeRAG
from agents.strategies.lora_rag import LoraRAG
from agents.strategies.multimodal_rag import MultimodalRAG
from agents.strategies.naive_rag import NaiveRAG
from agents.strategies.parent_child_rag import ParentChildRAG
from agents.strategies.quantized_rag import QuantizedRAG
from agents.strategies.sentence_window_rag import SentenceWindowRAG
from agents.strategies.table_rag import TableRAG

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (
        NaiveRAG,
        HybridRAG,
        AgenticRAG,
        SentenceWindowRAG,
        ParentChildRAG,
        HydeRAG,
        CorrectiveRAG,
        TableRAG,
        GraphRAG,
        LoraRAG,
        QuantizedRAG,
        MultimodalRAG,
    )
}

__all__ = ["STRATEGIES", "AgentAnswer", "AgentRequest", "Strategy"]
