"""System checks of the teacher's settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register


@register
def check_teacher(**kwargs: Any) -> list[CheckMessage]:
    if not (settings.ADAPTRAG_TEACHER_MODEL or settings.ADAPTRAG_TEACHER_OPTIONS):
        return []
    from training.services.teachers import teacher_refused

    if not (refused := teacher_refused()):
        return []
    hint = "Mend ADAPTRAG_TEACHER_MODEL, ADAPTRAG_TEACHER_BACKEND or ADAPTRAG_TEACHER_OPTIONS; until then no teacher is asked."
    return [Warning(refused, hint=hint, id="training.W001")]
