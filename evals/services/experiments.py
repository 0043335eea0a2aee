"""Online experiments: planned, started, ended, and read from the same interactions as everything else."""

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.prepared import Prepared
from agents.models import AgentVariant, Collection
from agents.selectors import live_variant, live_variants, variant_ready
from evals.experiments import Analysis, analyse, assigned, planned_size
from evals.models import Experiment
from rewards.models import AgentLimit, CategoryPin, Interaction, Reward
from rewards.router import RoutingDecision
from rewards.services.evidence import clock_read

_running = Prepared(
    lambda: Experiment.objects.filter(state=Experiment.State.RUNNING).only("name", "shares", "variants").order_by()
)


@dataclass(frozen=True, kw_only=True)
class ExperimentPlan:
    """What is fixed before the first question. shares: agent -> share of the sessions; what is left goes to the bandit.

    difference: the smallest one worth finding, in reward units; deviation: of a session's mean reward.
    """

    name: str
    shares: dict[str, float]
    baseline: str = ""
    analysis: str = Experiment.Analysis.FIXED_HORIZON
    difference: float = 0.1
    deviation: float = 0.35
    user: Any = None


def experiment_create(plan: ExperimentPlan) -> Experiment:
    """A draft with its planned size. Raises InvalidInput naming what is wrong, UnknownAgent."""
    if len(plan.shares) < 2:
        raise InvalidInput(f"An experiment takes at least two agents, not {len(plan.shares)}.", field="shares")
    for agent, share in plan.shares.items():
        live_variant(agent)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InvalidInput(f"The share of {agent} must lie between 0 and 1, not {share!r}.", field="shares")
    if sum(plan.shares.values()) > 1 + 1e-9:
        raise InvalidInput(f"The shares sum to {sum(plan.shares.values()):g}; at most 1 can be given.", field="shares")
    baseline = plan.baseline or next(iter(plan.shares))
    if baseline not in plan.shares:
        raise InvalidInput(f"The baseline {baseline!r} is not among {', '.join(plan.shares)}.", field="baseline")
    for name in ("difference", "deviation"):
        value = getattr(plan, name)
        if not isinstance(value, int | float) or not 0 < value <= 1:
            raise InvalidInput(f"{name} must lie between 0 and 1, not {value!r}.", field=name)
    experiment = Experiment(
        name=plan.name,
        shares=plan.shares,
        baseline=baseline,
        analysis=plan.analysis,
        difference=plan.difference,
        deviation=plan.deviation,
        planned=planned_size(plan.difference, plan.deviation, analysis=plan.analysis, agents=len(plan.shares)),
        created_by=plan.user,
    )
    try:
        experiment.full_clean(exclude=["created_by"])
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(messages[0], field=field) from error
    experiment.save()
    return experiment


def experiment_start(experiment: Experiment) -> Experiment:
    """Give sessions their agents from now on. Raises Conflict where it was started before or another one runs."""
    variants = {agent: live_variant(agent).pk for agent in experiment.shares}
    try:
        with transaction.atomic():
            started = Experiment.objects.filter(pk=experiment.pk, state=Experiment.State.DRAFT).update(
                state=Experiment.State.RUNNING, started_at=timezone.now(), variants=variants
            )
    except IntegrityError:
        raise Conflict("Another experiment is running; end it first, so that no session is in two.") from None
    experiment.refresh_from_db()
    if not started:
        raise Conflict(f"{experiment} is {experiment.state}; only a draft can be started.")
    return experiment


def experiment_end(experiment: Experiment) -> Experiment:
    """Leave its sessions to the bandit again; its figures stay. Raises Conflict where it does not run."""
    ended = Experiment.objects.filter(pk=experiment.pk, state=Experiment.State.RUNNING).update(
        state=Experiment.State.ENDED, ended_at=timezone.now()
    )
    experiment.refresh_from_db()
    if not ended:
        raise Conflict(f"{experiment} is {experiment.state}; only a running experiment can be ended.")
    return experiment


