from collections import Counter

import numpy as np
import pytest
from scipy import stats

from adaptrag.console.figures import latency_percentile, mean_rewards, proportion
from rewards.rollup.sums import ACCURACY, latency_bin


def percentile(seconds, share):
    return latency_percentile(Counter(latency_bin(value * 1000) for value in seconds), share)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 5), (7, 200), (200, 200)])
def test_proportion_has_wilsons_interval(hits, n):
    found = proportion(hits, n)
    truth = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high), abs=1e-9)


def test_mean_rewards_are_the_beta_posteriors():
    some, none = mean_rewards([7.5, 0.0], [10, 0])
    assert some.value == 0.75
    assert (some.low, some.high) == pytest.approx(stats.beta(8.5, 3.5).interval(0.95))
    assert (none.value, none.n) == (None, 0)
    assert mean_rewards([], []) == []


def test_percentile_covers_the_true_one_about_as_often_as_it_says():
    rng, truth = np.random.default_rng(3), stats.expon.ppf(0.95)
    intervals = [percentile(list(rng.exponential(size=300)), 0.95) for _ in range(400)]
    share = np.mean([one.low <= truth <= one.high for one in intervals])
    assert 0.92 <= share <= 0.99


def test_percentile_of_few_values_stays_within_them():
    found = percentile([3.0, 1.0, 2.0], 0.95)
    assert (found.n, found.enough) == (3, False)
    assert found.value == pytest.approx(3.0, rel=ACCURACY)
    assert 1.0 - ACCURACY <= found.low <= found.value == found.high
    assert percentile([], 0.95).value is None
