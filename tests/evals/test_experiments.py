"""Fixed-split experiments: the split is exact and sticky, the plan holds, and looking early misleads nobody."""

from collections import Counter

import numpy as np
import pytest
from django.urls import reverse
from scipy import stats

from adaptrag.common.errors import AdaptRAGError, Conflict
from adaptrag.orchestrator import QueryRequest, query
from agents.services import agent_register, agent_revise, agent_set_enabled
from evals.experiments import analyse, assigned, planned_size, sequence_half_width
from evals.models import Experiment
from evals.services import ExperimentPlan, experiment_create, experiment_end, experiment_report, experiment_start
from rewards.models import BanditArm, CategoryPin, Interaction
from rewards.services import feedback_record

SHARES = {"one": 0.3, "two": 0.3}


def test_the_split_keeps_its_shares_and_a_key_its_agent():
    drawn = Counter(assigned(SHARES, f"1:{n}") for n in range(20_000))
    for agent, share in (*SHARES.items(), (None, 0.4)):
        assert drawn[agent] / 20_000 == pytest.approx(share, abs=0.015)
    assert all(assigned(SHARES, "1:s") == assigned(dict(reversed(SHARES.items())), "1:s") for _ in range(5))
    assert len({assigned(SHARES, f"{experiment}:s") for experiment in range(20)}) > 1  # not the same people in every one


