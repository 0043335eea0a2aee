"""System checks of the judge's settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from adaptrag.common.errors import InvalidInput
from agents.llm.factory import OPTIONS, validate_options


@register
def check_judge(**kwargs: Any) -> list[CheckMessage]:
    backend, model = settings.ADAPTRAG_JUDGE_BACKEND, settings.ADAPTRAG_JUDGE_MODEL
    if backend and backend not in OPTIONS:
        return [
            Error(
                f"ADAPTRAG_JUDGE_BACKEND={backend!r} is no chat backend.",
                hint=f"Take one of {', '.join(OPTIONS)}.",
                id="evals.E001",
            )
        ]
    if model and not backend:
        return [
            Error(
                f"ADAPTRAG_JUDGE_MODEL={model!r} is set without a backend.",
                hint="Set ADAPTRAG_JUDGE_BACKEND, for example openai_compatible.",
                id="evals.E002",
            )
        ]
    try:
        if settings.ADAPTRAG_JUDGE_OPTIONS:
            validate_options(backend, settings.ADAPTRAG_JUDGE_OPTIONS)
    except InvalidInput as error:
        return [
            Error(
                f"ADAPTRAG_JUDGE_OPTIONS: {error.message}",
                hint="Write a JSON object with the chat options of ADAPTRAG_JUDGE_MODEL, such as its prices.",
                id="evals.E003",
            )
        ]
    return []
