"""The process that runs one SELECT: `python -m agents.tables.child`, JSON in, JSON out. See agents.tables.query.

The files are attached read-only; then access to anything else is switched off and the configuration locked, before the
SELECT is looked at.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from agents.ingestion.child import bounded

LONGEST_VALUE = 1_000  # characters
DUCKDB_SHARE = 3  # DuckDB may take one part in so many of the process's memory
LOCKED = (
    "SET temp_directory = ''",
    "SET autoload_known_extensions = false",
    "SET autoinstall_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def main() -> None:
    wanted = json.load(sys.stdin)
    bounded(wanted["memory_bytes"], wanted["seconds"])
    import duckdb

    try:
        answer = _run(duckdb, wanted)
    except duckdb.Error as error:
        answer = {"error": _first_lines(str(error))}
    except MemoryError:
        answer = {"error": f"The query needs more than {wanted['memory_bytes']:,} bytes (ADAPTRAG_SQL_MEMORY_BYTES)."}
    json.dump(answer, sys.stdout)


def _run(duckdb: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    config = {"threads": 1, "memory_limit": f"{wanted['memory_bytes'] // DUCKDB_SHARE}B"}
    with duckdb.connect(":memory:", config=config) as connection:
        attached: dict[str, str] = {}
        for table in wanted["tables"]:
            if table["path"] not in attached:
                attached[table["path"]] = f"file{len(attached)}"
                connection.execute(f"ATTACH {_text(table['path'])} AS {attached[table['path']]} (READ_ONLY)")
            stored = f"{attached[table['path']]}.{_name(table['stored_as'])}"
            connection.execute(f"CREATE VIEW {_name(table['name'])} AS SELECT * FROM {stored}")  # noqa: S608 names of ours
        for setting in LOCKED:
            connection.execute(setting)
        result = connection.execute(wanted["sql"])
        rows = result.fetchmany(wanted["rows"] + 1)
        return {
            "columns": [column[0] for column in result.description],
            "rows": [[_value(value) for value in row] for row in rows[: wanted["rows"]]],
            "more": len(rows) > wanted["rows"],
        }


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _value(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, float):
        value = int(value) if value.is_integer() and abs(value) < 1e15 else round(value, 6)
    return str(value)[:LONGEST_VALUE]


def _first_lines(message: str) -> str:
    """DuckDB's message with its candidates, without the picture of the statement."""
    return "\n".join(line for line in message.split("\n\nLINE")[0].splitlines() if line.strip())[:600]


if __name__ == "__main__":
    main()
