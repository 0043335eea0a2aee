"""Replay: what a policy would have earned on questions of which every arm's reward is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.evidence import EvidenceTable, Priors
from evals.logs import RoutingLog
from rewards.bandit import Policy

Array = np.ndarray
Progress = Callable[[float], None]
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """A policy over `shuffles` orders of the same rows. rewards: as earned, shape (shuffles, rows).

    Two results of the same log, shuffles and seed met the rows in the same orders, so they can be compared in pairs."""

    policy: str
    arms: tuple[str, ...]
    rewards: Array
    best_fixed_arm: str
    best_fixed_reward: float
    best_fixed_rewards: Array  # the best fixed arm's, in the same orders, shape (shuffles, rows)
    oracle: float
    mean_cost: float  # USD a question; NaN where the log has no costs

    @property
    def mean_reward(self) -> float:
        return float(self.rewards.mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Student interval of the mean over shuffles; None with a single shuffle."""
        return mean_interval(self.rewards.mean(axis=1))

    @property
    def regret(self) -> float:
        """Reward missed over all rows against the best fixed arm, mean over shuffles; negative where the policy earned more."""
        return (self.best_fixed_reward - self.mean_reward) * self.rewards.shape[1]

    @property
    def regret_to_oracle(self) -> float:
        """Reward missed over all rows against the best arm of each question."""
        return (self.oracle - self.mean_reward) * self.rewards.shape[1]

    @property
    def regret_interval(self) -> tuple[float, float] | None:
        """95 % Student interval of `regret` over shuffles."""
        return mean_interval((self.best_fixed_rewards - self.rewards).sum(axis=1))

    @property
    def regret_to_oracle_interval(self) -> tuple[float, float] | None:
        """95 % Student interval of `regret_to_oracle` over shuffles."""
        return mean_interval((self.oracle - self.rewards).sum(axis=1))

    def regret_curve(self, points: int = 100) -> list[tuple[int, float]]:
        """[(rows seen, cumulative regret against the best fixed arm so far)], mean over shuffles."""
        missed = np.cumsum(self.best_fixed_rewards - self.rewards, axis=1).mean(axis=0)
        at = np.unique(np.linspace(0, len(missed) - 1, min(points, len(missed))).round().astype(int))
        return [(int(row) + 1, float(missed[row])) for row in at]

    def as_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "rows": self.rewards.shape[1],
            "arms": list(self.arms),
            "shuffles": self.rewards.shape[0],
            "mean_reward": self.mean_reward,
            "interval": _listed(self.interval),
            "regret": self.regret,
            "regret_interval": _listed(self.regret_interval),
            "regret_to_oracle": self.regret_to_oracle,
            "regret_to_oracle_interval": _listed(self.regret_to_oracle_interval),
            "regret_curve": [list(point) for point in self.regret_curve()],
            "best_fixed": {"arm": self.best_fixed_arm, "mean_reward": self.best_fixed_reward},
            "oracle": self.oracle,
            "mean_cost_usd": None if math.isnan(self.mean_cost) else self.mean_cost,
        }


def replay(
    log: RoutingLog,
    policy: Policy,
    *,
    shuffles: int = 20,
    seed: int = 0,
    embeddings: Array | None = None,
    orders: Array | None = None,
    priors: Priors | None = None,
    progress: Progress | None = None,
) -> ReplayResult:
    """Runs a policy over the log in `shuffles` random orders at once; each starts from the priors alone.

    The policy sees, before each row, the category and its own rewards so far, and after it the reward of the arm it chose.
    embeddings: float array, shape (n, E), for policies that read the question. orders: row indices, shape (shuffles, steps),
    in place of random orders, for logs in which something changes. priors: assumed (pulls, totals), shape (categories, arms).
    Raises ValueError for an unsuitable policy: one that reads questions without embeddings, one whose half-life is in days.
    """
    rng = np.random.default_rng((seed, 1))
    orders = random_orders(len(log), shuffles, seed) if orders is None else np.asarray(orders)
    steps = orders.shape[1]
    table = EvidenceTable(
        policy, log.categories, (len(log.category_names), len(log.arms)), runs=len(orders), embeddings=embeddings, priors=priors
    )
    earned, spent = np.empty(orders.shape), np.empty(orders.shape)
    for step in range(steps):
        rows = orders[:, step]
        arms = policy.choose(table.evidence(rows), rng)
        earned[:, step] = log.rewards[rows, arms]
        spent[:, step] = log.costs[rows, arms]
        table.learn(rows, arms, earned[:, step])
        if progress and step % 256 == 0:
            progress(step / steps)
    if progress:
        progress(1.0)
    means = log.rewards[orders].mean(axis=(0, 1))
    best = int(means.argmax())
    return ReplayResult(
        policy=policy.kind, arms=log.arms, rewards=earned, best_fixed_arm=log.arms[best], best_fixed_reward=float(means[best]),
        best_fixed_rewards=log.rewards[orders, best], oracle=float(log.rewards.max(axis=1)[orders].mean()),
        mean_cost=float(spent.mean()),
    )  # fmt: skip


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def mean_interval(values: Array) -> tuple[float, float] | None:
    """95 % Student interval of a mean, values: shape (n,); None for fewer than two."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    half = float(t.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def paired_difference(result: ReplayResult, other: ReplayResult) -> tuple[float, tuple[float, float] | None]:
    """(mean, 95 % interval) of result's mean reward less the other's, shuffle by shuffle.

    Raises ValueError where the two did not meet the same rows in the same orders."""
    if result.best_fixed_rewards.shape != other.best_fixed_rewards.shape or result.best_fixed_arm != other.best_fixed_arm:
        raise ValueError("only replays of the same log with the same shuffles can be compared in pairs.")
    if (result.best_fixed_rewards != other.best_fixed_rewards).any():
        raise ValueError("only replays with the same seed can be compared in pairs.")
    differences = (result.rewards - other.rewards).mean(axis=1)
    return float(differences.mean()), mean_interval(differences)


def compare(
    log: RoutingLog, policies: Sequence[Policy], *, progress: Progress | None = None, **options: Any
) -> list[ReplayResult]:
    """Each policy's replay over the same orders, best first; options as for `replay`."""
    results = []
    for index, policy in enumerate(policies):
        part = None if progress is None else lambda done, index=index: progress((index + done) / len(policies))
        results.append(replay(log, policy, progress=part, **options))
    return sorted(results, key=lambda result: -result.mean_reward)


def random_orders(rows: int, shuffles: int, seed: int) -> Array:
    """Row indices, shape (shuffles, rows). The first five of twenty orders are the five orders of the same seed."""
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, not {shuffles}.")
    return np.stack([np.random.default_rng((seed, 2, index)).permutation(rows) for index in range(shuffles)])
