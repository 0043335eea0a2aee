from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class LoopConfig(AppConfig):
    name = "adaptrag.loop"
    label = "loop"
    verbose_name = "Improvement"

    def ready(self) -> None:
        from django_q.signals import post_spawn

        from adaptrag.loop import checks, tasks  # noqa: F401 importing registers the checks

        tasks.register_handlers()
        post_migrate.connect(tasks.schedule_ensure, sender=self)
        post_spawn.connect(_schedule)


def _schedule(**_: Any) -> None:
    """A worker that starts has read the setting anew."""
    import logging

    from adaptrag.loop.tasks import schedule_ensure

    try:
        schedule_ensure()
    except Exception:  # a worker that died of this would be replaced by one that dies of it
        logging.getLogger(__name__).exception("the schedule of the improvement could not be brought in line with its setting")
