"""The model process's ASGI application: chat completions as OpenAI's API has them, over the engines of one process."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from adaptrag.common.errors import AdaptRAGError
from agents.errors import ChatModelOverloaded, ChatModelTimeout, ChatModelUnavailable, PromptTooLong
from agents.llm.chat_request import BadRequest, ChatRequest
from agents.llm.engine import Engine, Event, Finished, Generation
from agents.llm.engines import Engines

logger = logging.getLogger(__name__)

MAX_BODY = 4_000_000  # bytes
LONGEST = 600.0  # seconds that an answer may take; who does not want to wait hangs up, and that ends it too

Scope = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]


class ModelServer:
    def __init__(self, engines: Engines, token: str) -> None:
        self._engines = engines
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        routes = {
            ("GET", "/health"): self._health,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/load_lora_adapter"): self._load_adapter,
        }
        route = routes.get((scope["method"], scope["path"]))
        try:
            if route is None:
                known = ", ".join(f"{method} {path}" for method, path in routes)
                raise BadRequest(f"There is no {scope['method']} {scope['path']}; there are {known}.", status=404)
            if scope["path"] != "/health" and not self._knows(scope):
                raise BadRequest(
                    "Send the model process's token as: Authorization: Bearer TOKEN", status=401, code="invalid_api_key"
                )
            await route(receive, send)
        except AdaptRAGError as error:
            await _refuse(send, error)
        except Exception as error:
            logger.exception("A request failed")
            await _refuse(send, ChatModelUnavailable(f"The model process failed: {error}"))

    def _knows(self, scope: Scope) -> bool:
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(sent, f"Bearer {self._token}".encode())

    async def _health(self, receive: Receive, send: Send) -> None:
        await _json(send, 200, {"status": "ok", "models": self._engines.describe()})

    async def _models(self, receive: Receive, send: Send) -> None:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "adaptrag"} for name in self._engines.names()]
        await _json(send, 200, {"object": "list", "data": models})

    async def _load_adapter(self, receive: Receive, send: Send) -> None:
        """As vLLM has it, with the base model's name besides: several models may be loaded here."""
        try:
            given = json.loads(await _body(receive))
            name, folder, base = (given[key] for key in ("lora_name", "lora_path", "base_model"))
            if not all(isinstance(value, str) and value for value in (name, folder, base)):
                raise ValueError("they must be texts")
        except (ValueError, KeyError, TypeError) as error:
            raise BadRequest(f"Send lora_name, lora_path and base_model as JSON: {error}") from error
        await asyncio.to_thread(self._engines.load_adapter, name, Path(folder), base)
        await _json(send, 200, {"loaded": name})

    async def _chat(self, receive: Receive, send: Send) -> None:
        request = ChatRequest.parse(await _body(receive))
        engine, adapter = await asyncio.to_thread(self._engines.find, request.model)
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        generation = await asyncio.to_thread(
            engine.submit, request.messages, request.sampling, tell, timeout=LONGEST, adapter=adapter
        )
        answering = asyncio.ensure_future(self._answer(request, engine, events, send))
        listening = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            await _end(generation, answering, listening)

    async def _answer(self, request: ChatRequest, engine: Engine, events: asyncio.Queue[Event], send: Send) -> None:
        frame = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}
        first = await _next(events)  # an error here is still the response's status
        if request.stream:
            await _stream(send, frame, request, first, events)
            return
        pieces = []
        while isinstance(first, str):
            pieces.append(first)
            first = await _next(events)
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": first.reason}
        await _json(send, 200, frame | {"object": "chat.completion", "choices": [choice], "usage": _usage(first)})


async def _stream(send: Send, frame: dict[str, Any], request: ChatRequest, event: Any, events: asyncio.Queue[Event]) -> None:
    frame = frame | {"object": "chat.completion.chunk"} | ({"usage": None} if request.include_usage else {})

    async def chunk(delta: dict[str, str], reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        await _event(send, frame | {"choices": [choice]})

    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await chunk({"role": "assistant", "content": ""})
    try:
        while isinstance(event, str):
            await chunk({"content": event})
            event = await _next(events)
    except AdaptRAGError as error:
        await _event(send, _error(error)[1])
    else:
        await chunk({}, event.reason)
        if request.include_usage:
            await _event(send, frame | {"choices": [], "usage": _usage(event)})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _next(events: asyncio.Queue[Event]) -> str | Finished:
    event = await events.get()
    if isinstance(event, BaseException):
        raise event
    return event


async def _end(generation: Generation, *tasks: asyncio.Future[Any]) -> None:
    generation.cancel()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    async for part in _parts(receive):
        parts.append(part)
        if sum(map(len, parts)) > MAX_BODY:
            raise BadRequest(f"The request is larger than {MAX_BODY:,} bytes.", status=413)
    return b"".join(parts)


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        yield message.get("body", b"")


def _usage(finished: Finished) -> dict[str, int]:
    prompt, completion = finished.prompt_tokens, finished.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _error(error: AdaptRAGError) -> tuple[int, dict[str, Any], list[tuple[bytes, bytes]]]:
    """Status, body in OpenAI's form, and headers that tell OpenAI's client whether to try again."""
    status, code, kind = error.status, error.code, "server_error"
    headers = [(b"x-should-retry", b"false")]
    if isinstance(error, PromptTooLong):
        status, code, kind = 400, "context_length_exceeded", "invalid_request_error"
    elif isinstance(error, BadRequest):
        kind = "invalid_request_error"
    elif isinstance(error, ChatModelOverloaded):
        headers = [(b"retry-after", b"2")]
    elif isinstance(error, ChatModelTimeout):
        code = "timeout"
    elif isinstance(error, ChatModelUnavailable) and "model" in error.details:
        status, code, kind = 404, "model_not_found", "invalid_request_error"
    return (
        status,
        {"error": {"message": error.message, "type": kind, "param": error.details.get("param"), "code": code}},
        headers,
    )


async def _refuse(send: Send, error: AdaptRAGError) -> None:
    status, body, headers = _error(error)
    await _json(send, status, body, headers)


async def _json(send: Send, status: int, body: dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None) -> None:
    lines = [(b"content-type", b"application/json"), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _event(send: Send, body: dict[str, Any]) -> None:
    await send({"type": "http.response.body", "body": f"data: {json.dumps(body)}\n\n".encode(), "more_body": True})
