"""A backup put in place: unpacked and verified aside first, then swapped in by renames. What it replaces is kept."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

from django.conf import settings
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader

from adaptrag.ops import archive, database
from adaptrag.ops.archive import Manifest
from adaptrag.ops.backup import DATA, MODELS, NEVER
from adaptrag.ops.errors import ArchiveDamaged, RestoreRefused
from adaptrag.ops.progress import Progress, part, silent


@dataclass(frozen=True, kw_only=True)
class Restored:
    """`replaced`: the folder that keeps what was there before, if anything was; `pending`: migrations still to run."""

    manifest: Manifest
    replaced: Path | None
    pending: list[str]


def restore(source: Path, *, force: bool = False, progress: Progress = silent) -> Restored:
    """Put the archive in place of the data folder's content and of the database.

    ArchiveDamaged and RestoreRefused leave everything as it was. A site that is running on the data is refused even with
    `force`: its processes would go on writing to the files that are put aside.
    """
    source, root = source.expanduser().resolve(), Path(settings.DATA_DIR)
    _refuse_running()
    full = _is_full(root)
    if full and not force:
        raise RestoreRefused(
            f"{root} and its database already hold a site. Restore into an empty ADAPTRAG_DATA_DIR, "
            "or pass --force: what is there now is then kept in a folder replaced-… beside the restored data."
        )
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=root) as folder:
        manifest = _unpack(source, Path(folder), part(progress, 0.0, 0.85, "unpacking and comparing"))
        pending = _pending_migrations(manifest)
        progress(0.9, "checking the database")
        if manifest.engine == "sqlite" and database.sqlite_check(Path(folder) / manifest.database) != manifest.counts:
            raise ArchiveDamaged("The rows in the archive are not those that its manifest counts. Use another backup.")
        progress(0.95, "putting it in place")
        aside = root / f"replaced-{datetime.now():%Y%m%d-%H%M%S}"
        _swap(Path(folder), manifest, aside)
    if not full:
        shutil.rmtree(aside)  # nothing but the secret key of an unused folder
    progress(1.0, "restored")
    return Restored(manifest=manifest, replaced=aside if full else None, pending=pending)


def _refuse_running() -> None:
    """Raise RestoreRefused when another process has the database open."""
    if database.engine() == "sqlite":
        users = _processes_with(database.sqlite_path())
    else:
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pid, application_name FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                users = [f"session {pid} {name}".rstrip() for pid, name in cursor.fetchall()]
        except OperationalError as error:
            raise RestoreRefused(f"The database can't be reached: {error}. Check DATABASE_URL.") from error
    if users:
        raise RestoreRefused(f"The database is in use by {', '.join(users[:5])}. Stop the site first, then restore.")


def _processes_with(path: Path) -> list[str]:
    """Other processes that have the file open, as far as /proc lets us see."""
    users = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            if any(entry.readlink() == path for entry in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                users.append(f"process {process.name} ({command[-80:]})")
        except OSError:
            continue  # ended meanwhile, or another user's
    return users


def _is_full(root: Path) -> bool:
    # The settings write a secret key into any folder that they see; that alone makes no site.
    used = [entry for entry in root.iterdir() if not _left_alone(entry.name, models=True) and entry.name != "secret_key"]
    used = [entry for entry in used if not entry.name.startswith(database.sqlite_path().name)] if _sqlite() else used
    return bool(used) or not database.is_empty()


def _sqlite() -> bool:
    return database.engine() == "sqlite"


def _left_alone(name: str, *, models: bool) -> bool:
    """Entries of the data folder that a restore doesn't touch; converted models only where the archive brings some."""
    return any(fnmatch(name, pattern) for pattern in NEVER) or (name == MODELS and not models)


def _unpack(source: Path, staging: Path, progress: Progress) -> Manifest:
    with archive.reading(source) as (manifest, members):
        if manifest.engine != database.engine():
            raise RestoreRefused(
                f"{source} holds a {manifest.engine} database, and this site uses {database.engine()}. Set DATABASE_URL to "
                "that kind, restore, and move the rows as docs/operations.md describes."
            )
        free = shutil.disk_usage(staging).free
        if manifest.size > free:
            raise RestoreRefused(f"The backup needs {manifest.size:,} bytes and {free:,} are free under {staging.parent}.")
        done = 0
        for member, handle in members:
            # Members are regular files (archive.reading refuses others), so their names are all that could lead outside.
            # tarfile's own filter "data" is missing from the Python 3.11.2 of Debian 12.
            target = (staging / member.name).resolve()
            if not target.is_relative_to(staging.resolve()):
                raise ArchiveDamaged(f"{source} holds {member.name!r}, which lies outside of the data folder.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(handle, out, archive.BLOCK)
            target.chmod(member.mode & 0o755 | 0o600)
            os.utime(target, (member.mtime, member.mtime))
            if archive.file_entry(target) != manifest.files[member.name]:
                raise ArchiveDamaged(f"{member.name} in {source} is not what the manifest says. Use another backup.")
            done += member.size
            progress(done / max(1, manifest.size))
    return manifest


def _pending_migrations(manifest: Manifest) -> list[str]:
    loader = MigrationLoader(None, ignore_no_migrations=True)
    known = {f"{app}.{name}" for app, name in loader.disk_migrations}
    newer = [name for name in manifest.migrations if name not in known and name.split(".")[0] in loader.migrated_apps]
    if newer:
        raise RestoreRefused(
            f"The backup comes from a newer version (migration {newer[-1]}). Install that version, then restore."
        )
    return sorted(known - set(manifest.migrations))


def _swap(staging: Path, manifest: Manifest, aside: Path) -> None:
    """Rename what is there into `aside` and the new content into its place; after a failure everything is moved back."""
    root = Path(settings.DATA_DIR)
    (staging / DATA).mkdir(exist_ok=True)
    aside.mkdir()
    old = [entry for entry in root.iterdir() if not _left_alone(entry.name, models=manifest.models)]
    moves = [(entry, aside / entry.name) for entry in old if entry != aside]
    moves += [(entry, root / entry.name) for entry in (staging / DATA).iterdir()]
    if _sqlite():
        path = database.sqlite_path()
        beside = [Path(f"{path}{suffix}") for suffix in ("", *database.SIDECARS)]
        moves = [(file, aside / file.name) for file in beside if file.exists() and file not in old] + moves
        moves.append((staging / manifest.database, path))  # last: a swap that was cut off shows as a missing database
    elif not database.is_empty():
        database.postgres_dump(aside / "postgresql.dump")
    connection.close()
    done: list[tuple[Path, Path]] = []
    try:
        for origin, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(origin, target)
            done.append((origin, target))
        if not _sqlite():
            database.postgres_restore(staging / manifest.database)
    except BaseException:
        for origin, target in reversed(done):
            shutil.move(target, origin)
        shutil.rmtree(aside)
        raise
