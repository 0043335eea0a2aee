"""Replay of policies on full-information logs, and the reading of those logs."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest

from evals.logs import BadLog, RoutingLog, read_logged_rounds, read_routing_log
from evals.replay import compare, mean_interval, paired_difference, random_orders, replay
from rewards.bandit import (
    UCB1,
    DiscountedHierarchicalThompson,
    DiscountedLinTS,
    DiscountedThompson,
    HierarchicalThompson,
    LinTS,
    Thompson,
)
from rewards.bandit.base import BasePolicy


def log_of(rewards, categories=None, costs=None) -> RoutingLog:
    rewards = np.asarray(rewards, dtype=float)
    categories = np.zeros(len(rewards), dtype=int) if categories is None else np.asarray(categories)
    return RoutingLog(
        arms=tuple("abcdefgh"[: rewards.shape[1]]),
        category_names=tuple(f"category {code}" for code in range(categories.max() + 1)),
        categories=categories,
        rewards=rewards,
        costs=np.full(rewards.shape, math.nan) if costs is None else np.asarray(costs, dtype=float),
        questions=("",) * len(rewards),
    )


def coins(rng, chances, rows) -> np.ndarray:
    return (rng.random((rows, len(chances))) < chances).astype(float)


class Greedy(BasePolicy):
    """The first arm with the highest smoothed mean; keeps what it was shown."""

    kind = "greedy"

    def __init__(self, **attributes):
        self.shown = []
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def choose(self, evidence, rng):
        self.shown.append(evidence)
        return ((evidence.totals + 1) / (evidence.pulls + 1.5)).argmax(axis=-1)


def test_a_replay_learns_from_the_rewards_it_chose_in_the_category_it_was_asked():
    rng = np.random.default_rng(0)
    log = log_of(rng.uniform(size=(60, 3)), rng.integers(0, 4, 60))
    result = replay(log, Greedy(), shuffles=3, seed=5)
    for index, order in enumerate(random_orders(60, 3, 5)):
        pulls, totals = np.zeros((4, 3)), np.zeros((4, 3))
        for step, row in enumerate(order):
            category = log.categories[row]
            arm = ((totals[category] + 1) / (pulls[category] + 1.5)).argmax()
            assert result.rewards[index, step] == log.rewards[row, arm]
            pulls[category, arm] += 1
            totals[category, arm] += log.rewards[row, arm]


def test_hierarchical_policies_see_the_other_categories_and_not_their_own_twice():
    rng = np.random.default_rng(1)
    log = log_of(rng.uniform(size=(40, 2)), rng.integers(0, 3, 40))
    spy = Greedy(reads_elsewhere=True)
    result = replay(log, spy, shuffles=2)
    last = spy.shown[-1]
    assert (last.pulls.sum(axis=-1) + last.elsewhere_pulls.sum(axis=(-2, -1))).tolist() == [39, 39]
    known = last.totals.sum(axis=-1) + last.elsewhere_totals.sum(axis=(-2, -1))
    assert known == pytest.approx(result.rewards[:, :-1].sum(axis=1))
    squares = last.squares.sum(axis=-1) + last.elsewhere_squares.sum(axis=(-2, -1))
    assert squares == pytest.approx((result.rewards[:, :-1] ** 2).sum(axis=1))


def test_discounted_evidence_halves_with_each_half_life_however_long_the_log():
    log = log_of(np.random.default_rng(2).uniform(size=(700, 2)))
    spy = Greedy(half_life=1.0, unit="interactions")  # 700 half-lives: stored weights pass through a new epoch
    result = replay(log, spy, shuffles=2)
    weights = 0.5 ** np.arange(699, 0, -1)
    assert spy.shown[-1].pulls.sum(axis=-1) == pytest.approx(np.full(2, weights.sum()))
    assert spy.shown[-1].totals.sum(axis=-1) == pytest.approx((result.rewards[:, :-1] * weights).sum(axis=1))


def test_figures_of_a_replay_agree_with_each_other():
    rng = np.random.default_rng(3)
    log = log_of(coins(rng, [0.3, 0.8, 0.5], 400), costs=np.full((400, 3), [0.1, 0.2, 0.3]))
    result = replay(log, Thompson(), shuffles=6)
    assert result.best_fixed_arm == "b"
    assert result.best_fixed_reward == pytest.approx(log.rewards[:, 1].mean())
    assert result.oracle == pytest.approx(log.rewards.max(axis=1).mean())
    assert result.regret == pytest.approx(result.best_fixed_reward * 400 - result.rewards.sum(axis=1).mean())
    assert result.regret_curve()[-1] == (400, pytest.approx(result.regret))
    assert result.regret_to_oracle > result.regret > 0
    assert result.interval[0] < result.mean_reward < result.interval[1]
    # Whole orders hold the same rows, so regret is as uncertain as what was earned, and lies the other way around.
    assert result.regret_interval == pytest.approx([400 * (result.best_fixed_reward - end) for end in result.interval[::-1]])
    assert result.regret_to_oracle_interval == pytest.approx([400 * (result.oracle - end) for end in result.interval[::-1]])
    assert 0.1 < result.mean_cost < 0.3
    assert json.loads(json.dumps(result.as_dict()))["best_fixed"]["arm"] == "b"


def test_policies_earn_between_chance_and_the_best_arm():
    log = log_of(coins(np.random.default_rng(4), [0.2, 0.8], 600))
    for policy in (Thompson(), UCB1(), HierarchicalThompson()):
        assert 0.6 < replay(log, policy, shuffles=5).mean_reward < log.rewards[:, 1].mean()


def test_the_same_seed_gives_the_same_replay_and_more_shuffles_keep_the_first_orders():
    log = log_of(coins(np.random.default_rng(5), [0.4, 0.6], 100))
    first, again, other = (replay(log, Thompson(), shuffles=4, seed=seed) for seed in (1, 1, 2))
    assert (first.rewards == again.rewards).all()
    assert (first.rewards != other.rewards).any()
    assert (random_orders(50, 5, 1) == random_orders(50, 20, 1)[:5]).all()


def test_comparisons_are_paired_by_order():
    log = log_of(coins(np.random.default_rng(6), [0.3, 0.7], 300), np.arange(300) % 30)
    best, worst = compare(log, [Thompson(), HierarchicalThompson()], shuffles=12)
    assert (best.policy, worst.policy) == ("hierarchical_thompson", "thompson")
    difference, (low, high) = paired_difference(best, worst)
    assert difference == pytest.approx(best.mean_reward - worst.mean_reward)
    assert 0 < low < difference < high
    with pytest.raises(ValueError, match="same seed"):
        paired_difference(best, replay(log, Thompson(), shuffles=12, seed=9))
    with pytest.raises(ValueError, match="same shuffles"):
        paired_difference(best, replay(log, Thompson(), shuffles=3))


def test_one_shuffle_has_no_interval():
    assert replay(log_of([[0, 1]] * 5), Thompson(), shuffles=1).interval is None
    assert mean_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)


def test_lints_learns_what_the_category_does_not_say():
    rng = np.random.default_rng(7)
    embeddings = rng.normal(size=(900, 24))
    first_is_right = embeddings[:, 0] > 0
    log = log_of(np.stack([first_is_right, ~first_is_right], axis=1))
    assert replay(log, Thompson(), shuffles=3).mean_reward < 0.6
    for policy in (LinTS(dimensions=24), DiscountedLinTS(dimensions=24, half_life=2000)):
        result = replay(log, policy, shuffles=3, embeddings=embeddings)
        assert result.rewards[:, 600:].mean() > 0.85


def test_the_discounted_default_recovers_from_a_swap_of_arms():
    rng = np.random.default_rng(8)
    log = log_of(np.concatenate([coins(rng, [0.8, 0.4], 2000), coins(rng, [0.4, 0.8], 2000)]))
    parts = random_orders(2000, 12, 0)
    orders = np.concatenate([parts, 2000 + parts[:, :400]], axis=1)
    earned = replay(log, DiscountedHierarchicalThompson(), orders=orders).rewards.mean(axis=0)
    assert earned[2300:].mean() >= 0.4 + 0.9 * 0.4
    assert replay(log, HierarchicalThompson(), orders=orders).rewards[:, 2300:].mean() < 0.6


def test_progress_ends_at_one():
    seen = []
    compare(log_of(np.eye(2)[np.arange(600) % 2]), [Thompson(), UCB1()], shuffles=2, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 4


@pytest.mark.parametrize(
    ("policy", "message"),
    [(LinTS(), "an embedding for each of the 5 rows"), (DiscountedThompson(unit="days"), "has its half-life in days")],
)
def test_a_policy_that_the_log_cannot_serve_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        replay(log_of([[0, 1]] * 5), policy)


def test_no_shuffles_are_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        replay(log_of([[0, 1]] * 5), Thompson(), shuffles=0)


ROW = {"id": "1", "category": "law", "question": "why?", "rewards": {"x": 1, "y": 0.5}, "costs": {"x": 0.01}}


def test_a_routing_log_is_read_plain_or_gzipped(tmp_path):
    lines = "\n".join(json.dumps(row) for row in (ROW, {"category": "art", "rewards": {"y": True, "x": 0}})) + "\n\n"
    (tmp_path / "log.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("log.jsonl", "log.jsonl.gz"):
        log = read_routing_log(tmp_path / name)
        assert log.arms == ("x", "y")
        assert log.rewards.tolist() == [[1, 0.5], [0, 1]]
        assert [log.category_names[code] for code in log.categories] == ["law", "art"]
        assert log.costs[0, 0] == 0.01 and np.isnan(log.costs[0, 1])
        assert log.questions == ("why?", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: no JSON"),
        ("[]", r"line 2: each line must be a JSON object"),
        ('{"rewards": {}}', r'line 2: "rewards" must map'),
        ('{"rewards": {"x": 1}}', r"line 2: every row needs the same arms.*: y\."),
        ('{"rewards": {"x": 1, "y": 1.5}}', r"line 2: reward of y is 1.5"),
        ('{"rewards": {"x": 1, "y": "good"}}', r"line 2: reward of y is 'good', not a number"),
        ('{"rewards": {"x": 1, "y": NaN}}', r"line 2: reward of y is nan"),
        ('{"rewards": {"x": 1, "y": 1}, "costs": [1]}', r'line 2: "costs" must map'),
        ('{"rewards": {"x": 1, "y": 1}, "costs": {"x": "free"}}', r"line 2: cost of x is 'free'"),
    ],
)
def test_a_bad_line_of_a_routing_log_is_named(tmp_path, line, message):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + line, encoding="utf-8")
    with pytest.raises(BadLog, match=message):
        read_routing_log(path)


def test_files_that_are_no_log_are_refused(tmp_path):
    with pytest.raises(BadLog, match="no file"):
        read_routing_log(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadLog, match="has no rows"):
        read_routing_log(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"category": "caf\xe9"}')
    with pytest.raises(BadLog, match="can't be read"):
        read_routing_log(tmp_path / "latin.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode() * 99)[:60])
    with pytest.raises(BadLog, match="can't be read"):
        read_routing_log(tmp_path / "cut.jsonl.gz")


def test_logged_rounds_are_read_with_their_strata(tmp_path):
    path = tmp_path / "logged.jsonl"
    rows = [
        {"arm": 10, "position": 1, "reward": 0, "propensity": 0.5, "context": ["u"]},
        {"arm": 2, "position": 3, "reward": 1, "propensity": 0.25},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    rounds = read_logged_rounds(path)
    assert rounds.arms == ("2", "10") and rounds.actions.tolist() == [1, 0]
    assert [rounds.stratum_names[code] for code in rounds.strata] == ["1", "3"]
    assert rounds.propensities.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": None}, '"arm" is missing'),
        ({"propensity": 0}, "leave pinned and forced choices out"),
        ({"propensity": 1.2}, "between 0 and 1"),
        ({"propensity": None}, "propensity is None"),
        ({"reward": -1}, "reward is -1"),
    ],
)
def test_a_round_that_cannot_be_weighed_is_refused(tmp_path, change, message):
    path = tmp_path / "logged.jsonl"
    path.write_text(json.dumps({"arm": 1, "reward": 1, "propensity": 0.5} | change))
    with pytest.raises(BadLog, match=f"line 1: .*{message}"):
        read_logged_rounds(path)
