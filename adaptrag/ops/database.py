"""A consistent copy of the database while the site goes on writing, and the way back, for SQLite and PostgreSQL."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.models import FileField

from adaptrag.ops.errors import ArchiveDamaged, BackupFailed, RestoreRefused

SQLITE_HEADER = b"SQLite format 3\0"
SIDECARS = ("-wal", "-shm", "-journal")

Fetch = Callable[[str], list[tuple]]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """`counts` are rows by table, `references` the files and folders that rows name, relative to the data folder."""

    engine: str
    file: Path
    counts: dict[str, int]
    migrations: list[str]
    references: frozenset[str]


def engine() -> str:
    vendor = connection.vendor
    if vendor not in ("sqlite", "postgresql"):
        raise BackupFailed(f"backup and restore know SQLite and PostgreSQL, not {vendor}. Use the tools of that database.")
    return vendor


def sqlite_path() -> Path:
    return Path(connection.settings_dict["NAME"]).resolve()


def is_sqlite(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(SQLITE_HEADER)) == SQLITE_HEADER


def sqlite_copy(source: Path, target: Path) -> None:
    """Copy a live SQLite file in one step: in WAL mode writers go on meanwhile and a single step never starts over."""
    origin = sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=20)
    with closing(origin), closing(sqlite3.connect(target)) as copy:
        origin.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without -wal and -shm beside it


def snapshot(target: Path) -> Snapshot:
    """Write the database's state at one moment to `target`."""
    return _sqlite_snapshot(target) if engine() == "sqlite" else _postgres_snapshot(target)


def references_now() -> frozenset[str]:
    with connection.cursor() as cursor:
        return _references(_fetch(cursor))


def sqlite_check(path: Path, what: str = "The database in the archive") -> dict[str, int]:
    """Rows by table of a SQLite file; raises ArchiveDamaged when SQLite finds damage in it."""
    try:
        with closing(sqlite3.connect(path)) as database:
            fetch = _fetch(database.cursor())
            found = fetch("PRAGMA integrity_check")
            if found != [("ok",)]:
                raise ArchiveDamaged(f"{what} is damaged: {found[0][0]}. Use an older backup.")
            return _counts(fetch, _sqlite_tables(fetch))
    except sqlite3.DatabaseError as error:
        raise ArchiveDamaged(f"{what} is damaged: {error}. Use an older backup.") from error


def is_empty() -> bool:
    """Whether the configured database holds no table yet."""
    if engine() == "sqlite":
        path = sqlite_path()
        if not path.exists() or not path.stat().st_size:
            return True
    with connection.cursor() as cursor:
        empty = not connection.introspection.table_names(cursor)
    connection.close()
    return empty


def postgres_dump(target: Path, *extra: str) -> None:
    _run(["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}", *extra], BackupFailed)


def postgres_restore(source: Path) -> None:
    """Replace what the dump holds, in one transaction: after a failure the database is as before."""
    connection.close()
    command = ["pg_restore", "--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction"]
    _run([*command, "--exit-on-error", f"--dbname={connection.settings_dict['NAME']}", str(source)], RestoreRefused)


def client_program(name: str) -> str | None:
    """Path of one of PostgreSQL's client programs."""
    # Debian keeps those of each server version in a folder that's not on PATH; the newest reads the older servers.
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return shutil.which(name) or (str(found[-1]) if found else None)


def _sqlite_snapshot(target: Path) -> Snapshot:
    source = sqlite_path()
    if not source.exists():
        raise BackupFailed(f"There is no database at {source}. Run `manage.py migrate` first.")
    sqlite_copy(source, target)
    counts = sqlite_check(target, f"The database {source}")
    with closing(sqlite3.connect(target)) as database:
        fetch = _fetch(database.cursor())
        return Snapshot(
            engine="sqlite",
            file=target,
            counts=counts,
            migrations=_migrations(fetch, counts),
            references=_references(fetch, counts),
        )


def _postgres_snapshot(target: Path) -> Snapshot:
    # pg_dump reads the very snapshot that this transaction sees, so the counts are those of the dump.
    own = connection.copy()
    try:
        own.connect()
        own.set_autocommit(False)
        with own.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            fetch = _fetch(cursor)
            exported = fetch("SELECT pg_export_snapshot()")[0][0]
            tables = [name for (name,) in fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")]
            counts = _counts(fetch, tables)
            postgres_dump(target, f"--snapshot={exported}")
            return Snapshot(
                engine="postgresql",
                file=target,
                counts=counts,
                migrations=_migrations(fetch, counts),
                references=_references(fetch, counts),
            )
    finally:
        own.close()


def _fetch(cursor) -> Fetch:
    def fetch(sql: str) -> list[tuple]:
        cursor.execute(sql)
        return cursor.fetchall()

    return fetch


def _sqlite_tables(fetch: Fetch) -> list[str]:
    return [name for (name,) in fetch("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]


def _counts(fetch: Fetch, tables: list[str]) -> dict[str, int]:
    return {table: fetch(f'SELECT count(*) FROM "{table}"')[0][0] for table in sorted(tables)}  # noqa: S608


def _migrations(fetch: Fetch, counts: dict[str, int]) -> list[str]:
    if "django_migrations" not in counts:
        return []
    return [f"{app}.{name}" for app, name in fetch("SELECT app, name FROM django_migrations ORDER BY id")]


def _references(fetch: Fetch, counts: dict[str, int] | None = None) -> frozenset[str]:
    """Uploaded files and the indexes that serve, as paths relative to the data folder."""
    media = Path(settings.MEDIA_ROOT).relative_to(settings.DATA_DIR)
    found: set[str] = set()
    for model in apps.get_models():
        table = model._meta.db_table
        if counts is not None and table not in counts:
            continue
        for field in model._meta.concrete_fields:
            if isinstance(field, FileField):
                rows = fetch(f'SELECT "{field.column}" FROM "{table}" WHERE "{field.column}" <> \'\'')  # noqa: S608
                found.update(str(media / name) for (name,) in rows)
    build, collection = apps.get_model("agents.IndexBuild")._meta.db_table, apps.get_model("agents.Collection")._meta.db_table
    if counts is None or build in counts:
        serving = f'SELECT b.id, b.base_id FROM "{build}" b JOIN "{collection}" c ON c.current_build_id = b.id'  # noqa: S608
        ids = {one for row in fetch(serving) for one in row if one is not None}
        found.update(path for pk, path in fetch(f'SELECT id, path FROM "{build}"') if pk in ids and path)  # noqa: S608
    derived = apps.get_model("agents.DerivedIndex")._meta.db_table
    if counts is None or derived in counts:
        found.update(path for (path,) in fetch(f'SELECT path FROM "{derived}"'))  # noqa: S608
    return frozenset(found)


def _run(command: list[str], error: type[Exception]) -> None:
    """Run one of PostgreSQL's client programs against the configured database."""
    program = client_program(command[0])
    if program is None:
        raise error(
            f"{command[0]} was not found. Install PostgreSQL's client programs (Debian: apt-get install postgresql-client)."
        )
    database = connection.settings_dict
    variables = {
        "PGHOST": database["HOST"],
        "PGPORT": str(database["PORT"] or ""),
        "PGUSER": database["USER"],
        "PGPASSWORD": database["PASSWORD"],
        "PGDATABASE": database["NAME"],
        "PGSSLMODE": database.get("OPTIONS", {}).get("sslmode", ""),
    }
    environment = {**os.environ, **{name: value for name, value in variables.items() if value}}
    done = subprocess.run([program, *command[1:]], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise error(f"{command[0]} failed: {done.stderr.strip()[-1000:]}")
