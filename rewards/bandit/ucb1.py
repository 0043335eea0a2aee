"""UCB1: optimism in the face of uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rewards.bandit.base import ArmEvidence, Array, BasePolicy, parameter, share_among


@dataclass(frozen=True, kw_only=True)
class UCB1(BasePolicy):
    """The arm with the highest upper bound mean + c * sqrt(ln(N) / n); arms without a pull come first, ties share.

    For when the choice must follow from the counts alone. Its probabilities are 0 and 1, so its log is worth nothing to
    off-policy evaluation unless arms keep a minimum share.

    Parameters
    ----------
    c: width of the bound; sqrt(2) is the paper's, less explores less.

    Examples
    --------
    >>> evidence = ArmEvidence(pulls=[100, 10], totals=[60, 5])
    >>> UCB1().probabilities(evidence, np.random.default_rng(0))
    array([0., 1.])

    References
    ----------
    Auer, Cesa-Bianchi & Fischer (2002), Finite-time analysis of the multiarmed bandit problem, Machine Learning 47.
    """

    kind: ClassVar[str] = "ucb1"
    c: float = parameter(math.sqrt(2), high=100.0, help="Width of the upper bound.")

    def probabilities(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        counts = evidence.counts
        pulled = counts > 0
        safe = np.where(pulled, counts, 1.0)
        horizon = np.maximum(counts.sum(axis=-1, keepdims=True), 1.0)
        bounds = np.where(pulled, evidence.sums / safe + self.c * np.sqrt(np.log(horizon) / safe), np.inf)
        return share_among(bounds == bounds.max(axis=-1, keepdims=True))

    def choose(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        shares = self.probabilities(evidence, rng)
        return (shares * rng.random(shares.shape)).argmax(axis=-1)
