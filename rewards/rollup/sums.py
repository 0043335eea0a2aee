"""What is summed of the log, and latencies in bins from which percentiles can be read. No ORM."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

# Bins of equal ratio give every percentile within this relative error, whatever its size (DDSketch: Masson et al., 2019).
ACCURACY = 0.01
_LEAST = 0.1  # ms; bin 0 holds everything up to it
_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA = math.log(_GAMMA)


@dataclass(kw_only=True)
class Sums:
    """Of a time, a category and a variant.

    interactions, failed, cost_usd: comparisons left out. ratings: given. n, total, squares: of the rated answers that count,
    their rewards and their squares. latency: {bin: answers}.
    """

    interactions: int = 0
    failed: int = 0
    cost_usd: float = 0.0
    ratings: int = 0
    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    latency: Counter[int] = field(default_factory=Counter)

    def add(self, other: Sums) -> None:
        for name in FIGURES:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        # Counter.update() of a Counter adds.
        self.latency.update(other.latency)

    @property
    def mean(self) -> float | None:
        # Sums that rewards were subtracted from again can miss their bounds by a rounding error.
        return min(max(self.total, 0.0), self.n) / self.n if self.n else None

    @property
    def answered(self) -> int:
        return sum(self.latency.values())


FIGURES = ("interactions", "failed", "cost_usd", "ratings", "n", "total", "squares")


def latency_bin(milliseconds: float) -> int:
    """The bin of a latency: bin i > 0 holds (0.1 g^(i-1), 0.1 g^i] ms, g = (1 + ACCURACY) / (1 - ACCURACY).

    >>> latency_bin(0), latency_bin(100), latency_bin(101), latency_bin(104)
    (0, 346, 346, 348)
    """
    return max(0, math.ceil(math.log(milliseconds / _LEAST) / _LOG_GAMMA)) if milliseconds > _LEAST else 0


def bin_latency(index: int) -> float:
    """The latency in ms that stands for a bin: at most ACCURACY from any in it.

    >>> abs(bin_latency(latency_bin(1234.0)) / 1234.0 - 1) <= ACCURACY
    True
    """
    return _LEAST * 2 * _GAMMA**index / (_GAMMA + 1) if index else _LEAST


def percentile(latency: Counter[int], share: float) -> float | None:
    """The nearest-rank percentile in ms, within ACCURACY. None without answers."""
    return at_rank(latency, math.ceil(share * sum(latency.values())))


def at_rank(latency: Counter[int], rank: float) -> float | None:
    """The latency in ms of the answer with this rank (1: the fastest), the rank being clipped to those there are."""
    seen, index = 0, None
    for index in sorted(latency):
        seen += latency[index]
        if seen >= rank:
            break
    return None if index is None else bin_latency(index)
