"""BM25 and dense retrieval fused, one answer."""

from __future__ import annotations

from agents.strategies.base import AgentRequest, Draft, Strategy, Tools
from agents.strategies.prompt import answered, search_query


class HybridRAG(Strategy):
    name = "hybrid_rag"
    title = "Hybrid RAG"
    summary = "Searches by words (BM25) and by meaning (dense), fuses both rankings. The safe default for mixed questions."

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        passages = tools.retrieve(search_query(request), request.top_k, "hybrid")
        return answered(request, passages, passages[: self.parameters.prompt_passages], self.parameters, tools)
