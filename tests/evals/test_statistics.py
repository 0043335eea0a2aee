"""Intervals and tests against other implementations and known truths."""

import math

import numpy as np
import pytest
from scipy import stats

from evals.statistics import compare, mean_interval, minimum_detectable_difference, sample_size

NAN = math.nan


def test_unscored_items_are_counted_and_left_out():
    estimate = mean_interval([1.0, NAN, 0.0, 1.0, NAN])
    assert (estimate.n, estimate.unscored) == (3, 2)
    assert estimate.mean == pytest.approx(2 / 3)


@pytest.mark.parametrize(("scores", "n"), [([], 0), ([NAN], 0), ([0.5], 1)])
def test_too_little_data_has_no_interval(scores, n):
    estimate = mean_interval(scores)
    assert estimate.n == n
    assert math.isnan(estimate.low) and math.isnan(estimate.high)


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(7)
    truth, hits = 0.3, 0
    for _ in range(200):
        estimate = mean_interval(rng.beta(0.6, 1.4, size=60))
        hits += estimate.low <= truth <= estimate.high
    assert 180 <= hits <= 199  # within four standard errors of 190


def test_equal_scores_have_wilsons_interval_not_none():
    estimate = mean_interval([1.0] * 20)
    expected = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_a_real_difference_is_found_and_said_in_words():
    rng = np.random.default_rng(1)
    base = rng.uniform(0, 0.8, 128)
    better = np.clip(base + rng.normal(0.06, 0.15, 128), 0, 1)
    (comparison,) = compare({"naive_rag": base, "hybrid_rag": better}, "naive_rag")
    assert comparison.difference == pytest.approx((better - base).mean())
    assert comparison.p_value == pytest.approx(stats.wilcoxon(better - base, zero_method="pratt").pvalue)
    assert comparison.low > 0
    assert comparison.sentence().startswith("hybrid_rag is better than naive_rag by 0.0")
    assert comparison.sentence().endswith("128 questions.")
    assert comparison.wins + comparison.ties + comparison.losses == 128


def test_noise_is_not_called_a_difference():
    rng = np.random.default_rng(2)
    (comparison,) = compare({"a": rng.uniform(size=40), "b": rng.uniform(size=40)}, "a")
    assert comparison.sentence().startswith("No difference shown between b and a")


def test_an_interval_without_zero_that_the_test_disputes_is_no_difference_and_says_why():
    (comparison,) = compare({"a": [0.5] * 40, "b": [1.0] * 6 + [0.49] * 20 + [0.5] * 14}, "a")
    assert comparison.low > 0
    assert "the interval leaves out zero, the test disagrees (Wilcoxon, adjusted p = 0." in comparison.sentence()


def test_right_or_wrong_scores_use_mcnemar():
    base = [1] * 30 + [0] * 20
    other = [1] * 28 + [0] * 2 + [1] * 12 + [0] * 8
    (comparison,) = compare({"a": base, "b": other}, "a")
    assert comparison.test == "McNemar"
    assert comparison.p_value == pytest.approx(stats.binomtest(12, 14).pvalue)


def test_holm_adjusts_over_the_agents_compared_together():
    rng = np.random.default_rng(3)
    base = rng.uniform(size=50)
    scores = {"base": base} | {f"agent{index}": base + rng.normal(0.02 * index, 0.1, 50) for index in range(4)}
    comparisons = compare(scores, "base")
    raw = sorted(comparison.p_value for comparison in comparisons)
    stepped = np.minimum(1, np.maximum.accumulate([p * (4 - rank) for rank, p in enumerate(raw)]))
    assert sorted(comparison.p_adjusted for comparison in comparisons) == pytest.approx(list(stepped))


def test_only_items_scored_for_both_are_compared():
    (comparison,) = compare({"a": [0.1, NAN, 0.5, 0.2], "b": [0.2, 0.9, NAN, 0.6]}, "a")
    assert comparison.n == 2
    assert comparison.difference == pytest.approx(0.25)


def test_identical_agents_do_not_differ():
    (comparison,) = compare({"a": [0.1, 0.5, 0.9], "b": [0.1, 0.5, 0.9]}, "a")
    assert (comparison.p_value, comparison.ties, comparison.difference) == (1.0, 3, 0.0)
    assert comparison.sentence() == "No difference shown between b and a: identical on all 3 questions."


def test_a_difference_that_is_the_same_everywhere_has_no_interval_to_tell():
    (shown,) = compare({"a": [0.1, 0.3, 0.5] * 10, "b": [0.3, 0.5, 0.7] * 10}, "a")
    assert shown.sentence() == "b is better than a by 0.20 on all 30 questions."
    (few,) = compare({"a": [0.1, 0.3], "b": [0.3, 0.5]}, "a")
    assert few.sentence().startswith("No difference shown between b and a: +0.20 on all 2 questions, too few for the test")


def test_one_shared_item_is_not_enough_data():
    (comparison,) = compare({"a": [0.1, NAN], "b": [0.9, 0.3]}, "a")
    assert comparison.sentence() == "Not enough data to compare b with a: 1 question."


@pytest.mark.parametrize("scores", [{"a": [1.0]}, {"base": [1.0, 0.0], "b": [1.0]}])
def test_scores_that_can_not_be_compared_are_refused(scores):
    with pytest.raises(ValueError, match=r"baseline|lengths"):
        compare(scores, "base")


def test_detectable_difference_and_sample_size_agree_with_statsmodels():
    from statsmodels.stats.power import NormalIndPower

    differences = np.random.default_rng(4).normal(0, 0.3, 100)
    power = NormalIndPower(ddof=0).power(
        minimum_detectable_difference(differences) / differences.std(ddof=1), nobs1=100, alpha=0.05, ratio=0
    )
    assert power == pytest.approx(0.8, abs=1e-3)
    assert sample_size(0.1, 0.4) == math.ceil(NormalIndPower().solve_power(0.25, alpha=0.05, power=0.8, ratio=1))
    with pytest.raises(ValueError, match="other than 0"):
        sample_size(0.0, 1.0)
