"""The rules of promotion, without rows: gate, canary, guard; and how often they are wrong."""

from __future__ import annotations

import dataclasses
import doctest
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import promotion
from rewards.promotion import (
    Evidence,
    Outcome,
    Record,
    Thresholds,
    canary_verdict,
    gate_verdict,
    next_share,
    standing,
)
from rewards.rollup.sums import Sums, latency_bin

RULES = Thresholds()


def test_the_examples_in_the_docs_of_the_module_hold():
    assert doctest.testmod(promotion).failed == 0


UNIT = st.floats(0, 1)


@st.composite
def evidences(draw):
    low, difference, high = sorted(draw(st.tuples(*[st.floats(-1, 1)] * 3)))
    costs = draw(st.tuples(*[st.one_of(st.just(0.0), st.floats(1e-6, 1))] * 2))
    latencies = draw(st.tuples(*[st.one_of(st.none(), st.floats(1, 1e5))] * 2))
    return Evidence(
        candidate="b", incumbent="a", n=draw(st.integers(2, 200)), difference=difference, low=low, high=high,
        candidate_cost_usd=costs[0], incumbent_cost_usd=costs[1],
        candidate_latency_ms=latencies[0], incumbent_latency_ms=latencies[1],
        references=draw(st.sampled_from(Evidence.REFERENCES)), judge_calibrated=draw(st.sampled_from([None, False, True])),
    )  # fmt: skip


class TestGate:
    @given(evidences())
    def test_it_passes_exactly_what_is_better_or_excused_by_what_it_saves(self, evidence):
        verdict = gate_verdict(evidence, RULES)
        json.dumps(verdict.figures, allow_nan=False)
        assert verdict.reason.count(evidence.candidate) and 0 <= evidence.saving <= 1
        untold = evidence.n < 50 or (evidence.references == "judge" and not evidence.judge_calibrated)
        excused = evidence.saving > 0 and evidence.low >= -RULES.gate_margin * evidence.saving
        expected = Outcome.NEEDS_HUMAN if untold else Outcome.PASS if evidence.low > 0 or excused else Outcome.REJECT
        assert verdict.outcome == expected

    @pytest.mark.parametrize(
        ("cost", "latency", "saving"),
        [
            ((0, 0), (100, 100), 0),
            ((0, 0), (25, 100), 0.75),
            ((1, 4), (100, 100), 0.5),
            ((1, 4), (400, 100), 0),
            ((1, 0), (1, 100), 0),
            ((0, 4), (100, 100), 1),
            ((0, 0), (None, None), 0),
        ],
    )
    def test_what_is_saved_counts_cost_and_time_together(self, cost, latency, saving):
        evidence = Evidence(
            candidate="b", incumbent="a", n=60, difference=0, low=0, high=0, candidate_cost_usd=cost[0],
            incumbent_cost_usd=cost[1], candidate_latency_ms=latency[0], incumbent_latency_ms=latency[1],
        )  # fmt: skip
        assert evidence.saving == pytest.approx(saving)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"references": "corrections", "n": 12}, "38 more corrections"),
            ({"references": "gold", "n": 12}, "38 more"),
            ({"references": "judge", "judge_calibrated": False}, "not calibrated"),
            ({"references": "judge", "judge_calibrated": True, "n": 1, "low": None}, "1 question scored"),
        ],
    )
    def test_where_little_is_known_it_says_what_to_collect(self, changes, words):
        evidence = Evidence(candidate="b", incumbent="a", n=80, difference=0.5, low=0.4, high=0.6)
        verdict = gate_verdict(dataclasses.replace(evidence, **changes), RULES)
        assert verdict.outcome == Outcome.NEEDS_HUMAN and words in verdict.reason and "Collect" in verdict.reason

    @pytest.mark.parametrize("changes", [{"references": "gossip"}, {"low": None}, {"difference": float("nan")}])
    def test_evidence_that_says_nothing_is_refused(self, changes):
        with pytest.raises(ValueError, match=r"references|finite"):
            Evidence(**({"candidate": "b", "incumbent": "a", "n": 80, "difference": 0, "low": 0, "high": 0} | changes))


def record(n, mean, name="b", category="factual", **traffic):
    return Record(name=name, ratings={category: (n, n * mean)} if n else {}, traffic=Sums(**traffic) if traffic else None)


A = record(400, 0.4, "a")


