"""The admin's question "what if": another policy or other priors, estimated from the log."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from django.urls import reverse
from django.utils import timezone

from adaptrag.common.errors import InvalidInput
from evals.models import EvalQuestion, EvalResult, EvalRun, EvalSet, PolicyEstimate
from evals.services.estimates import policyestimate_start
from rewards.models import PriorReward, RoutingPolicy
from rewards.router import BanditRouter
from rewards.services import policy_activate, policy_save
from tests.rewards.rows import interaction, rate, variant

pytestmark = pytest.mark.django_db
ADD = "admin:evals_policyestimate_add"


@pytest.fixture(autouse=True)
def eager(settings):
    settings.ADAPTRAG_JOBS_EAGER = True


@pytest.fixture
def operator(client, django_user_model):
    client.force_login(django_user_model.objects.create_superuser("olga"))
    return client


@pytest.fixture
def log():
    """300 answers routed about evenly; alpha earns 0.8, beta 0.3."""
    policy_activate(policy_save(RoutingPolicy(name="even", kind="epsilon_greedy", parameters={"epsilon": 1.0})))
    agents = [variant(name) for name in ("alpha", "beta")]
    rng = np.random.default_rng(0)
    for seed in range(300):
        decision = BanditRouter().route("factual", agents, seed=seed)
        names = ("mode", "propensity", "candidates", "policy", "policy_revision", "seed", "clock")
        asked = interaction(decision.variant, **{name: getattr(decision, name) for name in names})
        rate(asked, float(rng.random() < {"alpha": 0.8, "beta": 0.3}[decision.variant.name]))
    return agents


def asked(client, **fields):
    form = {"kind": "hierarchical_thompson", "min_share": "0.02", "priors": "set", "prior_agent": ""} | fields
    return client.post(reverse(ADD), form, follow=True)


def test_a_better_policy_is_estimated_above_what_the_log_earned(operator, log):
    text = asked(operator).content.decode()
    estimate = PolicyEstimate.objects.get()
    result = estimate.result
    assert (result["n"], result["conclusive"], result["left_out"]) == (300, True, {})
    values = {row["estimator"]: row["value"] for row in result["estimates"]}
    assert 0.4 < result["logged_mean"] < 0.6 and all(0.6 < value < 0.9 for value in values.values())
    assert "It would probably have earned more" in text
    assert "effective sample size" in text and "Doubly robust" in text and "alpha" in text
    assert estimate.created_by.username == "olga" and estimate.job.state == "succeeded"
    assert str(estimate) in operator.get(reverse("admin:evals_policyestimate_changelist")).content.decode()


def test_other_priors_change_what_the_policy_would_have_done(operator, log):
    text = asked(operator, prior_agent="beta", prior_pulls="5000", prior_mean="0.95").content.decode()
    result = PolicyEstimate.objects.get().result
    assert result["traffic"]["beta"] > 0.9
    assert "It would probably have earned less" in text


def test_a_half_life_in_days_goes_by_when_questions_were_asked(operator, log):
    """Two years ago alpha was bad; a policy that forgets in a day does not hold that against it, one that never does."""
    for _ in range(400):
        rate(interaction(log[0], mode="manual_override", created_at=timezone.now() - timedelta(days=730)), 0.0)
    traffic = {}
    for kind in ("thompson", "discounted_thompson"):
        asked(operator, kind=kind, parameter_unit="days", parameter_half_life="1")
        result = PolicyEstimate.objects.first().result
        assert result["n"] == 300
        traffic[kind] = result["traffic"]["alpha"]
    assert traffic["thompson"] < 0.3 and traffic["discounted_thompson"] > 0.8


def test_the_scores_of_an_eval_run_can_be_the_priors(operator, log):
    eval_set = EvalSet.objects.create(name="docs", version=1)
    run = EvalRun.objects.create(eval_set=eval_set, baseline="alpha")
    question = EvalQuestion.objects.create(eval_set=eval_set, key="1", ordinal=1, question="Why?", category="factual")
    run.variants.set(log)
    for agent, score in zip(log, (0.0, 1.0), strict=True):
        EvalResult.objects.create(run=run, question=question, variant=agent, score=score)
    text = asked(operator, priors="run", prior_run=run.pk, run_pulls="5000").content.decode()
    estimate = PolicyEstimate.objects.get()
    assert estimate.result["traffic"]["beta"] > 0.9 and "worth 5000 pulls" in str(estimate)
    assert "It would probably have earned less" in text
    assert not PriorReward.objects.exists()


def test_too_little_overlap_refuses_to_conclude(operator):
    agents = [variant(name) for name in ("alpha", "beta")]
    for seed in range(12):
        decision = BanditRouter().route("factual", agents, seed=seed)
        names = ("mode", "propensity", "candidates", "policy", "policy_revision", "seed", "clock")
        rate(interaction(decision.variant, **{name: getattr(decision, name) for name in names}), 1.0)
    text = asked(operator).content.decode()
    assert "No conclusion can be drawn: 12 rounds" in text and "probably" not in text
    assert "not enough overlap" in operator.get(reverse("admin:evals_policyestimate_changelist")).content.decode()


def test_an_empty_log_says_what_to_do_first(operator):
    variant("alpha")
    text = asked(operator).content.decode()
    assert "No estimate." in text and "Let people ask and rate first" in text
    assert PolicyEstimate.objects.get().job.state == "failed"


@pytest.mark.parametrize("fault", ["breaks", "no JSON"])
def test_whatever_fails_is_said_on_the_row(operator, log, monkeypatch, fault):
    def estimated(estimate, progress):
        if fault == "breaks":
            raise KeyError("agent")
        return {"n": 300, "logged_mean": float("nan")}

    monkeypatch.setattr("evals.services.estimates._estimated", estimated)
    text = asked(operator).content.decode()
    estimate = PolicyEstimate.objects.get()
    assert estimate.result is None and estimate.job.state == "failed"
    assert estimate.error.startswith("KeyError: " if fault == "breaks" else "IntegrityError: ")
    assert "No estimate." in text


def test_wrong_values_are_refused_beside_the_form(operator, log):
    for fields, says in (
        ({"priors": "run"}, "Choose the eval run"),
        ({"min_share": "0.7"}, "0.5"),
        ({"kind": "ucb1", "parameter_c": "-1"}, "greater than or equal to 0"),
    ):
        assert says in asked(operator, **fields).content.decode()
    with pytest.raises(InvalidInput, match="oracle"):
        policyestimate_start(PolicyEstimate(kind="oracle"))
    assert not PolicyEstimate.objects.exists()


def test_the_page_starts_from_the_active_policy_and_stands_in_the_navigation(operator):
    text = operator.get(reverse(ADD)).content.decode()
    assert "parameter_mass" in text
    assert reverse("admin:evals_policyestimate_changelist") in operator.get(reverse("admin:index")).content.decode()


def test_somebody_without_the_permission_may_not_ask(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("ben", is_staff=True))
    assert client.get(reverse(ADD)).status_code == 403
