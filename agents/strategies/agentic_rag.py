"""Draft, look for gaps, retrieve again for what is missing, refine; a bounded number of times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from agents.classifier import content_words
from agents.llm.base import Message
from agents.retrieval.base import Passage
from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.coverage import missing_words
from agents.strategies.prompt import abstains, answer_messages, search_query

CRITIC = (
    "You check a draft answer. If it answers the question fully from the passages, reply NONE. "
    "Otherwise reply with one short search query for what is missing, and nothing else."
)


@dataclass(frozen=True, kw_only=True)
class AgenticParameters(CommonParameters):
    retries: int = parameter(1, "Most times that it searches again and refines.", low=0, high=5)
    critic: str = parameter(
        "coverage",
        "Who looks for gaps: 'coverage' compares the question's words with passages and draft, 'model' asks the chat model "
        "(for models that follow instructions well).",
        choices=("coverage", "model"),
    )


class AgenticRAG(Strategy):
    name = "agentic_rag"
    title = "Agentic RAG"
    summary = "Drafts, checks the draft for gaps, searches again for what is missing, refines. Slower; for many-part questions."
    Parameters = AgenticParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        query = search_query(request)
        passages = tools.retrieve(query, request.top_k, "hybrid")
        used = passages[: self.parameters.prompt_passages]
        text, streamed = self._draft(request, used, tools, stream=self.parameters.retries == 0), self.parameters.retries == 0
        asked = {query}
        for attempt in range(self.parameters.retries):
            gap = self._gap(request, used, text, tools)
            if not gap or gap in asked:
                break
            asked.add(gap)
            found = tools.retrieve(gap, request.top_k + len(used), "hybrid", purpose="gap")
            seen = {passage.chunk_id for passage in used}
            fresh = [passage for passage in found if passage.chunk_id not in seen]
            if not fresh:
                break
            # Room for one passage that the gap found: more of them push out what answers the question (decision 0008).
            widened = [*used[: max(1, self.parameters.prompt_passages - 1)], *fresh][: self.parameters.prompt_passages]
            # What may still be replaced is held back; a last try after a draft that knew nothing can only be better.
            streamed = abstains(text) and attempt == self.parameters.retries - 1
            refined = self._draft(request, widened, tools, purpose="refine", stream=streamed)
            if abstains(refined) and not abstains(text):
                break
            text, used = refined, widened
            passages = _merged(widened, passages, found)[: max(request.top_k, len(widened))]
        if not streamed:
            tools.emit(text)
        return Draft(text=text, passages=passages, used=used)

    def _draft(
        self, request: AgentRequest, used: Sequence[Passage], tools: Tools, *, purpose: str = "draft", stream: bool = False
    ) -> str:
        messages = answer_messages(request, used, self.parameters)
        return tools.chat(messages, purpose=purpose, max_tokens=self.parameters.max_tokens, stream=stream).text

    def _gap(self, request: AgentRequest, used: Sequence[Passage], draft: str, tools: Tools) -> str:
        """A search query for what the draft lacks, or nothing."""
        begun = time.perf_counter()
        if self.parameters.critic == "model":
            messages = [
                Message(role="system", content=CRITIC),
                *answer_messages(request, used, self.parameters)[1:],
                Message(role="assistant", content=draft),
                Message(role="user", content="What is missing? Reply NONE or a search query."),
            ]
            reply = tools.chat(messages, purpose="critic", max_tokens=32).text.strip().splitlines()
            query = reply[0].strip(" \"'`") if reply else ""
            return "" if query.upper().startswith("NONE") else query[:300]
        missing = missing_words(request.question, used)
        # The draft's own words lead to the second hop: the thing that the first passages named.
        named = [word for word in dict.fromkeys(content_words(draft)) if word[:1].isdigit() or len(word) > 3][:12]
        gap = ""
        if missing:
            gap = " ".join([search_query(request), *missing])
        elif abstains(draft):
            gap = " ".join(dict.fromkeys([*content_words(request.question), *named]))
        tools.note("critic", begun, purpose="coverage", missing=missing, abstained=abstains(draft), query=gap)
        return gap


def _merged(*rankings: Sequence[Passage]) -> list[Passage]:
    """Passages of all rankings in order, each once."""
    return list({passage.chunk_id: passage for ranking in rankings for passage in ranking}.values())
