"""From rows to a choice: evidence and policy out of the database, a probability vector, a seeded draw."""

from __future__ import annotations

import json
import logging
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from agents.models import AgentVariant
from rewards.bandit import POLICIES, ArmEvidence, Policy, divided_caps, draw, project, traffic_bounds
from rewards.bandit.lints import question_context
from rewards.decision import DecisionState, arm_probabilities, decision_state
from rewards.errors import InfeasibleShares, NoCandidates, PinnedUnavailable
from rewards.models import Interaction
from rewards.selectors import sharing
from rewards.services import linear
from rewards.services.evidence import SECONDS_A_DAY

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RoutingDecision:
    """A choice and how it came about. `propensity` is exactly the chosen candidate's probability.

    mode: bandit, or pinned or sticky, which no policy chose: they have no propensity, no candidates and no seed.
    candidates: {agent, revision, variant_id, probability, pulls, mean}; pulls and mean are what the policy saw, priors and
    inherited evidence included. `drawn_again` repeats the draw from candidates and seed.
    clock: see Interaction. vector: the question's embedding, where the policy looked at it.
    """

    variant: AgentVariant
    mode: str
    propensity: float | None
    candidates: list[dict[str, Any]]
    policy: str
    policy_revision: int
    seed: int | None
    clock: int
    vector: np.ndarray | None = None


class BanditRouter:
    """Picks the agent that answers."""

    def route(
        self,
        category: str,
        variants: Sequence[AgentVariant],
        *,
        question: str = "",
        session: str = "",
        seed: int | None = None,
        relax: bool = False,
    ) -> RoutingDecision:
        """One query; the question is embedded only for a policy that looks at it.

        An operator's pin comes first, then the session's agent where the policy keeps sessions, then the draw. Raises
        NoCandidates, PinnedUnavailable, or InfeasibleShares where the bounds on the agents' shares can't all be kept.
        relax: in that case keep them in proportion and log it, so that questions are answered: the caller passes what can
        answer here and now (an index in the making, a guard that took an agent out), which no operator chose."""
        if not variants:
            raise NoCandidates(
                "No agent is switched on, so nothing can answer. Enable one in the admin under Agents, or register one there."
            )
        state = decision_state(category, variants, session)
        taking = [variant for variant in variants if not state.family[variant.id].paused]
        if state.settings.pinned is not None:
            return _undrawn(Interaction.Mode.PINNED, _pinned(category, state.settings.pinned, taking), state)
        if not taking:
            raise NoCandidates("Every agent that could answer is paused. Resume one in the admin under Traffic limits.")
        kept = next((variant for variant in taking if variant.id == state.settings.sticky_variant), None)
        if kept is not None:
            return _undrawn(Interaction.Mode.STICKY, kept, state)
        return self._drawn(category, taking, state, question, secrets.randbits(63) if seed is None else seed, relax)

    @staticmethod
    def _drawn(
        category: str, variants: Sequence[AgentVariant], state: DecisionState, question: str, seed: int, relax: bool
    ) -> RoutingDecision:
        settings = state.settings
        policy = _policy(settings.kind, settings.parameters)
        vector = linear.question_vector(question) if policy.reads_question else None
        probabilities, candidates = _offered(category, variants, state, policy, seed, vector, relax)
        chosen = draw(probabilities, random.Random(seed))  # noqa: S311 - a draw, no secret
        return RoutingDecision(
            variant=variants[chosen],
            mode=Interaction.Mode.BANDIT.value,
            propensity=candidates[chosen]["probability"],
            candidates=candidates,
            policy=settings.policy,
            policy_revision=settings.revision,
            seed=seed,
            clock=settings.ticks,
            vector=vector,
        )


def drawn_again(candidates: Sequence[dict[str, Any]], seed: int) -> int:
    """Index of the candidate that a logged decision picked, from its logged probabilities and seed."""
    return draw(np.array([candidate["probability"] for candidate in candidates]), random.Random(seed))  # noqa: S311


def _pinned(category: str, agent: str, taking: Sequence[AgentVariant]) -> AgentVariant:
    for variant in taking:
        if variant.name == agent:
            return variant
    raise PinnedUnavailable(
        f"Questions of the category {category!r} are pinned to the agent {agent!r}, which is not among those that can answer. "
        "Enable it, or remove the pin in the admin under Pinned categories.",
        category=category,
        agent=agent,
    )


