"""The model process as others see it: where it listens, its password, and that there is one a data folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from django.conf import settings

from adaptrag.common.errors import Conflict

START = "start it with: python manage.py serve_model"
# Several of these run beside each other, so each of them loading weights would fill the machine.
_SERVICE_COMMANDS = ("qcluster", "run_job", "runserver")
_SERVICE_MODULES = ("adaptrag.asgi", "adaptrag.wsgi")


class AlreadyRuns(Conflict):
    """Another model process serves this data folder."""

    code = "model_process_runs"


@dataclass(frozen=True, kw_only=True)
class ModelProcess:
    address: str  # http://host:port
    pid: int
    host: str  # the machine's name: process ids mean something there only
    token: str
    state: str = "loading"  # then ready
    models: tuple[str, ...] = ()


def find() -> ModelProcess | None:
    """The model process of this data folder, loading or ready. A file that a killed one left behind counts for nothing."""
    try:
        found = json.loads(_state_file().read_text())
        process = ModelProcess(
            **{item.name: found[item.name] for item in fields(ModelProcess)} | {"models": tuple(found["models"])}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if process.host != socket.gethostname():
        return process
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # alive, and another user's
    return process


@contextlib.contextmanager
def claim(token: str = "") -> Iterator[str]:
    """Be the model process; yields its password, drawn where none is given. The state file goes when the block ends. Raises
    AlreadyRuns."""
    folder = _state_file().parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model-server.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = find()
            who = f"process {other.pid}, {other.address}" if other else "another process"
            raise AlreadyRuns(
                f"A model process ({who}) serves {settings.DATA_DIR} already. One is enough; stop it first."
            ) from error
        try:
            yield token or secrets.token_urlsafe(32)
        finally:
            _state_file().unlink(missing_ok=True)


def publish(process: ModelProcess) -> None:
    """Tell the others. Readable by this user only: it holds the password."""
    path = _state_file()
    descriptor, aside = tempfile.mkstemp(prefix=".model-server-", dir=path.parent)  # made with mode 0600
    with os.fdopen(descriptor, "w") as handle:
        json.dump(asdict(process), handle)
    Path(aside).replace(path)


def in_service_process() -> bool:
    """Whether this is a web process or a queue's, which leave the weights to the model process."""
    return any(name in sys.modules for name in _SERVICE_MODULES) or any(word in _SERVICE_COMMANDS for word in sys.argv[1:2])


def _state_file() -> Path:
    return Path(settings.DATA_DIR) / "run" / "model-server.json"
