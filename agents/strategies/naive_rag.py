"""One dense retrieval, one answer."""

from __future__ import annotations

from dataclasses import dataclass

from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.prompt import answered, search_query


@dataclass(frozen=True, kw_only=True)
class NaiveParameters(CommonParameters):
    retriever: str = parameter("dense", "Index to search.", choices=("dense", "bm25"))


class NaiveRAG(Strategy):
    name = "naive_rag"
    title = "Naive RAG"
    summary = "One search of one index, one answer. The cheapest; good where the question's words are the document's."
    Parameters = NaiveParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        passages = tools.retrieve(search_query(request), request.top_k, self.parameters.retriever)
        return answered(request, passages, passages[: self.parameters.prompt_passages], self.parameters, tools)
