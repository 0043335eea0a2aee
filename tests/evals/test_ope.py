"""Off-policy estimators against hand-worked figures, against a known truth, and against logs that cannot answer."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

from evals.logs import LoggedRounds
from evals.ope import DM, DR, ESTIMATORS, IPS, SNIPS, cross_fitted, effective_sample_size, overlap
from evals.ope.target import frequencies, policy_probabilities, uniform
from rewards.bandit import UCB1, HierarchicalThompson, LinTS, Thompson

RUNS = 500


def rounds_of(actions, rewards, propensities, strata=None, arms=3) -> LoggedRounds:
    strata = np.zeros(len(actions), dtype=int) if strata is None else np.asarray(strata)
    return LoggedRounds(
        arms=tuple(map(str, range(arms))),
        stratum_names=tuple(f"s{code}" for code in range(strata.max() + 1)),
        actions=np.asarray(actions),
        strata=strata,
        rewards=np.asarray(rewards, dtype=float),
        propensities=np.asarray(propensities, dtype=float),
    )


class World:
    """Three categories, five arms; the logging policy likes what the evaluated one does not, so the naive mean is wrong."""

    shares = np.array([0.5, 0.3, 0.2])
    means = np.array([[0.8, 0.3, 0.5, 0.6, 0.2], [0.3, 0.7, 0.5, 0.4, 0.6], [0.5, 0.2, 0.9, 0.3, 0.4]])
    logging = np.array([[0.1, 0.4, 0.2, 0.1, 0.2], [0.4, 0.1, 0.2, 0.2, 0.1], [0.15, 0.35, 0.1, 0.25, 0.15]])
    target = np.array([[0.6, 0.1, 0.1, 0.1, 0.1], [0.1, 0.5, 0.1, 0.1, 0.2], [0.1, 0.1, 0.6, 0.1, 0.1]])
    truth = float((shares[:, None] * target * means).sum())

    @classmethod
    def log(cls, seed: int, n: int = 400) -> tuple[LoggedRounds, np.ndarray]:
        rng = np.random.default_rng(seed)
        strata = rng.choice(3, size=n, p=cls.shares)
        actions = (cls.logging[strata].cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
        rewards = rng.random(n) < cls.means[strata, actions]
        return rounds_of(actions, rewards, cls.logging[strata, actions], strata, arms=5), cls.target[strata]


@pytest.fixture(scope="module")
def estimates():
    """{(estimator, interval): [Estimate]} and the naive means, over 500 logs of known value."""
    found = {(name, interval): [] for name in ESTIMATORS for interval in ("asymptotic", "bootstrap")}
    naive = []
    for seed in range(RUNS):
        rounds, target = World.log(seed)
        predictions = cross_fitted(rounds)
        naive.append(rounds.rewards.mean())
        for (name, interval), results in found.items():
            results.append(ESTIMATORS[name](interval=interval, resamples=200).estimate(rounds, target, predictions))
    return found, np.array(naive)


@pytest.mark.parametrize("interval", ["asymptotic", "bootstrap"])
@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_intervals_cover_the_truth_in_90_to_99_percent_of_500_logs(estimates, name, interval):
    found, _ = estimates
    covered = np.mean([estimate.low <= World.truth <= estimate.high for estimate in found[name, interval]])
    assert 0.90 <= covered <= 0.99


@pytest.mark.parametrize("name", ["snips", "dr"])
def test_snips_and_dr_beat_the_naive_mean_and_ips(estimates, name):
    found, naive = estimates

    def error(values):
        return math.sqrt(np.mean((np.asarray(values) - World.truth) ** 2))

    ours = error([estimate.value for estimate in found[name, "asymptotic"]])
    assert ours < error(naive) / 3
    assert ours < error([estimate.value for estimate in found["ips", "asymptotic"]])


def test_ips_and_dr_are_right_on_average(estimates):
    found, _ = estimates
    for name in ("ips", "dr"):
        values = [estimate.value for estimate in found[name, "asymptotic"]]
        assert np.mean(values) == pytest.approx(World.truth, abs=4 * np.std(values) / math.sqrt(RUNS))


def test_estimators_follow_their_formulas():
    rounds = rounds_of([0, 1, 2, 0], [1, 0, 0.5, 0], [0.5, 0.25, 0.25, 0.5])
    target = np.array([[0.25, 0.5, 0.25]] * 4)
    predictions = np.array([[0.6, 0.2, 0.4]] * 4)
    weights = [0.5, 2, 1, 0.5]
    direct = 0.25 * 0.6 + 0.5 * 0.2 + 0.25 * 0.4
    corrections = [0.5 * (1 - 0.6), 2 * (0 - 0.2), 1 * (0.5 - 0.4), 0.5 * (0 - 0.6)]
    expected = {
        "ips": (0.5 * 1 + 1 * 0.5) / 4, "snips": (0.5 * 1 + 1 * 0.5) / sum(weights), "dm": direct,
        "dr": direct + sum(corrections) / 4,
    }  # fmt: skip
    for name, value in expected.items():
        estimate = ESTIMATORS[name]().estimate(rounds, target, predictions)
        assert estimate.value == pytest.approx(value)
        assert estimate.effective_sample_size == pytest.approx(4**2 / (0.25 + 4 + 1 + 0.25))
        assert estimate.as_dict()["interval"] == [estimate.low, estimate.high]


def test_evaluating_the_logging_policy_itself_gives_the_mean():
    rounds, _ = World.log(1)
    target = World.logging[rounds.strata]
    for name in ("ips", "snips"):
        estimate = ESTIMATORS[name]().estimate(rounds, target)
        assert estimate.value == pytest.approx(rounds.rewards.mean())
        assert estimate.effective_sample_size == pytest.approx(len(rounds))
    half = 1.966 * rounds.rewards.std(ddof=1) / math.sqrt(len(rounds))
    assert IPS().estimate(rounds, target).high - rounds.rewards.mean() == pytest.approx(half, rel=1e-3)


def test_clipping_cuts_large_weights_and_says_how_many():
    rounds = rounds_of([0, 1], [1, 1], [0.01, 0.5], arms=2)
    target = np.full((2, 2), 0.5)
    assert IPS().estimate(rounds, target).value == pytest.approx((50 + 1) / 2)
    cut = IPS(clip=10).estimate(rounds, target)
    assert cut.value == pytest.approx((10 + 1) / 2)
    assert cut.clipped == 0.5


def test_clipping_trades_bias_for_spread():
    rounds, target = World.log(3, n=2000)
    plain, cut = (IPS(clip=clip).estimate(rounds, target) for clip in (math.inf, 3))
    assert cut.high - cut.low < plain.high - plain.low
    assert cut.value < plain.value


def test_dr_with_perfect_predictions_has_less_spread_than_with_none():
    rounds, target = World.log(4)
    perfect, none = World.means[rounds.strata], np.zeros((len(rounds), 5))
    exact, blind = DR().estimate(rounds, target, perfect), DR().estimate(rounds, target, none)
    assert blind.value == pytest.approx(IPS().estimate(rounds, target).value)
    assert exact.high - exact.low < blind.high - blind.low


def test_dr_survives_wrong_predictions_and_dm_does_not():
    rounds, target = World.log(5, n=20_000)
    wrong = np.full((len(rounds), 5), 0.9)
    assert DR().estimate(rounds, target, wrong).value == pytest.approx(World.truth, abs=0.03)
    assert DM().estimate(rounds, target, wrong).value == pytest.approx(0.9)


def test_the_bootstrap_repeats_by_seed():
    rounds, target = World.log(6)
    first, again, other = (SNIPS(interval="bootstrap", seed=seed).estimate(rounds, target) for seed in (1, 1, 2))
    assert first == again and first.low != other.low


def test_cross_fitted_predictions_leave_a_rounds_own_reward_out():
    rounds, _ = World.log(7)
    before = cross_fitted(rounds)
    changed = dataclasses.replace(rounds, rewards=np.where(np.arange(400) == 11, 1 - rounds.rewards, rounds.rewards))
    assert (cross_fitted(changed)[11] == before[11]).all()
    assert (cross_fitted(changed) != before).any()
    error = np.abs(cross_fitted(World.log(8, n=30_000)[0]) - World.means[World.log(8, n=30_000)[0].strata])
    assert error.max() < 0.06


def test_too_little_overlap_is_said_in_words():
    rounds = rounds_of([0] * 500, [1] * 500, [0.9] * 500, arms=2)
    never = overlap(rounds, np.tile([0.5, 0.5], (500, 1)))
    assert not never.conclusive and never.complaint.startswith("50% of the policy's choices were never made")
    rare = rounds_of([0] * 490 + [1] * 10, [1] * 500, [0.98] * 490 + [0.02] * 10, arms=2)
    few = overlap(rare, np.tile([0.0, 1.0], (500, 1)))
    assert not few.conclusive and "only as much as 10" in few.complaint and few.largest_weight == 50
    rounds, target = World.log(9)
    assert overlap(rounds, target).conclusive


def test_effective_sample_size_of_equal_weights_is_their_number():
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0, 0])) == 1


def test_a_policy_is_evaluated_on_what_it_would_have_known_at_each_round():
    rounds = rounds_of([0, 1, 0, 1], [1, 0, 1, 0], [0.5] * 4, strata=[0, 0, 0, 1], arms=2)
    target = policy_probabilities(rounds, UCB1(c=0))
    assert target.tolist() == [[0.5, 0.5], [0, 1], [1, 0], [0.5, 0.5]]
    shared = policy_probabilities(rounds, HierarchicalThompson())
    assert shared[3, 0] > 0.6  # the other category's rewards speak for arm 0


def test_priors_and_floors_are_part_of_what_is_evaluated():
    rounds = rounds_of([0, 1], [1, 0], [0.5] * 2, arms=2)
    priors = (np.array([[50.0, 50.0]]), np.array([[5.0, 45.0]]))
    for policy in (Thompson(), HierarchicalThompson()):
        target = policy_probabilities(rounds, policy, priors=priors, min_share=0.1)
        assert target[0] == pytest.approx([0.1, 0.9])


def test_a_policy_that_reads_questions_is_evaluated_with_their_embeddings():
    rng = np.random.default_rng(0)
    embeddings = np.sign(rng.normal(size=(300, 1)))
    actions = rng.integers(0, 2, 300)
    rounds = rounds_of(actions, (embeddings[:, 0] > 0) == (actions == 0), np.full(300, 0.5), arms=2)
    target = policy_probabilities(rounds, LinTS(dimensions=1), embeddings=embeddings)
    right = np.where(embeddings[:, 0] > 0, target[:, 0], target[:, 1])
    assert right[200:].mean() > 0.95
    assert IPS().estimate(rounds, target).value > 0.8


def test_uniform_and_frequencies_of_another_log():
    rounds = rounds_of([0, 1, 0], [1, 0, 1], [0.5] * 3, strata=[0, 0, 1], arms=2)
    other = rounds_of([0, 0, 0, 1, 1], [1] * 5, [0.5] * 5, strata=[0, 0, 0, 0, 1], arms=2)
    assert uniform(rounds).tolist() == [[0.5, 0.5]] * 3
    assert frequencies(rounds, other).tolist() == [[0.75, 0.25], [0.75, 0.25], [0, 1]]
    with pytest.raises(ValueError, match="no rounds of s1"):
        frequencies(rounds, rounds_of([0, 1], [1, 1], [0.5] * 2, arms=2))
    with pytest.raises(ValueError, match="different arms"):
        frequencies(rounds, rounds_of([0, 1], [1, 1], [0.5] * 2))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.full((3, 3), 1 / 3), "target of shape"),
        (np.full((2, 3), 0.5), "probability vector"),
        (np.array([[0.0, 0, 1], [0, 0, 1]]), "says nothing about it"),
    ],
)
def test_targets_that_cannot_be_evaluated_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        IPS().estimate(rounds_of([0, 1], [1, 0], [0.5, 0.5]), target)


def test_estimators_refuse_missing_predictions_and_odd_settings():
    rounds, target = World.log(10)
    with pytest.raises(ValueError, match="dr needs a predicted reward"):
        DR().estimate(rounds, target)
    for settings in ({"clip": 0}, {"interval": "guess"}, {"level": 1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            IPS(**settings)
    with pytest.raises(ValueError, match="too few for 5 folds"):
        cross_fitted(rounds_of([0, 1], [1, 0], [0.5, 0.5]))


def test_the_arithmetic_of_evaluation_loads_no_django():
    code = (
        "import sys, evals.ope, evals.ope.target, evals.replay; print(sorted({'django', 'scipy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
