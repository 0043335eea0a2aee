"""An answer as server-sent events, made on the answers' lane while it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import threading
from collections.abc import AsyncIterator
from typing import Any, Protocol

from django.db import close_old_connections
from django.http import StreamingHttpResponse

from adaptrag import orchestrator
from adaptrag.api.errors import ClientGone, error_of
from adaptrag.api.lanes import Slot, answers
from adaptrag.api.metrics import count_failure, count_query

# Proxies drop connections that stay silent, and a prompt may take a small machine this long.
KEEP_ALIVE_SECONDS = 10


class Script(Protocol):
    """How the steps of one answer are written. Called in this order, `text` any number of times, then `done` or `failed`."""

    def routed(self, routed: dict[str, Any]) -> bytes: ...

    def text(self, text: str) -> bytes: ...

    def done(self, result: orchestrator.QueryResult) -> bytes: ...

    def failed(self, status: int, body: dict[str, Any]) -> bytes: ...


class Events:
    """This API's own: `routing` once, `delta` for each piece of text, then `done` or `error`."""

    def routed(self, routed: dict[str, Any]) -> bytes:
        return _event("routing", routed)

    def text(self, text: str) -> bytes:
        return _event("delta", {"text": text})

    def done(self, result: orchestrator.QueryResult) -> bytes:
        return _event("done", result.as_dict())

    def failed(self, status: int, body: dict[str, Any]) -> bytes:
        return _event("error", body)


def streamed(request: orchestrator.QueryRequest, script: Script | None = None) -> StreamingHttpResponse:
    """Answer `request` on the answers' lane while its events are sent. Raises Overloaded before anything is sent."""
    slot = answers().reserve()
    response = StreamingHttpResponse(
        _events(request, script or Events(), slot), content_type="text/event-stream; charset=utf-8"
    )
    response._resource_closers.append(slot.release)  # where the client left before the first event
    response["Cache-Control"] = "no-cache, no-transform"
    response["X-Accel-Buffering"] = "no"
    return response


async def _events(request: orchestrator.QueryRequest, script: Script, slot: Slot) -> AsyncIterator[bytes]:
    loop, queue, gone = asyncio.get_running_loop(), asyncio.Queue(), threading.Event()

    def tell(part: bytes) -> None:
        # Raised inside the agent's model call, so a closed browser tab stops the generation too.
        if gone.is_set():
            raise ClientGone("The client closed the connection before the answer was complete.")
        loop.call_soon_threadsafe(queue.put_nowait, part)

    slot.submit(contextvars.copy_context().run, _answer, request, script, tell, lambda: _finish(loop, queue))
    try:
        while (item := await _next(queue)) is not None:
            yield item
    finally:
        gone.set()


def _answer(request: orchestrator.QueryRequest, script: Script, tell: Any, finish: Any) -> None:
    close_old_connections()
    try:
        result = orchestrator.query(
            request, on_text=lambda text: tell(script.text(text)), on_routed=lambda routed: tell(script.routed(routed))
        )
        count_query(result)
        tell(script.done(result))
    except ClientGone:
        pass  # the orchestrator has logged the interaction with this reason
    except Exception as error:
        count_failure(error)
        status, body, _ = error_of(error)
        with contextlib.suppress(ClientGone):
            tell(script.failed(status, body))
    finally:
        close_old_connections()
        finish()


def _finish(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue) -> None:
    # The loop may be closed by now where the server is going down.
    if not loop.is_closed():
        loop.call_soon_threadsafe(queue.put_nowait, None)


async def _next(queue: asyncio.Queue) -> bytes | None:
    try:
        return await asyncio.wait_for(queue.get(), KEEP_ALIVE_SECONDS)
    except TimeoutError:
        return b": still working\n\n"


def _event(name: str, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, default=str, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode()
