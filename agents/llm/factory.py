"""From an agent's row to its chat model: backends by name, options checked, replacements that say so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from adaptrag.common.errors import InvalidInput
from agents.errors import ChatModelUnavailable
from agents.llm.base import ChatModel, Completion, Message, OnText
from agents.llm.openai_compatible import KEY_NAMES, KEY_VARIABLE

Number = (int, float)
_COMMON: dict[str, tuple[type, ...]] = {
    "max_tokens": (int,),
    "temperature": Number,
    "timeout": Number,
    "max_retries": (int,),
    "price_prompt_per_million": Number,
    "price_completion_per_million": Number,
    "fallback": (dict,),
    "adapter": (dict,),
}
OPTIONS: dict[str, dict[str, tuple[type, ...]]] = {
    "local": _COMMON,
    "openai_compatible": _COMMON | {"base_url": (str,), "api_key_env": (str,)},
    "scripted": _COMMON
    | {"answer": (str,), "script": (list,), "delay": Number, "chunk_delay": Number, "fail": (str, type(None))},
}


def _scripted(model: str, options: dict[str, Any]) -> ChatModel:
    from agents.llm.scripted import ScriptedChatModel

    return ScriptedChatModel(model, options)


def _local(model: str, options: dict[str, Any]) -> ChatModel:
    from agents.llm.local import LocalChatModel

    return LocalChatModel(model, options)


def _openai_compatible(model: str, options: dict[str, Any]) -> ChatModel:
    from agents.llm.openai_compatible import OpenAICompatibleChatModel

    return OpenAICompatibleChatModel(model, options)


_BACKENDS: dict[str, Callable[[str, dict[str, Any]], ChatModel]] = {
    "local": _local,
    "openai_compatible": _openai_compatible,
    "scripted": _scripted,
}


def validate_options(backend: str, options: Any) -> None:
    """Raises InvalidInput naming the backend or option that is wrong, and those there are."""
    if backend not in OPTIONS:
        raise InvalidInput(f"Unknown chat backend {backend!r}; there are {', '.join(OPTIONS)}.", field="chat_backend")
    if not isinstance(options, dict):
        raise InvalidInput(f"Chat options must be a JSON object, not {type(options).__name__}.", field="chat_options")
    for name, value in options.items():
        wanted = OPTIONS[backend].get(name)
        if wanted is None:
            known = ", ".join(sorted(OPTIONS[backend]))
            raise InvalidInput(f"Unknown option {name!r} for {backend}; it knows {known}.", field="chat_options")
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise InvalidInput(f"Option {name!r} must be {_kinds(wanted)}, not {value!r}.", field="chat_options")
        if wanted in (Number, (int,)) and not 0 <= value < float("inf"):
            raise InvalidInput(f"Option {name!r} must be 0 or more, not {value!r}.", field="chat_options")
    _check_connection(options)
    if (adapter := options.get("adapter")) is not None and (
        set(adapter) != {"name", "path"} or not all(isinstance(value, str) and value for value in adapter.values())
    ):
        raise InvalidInput(f"An adapter has a name and a path, both texts, not {adapter!r}.", field="chat_options")
    if (fallback := options.get("fallback")) is not None:
        if set(fallback) - {"backend", "model", "options"} or not isinstance(fallback.get("backend"), str):
            raise InvalidInput(f"A fallback has backend, model and options, not {sorted(fallback)}.", field="chat_options")
        if not isinstance(fallback.get("model", ""), str):
            raise InvalidInput(f"The fallback's model must be a name, not {fallback['model']!r}.", field="chat_options")
        validate_options(fallback["backend"], fallback.get("options", {}))


def _kinds(wanted: tuple[type, ...]) -> str:
    names = {int: "a whole number", float: "a number", str: "text", dict: "an object", list: "a list", type(None): "null"}
    return names[float] if wanted == Number else " or ".join(names[kind] for kind in wanted)


def _check_connection(options: dict[str, Any]) -> None:
    address = options.get("base_url", "http://unset")
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
        raise InvalidInput(f"base_url must begin with http:// or https://, not {address!r}.", field="chat_options")
    variable = options.get("api_key_env", KEY_VARIABLE)
    if not KEY_NAMES.fullmatch(variable):
        raise InvalidInput(
            f"api_key_env must name an environment variable that ends in _API_KEY, _API_TOKEN or _TOKEN, not {variable!r}.",
            field="chat_options",
        )


def chat_model(backend: str, model: str, options: dict[str, Any]) -> ChatModel:
    """The chat model of an agent; equal arguments share one. Raises InvalidInput."""
    return _chat_model(backend, model, json.dumps(options, sort_keys=True))


@lru_cache(maxsize=256)
def _chat_model(backend: str, model: str, serialised: str) -> ChatModel:
    options = json.loads(serialised)
    validate_options(backend, options)
    fallback = options.pop("fallback", None)
    primary = _BACKENDS[backend](model, options)
    if fallback is None:
        return primary
    return WithFallback(primary, chat_model(fallback["backend"], fallback.get("model", ""), fallback.get("options", {})))


def absent_model(name: str, error: ChatModelUnavailable, options: dict[str, Any]) -> ChatModel:
    """In place of a chat model that can't even be named: it raises `error`, or its row's fallback answers."""
    fallback = options.get("fallback")
    primary = _Absent(name, error)
    if fallback is None:
        return primary
    return WithFallback(primary, chat_model(fallback["backend"], fallback.get("model", ""), fallback.get("options", {})))


class _Absent:
    def __init__(self, name: str, error: ChatModelUnavailable) -> None:
        self.name = name
        self._error = error

    def complete(self, messages: Sequence[Message], **options: Any) -> Completion:
        raise ChatModelUnavailable(self._error.message, **self._error.details)


class WithFallback:
    """Another model steps in where the first is unavailable, and the completion says so.

    Once text has been handed over the error stands: half an answer by one model and half by another is nobody's answer.
    """

    def __init__(self, primary: ChatModel, spare: ChatModel) -> None:
        self.name = primary.name
        self._primary, self._spare = primary, spare

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        on_text: OnText | None = None,
    ) -> Completion:
        told = False

        def pass_on(text: str) -> None:
            nonlocal told
            told = True
            if on_text:
                on_text(text)

        options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "stop": stop}
        try:
            return self._primary.complete(messages, **options, on_text=pass_on if on_text else None)
        except ChatModelUnavailable as error:
            if told:
                raise
            completion = self._spare.complete(messages, **options, on_text=on_text)
            stepped_in = {"from": self._primary.name, "to": self._spare.name, "reason": error.message, "code": error.code}
            return replace(completion, fallback=stepped_in)
