"""Epsilon-greedy, with an exploration rate that may decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rewards.bandit.base import ArmEvidence, Array, BasePolicy, parameter, share_among


@dataclass(frozen=True, kw_only=True)
class EpsilonGreedy(BasePolicy):
    """The arm with the best mean, but with probability epsilon any arm; arms without a pull count as best, ties share.

    For when the exploration must be a plain, constant number; it explores arms known to be bad as much as the others.

    Parameters
    ----------
    epsilon: share of the traffic that explores, before any reward.
    decay: the share falls as epsilon / (1 + decay * rewards seen); 0 keeps it constant.
    minimum: it falls no lower than this.

    Examples
    --------
    >>> evidence = ArmEvidence(pulls=[10, 10], totals=[9, 5])
    >>> EpsilonGreedy(epsilon=0.2).probabilities(evidence, np.random.default_rng(0))
    array([0.9, 0.1])

    References
    ----------
    Sutton & Barto (2018), Reinforcement Learning, 2.4; the decay is that of Auer et al. (2002), figure 3.
    """

    kind: ClassVar[str] = "epsilon_greedy"
    epsilon: float = parameter(0.1, high=1.0, help="Share of the traffic that explores.")
    decay: float = parameter(0.0, high=1.0, help="How fast that share falls with each reward; 0 is constant.")
    minimum: float = parameter(0.0, high=1.0, help="The share falls no lower than this.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minimum > self.epsilon:
            raise ValueError(f"{self.kind}: minimum={self.minimum:g} must not exceed epsilon={self.epsilon:g}.")

    def probabilities(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        counts = evidence.counts
        means = np.where(counts > 0, evidence.sums / np.where(counts > 0, counts, 1.0), np.inf)
        greedy = share_among(means == means.max(axis=-1, keepdims=True))
        epsilon = np.maximum(self.epsilon / (1 + self.decay * counts.sum(axis=-1, keepdims=True)), self.minimum)
        return epsilon / counts.shape[-1] + (1 - epsilon) * greedy

    def choose(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        cumulative = self.probabilities(evidence, rng).cumsum(axis=-1)
        return (cumulative <= rng.random((*cumulative.shape[:-1], 1)) * cumulative[..., -1:]).sum(axis=-1)
