"""Beta posteriors of arms: mean, credible interval, and the probability that each arm is the best."""

from __future__ import annotations

import math

import numpy as np

from rewards.bandit.base import ArmEvidence, Array

# Log-density below the peak at which an arm's range is cut into panels: 0, 1.2, 2.6, 4.5 and 8 standard deviations (z^2 / 2).
_DROPS = np.array([0.72, 3.4, 10.0, 32.0])
_LEFT_END = len(_DROPS) - 1
_SIGMOID_EDGES = np.array([-3.0, 0.0, 3.0])  # where log(1 + e^y) bends, which U-shaped posteriors (alpha or beta below 1) show
_ORDER = 8
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2  # panels of width 1, from 0 to 1
# values @ _FROM_START integrates the polynomial through a panel's nodes from the panel's start to each node.
_POWERS = np.arange(_ORDER)
_FROM_START = np.linalg.solve((_NODES[:, None] ** _POWERS).T, (_NODES[:, None] ** (_POWERS + 1) / (_POWERS + 1)).T)
_LEAST_CDF = 1e-30


def beta_posterior(evidence: ArmEvidence, a0: float = 1.0, b0: float = 1.0) -> tuple[Array, Array]:
    """(alphas, betas), shape (..., K), of the arms' mean rewards: Beta(a0, b0) updated with priors and rewards in [0, 1].

    A fractional reward r counts as r successes and 1 - r failures (Agrawal & Goyal, 2012)."""
    counts, sums = evidence.counts, evidence.sums
    return a0 + sums, b0 + np.maximum(counts - sums, 0.0)


def posterior_mean(alphas: Array, betas: Array) -> Array:
    """Mean of Beta(alphas, betas)."""
    return alphas / (alphas + betas)


def credible_interval(alphas: Array, betas: Array, level: float = 0.95) -> tuple[Array, Array]:
    """(low, high) of the equal-tailed credible interval of Beta(alphas, betas), in reward units."""
    from scipy.special import betaincinv  # here, so that a web process that only routes does not load scipy

    tail = (1 - level) / 2
    return betaincinv(alphas, betas, tail), betaincinv(alphas, betas, 1 - tail)


def probability_best(alphas: Array, betas: Array) -> Array:
    """P(arm k has the highest mean) for independent Beta posteriors; alphas, betas: shape (K,), above 0; sums to 1.

    P_k is the integral of f_k times the product of the other arms' F_j, taken on the logit scale, where every Beta density is
    smooth and log-concave however narrow (100,000 pulls) or U-shaped (alpha = 0.01) it is. Gauss-Legendre panels follow the
    arms that can still win; the absolute error stays below 1e-6."""
    alphas, betas = np.asarray(alphas, dtype=float)[:, None], np.asarray(betas, dtype=float)[:, None]
    inverse_a, inverse_b = 1 / alphas, 1 / betas
    peaks = np.log(alphas) - np.log(betas)
    steps = np.sqrt(2 * (inverse_a + inverse_b) * _DROPS)
    ranges = np.concatenate([peaks - steps - _DROPS * inverse_a, peaks, peaks + steps + _DROPS * inverse_b], axis=1)
    lowest = ranges[:, _LEFT_END].max()  # below it the arm that reaches least far down cannot lie, so neither can the maximum
    live = ranges[:, -1] >= lowest
    result = np.zeros(len(alphas))
    if live.sum() == 1:
        result[live] = 1.0
        return result
    alphas, betas = alphas[live], betas[live]
    edges = _panel_edges(lowest, ranges[live], steps[live, :1])
    mass = _panel_masses(alphas, betas, edges)
    shape = (len(alphas), len(edges) - 1)
    panel_mass = (mass @ _WEIGHTS).reshape(shape)
    through = panel_mass[:, ::-1].cumsum(axis=1)[:, ::-1]
    cdf = mass @ _FROM_START + (1 - through).reshape(-1, 1)
    # Dividing one arm's F out of the product is safe: where F_k is at its least, f_k has no mass left.
    cdf = np.abs(cdf, out=cdf).reshape(len(alphas), -1) + _LEAST_CDF
    others = cdf.prod(axis=0) / cdf
    best = ((mass * others.reshape(-1, _ORDER)) @ _WEIGHTS).reshape(shape).sum(axis=1)
    result[live] = best / best.sum()
    return result


def _panel_masses(alphas: Array, betas: Array, edges: Array) -> Array:
    """Each arm's density of logit(x), times the panel's width, at each panel's nodes; shape (K * panels, nodes)."""
    widths = edges[1:] - edges[:-1]
    points = (edges[:-1, None] + widths[:, None] * _NODES).ravel()
    coefficients, basis = np.empty((len(alphas), 4)), np.empty((4, len(points)))
    pairs = zip(alphas[:, 0].tolist(), betas[:, 0].tolist(), strict=True)
    coefficients[:, :1], coefficients[:, 1:2] = alphas, betas
    coefficients[:, 2] = [math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) for a, b in pairs]
    coefficients[:, 3] = 1.0
    basis[0] = np.minimum(points, 0) - np.log1p(np.exp(-np.abs(points)))  # log x
    basis[1] = basis[0] - points  # log(1 - x)
    basis[2] = 1.0
    basis[3] = np.log(widths).repeat(_ORDER)
    log_mass = coefficients @ basis
    return np.exp(log_mass, out=log_mass).reshape(-1, _ORDER)


def _panel_edges(lowest: float, ranges: Array, scales: Array) -> Array:
    """The arms' marks `ranges`, shape (K, E), above `lowest`, thinned to a scale of the narrowest arm that is there."""
    highest = ranges[:, -1].max()
    edges = np.concatenate([ranges.ravel(), _SIGMOID_EDGES])
    edges = np.sort(edges[(edges >= lowest) & (edges < highest)])
    present = (edges >= ranges[:, _LEFT_END, None]) & (edges <= ranges[:, -1:])
    density = (present / scales).max(axis=0)
    distance = np.floor(np.cumsum((edges[1:] - edges[:-1]) * np.maximum(density[1:], density[:-1])))
    keep = np.ones(len(edges), dtype=bool)
    keep[1] = distance[0] > 0
    keep[2:] = distance[1:] > distance[:-1]
    return np.append(edges[keep], highest)


def sample_logits(alphas: Array, betas: Array, rng: np.random.Generator) -> Array:
    """A draw of logit(x), x ~ Beta(alphas, betas), of the arrays' shape.

    On the logit scale draws near 0 or 1 keep their order; rng.beta rounds them to ties when alpha or beta is small."""
    return _log_gamma_draw(alphas, rng) - _log_gamma_draw(betas, rng)


def _log_gamma_draw(shape: Array, rng: np.random.Generator) -> Array:
    # Gamma(a) = Gamma(a + 1) * U^(1/a), which stays in range in logarithms.
    return np.log(rng.standard_gamma(shape + 1)) + np.log1p(-rng.random(np.shape(shape))) / shape
