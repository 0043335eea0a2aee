"""Self-normalised inverse propensity scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evals.logs import LoggedRounds
from evals.ope.base import Array, Estimator, Terms


@dataclass(frozen=True, kw_only=True)
class SNIPS(Estimator):
    """sum(w r) / sum(w): slightly biased, far less noisy than IPS, and never outside the range of the rewards.

    Swaminathan & Joachims (2015), The self-normalized estimator for counterfactual learning, NIPS 28.
    """

    name: ClassVar[str] = "snips"

    def terms(self, rounds: LoggedRounds, target: Array, weights: Array, predictions: Array) -> Terms:
        products = weights * rounds.rewards
        return Terms(numerators=products, denominators=weights, spread=products)
