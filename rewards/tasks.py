"""What the queue's workers call. It returns what django-q shows as the task's result."""

from __future__ import annotations

from rewards import services


def promotions_watch() -> list[str]:
    """Scheduled every minute: a line for each decision."""
    return [f"{decision}: {decision.reason}" for decision in services.promotions_watch()]
