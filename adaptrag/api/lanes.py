"""Bounded thread pools of the web process: what can't run now waits, what can't wait is refused at once.

Two lanes, so that questions to a slow model leave threads for health checks, the admin and everything else. Threads last as
long as the process and keep their database connections.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

from django.conf import settings

from adaptrag.api.errors import Overloaded

# Where questions are asked, always by POST: the API, and the chat page's form for browsers without JavaScript.
ANSWER_PREFIXES = ("/api/query", "/api/compare", "/v1/chat/", "/c/")


class Slot:
    """A place in a lane. `release` may be called more than once."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._held = lane, True

    def submit(self, work: Callable[..., Any], *args: Any) -> Future:
        """Run `work` on the lane; the slot is free again when it ends."""
        future = self._lane.executor.submit(work, *args)
        future.add_done_callback(self.release)
        return future

    def release(self, _: Any = None) -> None:
        with self._lane.lock:
            if self._held:
                self._held = False
                self._lane.taken -= 1


class Lane:
    def __init__(self, name: str, *, threads: int, backlog: int) -> None:
        self.name, self.size = name, threads + backlog
        self.taken = 0
        self.lock = threading.Lock()
        self.executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    def reserve(self) -> Slot:
        """A place for one request. Raises Overloaded when all threads and all waiting places are taken."""
        with self.lock:
            if self.taken >= self.size:
                raise Overloaded(
                    f"{self.taken} requests are being answered or wait already. Try again in a moment, or raise "
                    "ADAPTRAG_WEB_THREADS, ADAPTRAG_WEB_BACKLOG or the number of web processes.",
                    retry_after=1,
                )
            self.taken += 1
        return Slot(self)

    def close(self) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)


@cache
def answers() -> Lane:
    return Lane("answers", threads=settings.ADAPTRAG_WEB_THREADS, backlog=settings.ADAPTRAG_WEB_BACKLOG)


@cache
def pages() -> Lane:
    return Lane("pages", threads=settings.ADAPTRAG_WEB_THREADS, backlog=settings.ADAPTRAG_WEB_BACKLOG)


def lane_for(method: str, path: str) -> Lane:
    asks = method == "POST" and (path == "/" or path.startswith(ANSWER_PREFIXES))
    return answers() if asks else pages()
