"""A file's bytes to its text, with every limit held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

from django.conf import settings

from agents.errors import DocumentRejected
from agents.ingestion.base import MARKDOWN, TEXT, Limits, ParsedDocument
from agents.ingestion.detect import SUFFIXES
from agents.ingestion.text import parse_markdown, parse_text

ROOT = Path(__file__).resolve().parents[2]
# Texts up to here are read where they come in: starting the child takes longer than they do.
IN_PROCESS_BYTES = 100_000
# Fields of Limits by the setting that fills them.
LIMIT_SETTINGS = {
    "bytes": "ADAPTRAG_MAX_UPLOAD_BYTES",
    "pages": "ADAPTRAG_MAX_PAGES",
    "records": "ADAPTRAG_MAX_RECORDS",
    "expanded_bytes": "ADAPTRAG_MAX_EXPANDED_BYTES",
    "characters": "ADAPTRAG_MAX_DOCUMENT_CHARS",
    "seconds": "ADAPTRAG_PARSE_SECONDS",
    "memory_bytes": "ADAPTRAG_PARSE_MEMORY_BYTES",
    "columns": "ADAPTRAG_MAX_TABLE_COLUMNS",
    "cells": "ADAPTRAG_MAX_TABLE_CELLS",
    "cell_characters": "ADAPTRAG_MAX_CELL_CHARS",
    "indexed_rows": "ADAPTRAG_INDEXED_ROWS",
    "pixels": "ADAPTRAG_MAX_PIXELS",
    "images": "ADAPTRAG_MAX_IMAGES",
}
# What Python needs to start; keys and passwords of the site stay out of the process that opens foreign files.
PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


def limits(content_type: str = "") -> Limits:
    """What the settings allow for files of a type: the general ones, and what ADAPTRAG_TYPE_LIMITS has for its suffix."""
    bounds = Limits(**{name: getattr(settings, setting) for name, setting in LIMIT_SETTINGS.items()})
    own = {
        name: value
        for suffix, values in settings.ADAPTRAG_TYPE_LIMITS.items()
        if SUFFIXES.get(f".{suffix}") == content_type
        for name, value in values.items()
    }
    return replace(bounds, **own)


def child_environment() -> dict[str, str]:
    """For processes that open foreign files. One arena, one thread: more of them reserve address space, which is bounded."""
    passed = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    return passed | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def check_size(name: str, size: int, bounds: Limits) -> None:
    """Raises DocumentRejected for a file over the limit."""
    if size > bounds.bytes:
        raise DocumentRejected(
            f"{name} has {size:,} bytes; at most {bounds.bytes:,} are read (ADAPTRAG_MAX_UPLOAD_BYTES). Split it.", name=name
        )


def parse(
    name: str, data: bytes, content_type: str, bounds: Limits | None = None, folder: Path | None = None
) -> ParsedDocument:
    """The text of a file of a detected type; all but short texts and Markdown is read in a child process.

    folder: where tables (a DuckDB file) and images are put; without one there is no file, and no image is looked for.
    Raises DocumentRejected with the reason and the remedy.
    """
    bounds = bounds or limits(content_type)
    check_size(name, len(data), bounds)
    if content_type in (TEXT, MARKDOWN) and len(data) <= IN_PROCESS_BYTES:
        parsed = parse_text(name, data) if content_type == TEXT else parse_markdown(name, data)
    else:
        parsed = _in_child(name, data, content_type, bounds, folder)
    if not (parsed.text.strip() or parsed.tables or parsed.pictures):
        raise DocumentRejected(f"{name} has no text in it. Upload a file that holds text.", name=name)
    if len(parsed.text) > bounds.characters:
        raise DocumentRejected(
            f"{name} holds {len(parsed.text):,} characters; at most {bounds.characters:,} are read "
            "(ADAPTRAG_MAX_DOCUMENT_CHARS). Split it.",
            name=name,
        )
    title = " ".join(parsed.title.split()) or PurePosixPath(name.replace("\\", "/")).stem
    return replace(parsed, title=title[:500])


def _in_child(name: str, data: bytes, content_type: str, bounds: Limits, folder: Path | None) -> ParsedDocument:
    command = [sys.executable, "-m", "agents.ingestion.child", content_type, name, json.dumps(asdict(bounds))]
    command += [str(folder)] if folder else []
    environment = child_environment()
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=bounds.seconds, cwd=ROOT, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise DocumentRejected(_too_slow(name, bounds), name=name) from None
    if done.returncode == 0:
        answer = json.loads(done.stdout)
        if "rejected" in answer:
            raise DocumentRejected(answer["rejected"], name=name)
        return ParsedDocument.from_dict(answer["parsed"])
    if done.returncode == -24:  # SIGXCPU
        raise DocumentRejected(_too_slow(name, bounds), name=name)
    reason = (done.stderr.decode(errors="replace").strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    raise DocumentRejected(
        f"{name} could not be read: its parser broke off ({reason[:200]}). Open it in its program and save it again.", name=name
    )


def _too_slow(name: str, bounds: Limits) -> str:
    return f"{name} takes more than {bounds.seconds} s to read (ADAPTRAG_PARSE_SECONDS). Split or simplify it."
