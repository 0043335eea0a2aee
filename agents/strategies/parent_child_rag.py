"""Find small children, answer from their parents, merged and in the order of the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.retrieval.around import Around
from agents.retrieval.base import Passage
from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.prompt import answered, search_query


@dataclass(frozen=True, kw_only=True)
class ParentChildParameters(CommonParameters):
    prompt_passages: int = parameter(2, "Parents that stand in the prompt, the best ones.", low=1, high=50)
    parent_chars: int = parameter(1000, "A parent is a child's section, up to so many characters.", low=200, high=20000)
    passage_chars: int = parameter(1500, "Merged parents longer than this are cut at a sentence.", low=200, high=20000)
    retriever: str = parameter("hybrid", "How children are searched.", choices=("hybrid", "dense", "bm25"))


class ParentChildRAG(Strategy):
    name = "parent_child_rag"
    title = "Parent-child RAG"
    summary = "Finds small parts and reads the sections that they belong to. For explanations and procedures that need context."
    needs = ("child",)
    Parameters = ParentChildParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        around = Around(unit="child", chars=self.parameters.parent_chars)
        passages = tools.retrieve(search_query(request), request.top_k, self.parameters.retriever, around=around)
        used = in_reading_order(passages[: self.parameters.prompt_passages])
        return answered(request, passages, used, self.parameters, tools)


def in_reading_order(passages: Sequence[Passage]) -> list[Passage]:
    """Documents by their best passage; each document's passages as they stand in it."""
    best: dict[int, int] = {}
    for rank, passage in enumerate(passages):
        best.setdefault(passage.document_id, rank)
    return sorted(passages, key=lambda passage: (best[passage.document_id], passage.start))
