"""What judges share: data fenced off from instructions, verdicts read strictly, retries that say what was wrong."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from adaptrag.common.errors import AdaptRAGError
from agents.llm.base import ChatModel, Message, Usage
from agents.llm.openai_compatible import OpenAICompatibleChatModel
from evals.errors import JudgeFailed

ATTEMPTS = 3
VERDICT_TOKENS = 300
MAX_FIELD_CHARS = 12_000
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's word on one answer: score in [0, 1] with its reason, and what asking cost."""

    score: float
    explanation: str
    model: str
    revision: str
    usage: Usage = field(default_factory=Usage)


class Unreadable(ValueError):
    """A reply that is no verdict; its text tells the judge what to mend."""


def fenced(fields: Sequence[tuple[str, str]]) -> str:
    """Texts as data: each between marks that carry a digest of all of them.

    A text can't close its own block: the digest depends on the text itself, so no author can write the mark in advance.
    """
    mark = hashlib.sha256("\x1e".join(f"{name}\x1f{text}" for name, text in fields).encode()).hexdigest()[:16]
    return "\n".join(f"<<{name} {mark}>>\n{text[:MAX_FIELD_CHARS]}\n<<end {mark}>>" for name, text in fields)


def json_object(text: str) -> dict[str, Any]:
    """The one JSON object in a reply, bare or in a code fence. Raises Unreadable: prose around it is tolerated, two are not."""
    stripped = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    decoder, found, position = json.JSONDecoder(), [], stripped.find("{")
    while position != -1:
        try:
            value, end = decoder.raw_decode(stripped, position)
        except (ValueError, RecursionError):
            position = stripped.find("{", position + 1)
            continue
        found.append(value)
        position = stripped.find("{", end)
    if len(found) != 1:
        raise Unreadable(f"the reply holds {len(found)} JSON objects; reply with exactly one and nothing else")
    return found[0]


def reply_schema(**verdict: Any) -> dict[str, Any]:
    """The JSON schema of a reply: an explanation, written before the verdict."""
    properties = {"explanation": {"type": "string"}, **verdict}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def ask(chat: ChatModel, messages: Sequence[Message], read: Callable[[str], T], schema: dict[str, Any]) -> tuple[T, Usage]:
    """Ask at temperature 0 until `read` accepts the reply, telling the judge each time what was wrong.

    A chat model that may know structured output gets the schema; what it replies is read as strictly. Raises JudgeFailed after
    ATTEMPTS unreadable replies; errors of the chat model pass through.
    """
    turns, usage, problem = list(messages), Usage(), ""
    structured = {"schema": schema} if isinstance(chat, OpenAICompatibleChatModel) else {}
    for _ in range(ATTEMPTS):
        with counted(usage):
            completion = chat.complete(turns, max_tokens=VERDICT_TOKENS, temperature=0.0, **structured)
        usage += completion.usage
        try:
            return read(completion.text), usage
        except Unreadable as error:
            problem = str(error)
            turns = [
                *messages,
                Message(role="assistant", content=completion.text[:2000] or "(nothing)"),
                Message(role="user", content=f"That can't be used: {problem}. Reply again with the JSON object only."),
            ]
    raise JudgeFailed(
        f"The judge {chat.name} gave no usable verdict in {ATTEMPTS} replies: {problem}. "
        "Take a model that follows instructions better, or judge by reference.",
        usage=asdict(usage),
    )


@contextmanager
def counted(usage: Usage) -> Iterator[None]:
    """An error that leaves the block carries what was spent before it, in details["usage"]."""
    try:
        yield
    except AdaptRAGError as error:
        error.details["usage"] = asdict(usage + Usage(**error.details.get("usage", {})))
        raise


def explanation_of(value: dict[str, Any]) -> str:
    explanation = value.get("explanation")
    if not isinstance(explanation, str) or not explanation.strip():
        raise Unreadable('"explanation" must be a text of one or two sentences')
    return explanation.strip()[:2000]


def revision_of(*texts: str) -> str:
    """A prompt's revision: a digest of its words, so that a changed prompt can't pass for the old one."""
    return hashlib.sha256("\x1e".join(texts).encode()).hexdigest()[:12]
