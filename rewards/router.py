"""From rows to a choice: evidence and policy out of the database, a probability vector, a seeded draw."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from agents.models import AgentVariant
from rewards.bandit import POLICIES, ArmEvidence, Policy, draw, project
from rewards.errors import InfeasibleShares, NoCandidates
from rewards.selectors import Ancestor, DecisionState, decision_state


@dataclass(frozen=True, kw_only=True)
class RoutingDecision:
    """A choice and how it came about. `propensity` is exactly the chosen candidate's probability.

    candidates: {agent, revision, variant_id, probability, pulls, mean}; pulls and mean are what the policy saw, priors and
    inherited evidence included. `drawn_again` repeats the draw from candidates and seed.
    """

    variant: AgentVariant
    propensity: float
    candidates: list[dict[str, Any]]
    policy: str
    policy_revision: int
    seed: int


class BanditRouter:
    """Picks the agent that answers."""

    def route(self, category: str, variants: Sequence[AgentVariant], *, seed: int | None = None) -> RoutingDecision:
        """One query, no model call. Raises NoCandidates, or InfeasibleShares when the floor can't be kept for all."""
        if not variants:
            raise NoCandidates(
                "No agent is switched on, so nothing can answer. Enable one in the admin under Agents, or register one there."
            )
        seed = secrets.randbits(63) if seed is None else seed
        state = decision_state(category, variants)
        evidence = evidence_for(variants, state.family)
        # The policy's own randomness is a stream apart, so the draw can be repeated from the logged probabilities alone.
        probabilities = _policy(state.kind, state.parameters).probabilities(evidence, np.random.default_rng((seed, 1)))
        probabilities = _with_floor(probabilities, state)
        chosen = draw(probabilities, np.random.default_rng(seed))
        figures = zip(variants, probabilities.tolist(), evidence.counts.tolist(), evidence.sums.tolist(), strict=True)
        candidates = [
            {
                "agent": variant.name,
                "revision": variant.revision,
                "variant_id": variant.pk,
                "probability": probability,
                "pulls": round(pulls, 6),
                "mean": round(total / pulls, 6) if pulls > 0 else None,
            }
            for variant, probability, pulls, total in figures
        ]
        return RoutingDecision(
            variant=variants[chosen],
            propensity=candidates[chosen]["probability"],
            candidates=candidates,
            policy=state.policy,
            policy_revision=state.revision,
            seed=seed,
        )


def drawn_again(candidates: Sequence[dict[str, Any]], seed: int) -> int:
    """Index of the candidate that a logged decision picked, from its logged probabilities and seed."""
    return draw(np.array([candidate["probability"] for candidate in candidates]), np.random.default_rng(seed))


def evidence_for(variants: Sequence[AgentVariant], family: dict[int, Ancestor]) -> ArmEvidence:
    """The variants as arms: own rewards, plus each predecessor's at the share that its successor inherits."""
    inherited = [_inherited(variant.pk, family) for variant in variants]
    own = [family[variant.pk] for variant in variants]
    return ArmEvidence(
        pulls=[pulls for pulls, _ in inherited],
        totals=[total for _, total in inherited],
        prior_pulls=[row.prior_pulls for row in own],
        prior_totals=[row.prior_total for row in own],
    )


def _inherited(pk: int, family: dict[int, Ancestor]) -> tuple[float, float]:
    pulls = total = 0.0
    share = 1.0
    link: int | None = pk
    while link is not None and share > 0:
        row = family[link]
        pulls += share * row.pulls
        # Sums that rewards were subtracted from again can miss their bounds by a rounding error.
        total += share * min(max(row.total, 0.0), row.pulls)
        share *= row.inherit
        link = row.predecessor
    return pulls, total


@lru_cache(maxsize=64)
def _policy(kind: str, parameters: str) -> Policy:
    return POLICIES[kind].from_parameters(json.loads(parameters))


def _with_floor(probabilities: np.ndarray, state: DecisionState) -> np.ndarray:
    count = len(probabilities)
    if state.min_share * count > 1 + 1e-9:
        raise InfeasibleShares(
            f"{count} agents can't each keep a share of {state.min_share:g}. Lower the minimum share of the policy "
            f"{state.policy!r} to at most {1 / count:.4f}, or disable agents.",
            min_share=state.min_share,
            agents=count,
        )
    floors = np.full(count, state.min_share)
    return project(probabilities, floors, np.ones(count), int(probabilities.argmax()))
