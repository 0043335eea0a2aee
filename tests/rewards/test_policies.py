from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from adaptrag.common.errors import InvalidInput
from rewards.checks import check_policy, check_transactions
from rewards.models import PriorReward, RoutingPolicy
from rewards.selectors import active_policy
from rewards.services import learning_reset, policy_activate, policy_save, prior_set
from tests.rewards.rows import figures, interaction, rate, variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def olga():
    return get_user_model().objects.create_user("olga")


def test_the_default_policy_is_made_once():
    assert active_policy() == active_policy()
    name = "hierarchical_thompson"
    assert list(RoutingPolicy.objects.values_list("name", "kind", "active")) == [(name, name, True)]


def test_only_one_policy_can_be_active():
    active_policy()
    with pytest.raises(IntegrityError), transaction.atomic():
        RoutingPolicy.objects.create(name="second", active=True)


def test_activating_switches_and_the_history_says_who(olga):
    former = active_policy()
    greedy = policy_activate(policy_save(RoutingPolicy(name="greedy", kind="epsilon_greedy"), user=olga), user=olga)
    assert active_policy() == greedy
    former.refresh_from_db()
    assert not former.active
    assert former.history.first().history_user == olga
    assert (greedy.history.first().history_user, greedy.history.first().active) == (olga, True)


@pytest.mark.parametrize("change", [{"parameters": {"mass": 50}}, {"min_share": 0.1}, {"judges_count": True}, {"kind": "ucb1"}])
def test_a_change_raises_the_revision_and_saving_without_one_does_not(change):
    policy = active_policy()
    policy_save(policy)
    assert policy.revision == 1
    for name, value in change.items():
        setattr(policy, name, value)
    policy_save(policy)
    policy.refresh_from_db()
    assert policy.revision == 2


def test_a_stale_copy_cannot_repeat_a_revision():
    one, other = active_policy(), active_policy()
    one.min_share = 0.1
    policy_save(one)
    other.min_share = 0.2
    policy_save(other)
    assert RoutingPolicy.objects.get().revision == 3


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"kind": "epsilon_greedy", "parameters": {"epsilon": 2}}, ["epsilon", "2"]),
        ({"kind": "ucb1", "parameters": {"width": 2}}, ["width"]),
        ({"kind": "ucb1", "parameters": [2]}, ["JSON object"]),
        ({"kind": "oracle"}, ["oracle"]),
        ({"min_share": float("nan")}, ["min_share", "nan"]),
        ({"min_share": 0.7}, ["min_share"]),
    ],
)
def test_wrong_parameters_are_refused_by_name_and_value(fields, names):
    policy = RoutingPolicy(name="wrong", **fields)
    with pytest.raises(ValidationError):
        policy.full_clean()
    with pytest.raises(InvalidInput) as caught:
        policy_save(policy)
    assert all(name in caught.value.message for name in names)
    assert not RoutingPolicy.objects.filter(name="wrong").exists()


def test_counting_judges_or_not_recounts_the_arms():
    alpha = variant("alpha")
    asked, judged = interaction(alpha), interaction(alpha)
    rate(asked, 1.0)
    rate(asked, 0.0, "gpt", source="judge")
    rate(judged, 0.4, "gpt", source="judge")
    key = ("factual", alpha.pk)
    assert figures() == {key: (1, 1.0, 1.0)}
    policy = active_policy()
    policy.judges_count = True
    policy_save(policy)
    assert figures() == {key: (2, 0.9, 0.41)}
    policy_activate(policy_save(RoutingPolicy(name="people only")))
    assert figures() == {key: (1, 1.0, 1.0)}


def test_another_policy_does_not_undo_a_reset():
    alpha = variant("alpha")
    rate(interaction(alpha), 1.0)
    learning_reset()
    policy_activate(policy_save(RoutingPolicy(name="later")))
    rate(asked := interaction(alpha), 0.5)
    call_command("rebuild_arms", "--json")
    assert figures() == {("factual", alpha.pk): (1, 0.5, 0.25)}
    assert active_policy().learn_since < asked.created_at


def test_a_form_opened_before_a_reset_does_not_undo_it():
    opened = active_policy()
    learning_reset()
    opened.min_share = 0.05
    policy_save(opened)
    assert active_policy().learn_since is not None


def test_priors_are_set_changed_and_remembered(olga):
    prior_set(category="factual", agent_name="alpha", pulls=4, total=3, user=olga)
    prior = prior_set(category="factual", agent_name="alpha", pulls=8, total=2, user=olga)
    assert PriorReward.objects.get() == prior
    assert [(row.pulls, row.history_user) for row in prior.history.all()] == [(8, olga), (4, olga)]


@pytest.mark.parametrize(("pulls", "total"), [(1, 2), (-1, -1), (float("inf"), 1), (float("nan"), 0), (2, -0.1)])
def test_impossible_priors_are_refused(pulls, total):
    with pytest.raises(InvalidInput):
        prior_set(category="factual", agent_name="alpha", pulls=pulls, total=total)
    assert not PriorReward.objects.exists()


def test_the_database_itself_refuses_a_prior_above_its_pulls():
    with pytest.raises(IntegrityError), transaction.atomic():
        PriorReward.objects.create(category="factual", agent_name="alpha", pulls=1, total=2)


def test_checks_name_a_floor_that_no_question_can_satisfy_and_a_policy_that_cannot_run():
    policy = active_policy()
    for name in ("alpha", "beta", "gamma"):
        variant(name)
    assert check_policy(databases=["default"]) == []
    RoutingPolicy.objects.filter(pk=policy.pk).update(min_share=0.4, parameters={"zeta": 1})
    assert {message.id for message in check_policy(databases=["default"])} == {"rewards.E002", "rewards.W001"}


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a matter of SQLite alone")
def test_checks_refuse_sqlite_without_immediate_transactions(monkeypatch):
    assert check_transactions(databases=["default"]) == []
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {})
    (found,) = check_transactions(databases=["default"])
    assert found.id == "rewards.E001" and "IMMEDIATE" in found.hint
