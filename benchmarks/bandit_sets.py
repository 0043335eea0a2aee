"""Replay sets of known structure, in which policies are compared that were chosen without them."""

from __future__ import annotations

import math

import numpy as np

from evals.logs import RoutingLog


def replay_sets(count: int, *, seed: int, rows: int | None = None) -> list[RoutingLog]:
    """Sets of 2 to 16 arms and, unless `rows` says, 150 to 800 rows, each with a structure of its own.

    Drawn anew for each: how much arms differ (sd 0.03 to 0.2), how much questions of a category are harder for all of them (0
    to 0.25), how much the arms' order differs between 1 to 20 unequal categories (0 to 0.15), and the kind of reward: right or
    wrong with questions that are hard for all, F1-like (many near 0 and 1), or a judge's score around its mean."""
    rng = np.random.default_rng(seed)
    return [_one(rng, rows) for _ in range(count)]


def _one(rng: np.random.Generator, rows: int | None) -> RoutingLog:
    arms, categories = int(rng.choice([2, 3, 4, 6, 8, 11, 16])), int(rng.choice([1, 2, 4, 6, 10, 20]))
    n = rows or int(rng.choice([150, 300, 500, 800]))
    arm_spread, difficulty, interaction = (
        rng.choice([0.03, 0.07, 0.12, 0.2]),
        rng.choice([0, 0.1, 0.25]),
        rng.choice([0, 0.03, 0.08, 0.15]),
    )
    means = (
        rng.uniform(0.3, 0.85)
        + arm_spread * rng.normal(size=arms)
        + difficulty * rng.normal(size=(categories, 1))
        + interaction * rng.normal(size=(categories, arms))
    )
    codes = rng.choice(categories, size=n, p=rng.dirichlet(np.full(categories, 1.5)))
    chances = np.clip(means, 0.02, 0.98)[codes]
    kind = rng.choice(["right or wrong", "F1", "score"])
    if kind == "right or wrong":
        shared = rng.normal(size=(n, 1))
        rewards = _normal_cdf(math.sqrt(0.5) * shared + math.sqrt(0.5) * rng.normal(size=(n, arms))) < chances
    else:
        weight = rng.choice([1, 2]) if kind == "F1" else rng.choice([5, 15])
        rewards = rng.beta(chances * weight, (1 - chances) * weight)
    return RoutingLog(
        arms=tuple(f"arm {index}" for index in range(arms)),
        category_names=tuple(f"category {index}" for index in range(categories)),
        categories=codes,
        rewards=rewards.astype(float),
        costs=np.full((n, arms), math.nan),
        questions=("",) * n,
    )


def swapped(rows: int, *, seed: int) -> RoutingLog:
    """Two arms of 0.8 and 0.4 that change places half-way."""
    rng = np.random.default_rng(seed)
    chances = np.repeat([[0.8, 0.4], [0.4, 0.8]], rows // 2, axis=0)
    return RoutingLog(
        arms=("first", "second"),
        category_names=("",),
        categories=np.zeros(rows, dtype=int),
        rewards=(rng.random((rows, 2)) < chances).astype(float),
        costs=np.full((rows, 2), math.nan),
        questions=("",) * rows,
    )


def _normal_cdf(values: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return ndtr(values)
