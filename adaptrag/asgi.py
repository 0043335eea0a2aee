"""ASGI application: what uvicorn serves.

Django's own handler gives each request a new thread, which opens a database connection of its own, and changes threads at every
middleware. Here a request runs from first to last on one long-lived thread of a bounded pool; only responses that stream are
written by the event loop. Measured with benchmarks/serving.py; see docs/decisions/0005-request-threads.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import tempfile
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "adaptrag.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.staticfiles import finders  # noqa: E402
from django.core import signals  # noqa: E402
from django.core.checks import run_checks  # noqa: E402
from django.core.exceptions import RequestAborted  # noqa: E402
from django.core.handlers.asgi import ASGIHandler, get_script_prefix  # noqa: E402
from django.core.handlers.base import BaseHandler  # noqa: E402
from django.http import FileResponse, HttpResponseBase, JsonResponse  # noqa: E402
from django.urls import get_resolver, set_script_prefix  # noqa: E402
from servestatic import ServeStaticASGI  # noqa: E402

from adaptrag.api.errors import JSON_PREFIXES, TooLarge, body_for, error_body, error_of  # noqa: E402
from adaptrag.api.lanes import Lane, answers, lane_for, pages  # noqa: E402
from adaptrag.common.errors import AdaptRAGError  # noqa: E402

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
# Room for the form around an upload: part headers and the other fields.
FORM_BYTES = 1_000_000


class PooledHandler(ASGIHandler):
    def __init__(self) -> None:
        BaseHandler.__init__(self)
        for problem in run_checks(tags=["adaptrag"]):  # nobody runs `manage.py check` before a web server
            logger.log(problem.level, "%s", problem)
        self.load_middleware(is_async=False)
        get_resolver().url_patterns  # noqa: B018 imports every view now, not during the first request

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        elif scope["type"] == "http":
            await self.handle(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def handle(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        lane = lane_for(scope["method"], scope["path"])
        try:
            body = await self.read_body(scope, receive)
            slot = lane.reserve()
        except RequestAborted:
            return
        except AdaptRAGError as error:
            await self.refuse(error, scope["path"], send)
            return
        response, start, content = await asyncio.wrap_future(slot.submit(self.respond, scope, body))
        await send(start)
        if content is not None:
            await send({"type": "http.response.body", "body": content})
            return
        try:
            await self.stream(response, lane, receive, send)
        finally:
            await asyncio.wrap_future(lane.executor.submit(response.close))

    def respond(self, scope: dict[str, Any], body: Any) -> tuple[HttpResponseBase, dict[str, Any], bytes | None]:
        """The whole of Django, on this thread. The content is None where the response streams."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, response = self.create_request(scope, body)
        if request is None:
            body.close()
            if scope["path"].startswith(JSON_PREFIXES):
                wrong = error_body("bad_request", "The query string is not UTF-8.")
                response = JsonResponse(body_for(scope["path"], 400, wrong), status=400)
        else:
            response = self.get_response(request)
            response._handler_class = self.__class__
        start = {"type": "http.response.start", "status": response.status_code, "headers": _headers(response)}
        if response.streaming:
            if isinstance(response, FileResponse):
                response.block_size = self.chunk_size
            return response, start, None
        content = response.content
        response.close()
        return response, start, content

    async def stream(self, response: HttpResponseBase, lane: Lane, receive: Any, send: Any) -> None:
        """Write the parts as they come; a client that goes away ends their generator."""
        writer = asyncio.ensure_future(self.write(response, lane, send))
        watcher = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({writer, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watcher.cancel()
            if not writer.done():
                writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    async def write(self, response: HttpResponseBase, lane: Lane, send: Any) -> None:
        parts = response.streaming_content if response.is_async else _from_thread(response.streaming_content, lane)
        async with contextlib.aclosing(parts):
            async for part in parts:
                await send({"type": "http.response.body", "body": bytes(part), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def read_body(self, scope: dict[str, Any], receive: Any) -> Any:
        """The body as a file: in memory while small, on disk from there. Raises TooLarge without reading on."""
        limit = settings.ADAPTRAG_MAX_UPLOAD_BYTES + FORM_BYTES
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            if len(message.get("body", b"")) > limit:
                raise _too_large(limit)
            return io.BytesIO(message.get("body", b""))
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        file = tempfile.SpooledTemporaryFile(max_size=settings.FILE_UPLOAD_MAX_MEMORY_SIZE)  # noqa: SIM115 the request closes it
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                file.close()
                raise RequestAborted
            size += len(message.get("body", b""))
            if size > limit:
                file.close()
                raise _too_large(limit)
            file.write(message.get("body", b""))
            if not message.get("more_body"):
                file.seek(0)
                return file
            message = await receive()

    async def refuse(self, error: AdaptRAGError, path: str, send: Any) -> None:
        """What no thread is spent on."""
        status, body, headers = error_of(error)
        lines = [(b"content-type", b"application/json"), (b"connection", b"close")]
        lines += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": json.dumps(body_for(path, status, body)).encode()})

    async def lifespan(self, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                for lane in (answers(), pages()):
                    lane.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _from_thread(parts: Any, lane: Lane) -> Any:
    """A blocking iterator (a file, an export), stepped on the lane's threads."""
    end, steps = object(), iter(parts)
    while (part := await asyncio.wrap_future(lane.executor.submit(next, steps, end))) is not end:
        yield part


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The request is larger than the {limit:,} bytes that are taken; see ADAPTRAG_MAX_UPLOAD_BYTES.", limit=limit
    )


def _headers(response: HttpResponseBase) -> Headers:
    lines = [(name.encode("ascii"), value.encode("latin1")) for name, value in response.items()]
    lines += [(b"Set-Cookie", cookie.output(header="").encode("ascii").strip()) for cookie in response.cookies.values()]
    return lines


def _with_static_files(application: PooledHandler) -> ServeStaticASGI:
    """The apps' static files, straight from where they are installed; `collectstatic` is only for a server in front."""

    def add_headers(headers: Any, path: str, url: str) -> None:
        headers["X-Content-Type-Options"] = "nosniff"

    served = ServeStaticASGI(application, max_age=3600, allow_all_origins=False, add_headers_function=add_headers)
    for finder in finders.get_finders():
        for path, storage in finder.list(None):
            served.add_file_to_dictionary(f"{settings.STATIC_URL}{path}", storage.path(path))
    return served


application = _with_static_files(PooledHandler())
