"""Logs: one line an event on stderr, for people or as JSON, each with the id of the request that caused it."""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject
from django_structlog.middlewares import RequestMiddleware

from adaptrag.common.errors import AdaptRAGError

logger = logging.getLogger("adaptrag.requests")
refusals = logging.getLogger("adaptrag.refusals")
events = structlog.get_logger("adaptrag.requests")

FORMS = ("console", "json")
OPERATORS_MATTER = (409, 422)
# Run for every line, ours and those of libraries that log through the standard module.
SHARED = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def logging_settings(*, level: str, form: str) -> dict[str, Any]:
    """Django's LOGGING for `level` and `form` (one of FORMS); sets structlog up to feed the same handler."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    json_lines = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    people = [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": SHARED,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *(json_lines if form == "json" else people),
                ],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            **{name: {"level": level} for name in ("adaptrag", "agents", "rewards", "django_structlog", "django-q")},
            # request_finished and request_failed say the same with the request's id.
            "django.request": {"level": "CRITICAL"},
            "django": {"level": "WARNING", "handlers": [], "propagate": True},
            "uvicorn": {"level": level},
            "uvicorn.access": {"level": "WARNING"},
        },
    }


class RequestLogMiddleware(RequestMiddleware):
    """One line a request, when it ends, and its id in the X-Request-ID header.

    The parent logs what a view raises. Its line at the start, its signals and its look at the session of a user whom no view
    asked for cost as much as all other middleware together, and are left out.
    """

    def __call__(self, request: HttpRequest) -> HttpResponse:
        identifier = uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=identifier)
        begun = time.perf_counter()
        response = self.get_response(request)
        response["X-Request-ID"] = identifier
        level = self._log_level_for_status_code(response.status_code)
        if logger.isEnabledFor(level):
            events.log(
                level,
                "request_finished",
                request=f"{request.method} {request.get_full_path()}",
                code=response.status_code,
                user_id=_user_id(request),
                ms=round((time.perf_counter() - begun) * 1000, 1),
            )
        return response

    @staticmethod
    def bind_user_id(request: HttpRequest) -> None:
        structlog.contextvars.bind_contextvars(user_id=_user_id(request))


def _user_id(request: HttpRequest) -> int | None:
    user = getattr(request, "user", None)
    if isinstance(user, SimpleLazyObject):
        user = getattr(request, "_cached_user", None)  # set once a view has looked
    return getattr(user, "pk", None)


def refusal_note(error: AdaptRAGError) -> None:
    """Log what an operator can do something about: 409 (nothing ingested, no agent, limits that can't be kept), 422 (a file
    that can't be read) and everything from 500 on. What a caller alone can put right stays out."""
    if error.status in OPERATORS_MATTER or error.status >= 500:
        refusals.warning("%s: %s", error.code, error.message)


def request_id() -> str:
    """The id of the request that this thread works for, as the log and the X-Request-ID header carry it; empty outside one."""
    return structlog.contextvars.get_contextvars().get("request_id", "")
