"""Find single sentences, answer from the windows around them."""

from __future__ import annotations

from dataclasses import dataclass

from agents.retrieval.around import Around
from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.prompt import answered, search_query


@dataclass(frozen=True, kw_only=True)
class SentenceWindowParameters(CommonParameters):
    window: int = parameter(1, "Sentences on each side of a found one that are read with it.", low=0, high=20)
    passage_chars: int = parameter(
        1000, "Merged windows longer than this are cut at a sentence; one window has at most half of it.", low=200, high=20000
    )
    retriever: str = parameter("hybrid", "How sentences are searched.", choices=("hybrid", "dense", "bm25"))


class SentenceWindowRAG(Strategy):
    name = "sentence_window_rag"
    title = "Sentence window RAG"
    summary = "Finds single sentences and reads the window around each. For facts that one sentence of a long text states."
    needs = ("sentence",)
    Parameters = SentenceWindowParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        around = Around(unit="sentence", sides=self.parameters.window, chars=self.parameters.passage_chars // 2)
        passages = tools.retrieve(search_query(request), request.top_k, self.parameters.retriever, around=around)
        return answered(request, passages, passages[: self.parameters.prompt_passages], self.parameters, tools)
