"""Logs: one line an event on stderr, for people or as JSON, each with the id of the request that caused it."""

from __future__ import annotations

import uuid
from typing import Any

import structlog
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject
from django_structlog import signals
from django_structlog.middlewares import RequestMiddleware

FORMS = ("console", "json")
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
    """One line a request, when it ends. The parent's line at the start, and its look at the session of a user whom no view
    asked for, cost as much as everything else here together."""

    def prepare(self, request: HttpRequest) -> None:
        structlog.contextvars.bind_contextvars(request_id=uuid.uuid4().hex)

    @staticmethod
    def bind_user_id(request: HttpRequest) -> None:
        user = getattr(request, "user", None)
        if isinstance(user, SimpleLazyObject):
            user = getattr(request, "_cached_user", None)  # set once a view has looked
        structlog.contextvars.bind_contextvars(user_id=getattr(user, "pk", None))


def request_id() -> str:
    """The id of the request that this thread works for, as the log and the X-Request-ID header carry it; empty outside one."""
    return structlog.contextvars.get_contextvars().get("request_id", "")


@receiver(signals.bind_extra_request_finished_metadata)
def _tell_request_id(response: HttpResponse, request: HttpRequest, **_: Any) -> None:
    response["X-Request-ID"] = request_id()


@receiver(signals.update_failure_response)
def _tell_failed_request_id(response: HttpResponse, **_: Any) -> None:
    response["X-Request-ID"] = request_id()
