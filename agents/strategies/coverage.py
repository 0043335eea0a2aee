"""How far passages cover a question's words: a judgement that costs no model call."""

from __future__ import annotations

from collections.abc import Sequence

from agents.classifier import content_words
from agents.retrieval.base import Passage


def stem(word: str) -> str:
    """Enough to match a plural or a verb's form; not a linguist's stem."""
    for ending in ("ies", "ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def missing_words(question: str, passages: Sequence[Passage]) -> list[str]:
    """The question's content words that no passage, title or heading has, in order of appearance."""
    read = " ".join(f"{passage.document} {passage.heading} {passage.text}" for passage in passages)
    seen = {stem(word) for word in content_words(read)}
    return [word for word in dict.fromkeys(content_words(question)) if stem(word) not in seen]


def coverage(question: str, passage: Passage) -> float:
    """Share of the question's content words that the passage, its title or heading has; 0 where the question has none."""
    words = set(content_words(question))
    return 1 - len(missing_words(question, [passage])) / len(words) if words else 0.0
