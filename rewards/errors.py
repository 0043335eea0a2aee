"""Errors of routing, feedback and the log."""

from __future__ import annotations

from adaptrag.common.errors import AdaptRAGError, Conflict, InvalidInput, NotFound


class UnknownInteraction(NotFound):
    code = "unknown_interaction"


class InvalidReward(InvalidInput):
    code = "invalid_reward"


class NotRatable(Conflict):
    """The interaction ended without an answer."""

    code = "not_ratable"


class NoCandidates(Conflict):
    """No enabled agent can take the question."""

    code = "no_candidates"


class PinnedUnavailable(Conflict):
    """A category is pinned to an agent that can't take the question."""

    code = "pinned_unavailable"


class InfeasibleShares(Conflict):
    """Traffic floors and caps that no probability vector satisfies: the site's settings, not the request, are at fault."""

    code = "infeasible_shares"


class InvalidLogLine(AdaptRAGError):
    """A line of an imported log, named by its number in `details["line"]`."""

    code = "invalid_log_line"
    status = 400
