"""Answer from passages and from the relations that lead from one to another."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.prompt import answer_messages, search_query


@dataclass(frozen=True, kw_only=True)
class GraphParameters(CommonParameters):
    relations: int = parameter(3, "Relations that stand in the prompt before the passages.", low=0, high=50)


class GraphRAG(Strategy):
    name = "graph_rag"
    title = "Graph RAG"
    summary = "Follows what the first passages name to the documents about it. For questions that link two things."
    needs = ("graph",)
    Parameters = GraphParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        passages = tools.retrieve(search_query(request), request.top_k, "graph")
        used = passages[: self.parameters.prompt_passages]
        messages = answer_messages(request, used, self.parameters)
        relations = list(dict.fromkeys(passage.via for passage in used if passage.via))[: self.parameters.relations]
        if relations:
            listed = "\n".join(f"- {relation}" for relation in relations)
            messages[-1] = dataclasses.replace(messages[-1], content=f"Relations:\n{listed}\n\n{messages[-1].content}")
        completion = tools.chat(messages, max_tokens=self.parameters.max_tokens, stream=True)
        return Draft(text=completion.text, passages=passages, used=used)
