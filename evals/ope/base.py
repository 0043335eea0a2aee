"""What the estimators share: importance weights, intervals, effective sample size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from evals.logs import LoggedRounds

Array = np.ndarray
BOOTSTRAP_CELLS = 4_000_000  # random indices drawn at once


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A policy's value, in reward units, with its interval. clipped: share of rounds whose weight was cut."""

    estimator: str
    value: float
    low: float
    high: float
    n: int
    effective_sample_size: float
    clipped: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "estimator": self.estimator, "value": self.value, "interval": [self.low, self.high],
            "effective_sample_size": self.effective_sample_size, "clipped": self.clipped,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A value as a ratio of sums over rounds, sum(numerators) / sum(denominators), each of shape (n,).

    spread: the numerators whose variation the interval reports, where it is not the value's own."""

    numerators: Array
    denominators: Array
    spread: Array


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Base of the estimators: each gives its `terms`, and is a ratio of two sums.

    Parameters
    ----------
    clip: importance weights above it are cut to it: less variance, for a value drawn towards 0 (Ionides, 2008).
    interval: "asymptotic" (delta method, Student's t at the effective sample size) or "bootstrap" (percentiles).
    level: of the interval. resamples, seed: of the bootstrap.
    """

    name: ClassVar[str]
    needs_predictions: ClassVar[bool] = False
    clip: float = math.inf
    interval: str = "asymptotic"
    level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.interval not in ("asymptotic", "bootstrap"):
            raise ValueError(f"interval={self.interval!r} is not one of asymptotic, bootstrap.")
        if not self.clip > 0:
            raise ValueError(f"clip={self.clip!r} must be above 0.")
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level!r} must lie between 0 and 1.")

    def terms(self, rounds: LoggedRounds, target: Array, weights: Array, predictions: Array) -> Terms:
        raise NotImplementedError

    def estimate(self, rounds: LoggedRounds, target: Array, predictions: Array | None = None) -> Estimate:
        """The value of the policy that would have picked with probabilities `target`, float array, shape (n, K).

        predictions: expected reward of each arm in each round, shape (n, K), for the estimators that need them.
        Raises ValueError on shapes that disagree, fewer than two rounds, or a target without any weight in the log."""
        n, arms = len(rounds), len(rounds.arms)
        if n < 2 or target.shape != (n, arms):
            raise ValueError(f"{self.name} needs two rounds or more and a target of shape {(n, arms)}, not {target.shape}.")
        if not np.allclose(target.sum(axis=1), 1, atol=1e-6) or (target < -1e-9).any():
            raise ValueError("each row of the target must be a probability vector.")
        if self.needs_predictions and (predictions is None or predictions.shape != (n, arms)):
            raise ValueError(f"{self.name} needs a predicted reward for each of {n} rounds and {arms} arms.")
        weights = importance_weights(rounds, target)
        if not weights.any():
            raise ValueError("no logged choice is one that the policy would make, so the log says nothing about it.")
        effective = effective_sample_size(weights)
        clipped = float((weights > self.clip).mean())
        terms = self.terms(rounds, target, np.minimum(weights, self.clip), predictions)
        value = float(terms.numerators.sum() / terms.denominators.sum())
        below, above = self._asymptotic(terms, effective) if self.interval == "asymptotic" else self._bootstrap(terms)
        return Estimate(
            estimator=self.name, value=value, low=value - below, high=value + above, n=n, effective_sample_size=effective,
            clipped=clipped,
        )  # fmt: skip

    def _asymptotic(self, terms: Terms, effective: float) -> tuple[float, float]:
        from scipy.stats import t

        ratio = terms.spread.sum() / terms.denominators.sum()
        influence = (terms.spread - ratio * terms.denominators) / terms.denominators.mean()
        half = t.ppf(0.5 + self.level / 2, max(effective - 1, 1)) * influence.std(ddof=1) / math.sqrt(len(influence))
        return float(half), float(half)

    def _bootstrap(self, terms: Terms) -> tuple[float, float]:
        rng, n = np.random.default_rng(self.seed), len(terms.spread)
        ratio = terms.spread.sum() / terms.denominators.sum()
        values: list[Array] = []
        at_once = max(1, BOOTSTRAP_CELLS // n)
        for start in range(0, self.resamples, at_once):
            drawn = rng.integers(n, size=(min(at_once, self.resamples - start), n))
            values.append(terms.spread[drawn].sum(axis=1) / np.maximum(terms.denominators[drawn].sum(axis=1), 1e-300))
        low, high = np.quantile(np.concatenate(values), [0.5 - self.level / 2, 0.5 + self.level / 2])
        return float(ratio - low), float(high - ratio)


def importance_weights(rounds: LoggedRounds, target: Array) -> Array:
    """Probability of the logged arm under the target over its propensity; shape (n,)."""
    return target[np.arange(len(rounds)), rounds.actions] / rounds.propensities


def effective_sample_size(weights: Array) -> float:
    """(sum w)^2 / sum w^2: how many rounds logged by the policy itself would say as much (Kong, 1992)."""
    return float(weights.sum() ** 2 / (weights**2).sum())
