"""The body of a chat completion request, checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from adaptrag.common.errors import InvalidInput
from agents.llm.base import Message
from agents.llm.sampling import Sampling
from agents.llm.weights import DEFAULT_MODEL

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_ABSENT_HERE = ("tools", "functions", "response_format", "logprobs", "top_logprobs", "logit_bias", "audio", "modalities")


class BadRequest(InvalidInput):
    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_request", param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status, self.code = status, code


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool

    @classmethod
    def parse(cls, body: bytes) -> ChatRequest:
        """Raises BadRequest naming the parameter and what is allowed. Without a temperature the likeliest words are taken."""
        try:
            given = json.loads(body)
        except ValueError as error:
            raise BadRequest(f"The body is not JSON: {error}") from error
        if not isinstance(given, dict):
            raise BadRequest("The body must be a JSON object.")
        for name in _ABSENT_HERE:
            if given.get(name):
                raise BadRequest(f"{name!r} is not supported by the local model.", param=name)
        if given.get("n", 1) not in (1, None):
            raise BadRequest("'n' must be 1.", param="n")
        limit = "max_completion_tokens" if given.get("max_completion_tokens") is not None else "max_tokens"
        stop = given.get("stop")
        stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
        if not isinstance(stop, list) or len(stop) > 16 or not all(isinstance(string, str) and string for string in stop):
            raise BadRequest("'stop' must be a string or a list of at most 16 strings.", param="stop")
        options = given.get("stream_options") or {}
        return cls(
            model=_text(given, "model") or DEFAULT_MODEL,
            messages=_messages(given.get("messages")),
            sampling=Sampling(
                max_tokens=_number(given, limit, int, 1, 1_000_000),
                temperature=_number(given, "temperature", float, 0, 2) or 0.0,
                top_p=_number(given, "top_p", float, 0, 1) or 1.0,
                repetition_penalty=_number(given, "repetition_penalty", float, 0.1, 10) or 1.0,
                seed=_number(given, "seed", int, -(2**63), 2**63 - 1),
                stop=tuple(stop),
            ),
            stream=_flag(given, "stream"),
            include_usage=isinstance(options, dict) and _flag(options, "include_usage"),
        )


def _messages(given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise BadRequest("'messages' must be a list of at least one message.", param="messages")
    messages = []
    for place, item in enumerate(given):
        role = _ROLES.get(str(item.get("role"))) if isinstance(item, dict) else None
        if role is None:
            raise BadRequest(f"Message {place} needs a role: {', '.join(_ROLES)}.", param=f"messages[{place}].role")
        messages.append(Message(role=role, content=_content(item.get("content"), place)))
    return tuple(messages)


def _content(given: Any, place: int) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in given):
        return "".join(part["text"] for part in given)
    raise BadRequest(f"The content of message {place} must be text.", param=f"messages[{place}].content")


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name) or ""
    if not isinstance(value, str):
        raise BadRequest(f"{name!r} must be a string.", param=name)
    return value


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name) or False
    if not isinstance(value, bool):
        raise BadRequest(f"{name!r} must be true or false.", param=name)
    return value


def _number(given: dict[str, Any], name: str, kind: type, low: float, high: float) -> Any:
    value = given.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
        raise BadRequest(
            f"{name!r} must be {'a whole number' if kind is int else 'a number'} from {low} to {high}.", param=name
        )
    return value
