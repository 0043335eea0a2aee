"""Relations read by a chat model, where one is configured for it; what the rules find is kept beside them."""

from __future__ import annotations

import dataclasses

from agents.llm.base import ChatModel, Message
from agents.retrieval.entities import Extraction, extract, key

READER = (
    "List the facts that the passage states, one a line, each as: subject | relation | object. "
    "Use names as the passage has them, and at most eight words for a relation. No other text."
)
MOST_FACTS = 20
LONGEST_PART = 120  # characters


def extract_by_model(model: ChatModel, title: str, text: str) -> Extraction:
    """The rules' entities with the model's relations before the rules'. Raises ChatModelUnavailable."""
    rules = extract(title, text)
    messages = [Message(role="system", content=READER), Message(role="user", content=f"{title}\n\n{text}")]
    names, relations = dict(rules.names), {}
    for line in model.complete(messages, max_tokens=512, temperature=0.0).text.splitlines():
        parts = [part.strip(" -*\t")[:LONGEST_PART] for part in line.split("|")]
        if len(parts) != 3 or not all(parts) or len(relations) == MOST_FACTS:
            continue
        subject, words, thing = parts
        if key(subject) and key(thing) and key(subject) != key(thing):
            names.setdefault(key(subject), subject)
            names.setdefault(key(thing), thing)
            relations[key(subject), words, key(thing)] = None
    return dataclasses.replace(rules, names=names, relations=(*relations, *rules.relations))
