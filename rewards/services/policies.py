"""Policies, priors and the operator's limits: what people change by hand. Each change is in the row's history, with who."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import models, transaction

from adaptrag.common.errors import Conflict, InvalidInput
from agents.selectors import answering_variants, live_variants
from rewards.bandit import traffic_bounds
from rewards.models import AgentLimit, CategoryPin, PriorReward, Pull, RoutingPolicy
from rewards.selectors import active_policy, sharing, taking_bounds, taking_variants
from rewards.services import linear
from rewards.services.arms import evidence_lock, rebuild
from rewards.services.turn import write_turn

Row = TypeVar("Row", bound=models.Model)


def policy_save(policy: RoutingPolicy, user: Any = None) -> RoutingPolicy:
    """Save a new or changed policy. Raises InvalidInput that names the parameter at fault.

    Where the active policy changes how ratings become evidence, the arms are recounted in the same transaction.
    """
    if policy.pk and RoutingPolicy.objects.filter(pk=policy.pk, active=True).exists():
        _vectors_made(policy)
    with write_turn(), transaction.atomic():
        evidence_lock(exclusive=True)
        stored = RoutingPolicy.objects.filter(pk=policy.pk).first()
        if stored:
            # These two have functions of their own; a form that was opened earlier must not turn them back.
            policy.active, policy.learn_since = stored.active, stored.learn_since
        _save(policy, user)
        if policy.active:
            _feasible(policy.min_share, AgentLimit.objects.all())
            if _evidence_rule(stored) != policy.evidence_rule():
                rebuild(policy, _unseen)
    return policy


def policy_activate(policy: RoutingPolicy, user: Any = None) -> RoutingPolicy:
    """Let this policy route from now on, with the evidence that the one before it had: a reset stays a reset."""
    _vectors_made(policy)
    with write_turn(), transaction.atomic():
        evidence_lock(exclusive=True)
        former = active_policy()
        policy.refresh_from_db()
        if former.pk == policy.pk:
            return policy
        _feasible(policy.min_share, AgentLimit.objects.all())
        former.active = False
        former._history_user = user
        former.save(update_fields=["active", "updated_at"])  # as it is: one that can't run any more must not block this
        policy.active, policy.learn_since = True, former.learn_since
        _save(policy, user)
        if _evidence_rule(former) != policy.evidence_rule():
            rebuild(policy, _unseen)
    return policy


@transaction.atomic
def prior_set(*, category: str, agent_name: str, pulls: float, total: float, user: Any = None) -> PriorReward:
    """Set what is assumed of an agent in a category before any feedback; the next decision uses it."""
    prior = PriorReward.objects.select_for_update().filter(category=category, agent_name=agent_name).first()
    prior = prior or PriorReward(category=category, agent_name=agent_name)
    prior.pulls, prior.total = pulls, total
    return _save(prior, user)


@transaction.atomic
def agent_limit_set(
    *,
    agent_name: str,
    min_share: float | None = None,
    max_share: float | None = None,
    paused: bool = False,
    user: Any = None,
) -> AgentLimit:
    """Bound an agent's share of the routed traffic, or pause it. Raises InvalidInput where no division of the traffic among the
    agents that answer now would keep all bounds, or a category is pinned to the agent that is to be paused."""
    limit = AgentLimit.objects.select_for_update().filter(agent_name=agent_name).first() or AgentLimit(agent_name=agent_name)
    limit.min_share, limit.max_share, limit.paused = min_share, max_share, paused
    if paused and (pin := CategoryPin.objects.filter(agent_name=agent_name).first()):
        raise InvalidInput(
            f"The category {pin.category!r} is pinned to {agent_name!r}. Remove the pin before you pause the agent.",
            field="paused",
        )
    others = AgentLimit.objects.exclude(agent_name=agent_name)
    _feasible(active_policy().min_share, [*others, limit])
    return _save(limit, user)


@transaction.atomic
def agent_limit_remove(agent_name: str, user: Any = None) -> None:
    """Back to the policy's floor and no cap. Raises InvalidInput where the others' limits then no longer fit."""
    limit = AgentLimit.objects.select_for_update().filter(agent_name=agent_name).first()
    if limit is not None:
        _feasible(active_policy().min_share, AgentLimit.objects.exclude(pk=limit.pk))
        limit._history_user = user
        limit.delete()


@transaction.atomic
def agent_pause(agent_name: str, *, paused: bool = True, user: Any = None) -> AgentLimit:
    """Take an agent out of the routed traffic, or back into it; its other limits stay."""
    limit = AgentLimit.objects.filter(agent_name=agent_name).first() or AgentLimit()
    return agent_limit_set(
        agent_name=agent_name, min_share=limit.min_share, max_share=limit.max_share, paused=paused, user=user
    )


@transaction.atomic
def category_pin(*, category: str, agent_name: str | None, user: Any = None) -> CategoryPin | None:
    """Send every question of a category to one agent; None removes the pin. Raises InvalidInput for one that doesn't answer."""
    pin = CategoryPin.objects.select_for_update().filter(category=category).first()
    if agent_name is None:
        if pin is not None:
            pin._history_user = user
            pin.delete()
        return None
    if agent_name not in (known := [variant.name for variant in answering_variants()]):
        raise InvalidInput(f"No agent {agent_name!r} answers now; there are {', '.join(known) or 'none'}.", field="agent_name")
    if AgentLimit.objects.filter(agent_name=agent_name, paused=True).exists():
        raise InvalidInput(
            f"The agent {agent_name!r} is paused. Resume it before you pin a category to it.", field="agent_name"
        )
    pin = pin or CategoryPin(category=category)
    pin.agent_name = agent_name
    return _save(pin, user)