def test_the_fixed_horizon_is_welchs_test_and_concludes_only_at_the_planned_size():
    rng = np.random.default_rng(4)
    one, two = rng.uniform(0, 0.8, 60), rng.uniform(0.2, 1, 50)
    early = analyse({"one": one, "two": two}, "one", analysis="fixed_horizon", planned=60).differences[0]
    done = analyse({"one": one, "two": two}, "one", analysis="fixed_horizon", planned=50).differences[0]
    welch = stats.ttest_ind(two, one[:50], equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert (done.p_value, done.low, done.high) == pytest.approx((welch.pvalue, interval.low, interval.high))
    assert not early.final and "No conclusion before the planned size" in early.sentence()
    assert done.final and done.sentence().startswith("two is better than one by 0.")


def test_a_fixed_horizon_looks_once_and_what_comes_later_changes_nothing():
    rng = np.random.default_rng(5)
    one, two = rng.uniform(size=80), rng.uniform(0.1, 1, 50)
    planned = analyse({"one": one[:50], "two": two}, "one", analysis="fixed_horizon", planned=50)
    later = analyse({"one": [*one, 1.0, 1.0], "two": [*two, 0.0]}, "one", analysis="fixed_horizon", planned=50)
    assert later == planned and later.differences[0].n == (50, 50)


def test_an_always_valid_plan_finds_its_difference_as_often_as_it_says():
    rng, planned = np.random.default_rng(6), planned_size(0.2, 0.5, analysis="always_valid", agents=2)
    assert planned == 188 > planned_size(0.2, 0.5, analysis="fixed_horizon", agents=2) == 99
    found = 0
    for _ in range(400):
        one, two = (rng.binomial(1, chance, planned).astype(float) for chance in (0.4, 0.6))
        found += two.mean() - one.mean() > sequence_half_width(two, one, alpha=0.05, planned=planned)
    assert 0.74 < found / 400 < 0.9  # at that size; looking earlier can only add to it


def test_the_confidence_sequence_may_be_looked_at_all_the_time():
    """A/A comparisons looked at all along: it claims a difference in at most 5 % of them, Welch's test in far more."""
    rng, looks = np.random.default_rng(8), range(20, 400, 10)
    sequence = welch = 0
    for _ in range(200):
        one, two = rng.integers(0, 2, 400).astype(float), rng.integers(0, 2, 400).astype(float)
        differences = [two[:n].mean() - one[:n].mean() for n in looks]
        halves = [sequence_half_width(two[:n], one[:n], alpha=0.05, planned=200) for n in looks]
        errors = [np.sqrt(one[:n].var(ddof=1) / n + two[:n].var(ddof=1) / n) for n in looks]
        sequence += any(abs(d) > half for d, half in zip(differences, halves, strict=True))
        welch += any(abs(d) > 1.96 * error for d, error in zip(differences, errors, strict=True))
    assert sequence / 200 <= 0.05
    assert welch / 200 > 0.15


def test_the_confidence_sequence_finds_a_real_difference():
    rng = np.random.default_rng(9)
    one, two = (rng.binomial(1, chance, 300).astype(float) for chance in (0.4, 0.65))
    found = analyse({"one": one, "two": two}, "one", analysis="always_valid", planned=200).differences[0]
    assert found.final and "two is better than one" in found.sentence() and "confidence sequence" in found.sentence()
    few = analyse({"one": one[:10], "two": two[:10]}, "one", analysis="always_valid", planned=200).differences[0]
    assert few.sentence() == "Not enough data to compare two with one: 10 and 10 rated sessions."


@pytest.fixture
def agents(harbour, scripted):
    return scripted("one"), scripted("two", "at six"), scripted("other")


def running(**values):
    plan = {"name": "split", "shares": {"one": 0.5, "two": 0.5}} | values
    return experiment_start(experiment_create(ExperimentPlan(**plan)))


def ask(session, **values):
    return query(QueryRequest(question="Who is the keeper?", session=session, **values))


@pytest.mark.django_db
def test_sessions_keep_their_agent_and_ratings_are_counted_by_session(agents):
    experiment = running()
    sessions = [f"s{n}" for n in range(12)]
    first = {session: ask(session) for session in sessions}
    assert {result.agent for result in first.values()} == {"one", "two"}
    assert all(ask(session).agent == first[session].agent for session in sessions)
    result = first["s0"]
    assert result.routing == {
        "policy": "split", "policy_revision": experiment.pk, "mode": "experiment", "propensity": None, "candidates": [],
    }  # fmt: skip
    for row in Interaction.objects.filter(session__in=["s0", "s1"]):
        feedback_record(interaction_id=row.pk, reward=1.0, rater="ola")
    report = experiment_report(experiment)
    assert sum(arm.interactions for arm in report.arms) == 24
    assert sum(arm.sessions for arm in report.arms) == 12
    assert sum(arm.rated for arm in report.arms) == 2
    assert sum(BanditArm.objects.values_list("pulls", flat=True)) == 4  # the arms learn as always


@pytest.mark.django_db
def test_others_go_to_the_bandit(agents):
    experiment = running(shares={"one": 0.01, "two": 0.01})
    modes = Counter(ask(f"s{n}").routing["mode"] for n in range(10))
    assert modes["bandit"] >= 8
    experiment_end(experiment)
    full = running(name="full")
    assert ask("s", agent="other").agent == "other"
    assert ask("s", candidates=("other",)).agent == "other"
    CategoryPin.objects.create(category="factual", agent_name="other")
    assert ask("s", category="factual").routing["mode"] == "pinned"
    CategoryPin.objects.all().delete()
    given = ask("s").agent
    variant = next(one for one in agents if one.name == given)
    agent_revise(variant, parameters={"retriever": "bm25", "max_tokens": 5})
    assert ask("s").routing["mode"] == "bandit"  # not what the experiment was about
    assert {arm.interactions for arm in experiment_report(full).arms} == {0, 1}


@pytest.mark.django_db
def test_an_agent_without_its_index_in_the_collection_leaves_its_sessions_to_the_bandit(agents):
    agent_register(name="linked", strategy="graph_rag", chat_backend="scripted", chat_options={"answer": "Marta"})
    running(shares={"linked": 0.5, "one": 0.5})
    modes = {session: ask(session).routing["mode"] for session in (f"s{n}" for n in range(12))}
    assert set(modes.values()) == {"experiment", "bandit"}
    assert {row.variant.name for row in Interaction.objects.filter(mode="experiment")} == {"one"}
    assert not Interaction.objects.filter(state="failed").exists()


@pytest.mark.django_db
def test_sessions_rated_after_the_planned_ones_are_told_and_left_out(agents):
    experiment = running(difference=0.9, deviation=0.1)
    experiment.planned = 1
    for n in range(12):
        feedback_record(interaction_id=ask(f"s{n}").interaction_id, reward=1.0 if n < 6 else 0.0, rater="ola")
    report = experiment_report(experiment)
    assert sum(arm.rated for arm in report.arms) == 12
    assert all(arm.left_out == arm.rated - 1 for arm in report.arms)
    first = {row.variant.name: row.session for row in Interaction.objects.order_by("-created_at")}
    assert {arm.agent: arm.mean for arm in report.arms} == {
        name: 1.0 if int(session[1:]) < 6 else 0.0 for name, session in first.items()
    }


@pytest.mark.django_db
def test_a_plan_states_its_size_and_refuses_what_is_wrong(agents):
    plan = {"name": "p", "shares": SHARES, "difference": 0.1, "deviation": 0.35}
    assert experiment_create(ExperimentPlan(**plan)).planned == 193  # 2 ((1.960 + 0.842) 0.35 / 0.1)^2
    for changes, words in (
        ({"shares": {"one": 0.5}}, "at least two agents"),
        ({"shares": {"one": 0.7, "two": 0.7}}, "sum to 1.4"),
        ({"shares": {"one": 0.0, "two": 0.5}}, "between 0 and 1"),
        ({"shares": {"one": 0.5, "ghost": 0.5}}, "'ghost' does not exist"),
        ({"baseline": "other"}, "not among"),
        ({"difference": 0}, "difference must lie"),
        ({"analysis": "peeking"}, "peeking"),
        ({"name": "p"}, "already exists"),
    ):
        with pytest.raises(AdaptRAGError, match=words):
            experiment_create(ExperimentPlan(**{**plan, "name": "q", **changes}))


@pytest.mark.django_db
def test_one_runs_at_a_time_and_an_ended_one_stays_ended(agents):
    first = running()
    second = experiment_create(ExperimentPlan(name="second", shares=SHARES))
    with pytest.raises(Conflict, match="Another experiment is running"):
        experiment_start(second)
    experiment_end(first)
    with pytest.raises(Conflict, match="split is ended"):
        experiment_start(first)
    assert experiment_start(second).state == "running"


@pytest.mark.django_db
def test_an_experiment_is_planned_started_and_ended_in_the_admin(operator_client, agents):
    form = {"name": "split", "shares": "one 0.5, two: 0.5", "difference": 0.2, "deviation": 0.5, "analysis": "always_valid"}
    bad = operator_client.post(reverse("admin:evals_experiment_add"), form | {"shares": "one much"})
    assert "is no agent with its share" in bad.content.decode()
    response = operator_client.post(reverse("admin:evals_experiment_add"), form)
    experiment = Experiment.objects.get()
    assert response.url == reverse("admin:evals_experiment_change", args=[experiment.pk])
    operator_client.post(reverse("admin:evals_experiment_start", args=[experiment.pk]), {"confirmed": "yes"})
    asked = ask("s")
    page = operator_client.get(response.url).content.decode()
    assert "Not enough data to compare two with one" in page and "0 of 188" in page
    shown = operator_client.get(reverse("admin:rewards_interaction_change", args=[asked.interaction_id])).content.decode()
    assert "The experiment split gave this session its agent" in shown
    assert "experiment" in operator_client.get(reverse("admin:rewards_interaction_changelist")).content.decode()
    agent_set_enabled(next(one for one in agents if one.name == asked.agent), False)
    assert "Switched off, paused or revised since the start" in operator_client.get(response.url).content.decode()
    operator_client.post(reverse("admin:evals_experiment_end", args=[experiment.pk]), {"confirmed": "yes"})
    experiment.refresh_from_db()
    assert experiment.state == "ended"
