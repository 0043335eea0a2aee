"""Thompson sampling with Beta posteriors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rewards.bandit.base import ArmEvidence, Array, BasePolicy, parameter
from rewards.bandit.posterior import beta_posterior, probability_best, sample_logits


@dataclass(frozen=True, kw_only=True)
class Thompson(BasePolicy):
    """Each arm is picked with the probability that it is the best one, given the rewards so far.

    For rewards in [0, 1] of any kind, with few rewards or many; the usual first choice.

    Parameters
    ----------
    a0, b0: Beta prior of every arm's mean reward before its own evidence; 1, 1 is uniform.

    Examples
    --------
    >>> evidence = ArmEvidence(pulls=[10, 10], totals=[9, 5])
    >>> Thompson().probabilities(evidence, np.random.default_rng(0)).round(3)
    array([0.968, 0.032])

    References
    ----------
    Thompson (1933), Biometrika 25; Agrawal & Goyal (2012), Analysis of Thompson Sampling for the multi-armed bandit problem.
    """

    kind: ClassVar[str] = "thompson"
    a0: float = parameter(1.0, low=0.01, high=1e6, help="Successes assumed for every arm.")
    b0: float = parameter(1.0, low=0.01, high=1e6, help="Failures assumed for every arm.")

    def probabilities(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        return probability_best(*beta_posterior(evidence, self.a0, self.b0))

    def choose(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        return sample_logits(*beta_posterior(evidence, self.a0, self.b0), rng).argmax(axis=-1)
