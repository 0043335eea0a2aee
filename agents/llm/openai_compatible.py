"""Chat models behind the OpenAI API: OpenAI's own, vLLM, Ollama, and our own model process."""

from __future__ import annotations

import email.utils
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from adaptrag.common.errors import AdaptRAGError, InvalidInput
from agents.errors import OVERLOADED, ChatModelOverloaded, ChatModelTimeout, ChatModelUnavailable, PromptTooLong
from agents.llm.base import Completion, Message, OnText, Usage

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
# Whoever edits an agent chooses where a key is sent, so what may be sent must look like a key for that.
KEY_NAMES = re.compile(r"[A-Z][A-Z0-9_]*_(API_KEY|API_TOKEN|TOKEN)")
TIMEOUT = 120.0
MAX_RETRIES = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_PASSING = (408, 409, 429)  # and everything from 500


class OpenAICompatibleChatModel:
    """`model` is the server's name for it. Options: base_url (default: OPENAI_BASE_URL, else OpenAI), api_key_env (the NAME of
    an environment variable), timeout (seconds for the whole call, retries included), max_retries, max_tokens, temperature,
    price_prompt_per_million and price_completion_per_million (US dollars), adapter {name, path}: loaded into the server by its
    own call (vLLM's load_lora_adapter) and then asked by its name in place of the model's.
    """

    def __init__(self, model: str, options: dict[str, Any], *, api_key: str | None = None, remedy: str = "") -> None:
        """`api_key` replaces the environment's; `remedy` is what to do where nothing listens."""
        if not model:
            raise InvalidInput("Name the model that the OpenAI-compatible server shall use.", field="chat_model")
        self._base_model = model
        self._adapter: dict[str, str] | None = options.get("adapter")
        self._adapter_loaded = False
        self._takes_schemas = True
        self.name = self._adapter["name"] if self._adapter else model
        self._options = options
        self._api_key = api_key
        self._remedy = remedy
        self._base_url = options.get("base_url") or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self._client: OpenAI | None = None
        self._lock = threading.Lock()

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        on_text: OnText | None = None,
        schema: dict[str, Any] | None = None,
    ) -> Completion:
        """As ChatModel.complete. `schema`: the JSON schema of the reply, for servers that take one; whoever refuses it is asked
        without, and not bothered with one again."""
        deadline = time.monotonic() + self._options.get("timeout", TIMEOUT)
        request = self._request(messages, max_tokens, temperature)
        if stop:
            request["stop"] = list(stop)
        if self._adapter and not self._adapter_loaded:
            self._load_adapter(deadline)
        if schema is None or not self._takes_schemas:
            return self._answer(request, deadline, on_text)
        shape = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}
        try:
            return self._answer(request | {"response_format": shape}, deadline, on_text)
        except ChatModelUnavailable as error:
            if error.details.get("refused_with") not in (400, 422):
                raise
        completion = self._answer(request, deadline, on_text)
        self._takes_schemas = False
        return completion

    def _answer(self, request: dict[str, Any], deadline: float, on_text: OnText | None) -> Completion:
        try:
            return self._whole(request, deadline) if on_text is None else self._streamed(request, deadline, on_text)
        except ChatModelUnavailable as error:
            # A server that was started anew has forgotten its adapters.
            if not (self._adapter and error.details.get("unknown_model")):
                raise
            self._load_adapter(deadline)
            return self._whole(request, deadline) if on_text is None else self._streamed(request, deadline, on_text)

    def _request(self, messages: Sequence[Message], max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.name, "messages": [message.as_dict() for message in messages]}
        limit = max_tokens if max_tokens is not None else self._options.get("max_tokens")
        if limit is not None:
            # OpenAI's newer models refuse the old name, other servers do not know the new one.
            request["max_completion_tokens" if urlsplit(self._base_url).hostname == "api.openai.com" else "max_tokens"] = limit
        warmth = temperature if temperature is not None else self._options.get("temperature")
        if warmth is not None:
            request["temperature"] = warmth
        return request

    def _load_adapter(self, deadline: float) -> None:
        """Raises ChatModelUnavailable where the server has no such call, or refuses the adapter."""
        import openai

        body = {"lora_name": self.name, "lora_path": self._adapter["path"], "base_model": self._base_model}
        client = self._connected()
        try:
            client.post(
                "/load_lora_adapter", body=body, cast_to=object, options={"timeout": max(1.0, deadline - time.monotonic())}
            )
        except openai.APIStatusError as error:
            # vLLM says so with status 400, and names no code.
            if "already" not in str(error.message):
                raise ChatModelUnavailable(
                    f"{self._who()} loads no adapter (status {error.status_code}: {_short(error.message)}). vLLM takes "
                    "adapters while it runs if started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora.",
                    adapter=self.name,
                ) from error
        except openai.APITimeoutError as error:
            raise self._late() from error
        except openai.OpenAIError as error:
            raise ChatModelUnavailable(
                f"{self._who()} can't be reached{'; ' + self._remedy if self._remedy else '.'}", model=self.name
            ) from error
        self._adapter_loaded = True

    def _whole(self, request: dict[str, Any], deadline: float) -> Completion:
        return self._read(self._call(request, deadline))

    def _read(self, response: Any) -> Completion:
        choice = response.choices[0] if getattr(response, "choices", None) else None
        text = getattr(getattr(choice, "message", None), "content", None)
        return self._completion(text, getattr(choice, "finish_reason", None), response)

    def _streamed(self, request: dict[str, Any], deadline: float, on_text: OnText) -> Completion:
        pieces: list[str] = []
        reason = answered_by = usage = None
        with self._call(request | {"stream": True, "stream_options": {"include_usage": True}}, deadline) as stream:
            for chunk in self._translated(stream):
                if time.monotonic() > deadline:
                    raise self._late()
                answered_by, usage = getattr(chunk, "model", None) or answered_by, getattr(chunk, "usage", None) or usage
                for choice in getattr(chunk, "choices", None) or ():
                    if piece := getattr(choice.delta, "content", None):
                        pieces.append(piece)
                        on_text(piece)
                    reason = choice.finish_reason or reason
        if reason is None:
            raise ChatModelUnavailable(f"{self._who()} broke off in the middle of its answer.", model=self.name)
        return self._completion("".join(pieces), reason, None, model=answered_by, usage=usage)

    def _completion(self, text: Any, reason: Any, response: Any, *, model: Any = None, usage: Any = None) -> Completion:
        if reason == "content_filter":
            raise ChatModelUnavailable(f"{self._who()} withheld its answer (content filter).", model=self.name)
        if not isinstance(text, str) or not text.strip():
            raise ChatModelUnavailable(f"{self._who()} sent no answer.", model=self.name)
        return Completion(
            text=text,
            model=str(model or getattr(response, "model", None) or self.name),
            usage=self._usage(usage or getattr(response, "usage", None)),
            finish_reason="length" if reason == "length" else "stop",
        )

    def _usage(self, counted: Any) -> Usage:
        """As the server counted; zero where it did not, for an estimate would look like a count."""
        prompt, completion = (getattr(counted, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
        prices = (self._options.get(f"price_{kind}_per_million", 0) for kind in ("prompt", "completion"))
        cost = sum(tokens * price for tokens, price in zip((prompt, completion), prices, strict=True)) / 1e6
        return Usage(prompt_tokens=prompt, completion_tokens=completion, cost_usd=cost)

    def _call(self, request: dict[str, Any], deadline: float) -> Any:
        """Send a request; again, after a pause, where the failure may pass. All within the deadline."""
        import openai

        client = self._connected()
        for left in range(self._options.get("max_retries", MAX_RETRIES), -1, -1):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._late()
            try:
                return client.chat.completions.create(**request, timeout=remaining)
            except openai.APITimeoutError as error:
                raise self._late() from error
            except openai.APIStatusError as error:
                refused, pause = self._refused(error), _asked_pause(error.response.headers)
                passing = error.status_code in _PASSING or error.status_code >= 500
                if not passing or error.response.headers.get("x-should-retry") == "false" or not left:
                    raise refused from error
                if pause is not None and pause >= deadline - time.monotonic():
                    if isinstance(refused, ChatModelOverloaded):
                        raise refused from error
                    raise ChatModelUnavailable(
                        f"{self._who()} asks to come back in {pause:.0f} s (status {error.status_code}).", model=self.name
                    ) from error
            except openai.APIConnectionError as error:
                pause = None
                if not left:
                    raise ChatModelUnavailable(
                        f"{self._who()} can't be reached{'; ' + self._remedy if self._remedy else '.'}", model=self.name
                    ) from error
            except (openai.OpenAIError, ValueError) as error:
                raise self._nonsense(error) from error
            if pause is None:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self._options.get("max_retries", MAX_RETRIES) - left))
                pause *= 1 - random.random() / 4  # noqa: S311 many clients shall not come back as one
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        raise self._late()

    def _translated(self, stream: Any) -> Any:
        import openai

        try:
            yield from stream
        except openai.APITimeoutError as error:
            raise self._late() from error
        except openai.APIConnectionError as error:
            raise ChatModelUnavailable(f"{self._who()} broke off in the middle of its answer.", model=self.name) from error
        except openai.APIError as error:
            raise ChatModelUnavailable(f"{self._who()} broke off: {_short(error.message)}", model=self.name) from error
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise self._nonsense(error) from error

    def _refused(self, error: APIStatusError) -> AdaptRAGError:
        status = error.status_code
        said = _short(str(error.body["message"] if isinstance(error.body, dict) and "message" in error.body else error.message))
        if status in (401, 403):
            variable = self._options.get("api_key_env", KEY_VARIABLE)
            return ChatModelUnavailable(
                f"{self._who()} refuses the key (status {status}). Check the environment variable {variable}.", model=self.name
            )
        if status == 400 and (error.code == "context_length_exceeded" or "context length" in said):
            return PromptTooLong(said, model=self.name)
        if status == 404:
            return ChatModelUnavailable(f"{self._who()} does not know the model: {said}", model=self.name, unknown_model=True)
        if status == 504 or error.code == "timeout":
            return self._late()
        if error.code == OVERLOADED:
            return ChatModelOverloaded(f"{self._who()} has no time: {said}", model=self.name)
        return ChatModelUnavailable(
            f"{self._who()} answered with status {status}: {said}", model=self.name, refused_with=status
        )

    def _nonsense(self, error: Exception) -> ChatModelUnavailable:
        return ChatModelUnavailable(f"{self._who()} sent what is no chat completion: {_short(str(error))}", model=self.name)

    def _late(self) -> ChatModelTimeout:
        seconds = self._options.get("timeout", TIMEOUT)
        return ChatModelTimeout(f"{self._who()} did not finish within {seconds:g} s.", model=self.name)

    def _who(self) -> str:
        return f"The chat model {self.name!r} at {urlsplit(self._base_url).netloc or self._base_url}"

    def _connected(self) -> OpenAI:
        with self._lock:
            if self._client is None:
                from openai import OpenAI

                self._client = OpenAI(api_key=self._key(), base_url=self._base_url, max_retries=0)
            return self._client

    def _key(self) -> str:
        if self._api_key is not None:
            return self._api_key
        variable = self._options.get("api_key_env", KEY_VARIABLE)
        if key := os.environ.get(variable):
            return key
        if "api_key_env" in self._options or urlsplit(self._base_url).hostname == "api.openai.com":
            raise ChatModelUnavailable(
                f"{self._who()} needs a key: set the environment variable {variable} and start again.", model=self.name
            )
        return "none"  # servers of one's own often ask for none, but the client insists on one


def _asked_pause(headers: Any) -> float | None:
    """Seconds that Retry-After asks for, as a number or a date."""
    readers: tuple[tuple[str, Callable[[str], float]], ...] = (
        ("retry-after-ms", lambda text: float(text) / 1000),
        ("retry-after", float),
        ("retry-after", lambda text: (email.utils.parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()),
    )
    for name, read in readers:
        try:
            return max(0.0, read(headers[name]))
        except (KeyError, ValueError, TypeError):
            continue
    return None


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
