from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest
from django.utils import timezone
from scipy.stats import beta

from rewards.leaderboard import ENOUGH, leaderboard, stats
from rewards.models import Canary
from rewards.rollup.sums import ACCURACY
from rewards.services import agent_pause, learning_reset
from tests.rewards.rows import interaction, rate, rated, variant

pytestmark = pytest.mark.django_db


def by_agent(rows):
    return {row.agent: row for row in rows}


def test_an_empty_site_has_an_empty_board():
    assert leaderboard() == []
    assert stats()["overall"]["interactions"] == 0


def test_agents_without_feedback_are_listed_as_such():
    variant("alpha")
    (row,) = leaderboard()
    assert (row.agent, row.category, row.n, row.mean, row.low, row.high, row.enough) == (
        "alpha",
        None,
        0,
        None,
        None,
        None,
        False,
    )


def test_overall_comes_first_and_then_each_category():
    alpha, beta_ = variant("alpha"), variant("beta")
    rated(alpha, 0.2, category="vague")
    rated(beta_, 0.9, category="factual")
    assert [(row.category, row.agent) for row in leaderboard()] == [
        (None, "beta"), (None, "alpha"), ("factual", "beta"), ("factual", "alpha"), ("vague", "alpha"), ("vague", "beta")
    ]  # fmt: skip
    assert [row.category for row in leaderboard("vague")] == ["vague", "vague"]


def test_mean_interval_and_share_are_those_of_the_ratings():
    alpha, other = variant("alpha"), variant("beta")
    for value in [1.0] * 15 + [0.5] * 10:
        rated(alpha, value)
    for _ in range(75):
        interaction(other)
    row = by_agent(leaderboard("factual"))["alpha"]
    assert (row.n, row.mean, row.interactions, row.traffic_share, row.enough) == (25, 0.8, 25, 0.25, True)
    assert (row.low, row.high) == pytest.approx(beta.interval(0.95, 1 + 20, 1 + 5))


def test_too_few_ratings_are_not_enough():
    alpha = variant("alpha")
    for i in range(ENOUGH):
        assert not leaderboard()[0].enough, i
        rated(alpha, 1.0)
    row = leaderboard()[0]
    assert row.enough
    assert row.low < row.mean <= row.high


def test_probability_of_being_best_agrees_with_simulation_and_leaves_retired_revisions_out():
    alpha, other = variant("alpha"), variant("beta")
    retired = variant("gamma", state="retired")
    for agent, values in ((alpha, [1] * 7 + [0] * 3), (other, [1] * 5 + [0] * 5), (retired, [1] * 10)):
        for value in values:
            rated(agent, value)
    rows = by_agent(leaderboard("factual"))
    draws = np.random.default_rng(0).beta([8, 6], [4, 6], size=(200_000, 2))
    assert rows["alpha"].probability_best == pytest.approx((draws.argmax(axis=1) == 0).mean(), abs=0.005)
    assert rows["alpha"].probability_best + rows["beta"].probability_best == pytest.approx(1)
    assert rows["gamma"].probability_best is None


def test_paused_agents_and_paused_canaries_are_no_candidates_for_the_best():
    alpha, other, resting = variant("alpha"), variant("beta"), variant("gamma")
    canary = variant("alpha", revision=2, state="canary")
    for agent in (alpha, other, resting, canary):
        rated(agent, {resting: 1.0, canary: 1.0}.get(agent, 0.5))
    agent_pause("gamma")
    Canary.objects.filter(pk=canary.pk).update(paused=True)
    rows = {row.variant_id: row.probability_best for row in leaderboard("factual")}
    assert (rows[resting.pk], rows[canary.pk]) == (None, None)
    assert rows[alpha.pk] == pytest.approx(0.5) and rows[other.pk] == pytest.approx(0.5)


def test_a_period_counts_only_what_was_asked_in_it():
    alpha = variant("alpha")
    now = timezone.now()
    rated(alpha, 0.0, created_at=now - timedelta(days=9), latency_ms=900)
    rated(alpha, 1.0, created_at=now - timedelta(days=1), latency_ms=100)
    row = leaderboard(since=now - timedelta(days=2))[0]
    assert (row.n, row.mean, row.interactions) == (1, 1.0, 1)
    assert row.latency_ms_p95 == pytest.approx(100, rel=ACCURACY)
    assert (leaderboard()[0].n, leaderboard()[0].mean) == (2, 0.5)
    recent = stats(now - timedelta(days=2))
    assert (recent["overall"]["interactions"], recent["overall"]["n"], recent["overall"]["mean_reward"]) == (1, 1, 1.0)
    assert recent["overall"]["ratings"] == 1


