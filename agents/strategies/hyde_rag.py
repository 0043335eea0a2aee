"""Hypothetical document embeddings (Gao et al., 2022): write a passage that would answer, search with its meaning."""

from __future__ import annotations

from dataclasses import dataclass

from agents.llm.base import Message
from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.prompt import answered, search_query

WRITER = (
    "Write one short passage, as it could stand in a document, that answers the question. "
    "Invent what you don't know. Reply with the passage alone."
)


@dataclass(frozen=True, kw_only=True)
class HydeParameters(CommonParameters):
    hypothesis_tokens: int = parameter(
        48, "Longest hypothetical passage, in tokens; each takes time before the search.", low=8, high=512
    )
    retriever: str = parameter(
        "hybrid",
        "'dense' searches with the hypothetical passage alone, 'hybrid' also by the words of the question.",
        choices=("hybrid", "dense"),
    )
    with_question: bool = parameter(True, "Search with the mean of the question's and the passage's vector.")


class HydeRAG(Strategy):
    name = "hyde_rag"
    title = "HyDE RAG"
    summary = "Writes a hypothetical answer and searches with its meaning. For questions worded unlike the documents."
    Parameters = HydeParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        query = search_query(request)
        messages = [Message(role="system", content=WRITER), Message(role="user", content=query)]
        hypothesis = tools.chat(messages, purpose="hypothesis", max_tokens=self.parameters.hypothesis_tokens).text.strip()
        meanings = [text for text in (query if self.parameters.with_question else "", hypothesis) if text]
        passages = tools.retrieve(query, request.top_k, self.parameters.retriever, purpose="hypothesis", meanings=meanings)
        return answered(request, passages, passages[: self.parameters.prompt_passages], self.parameters, tools)
