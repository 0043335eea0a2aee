"""Searching outside the collection, where local evidence is weak: SearXNG's JSON API."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import socket
import threading
from contextlib import closing
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from django.conf import settings

from agents.errors import ExternalSearchFailed
from agents.ingestion.text import clean
from agents.retrieval.base import Passage

LONGEST_REPLY = 5_000_000  # bytes
LONGEST_SNIPPET = 2000  # characters
LONGEST_QUERY = 400


class ExternalSearch(Protocol):
    name: str

    def search(self, query: str, k: int) -> list[Passage]:
        """At most k results, best first, with `url` set and ids below 1. Raises ExternalSearchFailed."""
        ...


def external_search() -> ExternalSearch | None:
    """The configured one, if any."""
    url = settings.ADAPTRAG_SEARXNG_URL
    return SearXNG(url, settings.ADAPTRAG_SEARXNG_SECONDS) if url else None


class SearXNG:
    """https://docs.searxng.org/dev/search_api.html; the instance must list `json` under search.formats."""

    name = "searxng"

    def __init__(self, url: str, seconds: float) -> None:
        self._url, self._seconds = url.rstrip("/"), seconds

    def search(self, query: str, k: int) -> list[Passage]:
        body = self._get(f"/search?{urlencode({'q': query[:LONGEST_QUERY], 'format': 'json'})}")
        try:
            results = json.loads(body)["results"]
            found = [one for one in map(_result, results) if one is not None]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._failed(f"its reply is not SearXNG's JSON ({type(error).__name__})") from error
        return [
            Passage(
                chunk_id=-rank,
                document_id=0,
                document=title,
                text=text,
                score=1 / rank,
                rank=rank,
                retriever=self.name,
                url=url,
            )
            for rank, (title, text, url) in enumerate(found[:k], start=1)
        ]

    def _get(self, path: str) -> bytes:
        """The body of a 200 reply, within the time for all of it: a server that trickles bytes is cut off too."""
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._seconds)
        with closing(connection):
            try:
                connection.connect()
            except OSError as error:
                raise self._failed(f"no connection: {error}") from error
            late = threading.Event()
            watch = threading.Timer(self._seconds, _cut_off, (connection.sock, late))
            watch.start()
            try:
                connection.request("GET", parts.path + path, headers={"Accept": "application/json", "User-Agent": "AdaptRAG"})
                response = connection.getresponse()
                body = response.read(LONGEST_REPLY + 1)
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = f"no reply within {self._seconds:g} s" if late.is_set() else f"{type(error).__name__}: {error}"
                raise self._failed(reason) from error
            finally:
                watch.cancel()
        if late.is_set():
            raise self._failed(f"no whole reply within {self._seconds:g} s")
        if response.status == 403:
            raise self._failed("status 403: is `json` among its search.formats?")
        if response.status != 200:
            raise self._failed(f"status {response.status}")
        if len(body) > LONGEST_REPLY:
            raise self._failed(f"its reply is longer than {LONGEST_REPLY:,} bytes")
        return body

    def _failed(self, reason: str) -> ExternalSearchFailed:
        return ExternalSearchFailed(f"The external search at {self._url} failed: {reason}. Check ADAPTRAG_SEARXNG_URL.")


def _cut_off(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):  # closed by the other side in the same moment
        connected.shutdown(socket.SHUT_RDWR)


def _result(one: dict) -> tuple[str, str, str] | None:
    """(title, text, address), or nothing for a result without text or with an address that no browser should open."""
    title, text, url = (one.get(name) or "" for name in ("title", "content", "url"))
    if not (isinstance(title, str) and isinstance(text, str) and isinstance(url, str)):
        return None
    title, text = (clean(html.unescape(part)).strip()[:LONGEST_SNIPPET] for part in (title, text))
    return (title or url, text, url) if text and urlsplit(url).scheme in ("http", "https") else None
