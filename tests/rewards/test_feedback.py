from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from adaptrag.common.errors import InvalidInput
from rewards.errors import InvalidReward, NotRatable, UnknownInteraction
from rewards.models import Interaction, LogChange, Pull, Reward
from rewards.selectors import active_policy
from rewards.services import feedback_record, interaction_log, learning_reset
from rewards.services.feedback import COMMENT_MAX, CORRECTION_MAX
from rewards.services.turn import write_turn
from tests.rewards.rows import figures, interaction, rate, rated, variant

pytestmark = pytest.mark.django_db
UNKNOWN = uuid.UUID(int=7)


@pytest.fixture
def alpha():
    return variant("alpha")


@pytest.fixture
def asked(alpha):
    return interaction(alpha)


def test_logging_an_interaction_is_two_inserts_in_one_transaction(alpha, django_assert_num_queries):
    with django_assert_num_queries(4) as queries:
        interaction_log(variant=alpha, question="Why?", category="factual", answer="Because.", clock=0)
    assert [query["sql"].split()[0] for query in queries] == ["SAVEPOINT", "INSERT", "INSERT", "RELEASE"]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a matter of SQLite alone, which has one writer at a time")
@pytest.mark.django_db(transaction=True)
def test_callers_at_once_share_transactions_and_one_that_fails_fails_alone(alpha):
    def log(number):
        try:
            # Two ids are the same: one of them can't be inserted, with or without others beside it.
            return interaction_log(
                id=uuid.UUID(int=min(number, 38)), variant=alpha, question=f"{number}?", category="factual"
            ).pk
        except IntegrityError:
            return None
        finally:
            connection.close()

    with ThreadPoolExecutor(40) as pool:
        with write_turn():  # nobody can write yet, so that they queue up
            done = [pool.submit(log, number) for number in range(40)]
            time.sleep(0.3)
            assert not Interaction.objects.exists()
        assert sum(future.result() is None for future in done) == 1
    assert Interaction.objects.count() == LogChange.objects.count() == 39


def test_a_first_rating_gives_the_arm_a_pull(alpha, asked):
    result = rate(asked, 0.8, correction="Since.", comment="short")
    assert result.outcome == "created"
    assert result.arm == {
        "agent": "alpha", "revision": 1, "category": "factual", "pulls": 1, "mean": 0.8, "total": 0.8
    }  # fmt: skip
    row = Reward.objects.get()
    assert (row.value, row.rater, row.source, row.correction, row.comment) == (0.8, "ann", "user", "Since.", "short")
    assert figures() == {("factual", alpha.pk): (1, 0.8, 0.64)}


def test_replayed_feedback_changes_nothing(asked):
    first = rate(asked, 0.8)
    before = list(Reward.objects.values())
    again = rate(asked, 0.8)
    assert (again.outcome, again.arm) == ("unchanged", first.arm)
    assert list(Reward.objects.values()) == before


def test_another_value_replaces_the_rating_and_corrects_the_arm(alpha, asked):
    rated(alpha, 0.5)
    rate(asked, 1.0)
    result = rate(asked, 0.2)
    assert (result.outcome, result.arm["pulls"], result.arm["mean"]) == ("replaced", 2, 0.35)
    assert figures() == {("factual", alpha.pk): (2, 0.7, 0.29)}
    assert Reward.objects.get(interaction=asked).value == 0.2


def test_several_raters_of_one_answer_give_one_pull_of_their_mean(asked):
    rate(asked, 1.0, "ann")
    rate(asked, 0.0, "bob")
    result = rate(asked, 0.5, "cem")
    assert (result.arm["pulls"], result.arm["total"]) == (1, 0.5)
    assert rate(asked, 0.9, "bob").arm["total"] == pytest.approx(0.8)
    assert Pull.objects.count() == 1


def test_a_correction_added_later_is_kept_and_moves_nothing(asked):
    first = rate(asked, 0.3)
    added = rate(asked, 0.3, correction="Since.")
    assert (added.outcome, added.arm) == ("replaced", first.arm)
    assert rate(asked, 0.9).reward.correction == "Since."


