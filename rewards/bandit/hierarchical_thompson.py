"""Thompson sampling that lets categories learn from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rewards.bandit.base import ArmEvidence, Array, BasePolicy, parameter
from rewards.bandit.posterior import probability_best, sample_logits

NOISE_PULLS = 10.0  # weight, in rewards, of the guess that rewards are as noisy as 0 and 1 are
MASS_PULLS = 100.0  # weight, in rewards, of the guess at the mass where it is learned
GUESSED_MASS, LEAST_MASS, MOST_MASS = 30.0, 5.0, 400.0
MOST_PRECISION = 1e4


@dataclass(frozen=True, kw_only=True)
class HierarchicalThompson(BasePolicy):
    """Thompson sampling in which an arm's mean in a category is drawn to its mean in the others, and that to the arms' mean.

    For many categories with few rewards each: a new category starts from what an agent did elsewhere, and a new agent from
    what agents do. Rewards that vary less than 0 and 1 would (F1 scores, say) count for correspondingly more.

    Parameters
    ----------
    mass: how many 0/1 rewards in a category weigh as much as the arm's mean elsewhere; 0 learns it from how much the arms'
        advantages differ between categories.
    population: how many 0/1 rewards weigh as much as the mean of all arms.
    exploration: scale of the posteriors' spread. 1 is Thompson sampling proper; less spends fewer rewards on exploring, which
        pays where questions come in hundreds, not millions (posterior reshaping; measured in docs/decisions).

    Examples
    --------
    >>> elsewhere = {"elsewhere_pulls": [[40, 40]], "elsewhere_totals": [[34, 26]]}
    >>> evidence = ArmEvidence(pulls=[2, 2], totals=[1, 1], **elsewhere)
    >>> HierarchicalThompson(exploration=1).probabilities(evidence, np.random.default_rng(0)).round(2)
    array([0.77, 0.23])

    References
    ----------
    Chapelle & Li (2011), An empirical evaluation of Thompson sampling, NIPS 24 (reshaping); Gelman et al. (2013), Bayesian
    Data Analysis, 5.3 (hierarchy of binomials); DerSimonian & Laird (1986), Controlled Clinical Trials 7 (the moment
    estimate of a variance between groups, for the learned mass).
    """

    kind: ClassVar[str] = "hierarchical_thompson"
    reads_elsewhere: ClassVar[bool] = True
    mass: float = parameter(30.0, high=1e6, help="Weight of an arm's mean elsewhere, in rewards; 0 learns it.")
    population: float = parameter(10.0, low=0.1, high=1e6, help="Weight of the mean of all arms, in rewards.")
    exploration: float = parameter(0.4, low=0.05, high=2.0, help="Spread of the posteriors; 1 is Thompson sampling proper.")

    def probabilities(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        return probability_best(*self.posterior(evidence))

    def choose(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        return sample_logits(*self.posterior(evidence), rng).argmax(axis=-1)

    def posterior(self, evidence: ArmEvidence) -> tuple[Array, Array]:
        """(alphas, betas) of each arm's mean reward here, shape (..., K), reshaped by `exploration`."""
        pulls, totals, squares = _table(evidence)
        pooled = (_sum(totals) + 1) / (_sum(pulls) + 2)
        if squares is not None:
            precision = _precision(pulls, totals, squares, pooled)
            pulls, totals = pulls * precision, totals * precision
        mass = np.full_like(pooled, self.mass) if self.mass > 0 else _learned_mass(pulls, totals, pooled)
        # An arm's mean elsewhere, where each category counts for at most `mass`, however often it was asked.
        shares = mass / (pulls[..., 1:, :] + mass)
        weight = self.population + (pulls[..., 1:, :] * shares).sum(axis=-2)
        elsewhere = (self.population * pooled[..., 0] + (totals[..., 1:, :] * shares).sum(axis=-2)) / weight
        prior = 1 / (1 / mass[..., 0] + 1 / weight)  # the spread between categories, and the doubt about the mean elsewhere
        alphas = prior * elsewhere + totals[..., 0, :]
        betas = prior * (1 - elsewhere) + np.maximum(pulls[..., 0, :] - totals[..., 0, :], 0.0)
        return alphas / self.exploration**2, betas / self.exploration**2


def _table(evidence: ArmEvidence) -> tuple[Array, Array, Array | None]:
    """(pulls, totals, squares), shape (..., C, K): this category's row first, priors included; squares where all are known."""
    squares = evidence.squares
    if squares is not None and evidence.prior_totals is not None:
        squares = squares + evidence.prior_totals
    here = (evidence.counts, evidence.sums, squares)
    if evidence.elsewhere_pulls is None:
        return tuple(None if row is None else row[..., None, :] for row in here)
    rest = (evidence.elsewhere_pulls, evidence.elsewhere_totals, evidence.elsewhere_squares)
    return tuple(
        None if row is None or rows is None else np.concatenate([row[..., None, :], rows], axis=-2)
        for row, rows in zip(here, rest, strict=True)
    )


def _sum(table: Array) -> Array:
    return table.sum(axis=(-2, -1), keepdims=True)


def _precision(pulls: Array, totals: Array, squares: Array, pooled: Array) -> Array:
    """How many 0/1 rewards one reward is worth: m (1 - m) over the variance within arms and categories; shape (..., 1, 1)."""
    within = _sum(np.maximum(squares - totals**2 / np.maximum(pulls, 1e-12), 0.0))
    freedom = np.maximum(_sum(pulls) - _sum(pulls > 0), 0.0)
    variance = (within + NOISE_PULLS * pooled * (1 - pooled)) / (freedom + NOISE_PULLS)
    # m (1 - m) is the variance plus the mean of r (1 - r), which is nothing for rewards of 0 and 1.
    spare = np.maximum(_sum(totals - squares), 0.0) / np.maximum(_sum(pulls), 1e-12)
    return np.minimum(1 + spare / variance, MOST_PRECISION)


def _learned_mass(pulls: Array, totals: Array, pooled: Array) -> Array:
    """m (1 - m) over the variance between categories of the arms' advantages; shape (..., 1, 1).

    What all arms share in a category (its questions are hard) is no reason to learn it apart, and is taken out first."""
    noise = pooled * (1 - pooled)
    means = totals / np.maximum(pulls, 1e-12)
    weights = pulls * GUESSED_MASS / (pulls + GUESSED_MASS)
    arms = ((weights * means).sum(axis=-2, keepdims=True) + pooled) / (weights.sum(axis=-2, keepdims=True) + 1)
    residuals = means - arms
    count = np.maximum(pulls.sum(axis=-1, keepdims=True), 1e-12)
    spread = (pulls * residuals**2).sum(axis=-1, keepdims=True) - (pulls * residuals).sum(axis=-1, keepdims=True) ** 2 / count
    compared = (pulls > 0).sum(axis=-1, keepdims=True) - 1
    excess = _sum(np.where(compared > 0, spread - compared * noise, 0.0))
    weight = _sum(np.where(compared > 0, count - (pulls**2).sum(axis=-1, keepdims=True) / count, 0.0))
    between = (excess + MASS_PULLS * noise / GUESSED_MASS) / (weight + MASS_PULLS)
    return noise / np.clip(between, noise / MOST_MASS, noise / LEAST_MASS)
