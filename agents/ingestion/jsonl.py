"""JSON lines: one record a line, each a section of its own."""

from __future__ import annotations

import json
from typing import Any

from agents.errors import DocumentRejected
from agents.ingestion.base import Limits, Mark, ParsedDocument
from agents.ingestion.text import clean, decode

TITLES = ("title", "name", "heading", "subject")
TEXTS = ("text", "content", "body", "contents", "passage")
DEEPEST = 20


def parse_jsonl(name: str, data: bytes, limits: Limits) -> ParsedDocument:
    """A record's title becomes a heading, its text stands as it is, other fields as "name: value". Raises DocumentRejected
    with the number of a line that isn't a JSON object or text."""
    text, encoding = decode(name, data)
    pieces: list[str] = []
    marks: list[Mark] = []
    length = records = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        records += 1
        if records > limits.records:
            raise DocumentRejected(
                f"{name} has more than {limits.records:,} records (ADAPTRAG_MAX_RECORDS). Split it.", name=name, line=number
            )
        title, body = _record(name, number, line)
        marks.append(Mark(start=length, kind="line", level=number))
        if title:
            marks.append(Mark(start=length, kind="heading", level=1, text=title[:300]))
        piece = "\n".join(filter(None, (title, body))) + "\n\n"
        pieces.append(piece)
        length += len(piece)
        if length > limits.characters:
            raise DocumentRejected(
                f"{name} holds more than {limits.characters:,} characters (ADAPTRAG_MAX_DOCUMENT_CHARS). Split it.", name=name
            )
    metadata = {"encoding": encoding, "records": records}
    return ParsedDocument(text="".join(pieces), markdown=False, marks=tuple(marks), metadata=metadata)


def _record(name: str, number: int, line: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DocumentRejected(f"{name}, line {number}: not JSON ({str(error)[:150]}).", name=name, line=number) from error
    if isinstance(record, str):
        return "", clean(record).strip()
    if not isinstance(record, dict):
        raise DocumentRejected(
            f"{name}, line {number}: a record is a JSON object or a text, not {type(record).__name__}.", name=name, line=number
        )
    title = next((record[key] for key in TITLES if isinstance(record.get(key), str) and record[key].strip()), "")
    body = next((record[key] for key in TEXTS if isinstance(record.get(key), str) and record[key].strip()), "")
    fields = [
        f"{path}: {value}" for path, value in _fields(record) if value not in (title, body) or path not in (*TITLES, *TEXTS)
    ]
    return " ".join(clean(title).split()), clean("\n".join(filter(None, (body.strip(), *fields))))


def _fields(value: Any, path: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """(path, words) of every leaf; lists of plain values on one line."""
    if depth > DEEPEST:
        return [(path, json.dumps(value)[:1000])]
    if isinstance(value, dict):
        return [leaf for key, one in value.items() for leaf in _fields(one, f"{path}.{key}" if path else str(key), depth + 1)]
    if isinstance(value, list):
        if all(not isinstance(one, dict | list) for one in value):
            return [(path, ", ".join(str(one) for one in value))] if value else []
        return [leaf for place, one in enumerate(value, 1) for leaf in _fields(one, f"{path}.{place}", depth + 1)]
    return [] if value is None or value == "" else [(path, str(value))]
