"""A retriever and a chat model for strategy tests, which fail the way the real ones do."""

from __future__ import annotations

from agents.classifier import content_words
from agents.errors import ChatModelUnavailable, NothingIngested
from agents.llm.base import Completion, Usage
from agents.retrieval.base import Passage

CORPUS = [
    "Harbour fees are paid by the ship's agent before departure.",
    "The lighthouse keeper is Marta Olsen. She lives on Skarv island.",
    "Skarv island has a population of 214 people.",
    "Ferries leave at six in the morning and at five in the afternoon.",
    "Storm warnings are shown by two black cones on the mast.",
    "Éà 漢字 🚢 text that is not ASCII must pass through unharmed.",
]


class WordOverlap:
    """Ranks CORPUS by shared words; counts its calls."""

    def __init__(self, texts: list[str] | None = None) -> None:
        self.texts = CORPUS if texts is None else texts
        self.calls: list[tuple[str, int, str]] = []
        self.options: list[dict] = []

    def __call__(self, collection, query, k, method, **options):
        self.calls.append((query, k, method))
        self.options.append(options)
        if not self.texts:
            raise NothingIngested("The collection is empty. Upload a document first.")
        words = content_words(query)  # a word that is given twice counts twice
        scored = sorted(
            (
                (sum(word in text.lower().replace(".", "").split() for word in words), -index)
                for index, text in enumerate(self.texts)
            ),
            reverse=True,
        )
        return [
            Passage(
                chunk_id=-index + 1,
                document_id=1,
                document="harbour.md",
                text=self.texts[-index],
                start=100 * -index,
                score=float(score),
                rank=rank,
                retriever=method,
            )
            for rank, (score, index) in enumerate(scored[:k], start=1)
        ]


class Replies:
    """A chat model that gives its replies in turn and then repeats the last; an exception among them is raised."""

    name = "replies"

    def __init__(self, *replies: str | Exception) -> None:
        self.replies = list(replies)
        self.prompts: list[list] = []
        self.given: list[str] = []

    def complete(self, messages, *, max_tokens=None, temperature=None, stop=(), on_text=None):
        self.prompts.append(list(messages))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        self.given.append(reply)
        if on_text:
            on_text(reply[: len(reply) // 2])
            on_text(reply[len(reply) // 2 :])
        return Completion(text=reply, model=self.name, usage=Usage(prompt_tokens=10, completion_tokens=3, cost_usd=0.001))


class Outside:
    """An external search with results to give, or an error to raise."""

    name = "outside"

    def __init__(self, results: list[tuple[str, str]] | Exception) -> None:
        self.results = results
        self.calls: list[tuple[str, int]] = []

    def search(self, query, k):
        self.calls.append((query, k))
        if isinstance(self.results, Exception):
            raise self.results
        return [
            Passage(
                chunk_id=-rank, document_id=0, document=title, text=text, score=1 / rank, rank=rank, retriever=self.name,
                url=f"https://example.org/{rank}",
            )
            for rank, (title, text) in enumerate(self.results[:k], start=1)
        ]  # fmt: skip


DOWN = ChatModelUnavailable("The chat model does not answer.")
