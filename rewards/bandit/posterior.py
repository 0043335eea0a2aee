"""Beta posteriors of arms: mean, credible interval, and the probability that each arm is the best."""

from __future__ import annotations

import numpy as np

from rewards.bandit.base import ArmEvidence, Array
from rewards.bandit.best_arm import best_of_betas as probability_best

__all__ = ["beta_posterior", "credible_interval", "posterior_mean", "probability_best", "sample_logits"]


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


def sample_logits(alphas: Array, betas: Array, rng: np.random.Generator) -> Array:
    """A draw of logit(x), x ~ Beta(alphas, betas), of the arrays' shape.

    On the logit scale draws near 0 or 1 keep their order; rng.beta rounds them to ties when alpha or beta is small."""
    return _log_gamma_draw(alphas, rng) - _log_gamma_draw(betas, rng)


def _log_gamma_draw(shape: Array, rng: np.random.Generator) -> Array:
    # Gamma(a) = Gamma(a + 1) * U^(1/a), which stays in range in logarithms.
    return np.log(rng.standard_gamma(shape + 1)) + np.log1p(-rng.random(np.shape(shape))) / shape
