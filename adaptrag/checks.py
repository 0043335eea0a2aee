"""System checks of the site's settings: what `manage.py check` says is wrong, and what to do about it."""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from adaptrag.api.rates import rate_parsed
from adaptrag.logs import FORMS
from agents.models import slug_validator

LOWEST = {
    "ADAPTRAG_MAX_QUESTION_CHARS": 1,
    "ADAPTRAG_MAX_BODY_BYTES": 10_000,
    "ADAPTRAG_MAX_UPLOAD_BYTES": 1,
    "ADAPTRAG_WEB_THREADS": 1,
    "ADAPTRAG_WEB_BACKLOG": 0,
}
METRICS = ("operator", "open", "off")


@register("adaptrag")
def check_environment(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """adaptrag.E001 unreadable value, E002 number out of range, E003 unknown word, E004 malformed address, E005 collection."""
    problems: list[CheckMessage] = [
        Error(f"{name}: {problem}.", hint="Mend it or leave it out; the default stands in.", id="adaptrag.E001")
        for name, problem in settings.MALFORMED_ENVIRONMENT.items()
    ]
    for name, least in LOWEST.items():
        if getattr(settings, name) < least:
            problems.append(
                Error(f"{name} is {getattr(settings, name)}.", hint=f"The least that works is {least}.", id="adaptrag.E002")
            )
    words = {
        "ADAPTRAG_METRICS": (settings.ADAPTRAG_METRICS, METRICS),
        "ADAPTRAG_LOG_FORMAT": (settings.LOG_FORMAT, FORMS),
        "ADAPTRAG_LOG_LEVEL": (settings.LOG_LEVEL, tuple(logging.getLevelNamesMapping())),
    }
    for name, (value, allowed) in words.items():
        if value not in allowed:
            problems.append(Error(f"{name} is {value!r}.", hint=f"Use one of {', '.join(allowed)}.", id="adaptrag.E003"))
    address = os.environ.get("OPENAI_BASE_URL", "")
    if address and not (urlsplit(address).scheme in ("http", "https") and urlsplit(address).netloc):
        problems.append(
            Error(
                f"OPENAI_BASE_URL is {address!r}.",
                hint="Give the whole address with its path, as in http://localhost:8001/v1.",
                id="adaptrag.E004",
            )
        )
    if not re.match(slug_validator.regex, settings.ADAPTRAG_DEFAULT_COLLECTION):
        problems.append(
            Error(
                f"ADAPTRAG_DEFAULT_COLLECTION is {settings.ADAPTRAG_DEFAULT_COLLECTION!r}.",
                hint=slug_validator.message,
                id="adaptrag.E005",
            )
        )
    return problems


@register("adaptrag")
def check_throttles(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """adaptrag.E006 unreadable rate, W001 counters that several processes don't share."""
    problems: list[CheckMessage] = []
    for scope, rate in settings.ADAPTRAG_THROTTLES.items():
        try:
            rate_parsed(rate)
        except ValueError as error:
            name = f"ADAPTRAG_THROTTLE_{scope.upper()}"
            problems.append(Error(f"{name}: {error}.", hint=f"For instance {name}=600/min.", id="adaptrag.E006"))
    processes = os.environ.get("WEB_CONCURRENCY", "1")
    if processes.isdigit() and int(processes) > 1 and settings.CACHES["default"]["BACKEND"].endswith("LocMemCache"):
        problems.append(
            Warning(
                f"{processes} web processes count calls each for itself, so a key may make {processes} times its limit.",
                hint="Point ADAPTRAG_CACHE_URL at a Redis (redis://...) that they share.",
                id="adaptrag.W001",
            )
        )
    return problems


@register(Tags.database, "adaptrag")
def check_storage(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """adaptrag.E007 data folder can't be written, E008 SQLite without its options, W002 secret key readable by others."""
    problems: list[CheckMessage] = []
    folder = Path(settings.DATA_DIR)
    if not os.access(folder, os.W_OK | os.X_OK):
        problems.append(
            Error(
                f"The data folder {folder} can't be written by this account.",
                hint="Change its owner, or set ADAPTRAG_DATA_DIR to another folder.",
                id="adaptrag.E007",
            )
        )
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        options = database.get("OPTIONS", {})
        commands = options.get("init_command", "").upper()
        if options.get("transaction_mode") != "IMMEDIATE" or "JOURNAL_MODE=WAL" not in commands.replace(" ", ""):
            problems.append(
                Error(
                    "SQLite runs without WAL or without IMMEDIATE transactions.",
                    hint="Keep the OPTIONS of adaptrag.settings: without them, concurrent feedback is lost to lock errors.",
                    id="adaptrag.E008",
                )
            )
    key = folder / "secret_key"
    if key.exists() and stat.S_IMODE(key.stat().st_mode) & 0o077:
        problems.append(
            Warning(
                f"{key} can be read by other accounts of this machine.",
                hint=f"chmod 600 {key}; if others may have read it, delete it: everybody then has to sign in again.",
                id="adaptrag.W002",
            )
        )
    return problems
