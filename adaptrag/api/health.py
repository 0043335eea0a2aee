"""GET /api/health: is the process alive, and can the site do its work?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from django_q.models import Schedule
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agents.llm.local import process_state
from agents.models import AgentVariant, Collection
from agents.selectors import live_variants

OK, DEGRADED, DOWN = "ok", "degraded", "down"
# Probes may come from several balancers each second; one look a second is enough for all of them.
FRESH_SECONDS = 1.0
# The queue looks for lost jobs every minute; after three that it missed nobody is there.
QUEUE_SILENCE = timedelta(minutes=3)


@dataclass(frozen=True, kw_only=True)
class Part:
    """`down`: no question can be answered, the site is not ready. `degraded`: it answers, but something else is wrong."""

    status: str
    message: str = ""


def database() -> Part:
    begun = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return Part(status=OK, message=f"{connection.vendor}, {(time.perf_counter() - begun) * 1000:.1f} ms")


_migrated = threading.Event()


def migrations() -> Part:
    if not _migrated.is_set():
        executor = MigrationExecutor(connection)
        if missing := len(executor.migration_plan(executor.loader.graph.leaf_nodes())):
            return Part(status=DOWN, message=f"{missing} migrations are not applied; run `manage.py migrate`.")
        _migrated.set()  # a process keeps its code, so nothing can become missing again
    return Part(status=OK)


def index() -> Part:
    collections = list(Collection.objects.select_related("current_build"))
    builds = {row.name: row.current_build for row in collections if row.current_build is not None}
    if gone := sorted(name for name, build in builds.items() if not (Path(settings.DATA_DIR) / build.path).exists()):
        return Part(status=DEGRADED, message=f"The index files of {', '.join(gone)} are missing; index the collection again.")
    if not builds:
        return Part(status=OK, message="Nothing is indexed yet; add documents.")
    return Part(status=OK, message=f"{len(builds)} of {len(collections)} collections are searchable.")


def model() -> Part:
    variants = live_variants()
    if not variants:
        return Part(status=DEGRADED, message="No agent is switched on; register one in the admin.")
    local = [variant for variant in variants if variant.chat_backend == AgentVariant.Backend.LOCAL]
    if not local:
        return Part(status=OK, message="No agent uses the local model.")
    problem = process_state()
    if problem is None:
        return Part(status=OK)
    return Part(status=DOWN if len(local) == len(variants) else DEGRADED, message=problem)


def queue() -> Part:
    reaper = Schedule.objects.filter(name="jobs: reap").first()
    if reaper is None:
        return Part(status=DEGRADED, message="The queue's schedule is missing; run `manage.py migrate`.")
    if reaper.next_run < timezone.now() - QUEUE_SILENCE:
        return Part(
            status=DEGRADED, message=f"No worker since {reaper.next_run:%Y-%m-%d %H:%M} UTC; start `manage.py qcluster`."
        )
    return Part(status=OK)


PARTS: dict[str, Callable[[], Part]] = {
    "database": database, "migrations": migrations, "index": index, "model": model, "queue": queue,
}  # fmt: skip
_lock = threading.Lock()
_last: tuple[float, dict[str, Any]] = (0.0, {})


def report() -> dict[str, Any]:
    """{"status", "parts": {name: {"status", "message"}}}, at most FRESH_SECONDS old."""
    global _last
    with _lock:
        if time.monotonic() - _last[0] > FRESH_SECONDS or not _last[1]:
            _last = (time.monotonic(), _report())
        return _last[1]


def _report() -> dict[str, Any]:
    parts: dict[str, Part] = {}
    for name, look in PARTS.items():
        if parts.get("database", Part(status=OK)).status == DOWN or parts.get("migrations", Part(status=OK)).status == DOWN:
            parts[name] = Part(status=DOWN, message="Not looked at: it needs the database.")
            continue
        try:
            parts[name] = look()
        except DatabaseError as error:
            parts[name] = Part(status=DOWN, message=f"The database does not answer ({type(error).__name__}).")
    states = {part.status for part in parts.values()}
    status = DOWN if DOWN in states else DEGRADED if DEGRADED in states else OK
    return {"status": status, "parts": {name: {"status": part.status, "message": part.message} for name, part in parts.items()}}


PartSerializer = inline_serializer(
    "HealthPart", {"status": serializers.ChoiceField(choices=[OK, DEGRADED, DOWN]), "message": serializers.CharField()}
)


class HealthSerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=[OK, DEGRADED, DOWN])
    parts = serializers.DictField(child=PartSerializer, required=False)


class HealthView(APIView):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        operation_id="health",
        auth=[],
        parameters=[
            OpenApiParameter("live", OpenApiTypes.STR, enum=["0", "1"], description="1: only whether the process answers.")
        ],
        responses={200: HealthSerializer, 503: HealthSerializer},
    )
    def get(self, request: Request) -> Response:
        """200: ready (`ok`, or `degraded` in what does not stop answers); 503: no question can be answered now."""
        if request.query_params.get("live") == "1":
            return Response({"status": OK})
        state = report()
        return Response(state, status=503 if state["status"] == DOWN else 200)
