"""Whether a log can say anything about a policy at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evals.logs import LoggedRounds
from evals.ope.base import effective_sample_size, importance_weights

Array = np.ndarray
ENOUGH_ROUNDS = 50.0  # effective ones; below, intervals are wide and no longer hold
MOST_UNSEEN = 0.01  # share of the policy's choices


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How far the log covers what the policy would do.

    unseen: share of the policy's choices that the log never made in the same stratum, of which it knows nothing.
    complaint: why no conclusion should be drawn, or empty.
    """

    n: int
    effective_sample_size: float
    largest_weight: float
    unseen: float
    complaint: str

    @property
    def conclusive(self) -> bool:
        return not self.complaint


def overlap(rounds: LoggedRounds, target: Array) -> Overlap:
    """target: the policy's probabilities, float array, shape (n, K)."""
    weights = importance_weights(rounds, target)
    effective = effective_sample_size(weights) if weights.any() else 0.0
    logged = np.zeros((len(rounds.stratum_names), len(rounds.arms)), dtype=bool)
    logged[rounds.strata, rounds.actions] = True
    unseen = float((target * ~logged[rounds.strata]).sum() / len(rounds))
    complaint = ""
    if unseen > MOST_UNSEEN:
        complaint = f"{unseen:.0%} of the policy's choices were never made in the log, so nothing is known of them."
    elif effective < ENOUGH_ROUNDS:
        complaint = (
            f"{len(rounds)} rounds say only as much as {effective:.0f} of the policy's own would; {ENOUGH_ROUNDS:.0f} are "
            "needed. Raise the minimum share, or wait for more feedback."
        )
    return Overlap(
        n=len(rounds), effective_sample_size=effective, largest_weight=float(weights.max()), unseen=unseen, complaint=complaint
    )
