"""The body of POST /v1/chat/completions, checked: what it asks for, what is left aside, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from adaptrag import orchestrator
from adaptrag.api.authentication import Caller
from adaptrag.api.fields import Choice, Number, Strict, Text, Whole
from adaptrag.api.queries import MESSAGES_CHARS_MAX, MESSAGES_MAX
from adaptrag.common.errors import InvalidInput
from agents.classifier import CATEGORIES
from agents.llm.base import Message

AUTO = "auto"
SYSTEM_ROLES = ("system", "developer")
# An agent's configuration decides these, so that one name always means the same; what a request says is left aside.
LEFT_ASIDE = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "presence_penalty", "frequency_penalty",
    "reasoning_effort", "verbosity", "service_tier", "store", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
)  # fmt: skip
# To leave these aside would change what an answer is; only values that ask for nothing are taken.
REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},), "stop": ([],),
    "audio": (), "modalities": (["text"],), "prediction": (), "web_search_options": (),
}  # fmt: skip
OF_MESSAGES = ("name", "refusal", "annotations", "tool_calls", "function_call", "audio", "tool_call_id")
OF_METADATA = ("session", "collection", "category", "top_k")


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string"},
            {
                "type": "array",
                "items": {"type": "object", "properties": {"type": {"type": "string"}, "text": {"type": "string"}}},
            },
        ]
    }
)
class Content(serializers.Field):
    """Text, or a list of parts {"type": "text", "text"}."""

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, str):
            return data
        if isinstance(data, list) and data:
            texts = [part.get("text") for part in data if isinstance(part, dict) and part.get("type") == "text"]
            if len(texts) == len(data) and all(isinstance(text, str) for text in texts):
                return "\n".join(texts)
        raise serializers.ValidationError("Must be text, or a list of parts of the type 'text': agents read no other parts.")


class MessageSerializer(Strict):
    role = Choice(choices=[*SYSTEM_ROLES, "user", "assistant"])
    content = Content()

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """Clients send back whole messages that they were given, with fields that say nothing."""
        if isinstance(data, dict):
            if data.get("tool_calls") or data.get("function_call") or data.get("audio"):
                raise serializers.ValidationError({"content": ["Agents call no tools and speak no audio."]})
            data = {name: value for name, value in data.items() if name not in OF_MESSAGES}
        return super().to_internal_value(data)


class StreamOptionsSerializer(Strict):
    include_usage = serializers.BooleanField(required=False)
    include_obfuscation = serializers.BooleanField(required=False)


class CompletionSerializer(Strict):
    model = Text(max_length=80, help_text="auto: the bandit routes; or the name of an agent, which forces it.")
    messages = MessageSerializer(
        many=True,
        min_length=1,
        max_length=MESSAGES_MAX + 2,
        help_text="Oldest first; the last one is the user's question. System messages are left aside: agents have their own.",
    )
    stream = serializers.BooleanField(required=False, allow_null=True)
    stream_options = StreamOptionsSerializer(required=False, allow_null=True)
    user = Text(
        required=False, allow_null=True, allow_blank=True, max_length=100, help_text="The session, unless metadata has."
    )
    metadata = serializers.DictField(
        child=Text(allow_blank=True, max_length=512), required=False, allow_null=True,
        help_text=f"May say {', '.join(OF_METADATA)}, as /api/query does; other keys are left aside.",
    )  # fmt: skip
    n = Whole(required=False, allow_null=True, min_value=1, max_value=1)
    temperature = Number(required=False, allow_null=True, min_value=0, max_value=2, help_text="Left aside.")
    top_p = Number(required=False, allow_null=True, min_value=0, max_value=1, help_text="Left aside.")
    max_tokens = Whole(required=False, allow_null=True, min_value=1, max_value=2**31 - 1, help_text="Left aside.")
    max_completion_tokens = Whole(required=False, allow_null=True, min_value=1, max_value=2**31 - 1, help_text="Left aside.")

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if isinstance(data, dict):
            for name, harmless in REFUSED.items():
                if data.get(name) is not None and data[name] not in harmless:
                    words = f"{name!r} is not supported: agents answer with text from the documents. Leave it out."
                    raise serializers.ValidationError({name: [words]})
            data = {name: value for name, value in data.items() if name in self.fields or not _known(name)}
        return super().to_internal_value(data)


def _known(name: str) -> bool:
    return name in REFUSED or name in LEFT_ASIDE


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """ignored: what the request says and no answer depends on, so that the client can tell."""

    query: orchestrator.QueryRequest
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]


def completion_request(data: Any, fields: dict[str, Any], who: Caller) -> CompletionRequest:
    """What the checked `fields` of the body `data` ask for. Raises InvalidInput, UnknownCollection."""
    *earlier, last = fields["messages"]
    if last["role"] != "user":
        raise InvalidInput(f"The last message must be the user's question, not of the role {last['role']!r}.", field="messages")
    size = sum(len(message["content"]) for message in earlier)
    if size > MESSAGES_CHARS_MAX:
        raise InvalidInput(f"messages: {size:,} characters in all; at most {MESSAGES_CHARS_MAX:,} are taken.", field="messages")
    if fields.get("stream_options") and not fields.get("stream"):
        raise InvalidInput("'stream_options' goes with 'stream': true only.", field="stream_options")
    metadata = fields.get("metadata") or {}
    category = metadata.get("category") or None
    if category is not None and category not in CATEGORIES:
        raise InvalidInput(f"Unknown category {category!r}; there are {', '.join(CATEGORIES)}.", field="metadata")
    query = orchestrator.QueryRequest(
        question=orchestrator.question_checked(last["content"]),
        messages=tuple(Message(**message) for message in earlier if message["role"] not in SYSTEM_ROLES),
        session=(metadata.get("session") or fields.get("user") or "")[:100],
        top_k=_top_k(metadata.get("top_k")),
        agent=None if fields["model"] == AUTO else fields["model"],
        category=category,
        collection=who.collection_name(metadata.get("collection") or None),
        collections=who.collections,
        user=who.user,
    )
    ignored = [name for name in LEFT_ASIDE if data.get(name) is not None]
    ignored += [f"messages[{place}]" for place, message in enumerate(earlier) if message["role"] in SYSTEM_ROLES]
    ignored += [f"metadata.{name}" for name in metadata if name not in OF_METADATA]
    return CompletionRequest(
        query=query,
        stream=bool(fields.get("stream")),
        include_usage=bool((fields.get("stream_options") or {}).get("include_usage")),
        ignored=tuple(ignored),
    )


def _top_k(text: str | None) -> int | None:
    """Values of metadata are texts."""
    if not text:
        return None
    if not text.isdecimal() or len(text) > 9:
        raise InvalidInput(f"metadata.top_k must be a whole number, not {text[:40]!r}.", field="metadata")
    return int(text)
