"""RAG strategies. A new one is a module here and a line in STRATEGIES."""

from __future__ import annotations

from agents.strategies.agentic_rag import AgenticRAG
from agents.strategies.base import AgentAnswer, AgentRequest, Strategy
from agents.strategies.hybrid_rag import HybridRAG
from agents.strategies.naive_rag import NaiveRAG

STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (NaiveRAG, HybridRAG, AgenticRAG)}

__all__ = ["STRATEGIES", "AgentAnswer", "AgentRequest", "Strategy"]
