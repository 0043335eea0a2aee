"""Corrective RAG (Yan et al., 2024): grade what was found, drop the bad, search again, look outside, or say so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from agents.classifier import content_words
from agents.llm.base import Message
from agents.retrieval.base import Passage
from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.coverage import coverage
from agents.strategies.prompt import answered, search_query, shortened

GRADER = "Does the passage help to answer the question? Reply with one word: yes or no."
REWRITER = "Rewrite the question as a short search query with other words. Reply with the query alone."
UNKNOWN = "I do not know: nothing that I found answers this."
GOOD, UNCLEAR, BAD = "good", "unclear", "bad"
ORDER = {GOOD: 0, UNCLEAR: 1, BAD: 2}


@dataclass(frozen=True, kw_only=True)
class CorrectiveParameters(CommonParameters):
    good_score: float = parameter(0.5, "A passage as near in meaning as this is good (cosine).", low=0, high=1)
    bad_score: float = parameter(
        0.25, "One further away than this is bad, unless it shares the question's words.", low=0, high=1
    )
    good_words: float = parameter(0.75, "A passage with this share of the question's words is good.", low=0, high=1)
    bad_words: float = parameter(0.25, "One with a smaller share is bad, unless it is near in meaning.", low=0, high=1)
    grader: str = parameter(
        "scores",
        "Who grades what is neither good nor bad by its scores: 'model' asks the chat model, passage by passage, and has it "
        "rewrite the query (for models that follow instructions well).",
        choices=("scores", "model"),
    )
    answer_unclear: bool = parameter(
        False, "Answer also where every passage of the collection is unclear; else it says that it does not know."
    )
    external_search: bool = parameter(True, "Ask the external search (ADAPTRAG_SEARXNG_URL) where local evidence stays weak.")


class CorrectiveRAG(Strategy):
    name = "corrective_rag"
    title = "Corrective RAG"
    summary = "Grades what it finds, drops the bad, searches again or outside, and says when it does not know."
    Parameters = CorrectiveParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        query = search_query(request)
        graded = self._graded(request, tools.retrieve(query, request.top_k, "hybrid"), tools, "question")
        if not _any_good(graded):
            rewritten = self._rewritten(request, query, graded, tools)
            if rewritten and rewritten != query:
                seen = {passage.chunk_id for passage, _ in graded}
                found = tools.retrieve(rewritten, request.top_k, "hybrid", purpose="rewritten")
                fresh = [passage for passage in found if passage.chunk_id not in seen]
                graded += self._graded(request, fresh, tools, "rewritten") if fresh else []
        if not _any_good(graded) and self.parameters.external_search:
            outside = tools.search_outside(query, request.top_k) or []
            graded += self._graded(request, outside, tools, "external") if outside else []
        kept = [passage for passage, grade in sorted(graded, key=lambda one: ORDER[one[1]]) if grade != BAD]
        enough = _any_good(graded) or self.parameters.answer_unclear or any(passage.url for passage in kept)
        if not (kept and enough):
            begun = time.perf_counter()
            tools.note("verdict", begun, verdict="weak evidence: it says that it does not know")
            tools.emit(UNKNOWN)
            return Draft(text=UNKNOWN, passages=kept[: request.top_k], used=[])
        used = kept[: self.parameters.prompt_passages]
        return answered(request, kept[: max(request.top_k, len(used))], used, self.parameters, tools)

    def _graded(
        self, request: AgentRequest, passages: Sequence[Passage], tools: Tools, purpose: str
    ) -> list[tuple[Passage, str]]:
        begun = time.perf_counter()
        query = search_query(request)
        graded, steps = [], []
        for passage in passages:
            words, near = coverage(query, passage), passage.scores.get("dense")
            grade = self._by_scores(words, near)
            if grade == UNCLEAR and self.parameters.grader == "model":
                grade = self._by_model(query, passage, tools)
            graded.append((passage, grade))
            step = {"chunk": passage.chunk_id, "document": passage.document, "grade": grade, "words": round(words, 2)}
            steps.append(step | {"dense": near if near is None else round(near, 3)})
        tools.note("grade", begun, purpose=purpose, grader=self.parameters.grader, grades=steps)
        return graded

    def _by_scores(self, words: float, near: float | None) -> str:
        """near: None where the passage comes from a search that doesn't say, so its words alone decide."""
        limits = self.parameters
        if words >= limits.good_words or (near is not None and near >= limits.good_score):
            return GOOD
        return BAD if words < limits.bad_words and (near is None or near < limits.bad_score) else UNCLEAR

    def _by_model(self, query: str, passage: Passage, tools: Tools) -> str:
        text = shortened(passage.text, self.parameters.passage_chars)
        messages = [
            Message(role="system", content=GRADER),
            Message(role="user", content=f"Passage: {passage.document}\n{text}\n\nQuestion: {query}"),
        ]
        reply = tools.chat(messages, purpose="grade", max_tokens=4).text.strip().lower()
        return GOOD if reply.startswith("yes") else BAD if reply.startswith("no") else UNCLEAR

    def _rewritten(self, request: AgentRequest, query: str, graded: Sequence[tuple[Passage, str]], tools: Tools) -> str:
        """Another wording of the query: the model's, or the bare words with those of the nearest passages' titles."""
        begun = time.perf_counter()
        if self.parameters.grader == "model":
            messages = [Message(role="system", content=REWRITER), Message(role="user", content=query)]
            lines = tools.chat(messages, purpose="rewrite", max_tokens=32).text.strip().splitlines()
            rewritten = lines[0].strip(" \"'`")[:300] if lines else ""
        else:
            near = [f"{passage.document} {passage.heading}" for passage, grade in graded if grade == UNCLEAR][:2]
            rewritten = " ".join(dict.fromkeys(content_words(" ".join([query, *near]))))
        tools.note("rewrite", begun, query=query, rewritten=rewritten)
        return rewritten


def _any_good(graded: Sequence[tuple[Passage, str]]) -> bool:
    return any(grade == GOOD for _, grade in graded)