def _undrawn(mode: Interaction.Mode, variant: AgentVariant, state: DecisionState) -> RoutingDecision:
    settings = state.settings
    return RoutingDecision(
        variant=variant,
        mode=mode.value,
        propensity=None,
        candidates=[],
        policy=settings.policy,
        policy_revision=settings.revision,
        seed=None,
        clock=settings.ticks,
    )


def _offered(
    category: str,
    variants: Sequence[AgentVariant],
    state: DecisionState,
    policy: Policy,
    seed: int,
    vector: np.ndarray | None,
    relax: bool,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Each variant's probability within its bounds, shape (K,), and the candidates as they are logged.

    Where the evidence alone decides, both are kept with it, for the same variants, family, limits and policy."""
    kept = policy.half_life is None and not policy.samples and not policy.reads_question
    who = tuple((variant.id, variant.name, variant.revision) for variant in variants)
    key = (category, policy, state.settings.min_share, relax, who, tuple(state.family.values()))
    found = state.evidence.prepared.get(key) if kept else None
    if found is None:
        context = None if vector is None else question_context(vector, policy.dimensions)
        now = _now(policy, state.settings.ticks)
        evidence, free = arm_probabilities(state, category, variants, policy, seed, now=now, context=context)
        probabilities = _bounded(free, variants, state, relax)
        found = probabilities, _candidates(variants, probabilities, evidence)
        if kept:
            state.evidence.prepared[key] = found
    return found[0], [dict(candidate) for candidate in found[1]]


def _now(policy: Policy, ticks: int) -> float:
    if policy.half_life is None:
        return 0.0
    return time.time() / SECONDS_A_DAY if policy.unit == "days" else float(ticks)


def _candidates(variants: Sequence[AgentVariant], probabilities: np.ndarray, evidence: ArmEvidence) -> list[dict[str, Any]]:
    counts = evidence.counts
    means = (evidence.sums / np.where(counts > 0, counts, 1.0)).round(6).tolist()
    figures = zip(variants, probabilities.tolist(), counts.round(6).tolist(), means, strict=True)
    return [
        {
            "agent": variant.name,
            "revision": variant.revision,
            "variant_id": variant.id,
            "probability": probability,
            "pulls": pulls,
            "mean": mean if pulls > 0 else None,
        }
        for variant, probability, pulls, mean in figures
    ]


@lru_cache(maxsize=64)
def _policy(kind: str, parameters: str) -> Policy:
    return POLICIES[kind].from_parameters(json.loads(parameters))


@lru_cache(maxsize=64)  # once a process, not with every question
def _tell_once(answering: str, why: str) -> None:
    logger.warning("traffic limits are eased to route questions at all: only %s can answer, and %s", answering, why)


def _bounded(probabilities: np.ndarray, variants: Sequence[AgentVariant], state: DecisionState, relax: bool) -> np.ndarray:
    members = [state.family[variant.id] for variant in variants]
    floor = state.settings.min_share
    bounds = [(member.min_share, member.max_share) for member in members]
    if floor * len(bounds) <= 1 and probabilities.min() >= floor and set(bounds) == {(None, None)}:
        return probabilities
    shared = sharing(variants)
    try:
        floors, caps = traffic_bounds(floor, bounds, shared)
    except ValueError as error:
        if not relax:
            raise InfeasibleShares(f"No question can be routed: {error}", min_share=floor, agents=len(variants)) from error
        _tell_once(", ".join(str(variant) for variant in variants), str(error))
        floors, caps = traffic_bounds(floor, bounds, shared, relax=True)
    caps = divided_caps(probabilities, floors, caps, shared)
    # What a canary's cap cuts off goes to its incumbent, what other caps cut off to the best arm without one.
    places = {variant.id: place for place, variant in enumerate(variants)}
    wanted = probabilities.copy()
    for place, member in enumerate(members):
        if member.incumbent in places and wanted[place] > caps[place]:
            wanted[places[member.incumbent]] += wanted[place] - caps[place]
            wanted[place] = caps[place]
    free = np.where(caps >= 1, probabilities, -1.0)
    return project(wanted, floors, caps, int(free.argmax() if (caps >= 1).any() else probabilities.argmax()))
