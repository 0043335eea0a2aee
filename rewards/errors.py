"""Errors of routing and feedback."""

from __future__ import annotations

from adaptrag.common.errors import Conflict, InvalidInput, NotFound


class UnknownInteraction(NotFound):
    code = "unknown_interaction"


class InvalidReward(InvalidInput):
    code = "invalid_reward"


class NoCandidates(Conflict):
    """No enabled agent can take the question."""

    code = "no_candidates"


class InfeasibleShares(InvalidInput):
    """Traffic floors and caps that no probability vector satisfies."""

    code = "infeasible_shares"
