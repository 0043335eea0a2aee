"""Calibration against scipy, hand-worked kappa, and judges of known quality."""

import math

import numpy as np
import pytest
from scipy import stats

from evals.calibration import calibrate, cohens_kappa


def test_a_good_judge_is_calibrated_and_a_random_one_is_not():
    rng = np.random.default_rng(5)
    truth = rng.uniform(size=120)
    good = calibrate(np.clip(truth + rng.normal(0, 0.15, 120), 0, 1), truth)
    random = calibrate(rng.uniform(size=120), truth)
    assert good.calibrated and good.words().startswith("Calibrated: Spearman 0.")
    assert not random.calibrated and random.words().startswith("Not calibrated: Spearman")
    assert good.spearman_low < good.spearman < good.spearman_high


def test_few_pairs_calibrate_nobody():
    verdict = calibrate([0.1, 0.9, 0.4], [0.0, 1.0, 0.5])
    assert not verdict.calibrated
    assert verdict.words() == "Not calibrated: 3 pairs of 50 needed."


def test_spearman_agrees_with_scipy_and_its_interval_covers():
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(200):
        left, right = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 80).T
        found = calibrate(stats.norm.cdf(left), stats.norm.cdf(right))
        assert found.spearman == pytest.approx(stats.spearmanr(left, right).statistic)
        hits += found.spearman_low <= 6 / math.pi * math.asin(0.3) <= found.spearman_high
    assert hits >= 180


def test_kappa_of_a_worked_example():
    # 20 both yes, 15 both no, 5 and 10 apart: (0.7 - 0.5) / 0.5 = 0.4
    left = np.array([1] * 20 + [1] * 5 + [0] * 10 + [0] * 15, dtype=bool)
    right = np.array([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15, dtype=bool)
    assert cohens_kappa(left, right) == pytest.approx(0.4)
    assert math.isnan(cohens_kappa(np.array([True]), np.array([True])))


def test_unscored_pairs_are_left_out_and_a_constant_judge_has_no_correlation():
    found = calibrate([0.5, 0.5, math.nan, 0.5, 0.5], [0.1, 0.2, 0.3, math.nan, 1.0])
    assert found.n == 3
    assert math.isnan(found.spearman) and not found.calibrated
    assert found.reliability == ((0.5, pytest.approx(1.3 / 3), 3),)
