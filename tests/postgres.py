"""A throw-away PostgreSQL server, from the binaries that Debian's `postgresql` package installs."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from adaptrag.common.processes import die_with_parent

ROLE = "adaptrag"


def binaries() -> Path | None:
    """The newest installed version's folder of programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    port: int

    def create_database(self, name: str) -> str:
        """Make an empty database; its DATABASE_URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server on a free port of this machine; it and its files are gone afterwards. Skips where there are no binaries."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL's server binaries are absent (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="adaptrag-pg-"))
    run = _as_unprivileged(folder)
    try:
        initdb = [
            programs / "initdb",
            "-D",
            folder / "data",
            "-A",
            "trust",
            "-U",
            ROLE,
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        done = subprocess.run(initdb, **run, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        command = [programs / "postgres", "-D", folder / "data"]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        log = folder / "log"
        with log.open("wb") as handle:
            server = subprocess.Popen(
                command, **run, stdout=handle, stderr=handle, preexec_fn=lambda: die_with_parent(signal.SIGINT)
            )
        try:
            _wait(server, PostgresServer(port=port), log)
            yield PostgresServer(port=port)
        finally:
            server.send_signal(signal.SIGINT)  # "fast": connections that tests left open are closed
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def _as_unprivileged(folder: Path) -> dict[str, Any]:
    """How to run a program of the server, which refuses root: as the package's own user, else as nobody."""
    run: dict[str, Any] = {"cwd": folder, "env": {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C"}}
    if os.geteuid() != 0:
        return run
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return run | {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait(process: subprocess.Popen[bytes], server: PostgresServer, log: Path) -> None:
    patience = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None and time.monotonic() < patience, log.read_text()
            time.sleep(0.1)
