"""System checks of what routing and feedback rely on."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, connections

from agents.selectors import live_variants
from rewards.models import RoutingPolicy


@register(Tags.database)
def check_policy(databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """The active policy is one that this version knows, and its floor fits the number of agents."""
    if not databases:
        return []
    try:
        policy = RoutingPolicy.objects.filter(active=True).first()
        agents = len(live_variants())
    except DatabaseError:
        return []  # before the first migration
    if policy is None:
        return []
    found: list[CheckMessage] = []
    try:
        policy.rule()
    except ValueError as error:
        found.append(
            Error(f"The routing policy {policy.name!r} can't run: {error}", hint="Correct it in the admin.", id="rewards.E002")
        )
    if policy.min_share * agents > 1:
        found.append(
            Warning(
                f"{agents} agents can't each keep a share of {policy.min_share:g}; no question can be routed.",
                hint=f"Lower the policy's minimum share to at most {1 / agents:.4f}, or disable agents.",
                id="rewards.W001",
            )
        )
    return found


@register(Tags.database)
def check_transactions(databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Concurrent feedback on SQLite is exact only where a transaction takes the write lock when it begins."""
    return [
        Error(
            f"Database {name!r} is SQLite without transaction_mode IMMEDIATE: concurrent feedback would fail or be lost.",
            hint='Set OPTIONS to {"transaction_mode": "IMMEDIATE", "timeout": 20}.',
            id="rewards.E001",
        )
        for name in databases or ()
        if connections[name].vendor == "sqlite"
        and connections[name].settings_dict["OPTIONS"].get("transaction_mode") != "IMMEDIATE"
    ]
