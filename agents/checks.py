"""System checks of the settings of documents and retrieval."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from adaptrag.common.errors import InvalidInput
from agents.ingestion.detect import SUFFIXES
from agents.ingestion.parse import LIMIT_SETTINGS
from agents.llm.factory import validate_options
from agents.llm.local import MODES
from agents.llm.weights import FORMS
from agents.retrieval.bm25 import BACKENDS
from agents.retrieval.embedding import EMBEDDING_BACKENDS, LONGEST_PASSAGE

LOWEST = {
    "ADAPTRAG_WINDOW_TOKENS": 8,
    "ADAPTRAG_CHUNK_TOKENS": 16,
    "ADAPTRAG_MAX_PAGES": 1,
    "ADAPTRAG_MAX_EXPANDED_BYTES": 1,
    "ADAPTRAG_MAX_DOCUMENT_CHARS": 1,
    "ADAPTRAG_PARSE_SECONDS": 1,
    "ADAPTRAG_PARSE_MEMORY_BYTES": 200_000_000,
    "ADAPTRAG_MAX_RECORDS": 1,
    "ADAPTRAG_MAX_TABLE_COLUMNS": 1,
    "ADAPTRAG_MAX_TABLE_CELLS": 1,
    "ADAPTRAG_MAX_CELL_CHARS": 1,
    "ADAPTRAG_INDEXED_ROWS": 1,
    "ADAPTRAG_MAX_PIXELS": 1,
    "ADAPTRAG_MAX_IMAGES": 0,
    "ADAPTRAG_OCR_SECONDS": 1,
    "ADAPTRAG_OCR_MEMORY_BYTES": 1_000_000_000,
    "ADAPTRAG_SQL_SECONDS": 1,
    "ADAPTRAG_SQL_MEMORY_BYTES": 400_000_000,
    "ADAPTRAG_SQL_ROWS": 1,
    "ADAPTRAG_INLINE_BYTES": 0,
    "ADAPTRAG_INLINE_CHUNKS": 0,
    "ADAPTRAG_INLINE_COLLECTION_CHUNKS": 0,
    "ADAPTRAG_EMBEDDING_THREADS": 1,
    "ADAPTRAG_EMBEDDING_CACHE_BYTES": 0,
    "ADAPTRAG_LOCAL_THREADS": 0,
    "ADAPTRAG_LOCAL_MODELS": 1,
}
WORDS = {
    "ADAPTRAG_BM25_BACKEND": BACKENDS,
    "ADAPTRAG_EMBEDDING_BACKEND": EMBEDDING_BACKENDS,
    "ADAPTRAG_INDEX_STORE": ("files", "milvus"),
    "ADAPTRAG_LOCAL_MODEL": MODES,
    "ADAPTRAG_LOCAL_DTYPE": FORMS,
}


@register("agents")
def check_documents(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """agents.E001 number out of range, E002 unknown word, E003 no such folder, E004 no web address, E005 no Milvus."""
    found: list[CheckMessage] = []

    def error(number: int, name: str, hint: str) -> None:
        found.append(Error(f"{name} is {getattr(settings, name)!r}.", hint=hint, id=f"agents.E{number:03}"))

    for name, least in LOWEST.items():
        if getattr(settings, name) < least:
            error(1, name, f"The least that works is {least:,}.")
    if settings.ADAPTRAG_WINDOW_TOKENS > LONGEST_PASSAGE:
        error(1, "ADAPTRAG_WINDOW_TOKENS", f"The embedding model reads {LONGEST_PASSAGE} tokens besides a title; set no more.")
    for name, words in WORDS.items():
        if getattr(settings, name) not in words:
            error(2, name, f"Use one of {', '.join(words)}.")
    if settings.ADAPTRAG_EMBEDDING_MODEL and not Path(settings.ADAPTRAG_EMBEDDING_MODEL).expanduser().is_dir():
        error(3, "ADAPTRAG_EMBEDDING_MODEL", "Give the folder of a sentence encoder, or nothing for the shipped one.")
    if settings.ADAPTRAG_SEARXNG_URL and urlsplit(settings.ADAPTRAG_SEARXNG_URL).scheme not in ("http", "https"):
        error(
            4,
            "ADAPTRAG_SEARXNG_URL",
            "Give an address that begins with http:// or https://, or nothing for no external search.",
        )
    if not settings.ADAPTRAG_SEARXNG_SECONDS > 0:
        error(1, "ADAPTRAG_SEARXNG_SECONDS", "Give the seconds that a search may take, such as 5.")
    for suffix, values in settings.ADAPTRAG_TYPE_LIMITS.items():
        known = f".{suffix}" in SUFFIXES and isinstance(values, dict)
        if not known or any(name not in LIMIT_SETTINGS or type(value) is not int for name, value in values.items()):
            suffixes = ", ".join(sorted(name[1:] for name in SUFFIXES))
            error(4, "ADAPTRAG_TYPE_LIMITS", f"Whole numbers for {', '.join(LIMIT_SETTINGS)} under one of {suffixes}.")
            break
    try:
        validate_options("openai_compatible", settings.ADAPTRAG_VISION_OPTIONS)
    except InvalidInput as problem:
        error(4, "ADAPTRAG_VISION_OPTIONS", problem.message)
    if settings.ADAPTRAG_INDEX_STORE == "milvus" and not settings.ADAPTRAG_MILVUS_URI:
        error(
            5,
            "ADAPTRAG_MILVUS_URI",
            "Give the address, such as http://127.0.0.1:19530, or set ADAPTRAG_INDEX_STORE=files.",
        )
    elif settings.ADAPTRAG_INDEX_STORE == "milvus" and importlib.util.find_spec("pymilvus") is None:
        error(5, "ADAPTRAG_INDEX_STORE", "Milvus's client is not installed: pip install -r requirements-milvus.txt.")
    return found
