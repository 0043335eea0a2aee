"""Small statistics for pages: a mean with its interval, a share with its interval, a percentile with its interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.bandit import ArmEvidence
from rewards.bandit.posterior import beta_posterior, credible_interval
from rewards.leaderboard import ENOUGH
from rewards.rollup.sums import at_rank

_Z = 1.959963985  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval from n observations; value, low and high are None without any."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def enough(self) -> bool:
        return self.n >= ENOUGH


def mean_rewards(totals: Sequence[float], counts: Sequence[int]) -> list[Estimate]:
    """Means of rewards in [0, 1] from their sums, with Beta credible intervals as on the leaderboard."""
    if not counts:
        return []
    sums = [min(max(total, 0.0), n) for total, n in zip(totals, counts, strict=True)]
    alphas, betas = beta_posterior(ArmEvidence(pulls=list(counts), totals=sums))
    lows, highs = credible_interval(alphas, betas)
    return [
        Estimate(value=total / n, low=min(float(low), total / n), high=max(float(high), total / n), n=n)
        if n
        else Estimate(value=None, low=None, high=None, n=0)
        for total, n, low, high in zip(sums, counts, lows, highs, strict=True)
    ]


def proportion(hits: int, n: int) -> Estimate:
    """hits / n with Wilson's score interval (Wilson, 1927)."""
    if not n:
        return Estimate(value=None, low=None, high=None, n=0)
    share, square = hits / n, _Z * _Z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = _Z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return Estimate(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)


def latency_percentile(latency: Counter[int], share: float) -> Estimate:
    """The nearest-rank percentile in seconds of latencies in bins (rewards.rollup.sums), with its distribution-free interval
    by order statistics (normal approximation of the ranks; Conover, 1999). A bound that the sample is too small for is its
    least or largest value."""
    n = sum(latency.values())
    if not n:
        return Estimate(value=None, low=None, high=None, n=0)
    half = _Z * math.sqrt(n * share * (1 - share))
    ranks = (n * share, n * share - half, n * share + half + 1)
    value, low, high = (at_rank(latency, min(max(math.ceil(rank), 1), n)) / 1000 for rank in ranks)
    return Estimate(value=value, low=low, high=high, n=n)
