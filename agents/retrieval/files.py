"""Files that several processes write and read at once: locks, and folders that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked(path: Path, patience: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel frees it when the process dies.

    Raises TimeoutError if another process still holds it after `patience` seconds; None waits for good.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        if patience is None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        else:
            _lock_within(handle, time.monotonic() + patience)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process of this machine holds the lock on `path` now."""
    try:
        with locked(path, patience=0):
            return False
    except TimeoutError:
        return True


def _lock_within(handle: IO[str], until: float) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError from None
        time.sleep(0.02)


@contextmanager
def made_aside(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write into; on a clean exit it is flushed to disk and renamed to `target`, else removed.

    The caller holds the lock that makes it the only writer.
    """
    aside = target.with_name(f".{target.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in sorted(aside.rglob("*")):
            flush(path)
        flush(aside)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        flush(target.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole, on disk, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_bytes(data)
        flush(aside)
        aside.rename(path)
        flush(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """fsync a file, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
