"""System checks of the queue's settings and of what the apps registered."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from adaptrag.common.registry import HANDLERS


@register("queue")
def check_queue(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """common.E001 unknown cluster, E002 redelivery too early, E003 heartbeat too slow, E004 not a sensible number."""
    problems: list[CheckMessage] = []
    clusters = {settings.Q_CLUSTER["name"]: settings.Q_CLUSTER, **settings.Q_CLUSTER.get("ALT_CLUSTERS", {})}
    for handler in HANDLERS.values():
        if handler.queue not in clusters:
            problems.append(
                Error(
                    f"Jobs of the kind {handler.kind!r} go to the queue {handler.queue!r}, which no cluster serves.",
                    hint=f"Use one of {', '.join(clusters)}, or add it to Q_CLUSTER['ALT_CLUSTERS'].",
                    id="common.E001",
                )
            )
    for name, cluster in clusters.items():
        if cluster["retry"] <= cluster["timeout"]:
            problems.append(
                Error(
                    f"Queue {name!r}: retry ({cluster['retry']} s) must be longer than timeout ({cluster['timeout']} s).",
                    hint="django-q starts a task again when `retry` runs out, waiting included: keep it far above.",
                    id="common.E002",
                )
            )
    if settings.ADAPTRAG_JOBS_LOST_AFTER < 3 * settings.ADAPTRAG_JOBS_HEARTBEAT:
        problems.append(
            Error(
                f"Jobs count as lost after {settings.ADAPTRAG_JOBS_LOST_AFTER} s, but beat every "
                f"{settings.ADAPTRAG_JOBS_HEARTBEAT} s.",
                hint="Set ADAPTRAG_JOBS_LOST_AFTER to at least three times ADAPTRAG_JOBS_HEARTBEAT.",
                id="common.E003",
            )
        )
    lowest = {
        "ADAPTRAG_JOBS_HEARTBEAT": 0.5,
        "ADAPTRAG_JOBS_LIGHT_LIMIT": 1,
        "ADAPTRAG_JOBS_HEAVY_LIMIT": 1,
        "ADAPTRAG_JOBS_GRACE": 0,
        "ADAPTRAG_JOBS_KEEP_DAYS": 0,
    }
    for name, least in lowest.items():
        if getattr(settings, name) < least:
            problems.append(Error(f"{name} is {getattr(settings, name)}; the least is {least}.", id="common.E004"))
    if settings.Q_CLUSTER["workers"] < 1:
        problems.append(Error("The queue has no worker.", hint="Set ADAPTRAG_QUEUE_WORKERS to at least 1.", id="common.E004"))
    return problems
