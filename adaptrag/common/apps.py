from __future__ import annotations

import logging
from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed_apps
from django.apps.registry import Apps
from django.db.models.signals import post_migrate

logger = logging.getLogger(__name__)


def schedules_ensure(using: str, apps: Apps = installed_apps, **_: Any) -> None:
    """Make the two schedules of the queue, once, after every migrate; an operator's own changes to them stay."""
    try:
        schedule = apps.get_model("django_q", "Schedule")
    except LookupError:  # django_q isn't migrated yet; the migrate that does it comes by here again
        return
    for name, kind, minutes in (("reap", "I", 1), ("clean", "D", None)):
        schedule.objects.using(using).get_or_create(
            name=f"jobs: {name}",
            defaults={"func": f"adaptrag.common.tasks.{name}", "schedule_type": kind, "minutes": minutes},
        )


def reap_at_start(**_: Any) -> None:
    """After a crash of the whole cluster, its jobs go on as soon as a worker is there, not when the scheduler first looks."""
    from adaptrag.common.reaper import jobs_reap

    try:
        jobs_reap()
    except Exception:  # a worker that died of this would be replaced by one that dies of it
        logger.exception("jobs of lost processes could not be looked after; the schedule tries again within a minute")


class CommonConfig(AppConfig):
    name = "adaptrag.common"
    label = "common"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from django_q.signals import post_spawn

        from adaptrag.common import checks  # noqa: F401 registers them

        post_migrate.connect(schedules_ensure, sender=self)
        post_spawn.connect(reap_at_start)
