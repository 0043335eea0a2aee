from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed_apps
from django.apps.registry import Apps
from django.db.models.signals import post_migrate


def schedule_ensure(using: str, apps: Apps = installed_apps, **_: Any) -> None:
    """Make the schedule that looks after canaries, once, after every migrate; an operator's own change to it stays."""
    try:
        schedule = apps.get_model("django_q", "Schedule")
    except LookupError:  # django_q isn't migrated yet; the migrate that does it comes by here again
        return
    schedule.objects.using(using).get_or_create(
        name="promotions: watch", defaults={"func": "rewards.tasks.promotions_watch", "schedule_type": "I", "minutes": 1}
    )


class RewardsConfig(AppConfig):
    name = "rewards"
    verbose_name = "Rewards and routing"

    def ready(self) -> None:
        from rewards import (
            checks,  # noqa: F401 - registers them
            signals,  # noqa: F401 - connects them
        )

        post_migrate.connect(schedule_ensure, sender=self)