class TestCanary:
    @settings(deadline=None)  # the first call imports scipy
    @given(n=st.integers(0, 300), low=UNIT, more=UNIT, others=st.integers(0, 500), mean=UNIT, share=st.sampled_from([0.1, 0.2]))
    def test_more_reward_never_counts_against_it(self, n, low, more, others, mean, share):
        incumbent = record(others, mean, "a")
        means = sorted((low, more))
        worse = [standing(record(n, one), incumbent, 0.05).worse for one in means]
        assert 0 <= worse[1] <= worse[0] + 1e-9 <= 1 + 1e-8
        order = [Outcome.ROLL_BACK, Outcome.HOLD, Outcome.GROW, Outcome.ACTIVATE]
        found = [canary_verdict(record(n, one), incumbent, share, RULES) for one in means]
        assert order.index(found[0].outcome) <= order.index(found[1].outcome)
        for verdict in found:
            json.dumps(verdict.figures, allow_nan=False)
            if n < RULES.guard_ratings or not others:
                assert verdict.outcome == Outcome.HOLD

    def test_its_probability_is_that_of_drawing_from_both_posteriors(self):
        canary, rng = record(25, 0.3), np.random.default_rng(0)
        incumbent = record(60, 0.5, "a")
        prior = (60 * 0.5 + 5 * 0.5) / 65
        x = rng.beta(4 * prior + 7.5, 4 * (1 - prior) + 17.5, 200_000)
        y = rng.beta(65 * prior, 65 * (1 - prior), 200_000)
        assert standing(canary, incumbent, 0.05).worse == pytest.approx((x < y - 0.05).mean(), abs=0.01)

    def test_harder_questions_are_not_its_fault(self):
        incumbent = Record(name="a", ratings={"easy": (400, 360), "hard": (100, 10)})
        hard = record(40, 0.1, category="hard")
        assert canary_verdict(hard, incumbent, 0.1, RULES).outcome in (Outcome.HOLD, Outcome.GROW)
        assert canary_verdict(record(40, 0.1, category="easy"), incumbent, 0.1, RULES).outcome == Outcome.ROLL_BACK

    def test_each_step_takes_ratings_of_its_own(self):
        assert canary_verdict(record(9, 1.0), A, 0.1, RULES).outcome == Outcome.HOLD
        assert canary_verdict(record(10, 1.0), A, 0.1, RULES).outcome == Outcome.GROW
        assert canary_verdict(record(19, 1.0), A, 0.2, RULES).outcome == Outcome.HOLD
        assert canary_verdict(record(20, 1.0), A, 0.2, RULES).outcome == Outcome.ACTIVATE

    @given(start=st.floats(0.01, 0.5), room=st.floats(0, 0.5))
    def test_its_share_grows_to_the_cap_and_no_further(self, start, room):
        rules = Thresholds(canary_share=start, canary_max_share=start + room)
        assert not rules.problems()
        share, steps = start, 0
        while (bigger := next_share(share, rules)) > share:
            share, steps = bigger, steps + 1
        assert share == pytest.approx(rules.canary_max_share) and steps <= 8

    def test_nothing_is_said_without_an_incumbents_ratings(self):
        verdict = canary_verdict(record(50, 0.0), record(0, 0, "a"), 0.1, RULES)
        assert verdict.outcome == Outcome.HOLD and "none to compare" in verdict.reason


class TestGuardOfTraffic:
    @pytest.mark.parametrize(
        ("failed", "asked", "others", "rolled_back"),
        [(8, 8, 0, True), (7, 7, 0, False), (2, 10, 0, False), (5, 10, 5, False), (6, 12, 0, True), (100, 1000, 5, False)],
    )
    def test_errors(self, failed, asked, others, rolled_back):
        canary = Record(name="b", traffic=Sums(interactions=asked, failed=failed))
        incumbent = Record(name="a", traffic=Sums(interactions=10 if others else 200, failed=others))
        assert (canary_verdict(canary, incumbent, 0.1, RULES).outcome == Outcome.ROLL_BACK) is rolled_back

    @pytest.mark.parametrize(("n", "own", "rolled_back"), [(30, 900, True), (10, 900, False), (30, 150, False)])
    def test_latency(self, n, own, rolled_back):
        def answers(count, milliseconds):
            sums = Sums(interactions=count)
            sums.latency[latency_bin(milliseconds)] = count
            return sums

        canary, incumbent = Record(name="b", traffic=answers(n, own)), Record(name="a", traffic=answers(40, 100))
        assert (canary_verdict(canary, incumbent, 0.1, RULES).outcome == Outcome.ROLL_BACK) is rolled_back
        off = dataclasses.replace(RULES, guard_latency=0)
        assert canary_verdict(canary, incumbent, 0.1, off).outcome == Outcome.HOLD


def lives(draw, paths, ratings, share=0.2):
    """Outcomes of canaries whose rewards `draw` makes, beside A."""
    ended = {Outcome.ROLL_BACK: 0, Outcome.ACTIVATE: 0}
    for path in range(paths):
        rewards, total, now = random.Random(path), 0.0, share
        for n in range(1, ratings + 1):
            total += draw(rewards)
            if n < RULES.guard_ratings:
                continue
            outcome = canary_verdict(record(n, total / n), A, now, RULES).outcome
            if outcome in ended:
                ended[outcome] += 1
                break
            now = next_share(now, RULES) if outcome == Outcome.GROW else now
    return ended[Outcome.ROLL_BACK] / paths, ended[Outcome.ACTIVATE] / paths


class TestHowOftenItIsWrong:
    def test_an_equally_good_canary_is_rarely_rolled_back(self):
        assert lives(lambda rng: float(rng.random() < 0.4), 150, 60)[0] <= 0.04
        assert lives(lambda rng: rng.random() * 0.8, 60, 60)[0] == 0

    def test_a_better_one_becomes_active(self):
        assert lives(lambda rng: float(rng.random() < 0.7), 40, 60)[1] >= 0.95

    def test_a_broken_one_does_not_last(self):
        assert lives(lambda rng: 0.03 if rng.random() < 0.3 else 0.0, 60, 20) == (1.0, 0.0)