def experiment_assign(session: str, category: str, collection: Collection) -> RoutingDecision | None:
    """The decision of the running experiment for a session, or None where the bandit decides. One query without one.

    A question without a session gets an agent of its own. Pins come first; an agent that was switched off, paused or revised
    since the start, or that lacks its index in the collection, leaves its sessions to the bandit.
    """
    for experiment in _running():
        agent = assigned(experiment.shares, f"{experiment.pk}:{session or secrets.token_hex(8)}")
        if agent is None or CategoryPin.objects.filter(category=category).exists():
            return None
        variant = _answering(experiment, agent)
        if variant is not None and variant_ready(variant, collection):
            return _decision(experiment, variant)
    return None


def experiment_absent(experiment: Experiment) -> list[str]:
    """The agents of a running experiment whose sessions go to the bandit by now."""
    return [agent for agent in experiment.variants if _answering(experiment, agent) is None]


def _answering(experiment: Experiment, agent: str) -> AgentVariant | None:
    if AgentLimit.objects.filter(agent_name=agent, paused=True).exists():
        return None
    return next((one for one in live_variants() if one.pk == experiment.variants[agent]), None)


def _decision(experiment: Experiment, variant: AgentVariant) -> RoutingDecision:
    return RoutingDecision(
        variant=variant,
        mode=Interaction.Mode.EXPERIMENT.value,
        propensity=None,
        candidates=[],
        policy=experiment.name,
        policy_revision=experiment.pk,
        seed=None,
        clock=clock_read().ticks,
    )


@dataclass(frozen=True, kw_only=True)
class ArmReport:
    """left_out: sessions rated after the planned ones, which a fixed horizon does not look at."""

    agent: str
    share: float
    interactions: int
    sessions: int
    rated: int
    left_out: int
    failed: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class ExperimentReport:
    """`sessions` are the units: what one person says of several answers in a session is one observation."""

    arms: list[ArmReport]
    analysis: Analysis

    @property
    def sentences(self) -> list[str]:
        return [difference.sentence() for difference in self.analysis.differences]


def experiment_report(experiment: Experiment) -> ExperimentReport:
    """What the experiment's interactions say so far. Rewards are people's ratings, a session's mean each."""
    rows = Interaction.objects.filter(
        mode=Interaction.Mode.EXPERIMENT, policy=experiment.name, policy_revision=experiment.pk
    ).order_by()
    units: dict[str, set[str]] = {agent: set() for agent in experiment.shares}
    asked: dict[str, int] = defaultdict(int)
    failed: dict[str, int] = defaultdict(int)
    unit_of: dict[Any, tuple[str, str]] = {}
    for pk, agent, session, state in rows.values_list("pk", "variant__name", "session", "state"):
        asked[agent] += 1
        failed[agent] += state == Interaction.State.FAILED
        unit_of[pk] = (agent, session or str(pk))
        if agent in units:
            units[agent].add(session or str(pk))
    rated: dict[Any, list[float]] = defaultdict(list)
    ratings = Reward.objects.filter(interaction__in=rows, source=Reward.Source.USER).order_by("created_at", "pk")
    for pk, value in ratings.values_list("interaction_id", "value"):
        rated[pk].append(value)
    means_of: dict[str, dict[str, list[float]]] = {agent: defaultdict(list) for agent in experiment.shares}
    for pk, values in rated.items():  # sessions in the order of their first ratings, which later ones don't change
        agent, unit = unit_of[pk]
        if agent in units:
            means_of[agent][unit].append(sum(values) / len(values))
    means = {agent: [sum(one) / len(one) for one in found.values()] for agent, found in means_of.items()}
    analysis = analyse(means, experiment.baseline, analysis=experiment.analysis, planned=experiment.planned)
    arms = [
        ArmReport(
            agent=agent,
            share=share,
            interactions=asked[agent],
            sessions=len(units[agent]),
            rated=len(means[agent]),
            left_out=len(means[agent]) - analysis.means[agent].n,
            failed=failed[agent],
            mean=_known(analysis.means[agent].mean),
            low=_known(analysis.means[agent].low),
            high=_known(analysis.means[agent].high),
        )
        for agent, share in experiment.shares.items()
    ]
    return ExperimentReport(arms=arms, analysis=analysis)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