def bounds_checked() -> None:
    """Raises InvalidInput where the floors and caps of the agents that answer now, canaries included, can't all be kept."""
    policy = RoutingPolicy.objects.filter(active=True).first() or RoutingPolicy()
    _feasible(policy.min_share, AgentLimit.objects.all())


def limits_kept() -> None:
    """The same for a change of which agents answer. Raises Conflict, in whose transaction the change is taken back."""
    try:
        bounds_checked()
    except InvalidInput as error:
        raise Conflict(f"Nothing was changed, for afterwards the traffic limits could not be kept. {error.message}") from error


def _feasible(min_share: float, limits: Sequence[AgentLimit] | models.QuerySet[AgentLimit]) -> None:
    variants = live_variants()
    taking = taking_variants(variants, limits)
    if not taking:
        if variants:
            raise InvalidInput(
                "Every agent would be paused, and nothing could answer. Leave one in the traffic.", field="paused"
            )
        return
    try:
        traffic_bounds(min_share, taking_bounds(taking, limits), sharing(taking))
    except ValueError as error:
        raise InvalidInput(f"With the agents that answer now, {error}", field="min_share") from error


def _vectors_made(policy: RoutingPolicy) -> None:
    """Embeddings that the arms will be added up from, before any lock is held; a long log takes minutes."""
    try:
        if not policy.rule().reads_question:
            return
    except ValueError:
        return  # refused when it is saved
    missing = list(Pull.objects.filter(interaction__vector=None).order_by().values_list("pk", flat=True))
    for start in range(0, len(missing), linear.BATCH):
        with write_turn():
            linear.vectors_for(missing[start : start + linear.BATCH])


def _evidence_rule(policy: RoutingPolicy) -> tuple[Any, ...] | None:
    try:
        return policy.evidence_rule()
    except ValueError:
        return None  # its parameters no longer fit this version; whatever it counted is counted anew


def _unseen(fraction: float, message: str) -> None:
    """Progress that nobody watches."""


def _save(row: Row, user: Any) -> Row:
    try:
        row.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(messages[0] if field == "__all__" else f"{field}: {messages[0]}", field=field) from error
    row._history_user = user
    row.save()
    return row
