"""Each policy and the posterior arithmetic against its own truth: closed forms, scipy, simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from rewards.bandit import UCB1, ArmEvidence, EpsilonGreedy, Thompson
from rewards.bandit.posterior import beta_posterior, credible_interval, posterior_mean, probability_best, sample_logits

RNG = np.random.default_rng


def beats(a, b, c, d) -> float:
    """P(X > Y) for X ~ Beta(a, b), Y ~ Beta(c, d) and a whole number a: the sum of Evan Miller (2014)."""
    i = np.arange(a)
    return np.exp(special.betaln(c + i, b + d) - np.log(b + i) - special.betaln(1 + i, b) - special.betaln(c, d)).sum()


def by_quadrature(alphas, betas) -> np.ndarray:
    """P(best) by the trapezoid rule over scipy's distribution functions on a logit grid that covers every arm finely."""
    peaks, widths = np.log(alphas / betas), 9 * np.sqrt(1 / alphas + 1 / betas)
    spans = zip(peaks - widths - 30 / alphas, peaks + widths + 30 / betas, strict=True)
    grid = np.unique(np.concatenate([np.linspace(low, high, 4_000) for low, high in spans]))
    pairs = zip(alphas, betas, strict=True)
    # From the nearer end, so that 1 - x keeps its digits.
    cdf = np.array(
        [
            np.where(grid < 0, special.betainc(a, b, special.expit(grid)), special.betaincc(b, a, special.expit(-grid)))
            for a, b in pairs
        ]
    )
    return np.array([np.trapezoid(np.delete(cdf, arm, 0).prod(axis=0), cdf[arm]) for arm in range(len(alphas))])


@pytest.mark.parametrize(
    "arms",
    [(1, 1, 1, 1), (3, 8, 2, 5), (41, 60, 45, 55), (1, 900, 2, 700), (50_100, 49_900, 50_000, 50_000), (100_000, 1, 3, 2)],
)
def test_probability_best_of_two_arms_equals_the_closed_form(arms):
    a, b, c, d = arms
    exact = beats(a, b, c, d)
    assert probability_best([a, c], [b, d]) == pytest.approx([exact, 1 - exact], abs=1e-7)


@pytest.mark.parametrize("low,high", [(0, 2), (0, 5), (3, 5), (-1, 2)])
def test_probability_best_of_several_arms_equals_quadrature(low, high):
    rng = RNG(7)
    for arms in (2, 5):
        counts, means = 10 ** rng.uniform(low, high, arms), rng.uniform(0.3, 0.7, arms)
        alphas, betas = counts * means + 0.02, counts * (1 - means) + 0.02
        assert probability_best(alphas, betas) == pytest.approx(by_quadrature(alphas, betas), abs=5e-6)


@pytest.mark.parametrize(
    ("alphas", "betas"),
    [
        ([0.01, 0.01, 0.02], [0.01, 0.02, 0.01]),
        ([0.01, 1, 80_000], [0.01, 1, 20_000]),
        (np.full(20, 1.0), np.full(20, 1.0)),
        (np.linspace(5, 60, 20), np.linspace(3, 40, 20)),
    ],
)
def test_probability_best_equals_simulation(alphas, betas):
    alphas, betas = np.asarray(alphas, dtype=float), np.asarray(betas, dtype=float)
    draws = sample_logits(np.tile(alphas, (60_000, 1)), np.tile(betas, (60_000, 1)), RNG(1)).argmax(axis=1)
    shares = np.bincount(draws, minlength=len(alphas)) / len(draws)
    assert np.abs(probability_best(alphas, betas) - shares).max() < 4.5 * 0.5 / math.sqrt(len(draws))


def test_probability_best_of_equal_arms_is_shared_equally():
    for count in (0.01, 1, 50, 1e5, 1e9):
        assert probability_best(np.full(8, count), np.full(8, count)) == pytest.approx(np.full(8, 1 / 8), abs=1e-12)


def test_an_arm_that_is_out_of_reach_gets_zero():
    assert probability_best([90_000, 10_000], [10_000, 90_000]).tolist() == [1.0, 0.0]


def test_posterior_adds_priors_and_counts_fractional_rewards():
    alphas, betas = beta_posterior(ArmEvidence(pulls=[4], totals=[2.5], prior_pulls=[3], prior_totals=[1]))
    assert (alphas[0], betas[0]) == (1 + 3.5, 1 + 3.5)
    assert posterior_mean(alphas, betas)[0] == 0.5


def test_credible_interval_equals_scipy():
    alphas, betas = np.array([1.0, 4.5, 700.0]), np.array([1.0, 2.0, 300.0])
    low, high = credible_interval(alphas, betas, level=0.9)
    assert low == pytest.approx(stats.beta.ppf(0.05, alphas, betas))
    assert high == pytest.approx(stats.beta.ppf(0.95, alphas, betas))


def test_samples_follow_the_beta_distribution():
    for a, b in ((0.05, 0.3), (2.0, 5.0), (400.0, 100.0)):
        draws = special.expit(sample_logits(np.full(4000, a), np.full(4000, b), RNG(5)))
        assert stats.kstest(draws, stats.beta(a, b).cdf).pvalue > 0.001


def test_thompson_prior_parameters_pull_towards_their_mean():
    given = ArmEvidence(pulls=[2, 0], totals=[2, 0])
    assert Thompson(a0=1, b0=1).probabilities(given, RNG(0))[1] == pytest.approx(1 - beats(3, 1, 1, 1), abs=1e-7)
    assert Thompson(a0=50, b0=50).probabilities(given, RNG(0))[1] > 0.4


def test_ucb1_follows_its_formula():
    given = ArmEvidence(pulls=[40, 7, 3], totals=[24, 4, 1])
    bounds = [mean + 0.7 * math.sqrt(math.log(50) / n) for mean, n in ((0.6, 40), (4 / 7, 7), (1 / 3, 3))]
    assert UCB1(c=0.7).probabilities(given, RNG(0)).argmax() == int(np.argmax(bounds))
    assert UCB1(c=0).probabilities(given, RNG(0)).tolist() == [1, 0, 0]


def test_ucb1_tries_every_arm_once_and_shares_ties():
    rng = RNG(0)
    assert UCB1().probabilities(ArmEvidence(pulls=[9, 0, 0], totals=[9, 0, 0]), rng).tolist() == [0, 0.5, 0.5]
    assert UCB1().probabilities(ArmEvidence(pulls=[5, 5, 5], totals=[3, 1, 3]), rng).tolist() == [0.5, 0, 0.5]


def test_epsilon_greedy_explores_by_epsilon_that_decays_to_its_minimum():
    given = ArmEvidence(pulls=[60, 40], totals=[30, 30])
    assert EpsilonGreedy(epsilon=0.2).probabilities(given, RNG(0)) == pytest.approx([0.1, 0.9])
    assert EpsilonGreedy(epsilon=0.2, decay=0.01).probabilities(given, RNG(0)) == pytest.approx([0.05, 0.95])
    assert EpsilonGreedy(epsilon=0.2, decay=1, minimum=0.1).probabilities(given, RNG(0)) == pytest.approx([0.05, 0.95])
    with pytest.raises(ValueError, match=r"minimum=0\.5 must not exceed epsilon=0\.2"):
        EpsilonGreedy(epsilon=0.2, minimum=0.5)


def test_epsilon_greedy_prefers_arms_that_it_never_tried():
    given = ArmEvidence(pulls=[5, 0], totals=[5, 0])
    assert EpsilonGreedy(epsilon=0.1).probabilities(given, RNG(0)) == pytest.approx([0.05, 0.95])
