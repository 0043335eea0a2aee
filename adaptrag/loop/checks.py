"""Settings of the loop that can't be right."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import Error, register

from adaptrag.loop.tasks import FREQUENCIES


@register("adaptrag")
def improve_settings(**_: Any) -> list[Error]:
    found = []
    schedule = settings.ADAPTRAG_IMPROVE_SCHEDULE
    if schedule and schedule not in FREQUENCIES:
        hint = f"Use {', '.join(FREQUENCIES)}, or leave it empty for no schedule."
        found.append(Error(f"ADAPTRAG_IMPROVE_SCHEDULE is {schedule!r}.", hint=hint, id="loop.E001"))
    for name, least in (("ADAPTRAG_IMPROVE_MIN_NEW", 1), ("ADAPTRAG_IMPROVE_STEPS", 1), ("ADAPTRAG_IMPROVE_QUESTIONS", 2)):
        if getattr(settings, name) < least:
            found.append(Error(f"{name} is {getattr(settings, name)}.", hint=f"Use {least} or more.", id="loop.E002"))
    return found
