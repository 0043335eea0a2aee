"""Tables to a DuckDB file. Also a process, `python -m agents.ingestion.tables_file MEMORY_BYTES SECONDS`, for many at once:
JSON lines {"path", "tables"} in, nothing out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agents.ingestion.base import Column, Table
from agents.ingestion.tables import typed_value

BLOCK_BYTES = 16_384  # the smallest; DuckDB's usual 256 kB would make every small table a file of half a megabyte
BATCH_ROWS = 20_000
MEMORY_SHARE = 4  # of the process's memory for DuckDB is one part in so many; the rest holds the rows


def write_tables_file(path: Path, tables: Sequence[Table], memory_bytes: int) -> None:
    """One DuckDB file with a typed table for each of `tables`; the path must not exist."""
    import duckdb

    with duckdb.connect(":memory:", config=_config(memory_bytes)) as connection:
        _write(connection, path, tables)


def _config(memory_bytes: int) -> dict[str, Any]:
    return {"threads": 1, "memory_limit": f"{memory_bytes // MEMORY_SHARE}B"}


def _write(connection: Any, path: Path, tables: Sequence[Table]) -> None:
    connection.execute(f"ATTACH '{str(path).replace(chr(39), chr(39) * 2)}' AS made (BLOCK_SIZE {BLOCK_BYTES})")
    try:
        for table in tables:
            columns = ", ".join(f'"{column.name}" {column.type}' for column in table.columns)
            connection.execute(f'CREATE TABLE made."{table.name}" ({columns})')
            casts = ", ".join(f'CAST("{column.name}" AS {column.type})' for column in table.columns)
            for batch in _batches(table):
                connection.register("batch", batch)
                connection.execute(f'INSERT INTO made."{table.name}" SELECT {casts} FROM batch')  # noqa: S608 names of ours
                connection.unregister("batch")
    finally:
        connection.execute("DETACH made")


def _batches(table: Table) -> Iterator[dict[str, Any]]:
    """Columns as arrays of texts, which DuckDB casts: faster than rows one by one, and no pandas."""
    import numpy as np

    for begin in range(0, len(table.rows), BATCH_ROWS):
        rows = table.rows[begin : begin + BATCH_ROWS]
        yield {
            column.name: np.array([_text(row[place], column) for row in rows], dtype=object)
            for place, column in enumerate(table.columns)
        }


def _text(cell: str, column: Column) -> str | None:
    value = typed_value(cell, column)
    return None if value is None else str(value)


def main(lines: Iterable[str], memory_bytes: int) -> None:
    import duckdb

    with duckdb.connect(":memory:", config=_config(memory_bytes)) as connection:
        for line in lines:
            wanted = json.loads(line)
            tables = [Table(**{**one, "columns": tuple(Column(**each) for each in one["columns"])}) for one in wanted["tables"]]
            _write(connection, Path(wanted["path"]), tables)


if __name__ == "__main__":
    from agents.ingestion.child import bounded

    bounded(int(sys.argv[1]), int(sys.argv[2]))
    main(sys.stdin, int(sys.argv[1]))
