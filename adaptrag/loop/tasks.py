"""The queue's side of the loop: a kind of job for each stage, and the schedule."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps as installed_apps
from django.apps.registry import Apps
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS

from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.jobs import JobContext, register

logger = logging.getLogger(__name__)

SCHEDULE = "loop: improve"
FREQUENCIES = {"hourly": "H", "daily": "D", "weekly": "W", "monthly": "M"}


def register_handlers() -> None:
    """Called when the app is ready. Heavy stages queue behind trainings and evaluations, which they would slow."""
    from adaptrag.loop.stages import STAGES

    for stage in STAGES.values():
        register(stage.kind, execute, heavy=stage.heavy, queue="long" if stage.heavy else "default")


def execute(context: JobContext) -> dict[str, Any]:
    from adaptrag.loop.services import stage_execute

    return stage_execute(context.payload["run"], context.payload["stage"], context)


def scheduled() -> str:
    """Called by the queue's schedule. Returns what django-q shows as the task's result."""
    from adaptrag.loop.models import LoopRun
    from adaptrag.loop.services import ImproveRequest, improve_start

    try:
        return str(improve_start(ImproveRequest(trigger=LoopRun.Trigger.SCHEDULE)))
    except AdaptRAGError as error:  # one is under way, or a setting names what is not there
        logger.warning("no improvement was started: %s", error.message)
        return error.message


def schedule_ensure(using: str = DEFAULT_DB_ALIAS, apps: Apps = installed_apps, **_: Any) -> None:
    """Make the queue's schedule say what ADAPTRAG_IMPROVE_SCHEDULE says; after every migrate and whenever a worker starts."""
    try:
        schedules = apps.get_model("django_q", "Schedule").objects.using(using)
    except LookupError:  # django_q isn't migrated yet; the migrate that does it comes by here again
        return
    kind = FREQUENCIES.get(settings.ADAPTRAG_IMPROVE_SCHEDULE)
    if kind is None:
        schedules.filter(name=SCHEDULE).delete()
        return
    row, made = schedules.get_or_create(
        name=SCHEDULE, defaults={"func": "adaptrag.loop.tasks.scheduled", "schedule_type": kind}
    )
    if not made and row.schedule_type != kind:
        row.schedule_type = kind
        row.save()
