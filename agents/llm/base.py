"""What every chat model looks like from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

OnText = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Message:
    """images: data URLs, for models that see; only servers behind the OpenAI API are sent any."""

    role: str  # system, user or assistant
    content: str
    images: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        if not self.images:
            return {"role": self.role, "content": self.content}
        parts = [{"type": "image_url", "image_url": {"url": image}} for image in self.images]
        return {"role": self.role, "content": [{"type": "text", "text": self.content}, *parts]}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens as the backend counted them; cost in US dollars by the prices on the agent's row (0 where none is set)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
        )


@dataclass(frozen=True, kw_only=True)
class Completion:
    text: str
    model: str
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"  # stop or length
    # Set when another model than the configured one answered: {"from": ..., "to": ..., "reason": ...}.
    fallback: dict[str, Any] | None = None


class ChatModel(Protocol):
    """Raises agents.errors.ChatModelUnavailable (or ChatModelTimeout); vendor errors never leave the backend's module."""

    name: str

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        on_text: OnText | None = None,
    ) -> Completion:
        """Answer `messages`. None takes the configured default. With `on_text`, pieces are handed over as they are made;
        their concatenation is the completion's text."""
        ...
