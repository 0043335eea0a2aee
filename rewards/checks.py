"""System checks of what routing and feedback rely on."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, connections

from agents.models import AgentVariant
from agents.selectors import live_variants
from rewards.bandit import traffic_bounds
from rewards.models import AgentLimit, CategoryPin, RoutingPolicy
from rewards.selectors import sharing, taking_bounds, taking_variants
from rewards.services.standing import thresholds


@register(Tags.database)
def check_policy(databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """The active policy is one that this version knows; floors, caps and pins fit the agents that answer."""
    if not databases:
        return []
    try:
        # A site that was never asked has no row yet; what it will get is the default.
        policy = RoutingPolicy.objects.filter(active=True).first() or RoutingPolicy()
        variants, limits = live_variants(), list(AgentLimit.objects.all())
        takers = taking_variants(variants, limits)
        bounds = taking_bounds(takers, limits)
        pins = list(CategoryPin.objects.all())
        registered = bool(variants) or AgentVariant.objects.exists()
    except DatabaseError:
        return []  # before the first migration
    found: list[CheckMessage] = []
    try:
        policy.rule()
    except ValueError as error:
        found.append(
            Error(f"The routing policy {policy.name!r} can't run: {error}", hint="Correct it in the admin.", id="rewards.E002")
        )
    paused = {limit.agent_name for limit in limits if limit.paused}
    taking = {variant.name for variant in variants} - paused
    if bounds:
        try:
            traffic_bounds(policy.min_share, bounds, sharing(takers))
        except ValueError as error:
            found.append(
                Warning(
                    f"The limits on traffic are not kept: {error}",
                    hint="Change the policy or the traffic limits in the admin; until then they are eased to route at all.",
                    id="rewards.W001",
                )
            )
    if registered and not taking:
        found.append(
            Warning(
                "No question can be answered: every agent is switched off, paused or retired, or still a candidate.",
                hint="Enable an agent in the admin, or end its pause under Traffic limits.",
                id="rewards.W003",
            )
        )
    found += [
        Warning(
            f"Questions of the category {pin.category!r} are refused: their agent, {pin.agent_name!r}, doesn't answer.",
            hint="Enable the agent, or remove the pin in the admin under Pinned categories.",
            id="rewards.W002",
        )
        for pin in pins
        if pin.agent_name not in taking
    ]
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


@register("rewards")
def check_promotion(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """rewards.E003: a threshold of gate, canary or guard that makes no sense."""
    return [
        Error(
            f"ADAPTRAG_{name.upper()} {problem}.",
            hint="docs/configuration.md says what it means; leave it out for the default.",
            id="rewards.E003",
        )
        for name, problem in thresholds().problems().items()
    ]
