"""The process that opens a foreign file: `python -m agents.ingestion.child TYPE NAME LIMITS`, bytes in, one JSON object out.

It knows no Django and holds no secret; a file that makes a parser eat memory or time takes only this process down.
"""

from __future__ import annotations

import json
import logging
import resource
import sys

from adaptrag.common.processes import die_with_parent
from agents.errors import DocumentRejected
from agents.ingestion.base import DOCX, HTML, PDF, Limits, ParsedDocument


def main() -> None:
    content_type, name, limits = sys.argv[1], sys.argv[2], Limits(**json.loads(sys.argv[3]))
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    try:
        answer = {"parsed": parse_here(content_type, name, sys.stdin.buffer.read(), limits).as_dict()}
    except DocumentRejected as error:
        answer = {"rejected": error.message}
    except MemoryError:
        answer = {"rejected": f"{name} needs more than {limits.memory_bytes:,} bytes of memory to read. Split or simplify it."}
    sys.stdout.write(json.dumps(answer))


def parse_here(content_type: str, name: str, data: bytes, limits: Limits) -> ParsedDocument:
    """Each parser is imported only when its type comes: starting the child costs more than most parsing."""
    if content_type == PDF:
        from agents.ingestion.pdf import parse_pdf as parse
    elif content_type == DOCX:
        from agents.ingestion.docx import parse_docx as parse
    elif content_type == HTML:
        from agents.ingestion.html import parse_html as parse
    else:
        raise ValueError(f"no parser for {content_type}")
    return parse(name, data, limits)


if __name__ == "__main__":
    main()
