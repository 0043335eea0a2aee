"""The backend `local`: a model on this machine, one copy of its weights for all processes."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.conf import settings

from agents.errors import ChatModelUnavailable
from agents.llm.base import Completion, Message, OnText, Usage
from agents.llm.openai_compatible import TIMEOUT, OpenAICompatibleChatModel
from agents.llm.process import START, ModelProcess, find, in_service_process
from agents.llm.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from agents.llm.engines import Engines

MODES = ("auto", "server", "inprocess")
_engines: Engines | None = None
_lock = threading.Lock()


class LocalChatModel:
    """`model` is "" or "smollm2" for the shipped one, a folder, or a hub name. Options: timeout (seconds), max_retries,
    max_tokens, temperature (0, the default, takes the likeliest words), prices per million tokens, adapter {name, path}.

    Setting ADAPTRAG_LOCAL_MODEL: `server` asks the model process; `inprocess` loads the weights here; `auto` asks the model
    process where one runs and loads here otherwise, but not in a web process or a queue's.
    """

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self._model = model or DEFAULT_MODEL
        self._adapter: dict[str, str] | None = options.get("adapter")
        self.name = self._adapter["name"] if self._adapter else self._model
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
        if any(message.images for message in messages):
            raise ChatModelUnavailable(
                f"The local model {self.name!r} can't see images. Use a model server that can, or don't send it any.",
                model=self.name,
            )
        mode = settings.ADAPTRAG_LOCAL_MODEL
        process = None if mode == "inprocess" else find()
        if process is not None and process.state == "ready":
            client = _client(process.address, process.token, self._model, json.dumps(self._options, sort_keys=True))
            return client.complete(messages, max_tokens=max_tokens, temperature=temperature, stop=stop, on_text=on_text)
        if mode == "server" or (mode == "auto" and in_service_process()):
            raise ChatModelUnavailable(_absent(process), model=self.name)
        return self._here(messages, max_tokens, temperature, tuple(stop), on_text)

    def _here(
        self,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float | None,
        stop: tuple[str, ...],
        on_text: OnText | None,
    ) -> Completion:
        from agents.llm.engine import Finished
        from agents.llm.sampling import Sampling

        sampling = Sampling(
            max_tokens=max_tokens if max_tokens is not None else self._options.get("max_tokens"),
            temperature=temperature if temperature is not None else self._options.get("temperature", 0.0),
            stop=stop,
        )
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        engines = _loaded()
        if self._adapter:
            engines.load_adapter(self.name, Path(self._adapter["path"]), self._model)
        engine, adapter = engines.find(self.name)
        timeout = self._options.get("timeout", TIMEOUT)
        generation = engine.submit(messages, sampling, events.put, timeout=timeout, adapter=adapter)
        pieces: list[str] = []
        try:
            while not isinstance(event := events.get(), Finished):
                if isinstance(event, BaseException):
                    raise event
                pieces.append(event)
                if on_text:
                    on_text(event)
        finally:
            generation.cancel()
        text = "".join(pieces)
        if not text.strip():
            raise ChatModelUnavailable(f"The chat model {self.name!r} had nothing to say.", model=self.name)
        prices = {kind: self._options.get(f"price_{kind}_per_million", 0) for kind in ("prompt", "completion")}
        cost = (event.prompt_tokens * prices["prompt"] + event.completion_tokens * prices["completion"]) / 1e6
        usage = Usage(prompt_tokens=event.prompt_tokens, completion_tokens=event.completion_tokens, cost_usd=cost)
        return Completion(text=text, model=self.name, usage=usage, finish_reason=event.reason)


def process_state() -> str | None:
    """What is wrong with the model process, in words; None where it answers, or where none is wanted."""
    if settings.ADAPTRAG_LOCAL_MODEL == "inprocess":
        return None
    process = find()
    if process is None or process.state != "ready":
        return _absent(process)
    connection = http.client.HTTPConnection(urlsplit(process.address).netloc, timeout=3)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"The model process (process {process.pid}) does not answer: {error}. Stop it and {START}"
    finally:
        connection.close()
    return None if status == 200 else f"The model process answers with status {status}; see its log."


def _absent(process: ModelProcess | None) -> str:
    if process is not None:
        return "The model process is still loading its weights; try again in a few seconds."
    return f"No model process runs; {START}"


@lru_cache(maxsize=64)
def _client(address: str, token: str, model: str, options: str) -> OpenAICompatibleChatModel:
    remedy = f"the model process seems to have ended; {START}"
    return OpenAICompatibleChatModel(model, json.loads(options) | {"base_url": f"{address}/v1"}, api_key=token, remedy=remedy)


def _loaded() -> Engines:
    global _engines
    with _lock:
        if _engines is None:
            from agents.llm.engines import Engines

            _engines = Engines()
        return _engines
