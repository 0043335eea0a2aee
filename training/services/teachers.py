"""Who the teacher is, what it costs, and the budgets that teachers share."""

from __future__ import annotations

import ipaddress
import math
import os
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db.models import F

from adaptrag.common.errors import AdaptRAGError, InvalidInput
from agents.llm.factory import validate_options
from training.distillation import Item, teacher_chat
from training.models import TeacherBudget

MAX_TOKENS = 96
MILLION = 1_000_000
PRICES = ("price_prompt_per_million", "price_completion_per_million")


def teacher_resolved(
    backend: str = "", model: str = "", options: dict[str, Any] | None = None
) -> tuple[str, str, dict[str, Any]]:
    """Backend, model and options, with those of ADAPTRAG_TEACHER_... for what is not given.

    Raises InvalidInput for a teacher without a name or with a fallback, and for one elsewhere without prices: a budget in
    dollars can't hold it. The prices of the settings are those of the settings' model alone.
    """
    configured = settings.ADAPTRAG_TEACHER_OPTIONS
    kind = backend or settings.ADAPTRAG_TEACHER_BACKEND
    name = model or settings.ADAPTRAG_TEACHER_MODEL
    if kind != settings.ADAPTRAG_TEACHER_BACKEND:
        configured = {}
    elif name != settings.ADAPTRAG_TEACHER_MODEL:
        configured = {key: value for key, value in configured.items() if key not in PRICES}
    whole = configured | (options or {})
    if not name and kind != "local":
        raise InvalidInput("Name the teacher's model (--model), or set ADAPTRAG_TEACHER_MODEL.", field="model")
    validate_options(kind, whole)
    if "fallback" in whole:
        raise InvalidInput("A teacher has no fallback: another model's answers would stand under its name.", field="options")
    if missing := [price for price in PRICES if price not in whole and _elsewhere(kind, whole)]:
        raise InvalidInput(
            f"What {name} costs is not known, so no budget can hold it. Set {' and '.join(missing)} (US dollars) in "
            "--options or ADAPTRAG_TEACHER_OPTIONS; 0 where it costs nothing.",
            field="options",
        )
    return kind, name, whole


def teacher_refused() -> str:
    """Why the teacher of the settings can't be asked; empty if it can."""
    try:
        teacher_resolved()
    except AdaptRAGError as error:
        return error.message
    return ""


def _elsewhere(backend: str, options: dict[str, Any]) -> bool:
    """Whether somebody else may charge for it: neither this process nor a server on this machine."""
    if backend != "openai_compatible":
        return False
    host = urlsplit(options.get("base_url") or os.environ.get("OPENAI_BASE_URL") or "").hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def budget_get(name: str = "default") -> TeacherBudget:
    """The budget of that name; made with ADAPTRAG_TEACHER_BUDGET_USD where it is new."""
    limit = round(settings.ADAPTRAG_TEACHER_BUDGET_USD * MILLION)
    return TeacherBudget.objects.get_or_create(name=name, defaults={"limit": limit})[0]


def budget_set(name: str, *, limit_usd: float) -> TeacherBudget:
    """Change what teachers may cost in all. What was spent stays."""
    if not 0 <= limit_usd < 10**9:
        raise InvalidInput(f"The limit must be a sum in US dollars, not {limit_usd!r}.", field="limit_usd")
    budget = budget_get(name)
    TeacherBudget.objects.filter(pk=budget.pk).update(limit=round(limit_usd * MILLION))
    budget.refresh_from_db()
    return budget


def budget_reserve(budget: TeacherBudget, amount: int) -> bool:
    """Take `amount` (millionths of a dollar) out of what is left, in one statement: two workers can't both take the last."""
    return bool(TeacherBudget.objects.filter(pk=budget.pk, spent__lte=F("limit") - amount).update(spent=F("spent") + amount))


def budget_settle(budget: int, *, reserved: int, cost: int) -> None:
    """What it really cost in place of what was reserved."""
    TeacherBudget.objects.filter(pk=budget).update(spent=F("spent") + (cost - reserved))


def most(item: Item, options: dict[str, Any], samples: int) -> int:
    """The most that the missing samples of an item can cost, in millionths of a dollar, at two bytes a token (English has
    four)."""
    size = sum(len(message.content.encode()) for message in teacher_chat(item.prompt)) / 2 + 50
    cost = size * options.get(PRICES[0], 0) + MAX_TOKENS * options.get(PRICES[1], 0)
    return math.ceil((samples - len(item.said)) * cost)
