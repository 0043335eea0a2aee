"""The probability that each of several independent arms is the best: one quadrature for every log-concave posterior.

P_k is the integral of f_k times the product of the other arms' distribution functions F_j. Both are integrated on the same
Gauss-Legendre panels, which follow the arms that can still win and are as narrow as the narrowest of them where it lies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rewards.bandit.base import Array

Basis = Callable[[Array], tuple[Array, Array]]

# Log-density below the peak at which an arm's range is marked: 0, 1.2, 2.6, 4.5 and 8 standard deviations (z^2 / 2).
_DROPS = np.array([0.72, 3.4, 10.0, 32.0])
_DEVIATIONS = np.concatenate([-np.sqrt(2 * _DROPS[::-1]), [0.0], np.sqrt(2 * _DROPS)])
_SIGMOID_EDGES = np.array([-3.0, 0.0, 3.0])  # where log(1 + e^y) bends, which U-shaped posteriors (alpha or beta below 1) show
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
    peaks = np.log(alphas) - np.log(betas)
    steps = np.sqrt(2 * (inverse_a + inverse_b) * _DROPS)
    left, right = peaks - steps - _DROPS * inverse_a, peaks + steps + _DROPS * inverse_b
    marks = np.concatenate([left[:, ::-1], peaks, right], axis=1)
    pairs = zip(alphas[:, 0].tolist(), betas[:, 0].tolist(), strict=True)
    constants = np.array([math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) for a, b in pairs])[:, None]

    def basis(points: Array) -> tuple[Array, Array]:
        log_x = np.minimum(points, 0) - np.log1p(np.exp(-np.abs(points)))
        return log_x, log_x - points  # log x, log(1 - x)

    return _integrated(marks, steps[:, :1], np.concatenate([alphas, betas, constants], axis=1), basis, _SIGMOID_EDGES)


def best_of_normals(means: Array, deviations: Array) -> Array:
    """P(arm k is the highest), Normal(means, deviations^2) each; shape (K,), deviations above 0; sums to 1."""
    means, deviations = np.asarray(means, dtype=float)[:, None], np.asarray(deviations, dtype=float)[:, None]
    narrowest = deviations.min()
    means, deviations = (means - means.max()) / narrowest, deviations / narrowest  # small numbers, so that squares keep digits
    precisions = deviations**-2
    constants = -0.5 * means**2 * precisions - np.log(deviations) - 0.5 * math.log(2 * math.pi)
    coefficients = np.concatenate([-0.5 * precisions, means * precisions, constants], axis=1)
    marks = means + deviations * _DEVIATIONS
    return _integrated(marks, deviations, coefficients, lambda points: (points * points, points), np.empty(0))


def _integrated(marks: Array, scales: Array, coefficients: Array, basis: Basis, more_edges: Array) -> Array:
    """marks: ends, peak and steps between of each density, ascending, shape (K, E); scales: their widths, shape (K, 1);
    log density = coefficients, shape (K, 3), times (basis(points), 1)."""
    lowest = marks[:, 0].max()  # no arm lies below its own first mark, so the best arm lies above all of them
    live = marks[:, -1] >= lowest
    result = np.zeros(len(marks))
    if live.sum() == 1:
        result[live] = 1.0
        return result
    edges = _panel_edges(lowest, marks[live], scales[live], more_edges)
    mass = _panel_masses(coefficients[live], edges, basis)
    shape = (-1, len(edges) - 1)
    panel_mass = (mass @ _WEIGHTS).reshape(shape)
    through = panel_mass[:, ::-1].cumsum(axis=1)[:, ::-1]
    cdf = mass @ _FROM_START + (1 - through).reshape(-1, 1)
    # Dividing one arm's F out of the product is safe: where F_k is at its least, f_k has no mass left.
    cdf = np.abs(cdf, out=cdf).reshape(len(panel_mass), -1) + _LEAST_CDF
    others = cdf.prod(axis=0) / cdf
    best = ((mass * others.reshape(-1, _ORDER)) @ _WEIGHTS).reshape(shape).sum(axis=1)
    result[live] = best / best.sum()
    return result


def _panel_edges(lowest: float, marks: Array, scales: Array, more_edges: Array) -> Array:
    """The marks above `lowest`, thinned to about a scale of the narrowest arm that is there."""
    highest = marks[:, -1].max()
    edges = np.concatenate([marks.ravel(), more_edges])
    edges = np.sort(edges[(edges >= lowest) & (edges < highest)])
    present = (edges >= marks[:, :1]) & (edges <= marks[:, -1:])
    density = (present / scales).max(axis=0)
    distance = np.floor(np.cumsum((edges[1:] - edges[:-1]) * np.maximum(density[1:], density[:-1])))
    keep = np.ones(len(edges), dtype=bool)
    keep[1] = distance[0] > 0
    keep[2:] = distance[1:] > distance[:-1]
    return np.append(edges[keep], highest)


def _panel_masses(coefficients: Array, edges: Array, basis: Basis) -> Array:
    """Each arm's density times the panel's width at each panel's nodes; shape (K * panels, nodes)."""
    widths = edges[1:] - edges[:-1]
    points = (edges[:-1, None] + widths[:, None] * _NODES).ravel()
    rows = np.empty((4, len(points)))
    rows[0], rows[1] = basis(points)
    rows[2] = 1.0
    rows[3] = np.log(widths).repeat(_ORDER)
    log_mass = np.concatenate([coefficients, np.ones((len(coefficients), 1))], axis=1) @ rows
    return np.exp(log_mass, out=log_mass).reshape(-1, _ORDER)
