"""The default policy on sets that it was not chosen by: the generated ones of benchmarks/bandit_sets.py."""

from __future__ import annotations

import numpy as np

from benchmarks.bandit import ONE_CATEGORY, on_sets
from benchmarks.bandit_sets import replay_sets
from rewards.bandit import HierarchicalThompson, Thompson


def test_generated_sets_repeat_by_seed_and_have_the_stated_sizes():
    sets, again = replay_sets(30, seed=3), replay_sets(30, seed=3)
    assert all((one.rewards == other.rewards).all() for one, other in zip(sets, again, strict=True))
    assert {len(log) for log in sets} <= {150, 300, 500, 800}
    assert all(2 <= len(log.arms) <= 16 and log.rewards.min() >= 0 and log.rewards.max() <= 1 for log in sets)
    assert {len(log) for log in replay_sets(3, seed=0, rows=200)} == {200}


def test_the_default_earns_more_than_thompson_with_or_without_categories():
    policies = {"hierarchical_thompson": HierarchicalThompson(), "thompson": Thompson()}
    rows = {row["policy"]: row for row in on_sets("300 rows", replay_sets(8, seed=11, rows=300), policies, shuffles=4)}
    assert rows[ONE_CATEGORY]["value"] == 0
    assert rows["hierarchical_thompson"]["value"] > max(0.005, rows["thompson"]["value"])
    assert np.isfinite([row["over_fixed"] for row in rows.values()]).all()
