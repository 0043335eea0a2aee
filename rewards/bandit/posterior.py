"""Beta posteriors of arms: mean, credible interval, and the probability that each arm is the best."""

from __future__ import annotations

import numpy as np

from rewards.bandit.base import ArmEvidence, Array

# Log-density below the peak at which an arm's range is cut into panels: 0, 1.2, 2.6, 4.5 and 8 standard deviations (z^2 / 2).
_DROPS = np.array([0.72, 3.4, 10.0, 32.0])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_HALF_WEIGHTS = _WEIGHTS / 2
# Row i of _PARTIAL integrates the polynomial through the 8 nodes of a panel of width 1 from its start to node i.
_LEGENDRE = np.polynomial.legendre.legvander(_NODES, 7)
_ANTIDERIVATIVE = np.stack(
    [np.polynomial.legendre.legval(_NODES, np.polynomial.legendre.legint(row, lbnd=-1)) for row in np.eye(8)], axis=1
)
_PARTIAL = (_ANTIDERIVATIVE @ np.linalg.inv(_LEGENDRE)).T / 2


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
    smooth and log-concave however narrow (100,000 pulls) or U-shaped (alpha = 0.01) it is. Eight-node Gauss-Legendre panels
    follow each arm that can still win; absolute error below 1e-6 (tested against closed forms)."""
    alphas, betas = np.asarray(alphas, dtype=float), np.asarray(betas, dtype=float)
    peaks = np.log(alphas) - np.log(betas)
    scale = np.sqrt(2 * (1 / alphas + 1 / betas))[:, None] * np.sqrt(_DROPS)
    left, right = scale + _DROPS / alphas[:, None], scale + _DROPS / betas[:, None]
    lowest, highest = peaks - left[:, -1], peaks + right[:, -1]
    result = np.zeros(len(alphas))
    (live,) = np.nonzero(highest >= lowest.max())
    if len(live) == 1:
        result[live] = 1.0
        return result
    peaks = peaks[live, None]
    edges = np.sort(np.concatenate([peaks - left[live], peaks, peaks + right[live]], axis=1), axis=None)
    # Edges of different arms that nearly coincide, by the narrowest arm's measure, make panels that cost and add nothing.
    _, first = np.unique(np.floor(edges / scale[live, 0].min()), return_index=True)
    edges = np.append(edges[first], edges[-1])
    widths = np.diff(edges)
    points = (edges[:-1, None] + widths[:, None] * (_NODES + 1) / 2).ravel()
    softplus = np.maximum(points, 0) + np.log1p(np.exp(-np.abs(points)))  # -log(1 - x); log x = points - softplus
    alphas, betas = alphas[live, None], betas[live, None]
    log_density = alphas * (points - softplus) - betas * softplus
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True)).reshape(len(live), -1, 8) * widths[:, None]
    panel_mass = density @ _HALF_WEIGHTS
    before = np.cumsum(panel_mass, axis=1)
    total = before[:, -1:].copy()
    before -= panel_mass
    cdf = np.clip((before[:, :, None] + density @ _PARTIAL) / total[:, :, None], 0.0, 1.0)
    others = np.ones_like(cdf)  # product over the other arms, without dividing by a CDF that may be 0
    others[1:] = np.multiply.accumulate(cdf[:-1], axis=0)
    others[:-1] *= np.multiply.accumulate(cdf[:0:-1], axis=0)[::-1]
    best = ((density * others) @ _HALF_WEIGHTS).sum(axis=1) / total[:, 0]
    result[live] = best / best.sum()
    return result


def sample_logits(alphas: Array, betas: Array, rng: np.random.Generator) -> Array:
    """A draw of logit(x), x ~ Beta(alphas, betas), of the arrays' shape.

    On the logit scale draws near 0 or 1 keep their order; rng.beta rounds them to ties when alpha or beta is small."""
    return _log_gamma_draw(alphas, rng) - _log_gamma_draw(betas, rng)


def _log_gamma_draw(shape: Array, rng: np.random.Generator) -> Array:
    # Gamma(a) = Gamma(a + 1) * U^(1/a), which stays in range in logarithms.
    return np.log(rng.standard_gamma(shape + 1)) + np.log1p(-rng.random(np.shape(shape))) / shape
