"""What ratings become: weights that fade, deductions for latency and cost, linear sums; and all of it again from the log."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from django.utils import timezone

from rewards.bandit.lints import question_context
from rewards.models import BanditArm, Interaction, LearningClock, LinearArm, Pull, QuestionVector, RoutingPolicy
from rewards.router import BanditRouter
from rewards.selectors import active_policy
from rewards.services import arms_rebuild, learning_reset, linear, log_import, policy_activate, policy_save
from tests.rewards.rows import interaction, rate, rated, variant

pytestmark = pytest.mark.django_db


def activate(kind, name="mine", **fields):
    return policy_activate(policy_save(RoutingPolicy(name=name, kind=kind, **fields)))


def weighted():
    """(category, variant) -> (weight, total, squares), each over the weight that a reward would get now."""
    clock, policy = LearningClock.objects.first(), active_policy().rule()
    scale = 1.0
    if policy.half_life is not None:
        now = clock.ticks if policy.unit == "interactions" else timezone.now().timestamp() / 86400
        scale = 2 ** ((clock.epoch - now) / policy.half_life)
    return {
        (arm.category, arm.variant_id): (scale * arm.weight, scale * arm.weighted_total, scale * arm.weighted_squares)
        for arm in BanditArm.objects.filter(pulls__gt=0)
    }


def linear_sums():
    arms = LinearArm.objects.all()
    return {arm.pk: (linear.unpacked(arm.design, -1), linear.unpacked(arm.response, -1)) for arm in arms}


class TestForgetting:
    def test_a_reward_weighs_half_after_the_half_life_in_interactions(self):
        activate("discounted_thompson", parameters={"half_life": 4})
        alpha = variant("alpha")
        rated(alpha, 1.0)
        for _ in range(7):
            rated(alpha, 0.0)
        (weight, total, squares) = weighted()["factual", alpha.pk]
        assert weight == pytest.approx(sum(2 ** (-i / 4) for i in range(1, 9)))
        assert total == squares == pytest.approx(2 ** (-8 / 4))
        assert BanditRouter().route("factual", [alpha]).candidates[0]["pulls"] == pytest.approx(weight, abs=1e-6)

    def test_late_feedback_keeps_the_time_of_its_question(self):
        activate("discounted_thompson", parameters={"half_life": 3})
        early, late = variant("early"), variant("late")
        waiting = interaction(late)
        prompt = interaction(early)
        for _ in range(6):
            rated(variant_in("other"), 0.5)
        rate(prompt, 1.0)
        for _ in range(6):
            rated(variant_in("other"), 0.5)
        rate(waiting, 1.0)
        sums = weighted()
        assert sums["factual", late.pk] == pytest.approx(sums["factual", early.pk])

    def test_days_count_from_when_the_question_was_asked(self):
        activate("discounted_hierarchical_thompson", parameters={"half_life": 10, "unit": "days"})
        alpha, beta = variant("alpha"), variant("beta")
        rated(alpha, 1.0, created_at=timezone.now() - timedelta(days=20))
        rated(beta, 1.0)
        sums = weighted()
        assert sums["factual", alpha.pk][0] == pytest.approx(0.25, rel=1e-4)
        assert sums["factual", beta.pk][0] == pytest.approx(1.0, rel=1e-4)
        incremental = weighted()
        arms_rebuild()
        assert_close(weighted(), incremental, rel=1e-5)

    def test_a_changed_rating_takes_back_exactly_what_was_applied(self):
        activate("discounted_thompson", parameters={"half_life": 2})
        alpha = variant("alpha")
        asked = rated(alpha, 0.9)
        for _ in range(9):
            rated(alpha, 0.5)
        rate(asked, 0.1)
        changed = weighted()
        arms_rebuild()
        assert_close(weighted(), changed)

    @pytest.mark.parametrize("unit", ["interactions", "days"])
    def test_a_rebuild_gives_the_same_arms(self, unit):
        activate("discounted_hierarchical_thompson", parameters={"half_life": 5, "unit": unit}, latency_weight=0.1)
        agents = [variant(name) for name in ("alpha", "beta")]
        start = timezone.now() - timedelta(days=30)
        for i in range(24):
            asked = interaction(
                agents[i % 2], category=("factual", "vague")[i % 3 == 0], latency_ms=100 * i,
                created_at=start + timedelta(days=i),
            )  # fmt: skip
            rate(asked, (i % 7) / 6)
            if i % 4 == 0:
                rate(asked, 0.5, "bob")
        before, pulls = weighted(), pull_rows()
        arms_rebuild()
        assert_close(weighted(), before, rel=1e-6)
        for key, row in pull_rows().items():
            assert row == pytest.approx(pulls[key], rel=1e-6)

    def test_weights_that_outgrow_a_double_move_the_epoch(self):
        activate("discounted_thompson", parameters={"half_life": 1})
        alpha = variant("alpha")
        rated(alpha, 1.0)
        LearningClock.objects.update(ticks=100_000)
        rated(alpha, 0.5)
        assert LearningClock.objects.get().epoch >= 99_000
        assert BanditArm.objects.get().weight < 1e10
        weight, total, _ = weighted()["factual", alpha.pk]
        assert (weight, total) == pytest.approx((0.5, 0.25))
        rated(alpha, 0.5)
        assert weighted()["factual", alpha.pk][0] == pytest.approx(0.75)

    def test_evidence_of_an_import_is_dated_by_the_order_in_the_file(self):
        activate("discounted_thompson", parameters={"half_life": 10})
        variant("alpha")
        lines = [
            f'{{"interaction_id": "{i}", "question": "Why {i}?", "agent": "alpha", "category": "factual", "reward": 1}}'
            for i in range(20)
        ]
        log_import(lines, on_error="stop")
        assert sorted(Interaction.objects.values_list("clock", flat=True)) == list(range(20))
        assert LearningClock.objects.get().ticks == 20
        (sums,) = weighted().values()
        assert sums[0] == pytest.approx(sum(2 ** (-i / 10) for i in range(1, 21)))

    def test_another_half_life_weighs_what_was_learned_anew(self):
        policy = activate("discounted_thompson", parameters={"half_life": 2})
        alpha = variant("alpha")
        for _ in range(8):
            rated(alpha, 1.0)
        policy.refresh_from_db()
        policy.parameters = {"half_life": 8}
        policy_save(policy)
        assert weighted()["factual", alpha.pk][0] == pytest.approx(sum(2 ** (-i / 8) for i in range(1, 9)))
        policy_activate(policy_save(RoutingPolicy(name="plain", kind="thompson")))
        arm = BanditArm.objects.get()
        assert (arm.weight, arm.weighted_total) == (8, 8) == (arm.pulls, arm.total)


class TestDeductions:
    def test_the_reward_is_quality_less_latency_and_cost_and_each_part_is_kept(self):
        activate("thompson", latency_weight=0.1, cost_weight=10)
        asked = interaction(alpha := variant("alpha"), latency_ms=1500, cost_usd=0.02)
        rate(asked, 1.0)
        rate(asked, 0.8, "bob")
        pull = Pull.objects.get()
        parts = (pull.quality, pull.latency_penalty, pull.cost_penalty, pull.value)
        assert parts == pytest.approx((0.9, 0.15, 0.2, 0.55))
        assert BanditArm.objects.get().total == pytest.approx(0.55)
        arms_rebuild()
        pull.refresh_from_db()
        assert (pull.quality, pull.latency_penalty, pull.cost_penalty, pull.value) == pytest.approx(parts)
        assert BanditArm.objects.get(variant=alpha).total == pytest.approx(0.55)

    def test_a_reward_is_never_below_zero(self):
        activate("thompson", latency_weight=1)
        rated(variant("alpha"), 0.3, latency_ms=60_000)
        assert Pull.objects.get().value == 0.0
        assert BanditRouter().route("factual", [variant("beta")])
        arms_rebuild()
        assert Pull.objects.get().value == 0.0

    def test_changing_a_weight_recounts_the_arms(self):
        rated(variant("alpha"), 1.0, latency_ms=2000)
        assert BanditArm.objects.get().total == 1.0
        policy = active_policy()
        policy.latency_weight = 0.2
        policy_save(policy)
        assert BanditArm.objects.get().total == pytest.approx(0.6)
        assert policy.revision == 2

    def test_no_feedback_is_no_pull_however_slow_the_answer(self):
        activate("thompson", latency_weight=0.1)
        interaction(variant("alpha"), latency_ms=9000)
        assert not Pull.objects.exists()


@pytest.mark.usefixtures("embedded_by_hash")
class TestLinear:
    def test_sums_are_those_of_the_questions_that_were_rated(self):
        activate("lints", parameters={"dimensions": 3})
        alpha, beta = variant("alpha"), variant("beta")
        for i, (agent, reward) in enumerate([(alpha, 1.0), (alpha, 0.25), (beta, 0.5)]):
            rated(agent, reward, question=f"Why {i}?")
        contexts = [question_context(linear.question_vector(f"Why {i}?"), 3) for i in range(3)]
        design, response = linear_sums()[alpha.pk]
        assert design == pytest.approx(sum(np.outer(x, x) for x in contexts[:2]).ravel())
        assert response == pytest.approx(contexts[0] + 0.25 * contexts[1])
        assert linear_sums()[beta.pk][1] == pytest.approx(0.5 * contexts[2])

    @pytest.mark.parametrize("kind", ["lints", "discounted_lints"])
    def test_a_rebuild_gives_the_same_sums(self, kind):
        activate(kind, parameters={"dimensions": 4})
        agents = [variant(name) for name in ("alpha", "beta")]
        log = [rated(agents[i % 2], (i % 5) / 4, question=f"Why {i}?") for i in range(12)]
        rate(log[3], 1.0)
        rate(log[4], 0.0, "bob")
        before = linear_sums()
        arms_rebuild()
        for pk, arrays in linear_sums().items():
            for array, known in zip(arrays, before[pk], strict=True):
                assert array == pytest.approx(known, abs=1e-9)

    def test_a_question_is_embedded_once_and_only_for_a_policy_that_looks_at_it(self, embedded_by_hash):
        alpha = variant("alpha")
        BanditRouter().route("factual", [alpha], question="Why?")
        rated(alpha, 1.0)
        assert embedded_by_hash == []
        activate("lints", parameters={"dimensions": 2})
        assert embedded_by_hash == ["Why?"]
        decision = BanditRouter().route("factual", [alpha], question="How?")
        asked = interaction(alpha, question="How?", vector=decision.vector)
        rate(asked, 1.0)
        assert embedded_by_hash == ["Why?", "How?"]
        assert bytes(QuestionVector.objects.get(pk=asked.pk).embedding) == decision.vector.tobytes()

    def test_it_learns_which_questions_suit_which_agent(self, django_assert_num_queries):
        activate("lints", parameters={"dimensions": 8, "ridge": 1})
        alpha, beta = variant("alpha"), variant("beta")
        for _ in range(30):
            rated(alpha, 1.0, question="Where is it?")
            rated(beta, 0.0, question="Where is it?")
            rated(alpha, 0.0, question="How long ago?")
            rated(beta, 1.0, question="How long ago?")
        with django_assert_num_queries(1):
            where = BanditRouter().route("factual", [alpha, beta], question="Where is it?")
        when = BanditRouter().route("factual", [alpha, beta], question="How long ago?")
        assert where.candidates[0]["probability"] > 0.9 and when.candidates[1]["probability"] > 0.9

    def test_a_reset_empties_the_sums(self):
        activate("lints")
        rated(variant("alpha"), 1.0)
        learning_reset()
        assert linear_sums() == {}


def variant_in(name):
    from agents.models import AgentVariant

    return AgentVariant.objects.filter(name=name).first() or variant(name)


def pull_rows():
    columns = ("quality", "latency_penalty", "cost_penalty", "value", "weight")
    return {pk: values for pk, *values in Pull.objects.values_list("pk", *columns)}


def assert_close(sums, known, rel=1e-9):
    assert sums.keys() == known.keys()
    for key, values in sums.items():
        assert values == pytest.approx(known[key], rel=rel, abs=1e-9)
