"""One archive of everything that a site has written, consistent while the site runs.

The database is copied as of one moment, the files after it. What that copy of the database names is then compared with
what the live one names: a document deleted or an index replaced in between starts the round again instead of leaving a hole.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

from django.conf import settings

from adaptrag.ops import archive, database
from adaptrag.ops.archive import FileEntry, Manifest
from adaptrag.ops.errors import BackupFailed
from adaptrag.ops.progress import Progress, part, silent

DATABASE_NAMES = {"sqlite": "database/db.sqlite3", "postgresql": "database/postgresql.dump"}
DATA = "data"

# run/ holds sockets, locks and the token of the model process; the others are made again by the commands that need them.
NEVER = ("run", "logs", "static", "backups", "embeddings", "replaced-*", ".restore-*", ".backup-*")
UNFINISHED = ".*.new"  # what is being written aside, at any depth
MODELS = "models"
ROUNDS = 5
COPY_BELOW = 64 * 2**20  # larger files are never changed in place, so a hard link keeps their content


def backup(target: Path, *, models: bool = False, overwrite: bool = False, progress: Progress = silent) -> Manifest:
    """Write `target`, read it back and compare; BackupFailed, with no file left behind, when that can't be done."""
    target = target.expanduser().resolve()
    if target.exists() and not overwrite:
        raise BackupFailed(f"{target} exists already. Name another file, or pass --force to replace it.")
    if not target.parent.is_dir():
        raise BackupFailed(f"The folder {target.parent} does not exist. Create it first.")
    partial = target.with_name(target.name + ".partial")
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=settings.DATA_DIR) as folder:
            manifest = _stage(Path(folder), models, {target, partial}, progress)
            archive.write(Path(folder), manifest, partial, part(progress, 0.3, 0.8, "writing the archive"))
        if archive.verify(partial, part(progress, 0.8, 1.0, "reading it back")) != manifest:
            raise BackupFailed("The archive reads back differently from what was written. Check the disk.")
        partial.replace(target)
    except (OSError, sqlite3.Error) as error:
        raise BackupFailed(f"The backup could not be written: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    progress(1.0, "backup written and verified")
    return manifest


def _stage(staging: Path, models: bool, leave_out: set[Path], progress: Progress) -> Manifest:
    """Fill `staging` with a consistent picture of the site and describe it."""
    kind = database.engine()
    copied, files = staging / DATABASE_NAMES[kind], staging / DATA
    copied.parent.mkdir()
    for attempt in range(1, ROUNDS + 1):
        progress(0.0, "copying the database" if attempt == 1 else f"documents changed meanwhile: round {attempt}")
        snapshot = database.snapshot(copied)
        warnings = _stage_files(files, models, leave_out)
        absent = {name for name in snapshot.references if not (files / name).exists()}
        gone = snapshot.references - database.references_now()
        # A file is linked whole or not at all; a folder that lost its row may have been emptied while it was copied.
        if not (absent & gone) and not any((files / name).is_dir() for name in gone):
            break
        shutil.rmtree(files, ignore_errors=True)
        copied.unlink()
    else:
        raise BackupFailed(f"Documents changed in each of {ROUNDS} rounds. Try again when fewer are being added or deleted.")
    warnings += [f"{name}: named by a row, but not in the data folder" for name in sorted(absent)]
    return Manifest(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        engine=kind,
        database=DATABASE_NAMES[kind],
        counts=snapshot.counts,
        migrations=snapshot.migrations,
        models=models,
        files=_hash(staging, part(progress, 0.05, 0.3, "hashing")),
        warnings=warnings,
    )


def _stage_files(target: Path, models: bool, leave_out: set[Path]) -> list[str]:
    """Copy or link the data folder's files under `target`; returns what had to be left out, in words."""
    root, warnings = Path(settings.DATA_DIR), []
    own = (
        {Path(f"{database.sqlite_path()}{suffix}") for suffix in ("", *database.SIDECARS)}
        if database.engine() == "sqlite"
        else set()
    )
    never = NEVER if models else (*NEVER, MODELS)
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        if here == root:
            folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in never)]
        folders[:] = [name for name in folders if not fnmatch(name, UNFINISHED)]
        for name in [name for name in folders if (here / name).is_symlink()]:
            warnings.append(f"{(here / name).relative_to(root)}: a link to another place, left out")
        for name in names:
            path = here / name
            if path in own or path in leave_out or name.endswith(database.SIDECARS) or fnmatch(name, UNFINISHED):
                continue
            relative = path.relative_to(root)
            if path.is_symlink():
                warnings.append(f"{relative}: a link to another place, left out")
                continue
            try:
                if path.is_file():  # not a socket or a pipe
                    _stage_file(path, target / relative)
            except FileNotFoundError:
                continue  # deleted a moment ago; the comparison with the rows decides whether that matters
    return warnings


def _stage_file(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if database.is_sqlite(path):
        database.sqlite_copy(path, target)
    elif path.stat().st_size < COPY_BELOW:
        shutil.copy2(path, target)
    else:
        os.link(path, target)


def _hash(staging: Path, progress: Progress) -> dict[str, FileEntry]:
    paths = sorted(path for path in staging.rglob("*") if path.is_file())
    found = {}
    for number, path in enumerate(paths, start=1):
        found[str(path.relative_to(staging))] = archive.file_entry(path)
        progress(number / len(paths))
    return found
