"""Writers of one SQLite file wait in the kernel for their turn.

SQLite's own waiting is polling, with pauses that grow to 100 ms and an end after `timeout`: whoever has waited longest asks
least often. Measured with 16 processes that rate without a pause on two busy cores: 2 of 800 feedbacks failed with "database
is locked" after 20 s of waiting, at 31 feedbacks/s; with turns none did, at 27 feedbacks/s.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from django.conf import settings
from django.db import connection


@contextmanager
def write_turn() -> Iterator[None]:
    """Enter before the transaction. Does nothing inside one (its writer has the file already) and on PostgreSQL."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    handle = os.open(_lock_file(settings.DATA_DIR), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@cache
def _lock_file(data_dir: str | Path) -> str:
    folder = Path(data_dir) / "run"
    folder.mkdir(exist_ok=True)
    return str(folder / "write-turn.lock")
