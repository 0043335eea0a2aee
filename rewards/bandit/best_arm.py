"""The probability that each of several independent arms is the best: one quadrature for every log-concave posterior.

P_k is the integral of f_k times the product of the other arms' distribution functions F_j. Both are integrated on the same
Gauss-Legendre panels over the range in which the best arm can lie: equal ones where the arms are about as wide as each other,
else panels that are as narrow as the narrowest arm where it lies. Written for few numpy calls: they are what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rewards.bandit.base import Array

Marks = Callable[[float], tuple[Array, Array]]
Basis = Callable[[Array], tuple[Array, Array]]

# Log-density below the peak (z^2 / 2) at which an arm's range is marked: 1.2, 2.6 and 4 standard deviations; it ends at 5.7.
_DROPS = (0.72, 3.4, 8.0)
_END = 16.0
_MOST_EQUAL_PANELS = 40
_ORDER = 8
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2  # panels of width 1, from 0 to 1
# values @ _FROM_START integrates the polynomial through a panel's nodes from the panel's start to each node.
_POWERS = np.arange(_ORDER)
_FROM_START = np.linalg.solve((_NODES[:, None] ** _POWERS).T, (_NODES[:, None] ** (_POWERS + 1) / (_POWERS + 1)).T)
_LEAST_CDF = 1e-30


def best_of_betas(alphas: Array, betas: Array) -> Array:
    """P(arm k's mean is the highest), Beta(alphas, betas) each; shape (K,), above 0; sums to 1; absolute error below 1e-6.

    On the logit scale every Beta density is smooth and log-concave, however narrow (100,000 pulls) or U-shaped (0.01)."""
    alphas, betas = np.asarray(alphas, dtype=float)[:, None], np.asarray(betas, dtype=float)[:, None]
    inverse_a, inverse_b = 1 / alphas, 1 / betas
    peaks, variances = np.log(alphas * inverse_b), inverse_a + inverse_b

    def marks(drop: float) -> tuple[Array, Array]:
        # The density falls like a normal one near its peak, and like e^(alpha y) and e^(-beta y) in its tails.
        steps = np.sqrt(2 * drop * variances)
        return peaks - (steps + drop * inverse_a), peaks + (steps + drop * inverse_b)

    coefficients = np.empty((len(alphas), 3))
    coefficients[:, :1], coefficients[:, 1:2] = alphas, betas
    pairs = zip(alphas[:, 0].tolist(), betas[:, 0].tolist(), strict=True)
    coefficients[:, 2] = [math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) for a, b in pairs]
    return _integrated(peaks, marks, np.sqrt(variances), coefficients, _log_sigmoids)


def best_of_normals(means: Array, deviations: Array) -> Array:
    """P(arm k is the highest), Normal(means, deviations^2) each; shape (K,), deviations above 0; sums to 1."""
    means, deviations = np.asarray(means, dtype=float)[:, None], np.asarray(deviations, dtype=float)[:, None]
    narrowest = deviations.min()
    means, deviations = (means - means.max()) / narrowest, deviations / narrowest  # small numbers, so that squares keep digits

    def marks(drop: float) -> tuple[Array, Array]:
        steps = math.sqrt(2 * drop) * deviations
        return means - steps, means + steps

    precisions = deviations**-2
    constants = -0.5 * means**2 * precisions - np.log(deviations) - 0.5 * math.log(2 * math.pi)
    coefficients = np.concatenate([-0.5 * precisions, means * precisions, constants], axis=1)
    return _integrated(means, marks, deviations, coefficients, lambda points: (points * points, points))


def _log_sigmoids(points: Array) -> tuple[Array, Array]:
    """log x and log(1 - x) at the given logits of x."""
    log_x = np.minimum(points, 0) - np.log1p(np.exp(-np.abs(points)))
    return log_x, log_x - points


def _integrated(peaks: Array, marks: Marks, scales: Array, coefficients: Array, basis: Basis) -> Array:
    """peaks, scales: of each density, shape (K, 1); marks(drop): where it has fallen by e^-drop, on both sides; log density =
    coefficients, shape (K, 3), times (basis(points), 1)."""
    left, right = marks(_END)
    lowest = left.max()  # no arm lies below its own left end, so the best arm lies above all of them
    live = (right >= lowest)[:, 0]
    result = np.zeros(len(peaks))
    if live.sum() == 1:
        result[live] = 1.0
        return result
    span, narrowest = right.max() - lowest, scales[live].min()
    panels = math.ceil(span / (1.5 * narrowest))
    # Equal panels must not be wider than the bend of log(1 + e^y) either, which shows where alpha or beta is below 1.
    if panels <= _MOST_EQUAL_PANELS and span <= 2.5 * panels:
        widths = span / panels
        starts = lowest + widths * np.arange(panels)
    else:
        edges = _graded_edges(peaks[live], [(a[live], b[live]) for a, b in map(marks, (*_DROPS, _END))], scales[live])
        starts, widths = edges[:-1], (edges[1:] - edges[:-1])[:, None]
    points = (starts[:, None] + widths * _NODES).ravel()
    rows = np.empty((3, len(points)))
    rows[0], rows[1] = basis(points)
    rows[2] = 1.0
    mass = coefficients[live] @ rows
    arms = len(mass)
    mass = np.exp(mass, out=mass).reshape(arms, -1, _ORDER)
    mass *= widths
    mass = mass.reshape(-1, _ORDER)
    panel_mass = (mass @ _WEIGHTS).reshape(arms, -1)
    through = panel_mass[:, ::-1].cumsum(axis=1)[:, ::-1]
    cdf = mass @ _FROM_START
    cdf += (1 - through).reshape(-1, 1)
    # Dividing one arm's F out of the product is safe: where F_k is next to nothing, f_k has no mass left.
    cdf = cdf.reshape(arms, -1) + _LEAST_CDF
    mass *= (cdf.prod(axis=0) / cdf).reshape(-1, _ORDER)
    best = np.maximum((mass @ _WEIGHTS).reshape(arms, -1).sum(axis=1), 0.0)
    result[live] = best / best.sum()
    return result


def _graded_edges(peaks: Array, marks: list[tuple[Array, Array]], scales: Array) -> Array:
    """Every arm's marks, above the highest left end, thinned to about a scale of the narrowest arm that is there."""
    left, right = marks[-1]
    lowest, highest = left.max(), right.max()
    edges = np.concatenate([peaks, *(side for pair in marks for side in pair), [[-3.0], [0.0], [3.0]]])
    edges = np.sort(edges[(edges >= lowest) & (edges < highest)])
    density = (((edges >= left) & (edges <= right)) / scales).max(axis=0)
    distance = np.floor(np.cumsum((edges[1:] - edges[:-1]) * np.maximum(density[1:], density[:-1])))
    keep = np.ones(len(edges), dtype=bool)
    keep[1] = distance[0] > 0
    keep[2:] = distance[1:] > distance[:-1]
    return np.append(edges[keep], highest)
