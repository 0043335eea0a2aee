from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from rewards.models import BanditArm, Interaction, Pull, Reward
from rewards.selectors import active_policy
from rewards.services import arms_rebuild, learning_reset, log_import, policy_save
from rewards.services.log_format import reward_line
from tests.rewards.rows import figures, interaction, rate, rated, variant

START = datetime(2026, 1, 1, tzinfo=UTC)
VALUES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
ASKED = st.tuples(st.sampled_from(["factual", "vague"]), st.integers(0, 2), st.sampled_from(Interaction.Mode.values))
RATING = st.tuples(
    st.just("rate"), st.integers(0, 5), st.sampled_from(["ann", "bob"]), st.sampled_from(Reward.Source.values), VALUES
)
STEPS = st.lists(
    st.one_of(RATING, RATING, RATING, st.tuples(st.sampled_from(["reset", "judges", "import"]), st.integers(0, 5), VALUES)),
    max_size=25,
)


class RebuildEqualsIncremental(TestCase):
    """Whatever was rated, changed, imported, reset and re-ruled in whatever order, counting anew gives the same arms."""

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(asked=st.lists(ASKED, min_size=6, max_size=6), steps=STEPS)
    def test_rebuild_equals_incremental(self, asked, steps):
        agents = [variant(name) for name in ("alpha", "beta", "gamma")]
        log = [interaction(agents[i], category=category, mode=mode) for category, i, mode in asked]
        for step, *values in steps:
            if step == "rate":
                i, rater, source, value = values
                rate(log[i], value, rater, source=source)
            elif step == "import":
                i, value = values
                log_import([reward_line(Reward(interaction=log[i], rater="import", value=value))], on_error="stop")
            elif step == "judges":
                policy = active_policy()
                policy.judges_count = not policy.judges_count
                policy_save(policy)
            else:
                learning_reset()
                log[values[0]] = interaction(agents[0])
        incremental, pulls = figures(), self.pulls()
        self.assertEqual(set(incremental), set(self.by_hand()))
        for key, (n, total) in self.by_hand().items():
            assert incremental[key][:2] == pytest.approx((n, total), abs=1e-9)
        arms_rebuild()
        rebuilt = figures()
        self.assertEqual(rebuilt.keys(), incremental.keys())
        for key, values in incremental.items():
            assert rebuilt[key] == pytest.approx(values, abs=1e-8)
        self.assertEqual(self.pulls(), pulls)

    def pulls(self):
        return {pull.pk: (pull.arm_id, round(pull.value, 12)) for pull in Pull.objects.all()}

    def by_hand(self):
        policy = active_policy()
        sums = defaultdict(lambda: (0, 0.0))
        for row in Interaction.objects.exclude(mode="compare").prefetch_related("rewards"):
            values = [reward.value for reward in row.rewards.all() if policy.judges_count or reward.source == "user"]
            if values and (policy.learn_since is None or row.created_at >= policy.learn_since):
                n, total = sums[row.category, row.variant_id]
                sums[row.category, row.variant_id] = n + 1, total + sum(values) / len(values)
        return sums


@pytest.mark.django_db
class TestRebuild:
    def test_a_reward_too_small_to_be_squared_is_counted(self):
        alpha = variant("alpha")
        rate(interaction(alpha), 1e-200)
        rate(interaction(alpha), 0.5)
        before = figures()
        arms_rebuild()
        assert figures() == before

    def test_it_repairs_arms_that_were_tampered_with(self):
        alpha = variant("alpha")
        for value in (0.2, 0.4, 0.9):
            rated(alpha, value)
        before = figures()
        BanditArm.objects.update(pulls=77, total=70)
        Pull.objects.first().delete()
        assert arms_rebuild() == 3
        assert figures() == before

    def test_arms_without_evidence_end_at_zero(self):
        rated(alpha := variant("alpha"), 1.0)
        Reward.objects.all().delete()
        arms_rebuild()
        arm = BanditArm.objects.get(variant=alpha)
        assert (arm.pulls, arm.total, arm.total_squares) == (0, 0, 0)

    def test_it_takes_the_same_few_statements_for_any_number_of_rows(self, django_assert_max_num_queries):
        agents = [variant(name) for name in ("alpha", "beta")]
        for i in range(60):
            rated(agents[i % 2], 0.5, category=f"category {i % 3}")
        with django_assert_max_num_queries(30):
            arms_rebuild()

    def test_progress_ends_at_one(self):
        seen = []
        arms_rebuild(lambda fraction, message: seen.append(fraction))
        assert seen == sorted(seen) and seen[-1] == 1.0

    def test_the_command_prints_how_much_it_counted(self, capsys):
        rated(variant("alpha"), 1.0)
        call_command("rebuild_arms", "--json")
        assert capsys.readouterr().out == '{"pulls": 1}\n'

    def test_old_interactions_do_not_count_after_a_reset_when_rebuilt(self):
        alpha = variant("alpha")
        rated(alpha, 1.0, created_at=START)
        learning_reset()
        rated(alpha, 0.5, created_at=active_policy().learn_since + timedelta(seconds=1))
        arms_rebuild()
        assert figures() == {("factual", alpha.pk): (1, 0.5, 0.25)}
