"""How large a difference is, and how sure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A slope with its 95 % interval and the p-values of its being 0, or not below it."""

    value: float
    low: float
    high: float
    p: float
    p_below: float


def effect(x: Array, y: Array, cells: Array, *, chosen_of: int = 1) -> Effect | None:
    """The slope of y on x within cells. x, y: float arrays, shape (n,); cells: int array. None where x does not vary.

    chosen_of: how many x this one was chosen from by its slope; the interval then holds for all of them (Bonferroni).

    Fixed effects of the cells; the variance is heteroskedasticity-robust (HC2; MacKinnon & White, 1985) with the residuals
    under no effect, which keeps its size for groups whose rewards are all alike; degrees of freedom by how many rows carry
    the slope.
    """
    from scipy.stats import t

    size = np.bincount(cells)[cells]
    x, y = x - cell_means(x, cells), y - cell_means(y, cells)
    square = float(x @ x)
    freedom = square**2 / float((x**4).sum()) - 1 if square > 1e-9 else 0.0
    if freedom < 2:
        return None
    value = float(x @ y) / square
    leverage = np.minimum(x * x / square + 1 / size, 0.99)
    error = math.sqrt(float((x * x * y * y / (1 - leverage)).sum())) / square
    if error < 1e-12:
        return None
    half = float(t.ppf(1 - 0.025 / chosen_of, freedom)) * error
    below = float(t.cdf(value / error, freedom))
    return Effect(value=value, low=value - half, high=value + half, p=2 * min(below, 1 - below), p_below=below)


def cell_means(values: Array, cells: Array) -> Array:
    return (np.bincount(cells, values) / np.maximum(np.bincount(cells), 1))[cells]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    z = 1.959963985
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