def test_comparisons_are_no_traffic_and_failures_have_no_latency():
    alpha = variant("alpha")
    interaction(alpha, latency_ms=50, cost_usd=0.2)
    interaction(alpha, mode="compare", latency_ms=900)
    interaction(alpha, state="failed", answer="", latency_ms=9000)
    row = leaderboard("factual")[0]
    assert (row.interactions, row.cost_usd) == (2, 0.1)
    assert [row.latency_ms_p50, row.latency_ms_p95] == pytest.approx([50, 50], rel=ACCURACY)


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 100])
def test_latency_percentiles_are_the_nearest_ranks(count):
    alpha = variant("alpha")
    values = list(range(10, 10 + count))
    for value in reversed(values):
        interaction(alpha, latency_ms=value, category=("factual", "vague")[value % 2])
    overall = leaderboard()[0]
    expected = pytest.approx([np.percentile(values, q, method="inverted_cdf") for q in (50, 95)], rel=ACCURACY)
    assert [overall.latency_ms_p50, overall.latency_ms_p95] == expected
    assert [stats()["overall"][name] for name in ("latency_ms_p50", "latency_ms_p95")] == expected
    factual = [value for value in values if value % 2 == 0]
    if factual:
        p95 = np.percentile(factual, 95, method="inverted_cdf")
        assert leaderboard("factual")[0].latency_ms_p95 == pytest.approx(p95, rel=ACCURACY)


def test_revisions_are_told_apart():
    first = variant("alpha", state="retired")
    second = variant("alpha", revision=2, predecessor=first)
    rated(first, 0.2)
    rated(second, 0.9)
    assert {row.revision: row.mean for row in leaderboard("factual")} == {1: 0.2, 2: 0.9}


def test_a_reset_empties_the_board_but_not_the_traffic():
    rated(variant("alpha"), 1.0)
    learning_reset()
    row = leaderboard()[0]
    assert (row.n, row.mean, row.interactions) == (0, None, 1)


def test_the_number_of_queries_does_not_grow_with_agents_and_categories(django_assert_max_num_queries):
    for i in range(6):
        agent = variant(f"agent{i}")
        for category in ("factual", "vague", "visual"):
            rated(agent, 0.5, category=category)
    with django_assert_max_num_queries(5):
        assert len(leaderboard()) == 24
    with django_assert_max_num_queries(3):
        stats()


def test_stats_sum_up_categories_and_arms():
    alpha, other = variant("alpha"), variant("beta")
    rated(alpha, 1.0, category="factual", cost_usd=0.5)
    rated(other, 0.5, category="factual")
    asked = rated(alpha, 0.0, category="vague")
    rate(asked, 1.0, "bob")
    interaction(alpha, category="vague", state="failed", answer="")
    figures = json.loads(json.dumps(stats()))
    assert figures["overall"] | {"latency_ms_p50": None, "latency_ms_p95": None} == {
        "interactions": 4, "failed": 1, "n": 3, "ratings": 4, "mean_reward": pytest.approx(2 / 3), "cost_usd": 0.5,
        "latency_ms_p50": None, "latency_ms_p95": None,
    }  # fmt: skip
    assert figures["categories"] == {
        "factual": {"interactions": 2, "n": 2, "mean_reward": 0.75},
        "vague": {"interactions": 2, "n": 1, "mean_reward": 0.5},
    }
    assert [(arm["category"], arm["agent"], arm["n"], arm["mean"]) for arm in figures["arms"]] == [
        ("factual", "alpha", 1, 1.0), ("factual", "beta", 1, 0.5), ("vague", "alpha", 1, 0.5)
    ]  # fmt: skip
    assert figures["policy"]["name"] == "hierarchical_thompson"


def test_rows_become_json():
    rated(variant("alpha"), 1.0)
    assert json.loads(json.dumps([row.as_dict() for row in leaderboard()]))[0]["agent"] == "alpha"
