"""Each policy and the posterior arithmetic against its own truth: closed forms, scipy, simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from rewards.bandit import (
    UCB1,
    ArmEvidence,
    DiscountedThompson,
    EpsilonGreedy,
    ForwardDecay,
    HierarchicalThompson,
    LinTS,
    Thompson,
)
from rewards.bandit.best_arm import best_of_normals
from rewards.bandit.hierarchical_thompson import _learned_mass
from rewards.bandit.lints import add_reward, question_context
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


def test_the_best_of_two_normals_equals_the_closed_form():
    for means, deviations in (([0.1, 0.0], [1.0, 2.0]), ([0.5, 0.5001], [1e-5, 3e-5]), ([0.2, 0.9], [0.5, 1e-4])):
        exact = stats.norm.cdf((means[0] - means[1]) / math.hypot(*deviations))
        assert best_of_normals(means, deviations) == pytest.approx([exact, 1 - exact], abs=1e-6)


def test_the_best_of_several_normals_equals_simulation():
    means, deviations = np.array([0.5, 0.45, 0.6, 0.1]), np.array([0.1, 0.2, 0.05, 0.4])
    draws = RNG(0).normal(means, deviations, (100_000, 4)).argmax(axis=1)
    assert best_of_normals(means, deviations) == pytest.approx(np.bincount(draws, minlength=4) / 100_000, abs=0.007)


def test_a_category_without_rewards_goes_by_the_others():
    hierarchical = HierarchicalThompson()
    rows = {"elsewhere_pulls": [[60, 60], [40, 40]], "elsewhere_totals": [[48, 30], [32, 20]]}
    nothing_here = {"pulls": [0, 0], "totals": [0, 0]}
    assert hierarchical.probabilities(ArmEvidence(**nothing_here), RNG(0)) == pytest.approx([0.5, 0.5])
    assert hierarchical.probabilities(ArmEvidence(**nothing_here, **rows), RNG(0))[0] > 0.99
    enough_here = {"pulls": [200, 200], "totals": [100, 150]}
    assert hierarchical.probabilities(ArmEvidence(**enough_here, **rows), RNG(0))[1] > 0.99


def test_the_hierarchical_posterior_follows_its_formula():
    evidence = ArmEvidence(pulls=[8], totals=[6], elsewhere_pulls=[[20], [60]], elsewhere_totals=[[10], [45]])
    alphas, betas = HierarchicalThompson(mass=30, population=10, exploration=0.5).posterior(evidence)
    pooled, first, second = 62 / 90, 20 * 30 / 50, 60 * 30 / 90  # a category counts for n M / (n + M)
    elsewhere = (10 * pooled + first * 0.5 + second * 0.75) / (10 + first + second)
    prior = 1 / (1 / 30 + 1 / (10 + first + second))
    assert alphas == pytest.approx([4 * (prior * elsewhere + 6)])
    assert betas == pytest.approx([4 * (prior * (1 - elsewhere) + 2)])


def test_one_category_asked_ten_thousand_times_does_not_outvote_the_rest():
    rows = {"elsewhere_pulls": [[10_000], [50], [50], [50]], "elsewhere_totals": [[9000], [10], [10], [10]]}
    alphas, betas = HierarchicalThompson().posterior(ArmEvidence(pulls=[0], totals=[0], **rows))
    assert posterior_mean(alphas, betas)[0] < 0.55


def test_steady_rewards_count_for_more_than_zeros_and_ones():
    def doubt(squares):
        evidence = ArmEvidence(pulls=[30, 30], totals=[15, 18], squares=squares)
        return HierarchicalThompson(exploration=1).probabilities(evidence, RNG(0))[0]

    zeros_and_ones, steady = doubt([15, 18]), doubt([30 * (0.5**2 + 0.1**2), 30 * (0.6**2 + 0.1**2)])
    assert zeros_and_ones == pytest.approx(doubt(None), abs=0.01)
    assert steady < zeros_and_ones / 3


def test_exploration_scales_the_spread_of_the_posterior():
    evidence = ArmEvidence(pulls=[50, 50], totals=[30, 25])
    wide, narrow = (HierarchicalThompson(exploration=value).posterior(evidence) for value in (1.0, 0.5))
    assert posterior_mean(*narrow) == pytest.approx(posterior_mean(*wide))
    ratio = stats.beta.std(*wide) / stats.beta.std(*narrow)
    assert ratio == pytest.approx([2, 2], rel=0.01)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 100, 400), (0.05, 40, 160), (0.2, 5, 10)])
def test_the_learned_mass_finds_how_much_categories_differ(spread, low, high):
    rng = RNG(1)
    difficulty = rng.normal(0, 0.1, (40, 1))  # shared by the arms, so no reason to learn categories apart
    means = np.clip(0.5 + difficulty + rng.normal(0, spread, (40, 4)), 0.02, 0.98)
    pulls = np.full((40, 4), 100.0)
    totals = rng.binomial(100, means).astype(float)
    assert low <= _learned_mass(pulls, totals, np.full((1, 1), 0.5))[0, 0] <= high


def test_lints_equals_ridge_regression():
    rng = RNG(2)
    contexts = np.concatenate([np.ones((80, 1)), rng.normal(size=(80, 3))], axis=1)
    rewards = rng.uniform(size=80)
    design, response = np.zeros((4, 4)), np.zeros(4)
    for context, reward in zip(contexts, rewards, strict=True):
        add_reward(design, response, context, reward)
    add_reward(design, response, contexts[0], 1.0)
    add_reward(design, response, contexts[0], 1.0, weight=-1)
    question = np.array([1.0, 0.3, -0.2, 0.1])
    given = ArmEvidence(pulls=[80], totals=[rewards.sum()], context=question, designs=design[None], responses=response[None])
    mean, deviation = LinTS(dimensions=3, ridge=2, exploration=0.7).posterior(given)
    pooled = (rewards.sum() + 1) / 82
    # Ridge regression as least squares with sqrt(ridge) * identity appended.
    rows = np.concatenate([contexts, np.sqrt(2) * np.eye(4)])
    coefficients = np.linalg.lstsq(rows, np.concatenate([rewards - pooled, np.zeros(4)]), rcond=None)[0]
    assert mean == pytest.approx([pooled + question @ coefficients])
    variance = pooled * (1 - pooled) * question @ np.linalg.inv(rows.T @ rows) @ question
    assert deviation == pytest.approx([0.7 * math.sqrt(variance)])


def test_lints_refuses_evidence_without_or_with_other_vectors():
    with pytest.raises(ValueError, match="lints needs the question's vector"):
        LinTS().probabilities(ArmEvidence(pulls=[1], totals=[1]), RNG(0))
    with pytest.raises(ValueError, match="lints with 16 dimensions needs vectors of 17 numbers"):
        zeros = {"designs": np.zeros((1, 3, 3)), "responses": np.zeros((1, 3))}
        LinTS().probabilities(ArmEvidence(pulls=[1], totals=[1], context=np.ones(3), **zeros), RNG(0))


def test_a_question_context_keeps_distances_and_starts_with_one():
    points = RNG(3).normal(size=(200, 384))
    reduced = question_context(points, 64)
    assert (reduced[:, 0] == 1).all() and reduced.shape == (200, 65)
    before, after = (np.linalg.norm(values[:100] - values[100:], axis=1) for values in (points, reduced))
    assert (after / before).mean() == pytest.approx(1, abs=0.03)
    with pytest.raises(ValueError, match="cannot be reduced to 64"):
        question_context(np.ones(32), 64)


def test_forward_decay_weighs_by_age_in_any_order_and_after_a_rebase():
    decay, times = ForwardDecay(half_life=8, epoch=100), [100, 108, 104, 116]
    stored = sum(decay.weight(time) for time in times)
    assert stored * decay.scale(116) == pytest.approx(sum(0.5 ** ((116 - time) / 8) for time in times))
    assert not decay.rebase_due(116) and decay.rebase_due(100 + 501 * 8)
    later, factor = decay.rebased(112)
    assert (stored * factor + later.weight(120)) * later.scale(120) == pytest.approx(
        sum(0.5 ** ((120 - time) / 8) for time in [*times, 120])
    )
    with pytest.raises(OverflowError):
        decay.weight(100 + 1024 * 8)


@pytest.mark.parametrize(("parameters", "message"), [({"half_life": 0}, "from 1"), ({"unit": "weeks"}, "interactions, days")])
def test_discounted_policies_refuse_half_lives_that_make_no_sense(parameters, message):
    with pytest.raises(ValueError, match=message):
        DiscountedThompson.from_parameters(parameters)
