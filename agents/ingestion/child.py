"""The process that opens a foreign file: `python -m agents.ingestion.child TYPE NAME LIMITS [FOLDER]`, bytes in, one JSON
object out; tables and images go into FOLDER.

It knows no Django and holds no secret; a file that makes a parser eat memory or time takes only this process down.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from dataclasses import replace
from pathlib import Path

from adaptrag.common.processes import die_with_parent
from agents.errors import DocumentRejected
from agents.ingestion.base import CSV, DOCX, HTML, IMAGES, JSONL, MARKDOWN, PDF, PPTX, TEXT, TSV, XLSX, Limits, ParsedDocument

TABLES_FILE = "tables.duckdb"


def main() -> None:
    content_type, name, limits = sys.argv[1], sys.argv[2], Limits(**json.loads(sys.argv[3]))
    folder = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    bounded(limits.memory_bytes, limits.seconds)
    try:
        answer = {"parsed": parse_here(content_type, name, sys.stdin.buffer.read(), limits, folder).as_dict()}
    except DocumentRejected as error:
        answer = {"rejected": error.message}
    except MemoryError:
        answer = {"rejected": f"{name} needs more than {limits.memory_bytes:,} bytes of memory to read. Split or simplify it."}
    sys.stdout.write(json.dumps(answer))


def bounded(memory_bytes: int, seconds: int) -> None:
    """Hold this process to its memory and time, and to its parent's life."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)


def parse_here(content_type: str, name: str, data: bytes, limits: Limits, folder: Path | None) -> ParsedDocument:
    """Each parser is imported only when its type comes: starting the child costs more than most parsing."""
    if content_type in (TEXT, MARKDOWN):
        from agents.ingestion.text import parse_markdown, parse_text

        return parse_text(name, data) if content_type == TEXT else parse_markdown(name, data)
    if content_type == PDF:
        from agents.ingestion.pdf import parse_pdf

        return parse_pdf(name, data, limits, folder)
    if content_type == DOCX:
        from agents.ingestion.docx import parse_docx

        return parse_docx(name, data, limits, folder)
    if content_type == PPTX:
        from agents.ingestion.pptx import parse_pptx

        return parse_pptx(name, data, limits, folder)
    if content_type in IMAGES:
        from agents.ingestion.pictures import parse_image

        return parse_image(name, data, limits, folder)
    if content_type == HTML:
        from agents.ingestion.html import parse_html

        return parse_html(name, data, limits)
    if content_type == JSONL:
        from agents.ingestion.jsonl import parse_jsonl

        return parse_jsonl(name, data, limits)
    if content_type in (CSV, TSV):
        from agents.ingestion.tables import parse_delimited

        return _with_tables_file(parse_delimited(name, data, limits, "\t" if content_type == TSV else ""), limits, folder)
    if content_type == XLSX:
        from agents.ingestion.xlsx import parse_xlsx

        return _with_tables_file(parse_xlsx(name, data, limits), limits, folder)
    raise ValueError(f"no parser for {content_type}")


def _with_tables_file(parsed: ParsedDocument, limits: Limits, folder: Path | None) -> ParsedDocument:
    """All rows go into the file, the first ones on to be searched."""
    if folder is not None and parsed.tables:
        from agents.ingestion.tables_file import write_tables_file

        write_tables_file(folder / TABLES_FILE, parsed.tables, limits.memory_bytes)
    first = [
        replace(table, rows=table.rows[: limits.indexed_rows], numbers=table.numbers[: limits.indexed_rows])
        for table in parsed.tables
    ]
    return replace(parsed, tables=tuple(first))


if __name__ == "__main__":
    main()