def test_judges_and_metrics_move_no_arm_unless_the_policy_counts_them(asked):
    assert rate(asked, 0.1, "gpt", source="judge").arm is None
    assert rate(asked, 0.2, "f1", source="metric").arm is None
    policy = active_policy()
    policy.judges_count = True
    policy.save()
    assert rate(asked, 0.9, "ann").arm == {
        "agent": "alpha", "revision": 1, "category": "factual", "pulls": 1, "mean": 0.4, "total": 0.4
    }  # fmt: skip


def test_the_same_rater_counts_once_for_each_source(asked):
    rate(asked, 0.1, "ann")
    rate(asked, 0.9, "ann", source="metric")
    assert Reward.objects.count() == 2


@pytest.mark.parametrize(
    ("mode", "counts"), [("bandit", True), ("manual_override", True), ("imported", True), ("compare", False)]
)
def test_compared_answers_keep_their_rating_but_count_for_no_arm(alpha, mode, counts):
    result = rate(interaction(alpha, mode=mode), 1.0)
    assert (result.outcome, result.arm is not None, bool(figures())) == ("created", counts, counts)


def test_an_interaction_that_failed_cannot_be_rated(alpha):
    failed = interaction(alpha, state="failed", answer="", error={"code": "x", "message": "The model is down."})
    with pytest.raises(NotRatable, match="The model is down") as caught:
        rate(failed, 1.0)
    assert caught.value.status == 409
    assert not Reward.objects.exists()


@pytest.mark.parametrize(
    "value",
    [2, -1, -0.0001, 1.0001, float("nan"), float("inf"), "good", "0.5", True, False, None, [1], 10**400, np.bool_(True), 1j],
)
def test_what_is_no_reward_is_refused_with_its_value(asked, value):
    with pytest.raises(InvalidReward) as caught:
        rate(asked, value)
    assert caught.value.status == 400
    assert repr(value)[:20] in caught.value.message
    assert not Reward.objects.exists() and not figures()


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, np.float32(0.5), np.float64(0.25)])
def test_the_bounds_and_numpy_numbers_are_rewards(asked, value):
    assert rate(asked, value).reward.value == float(value)


@pytest.mark.parametrize("unknown", [UNKNOWN, str(UNKNOWN), "42", "", "x" * 5000, None, 7, "chatcmpl-1"])
def test_an_unknown_or_malformed_id_is_not_found(unknown):
    with pytest.raises(UnknownInteraction) as caught:
        feedback_record(interaction_id=unknown, reward=1, rater="ann")
    assert caught.value.status == 404
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "fields",
    [
        {"correction": "x" * (CORRECTION_MAX + 1)},
        {"comment": "x" * (COMMENT_MAX + 1)},
        {"comment": "nul \x00"},
        {"correction": "lone \ud800"},
        {"comment": None},
        {"rater": " "},
        {"rater": "x" * 151},
        {"source": "oracle"},
    ],
)
def test_texts_that_cannot_be_kept_are_refused_by_name(asked, fields):
    with pytest.raises(InvalidInput) as caught:
        feedback_record(**{"interaction_id": asked.pk, "reward": 1, "rater": "ann", **fields})
    assert next(iter(fields)) in caught.value.message
    assert not Reward.objects.exists()


def test_a_reset_goes_back_to_the_priors_and_keeps_the_log(alpha, asked, django_user_model):
    olga = django_user_model.objects.create_user("olga")
    rate(asked, 1.0)
    policy = learning_reset(olga)
    assert figures() == {}
    assert (Interaction.objects.count(), Reward.objects.count(), Pull.objects.count()) == (1, 1, 0)
    assert policy.revision == 2
    assert (policy.history.first().history_user, policy.history.first().history_change_reason) == (olga, "learning reset")


def test_feedback_on_a_question_from_before_a_reset_is_kept_and_counts_for_nothing(alpha, asked):
    rate(asked, 1.0)
    learning_reset()
    assert rate(asked, 0.4).arm is None
    assert rate(asked, 0.6, "bob").arm is None
    assert figures() == {}
    assert rate(interaction(alpha), 0.7).arm["total"] == 0.7


def test_a_reset_keeps_what_was_asked_after_it_by_a_clock_ahead(alpha):
    rate(interaction(alpha, created_at=timezone.now() + timedelta(hours=1)), 0.25)
    learning_reset()
    assert figures() == {("factual", alpha.pk): (1, 0.25, 0.0625)}
