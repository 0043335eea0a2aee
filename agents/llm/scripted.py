"""A chat model whose replies are written down: for tests and benchmarks. It misbehaves, when told, as real ones do."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from agents.errors import ChatModelTimeout, ChatModelUnavailable
from agents.llm.base import Completion, Message, OnText, Usage


class ScriptedChatModel:
    """Options: `answer` (the reply), `script` ([[pattern, reply], ...]: the first whose pattern is found in the last message),
    `delay` (seconds before the first word), `chunk_delay` (seconds between words), `fail` ("unavailable", "timeout", or
    "midway": breaks after half of the words), prices per million tokens.
    """

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self.name = f"scripted:{model}" if model else "scripted"
        self._options = options

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        on_text: OnText | None = None,
    ) -> Completion:
        options = self._options
        if delay := options.get("delay", 0):
            time.sleep(delay)
        fail = options.get("fail")
        if fail == "timeout":
            raise ChatModelTimeout(f"The chat model {self.name} did not answer in time.")
        if fail == "unavailable":
            raise ChatModelUnavailable(f"The chat model {self.name} does not answer.")
        words = re.findall(r"\S+\s*", self._reply(messages[-1].content))
        finish_reason = "stop"
        if max_tokens is not None and len(words) > max_tokens:
            words, finish_reason = words[:max_tokens], "length"
        for position, word in enumerate(words):
            if fail == "midway" and position >= len(words) // 2:
                raise ChatModelUnavailable(f"The chat model {self.name} broke off in the middle of its answer.")
            if position and options.get("chunk_delay"):
                time.sleep(options["chunk_delay"])
            if on_text:
                on_text(word)
        prompt_tokens = sum(len(message.content.split()) for message in messages)
        cost = prompt_tokens * options.get("price_prompt_per_million", 0) + len(words) * options.get(
            "price_completion_per_million", 0
        )
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=len(words), cost_usd=cost / 1e6)
        return Completion(text="".join(words), model=self.name, usage=usage, finish_reason=finish_reason)

    def _reply(self, prompt: str) -> str:
        for pattern, reply in self._options.get("script", ()):
            if re.search(pattern, prompt):
                return reply
        return self._options.get("answer", "This is a scripted answer.")
