"""What waits and runs, for pages and health checks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from django.utils import timezone

from adaptrag.common.models import Job
from adaptrag.common.registry import HANDLERS

STALLED_AFTER = 60.0


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """One queue: jobs waiting and running, and the longest wait in seconds."""

    name: str
    queued: int
    running: int
    oldest_wait: float

    @property
    def stalled(self) -> bool:
        """A job has waited for a minute and nothing runs: no worker serves this queue, or its cluster hangs."""
        return self.running == 0 and self.oldest_wait > STALLED_AFTER

    @property
    def remedy(self) -> str:
        prefix = "" if self.name == "default" else f"Q_CLUSTER_NAME={self.name} "
        return f"{prefix}python manage.py qcluster"


def queue_status() -> list[QueueStatus]:
    """Every queue that has a live job, by name."""
    waits: dict[str, list[float]] = defaultdict(list)
    running: dict[str, int] = defaultdict(int)
    now = timezone.now()
    for kind, state, queued_at in Job.objects.filter(state__in=Job.LIVE).values_list("kind", "state", "queued_at"):
        queue = HANDLERS[kind].queue if kind in HANDLERS else "default"
        if state == Job.State.RUNNING:
            running[queue] += 1
        else:
            waits[queue].append((now - queued_at).total_seconds())
    return [
        QueueStatus(name=name, queued=len(waits[name]), running=running[name], oldest_wait=max(waits[name], default=0.0))
        for name in sorted(waits.keys() | running.keys())
    ]
