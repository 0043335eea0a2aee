"""The prompt that turns passages and a question into a chat, and the search query of a follow-up question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agents.classifier import content_words
from agents.llm.base import Message
from agents.retrieval.base import Passage
from agents.strategies.base import AgentRequest, CommonParameters, Draft, Tools

INSTRUCTIONS = (
    "Answer the question from the passages. Be short and exact. "
    "If the passages do not hold the answer, say that you do not know."
)
_SENTENCE_END = re.compile(r"[.!?](?=\s)")
_ABSTAINS = re.compile(
    r"\b(?:i (?:do not|don't|cannot|can't) (?:know|find|answer)|do(?:es)? not (?:hold|contain|mention|provide|say)|"
    r"no (?:information|answer)|not (?:enough information|mentioned|stated|specified|provided))\b",
    re.IGNORECASE,
)
_REFERS_BACK = re.compile(
    r"\b(?:it|its|this|that|they|them|their|these|those|he|him|his|she|her|there|one|same|former|latter)\b", re.IGNORECASE
)


def shortened(text: str, limit: int) -> str:
    """Text of at most `limit` characters, cut behind a sentence where one ends in its second half."""
    if len(text) <= limit:
        return text
    head = text[:limit]
    ends = [match.end() for match in _SENTENCE_END.finditer(head)]
    return head[: ends[-1]] if ends and ends[-1] > limit // 2 else head.rsplit(" ", 1)[0] + " …"


def answer_messages(request: AgentRequest, passages: Sequence[Passage], parameters: CommonParameters) -> list[Message]:
    """System instructions, the last turns of the conversation, then the passages with the question."""
    blocks = []
    for number, passage in enumerate(passages, start=1):
        title = passage.document if not passage.heading else f"{passage.document}: {passage.heading}"
        blocks.append(f"[{number}] {title}\n{shortened(passage.text, parameters.passage_chars)}")
    turns = request.messages[-2 * parameters.history_turns :] if parameters.history_turns else ()
    return [
        Message(role="system", content=parameters.instructions or INSTRUCTIONS),
        *turns,
        Message(role="user", content="Passages:\n\n" + "\n\n".join(blocks) + f"\n\nQuestion: {request.question}"),
    ]


def answered(
    request: AgentRequest, passages: Sequence[Passage], used: Sequence[Passage], parameters: CommonParameters, tools: Tools
) -> Draft:
    """One call of the chat model over the passages in the prompt, streamed; the end of most strategies."""
    completion = tools.chat(answer_messages(request, used, parameters), max_tokens=parameters.max_tokens, stream=True)
    return Draft(text=completion.text, passages=passages, used=used)


def search_query(request: AgentRequest) -> str:
    """The question, with the one before it where the question alone says too little to search by."""
    earlier = [message.content for message in request.messages if message.role == "user"]
    if earlier and (_REFERS_BACK.search(request.question) or len(content_words(request.question)) < 3):
        return f"{earlier[-1]} {request.question}"
    return request.question


def abstains(text: str) -> bool:
    """Whether an answer says that it does not know."""
    return not text.strip() or bool(_ABSTAINS.search(text))
