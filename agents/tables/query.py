"""Running a checked SELECT over tables of documents, in a child process that can do nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from adaptrag.common.errors import InvalidInput
from agents.ingestion.parse import ROOT, child_environment
from agents.tables.sqlcheck import checked_select


class SqlFailed(InvalidInput):
    """SQL that DuckDB refused, or that took more than it may; the message is for whoever wrote it."""

    code = "sql_failed"


@dataclass(frozen=True, kw_only=True)
class KnownTable:
    """A table that SQL may read as `name`: the table `stored_as` of a document's DuckDB file. schema: agents.ingestion.base's
    Table.schema(). chunk_id: of the passage that describes it."""

    name: str
    title: str
    document_id: int
    chunk_id: int
    path: Path
    stored_as: str
    schema: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class QueryResult:
    """sql: as it ran. rows: values as text, None where NULL; `more`: there are others beyond ADAPTRAG_SQL_ROWS."""

    sql: str
    columns: list[str]
    rows: list[list[str | None]]
    more: bool
    ms: float

    @property
    def empty(self) -> bool:
        return all(value is None for row in self.rows for value in row)


def run_select(sql: str, tables: Sequence[KnownTable]) -> QueryResult:
    """Check and run one SELECT. Raises RefusedSql or SqlFailed."""
    checked = checked_select(sql, [table.name for table in tables])
    begun, seconds = time.perf_counter(), settings.ADAPTRAG_SQL_SECONDS
    wanted = {
        "sql": checked,
        "rows": settings.ADAPTRAG_SQL_ROWS,
        "memory_bytes": settings.ADAPTRAG_SQL_MEMORY_BYTES,
        "seconds": seconds,
        "tables": [{"name": table.name, "path": str(table.path), "stored_as": table.stored_as} for table in tables],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agents.tables.child"], input=json.dumps(wanted).encode(), capture_output=True,
            timeout=seconds, cwd=ROOT, env=child_environment(), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SqlFailed(f"The query takes more than {seconds} s (ADAPTRAG_SQL_SECONDS). Ask for less at once.") from None
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise SqlFailed(f"The query broke off: {reason[:300]}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise SqlFailed(answer["error"])
    return QueryResult(
        sql=checked,
        columns=answer["columns"],
        rows=answer["rows"],
        more=answer["more"],
        ms=(time.perf_counter() - begun) * 1000,
    )
