"""The admin's home and the leaderboard: figures that agree with the rows, and what to do first on an empty site."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from adaptrag.api.services import key_create
from adaptrag.common.models import Job
from adaptrag.console.dashboard import PERIODS
from agents.models import AgentVariant
from agents.services import agent_set_state
from rewards.leaderboard import ENOUGH, leaderboard
from rewards.models import BanditArm, Interaction, PriorReward, RoutingPolicy
from rewards.selectors import active_policy
from rewards.services import agent_limit_set, arms_rebuild, category_pin, feedback_record, prior_set
from tests.rewards.rows import rated

pytestmark = pytest.mark.django_db


def home(client, **query):
    return client.get(reverse("admin:index"), query)


def test_an_empty_site_lists_the_next_steps_and_claims_no_figure(operator_client):
    response = home(operator_client)
    assert [(step.title, step.done) for step in response.context["steps"]] == [
        ("Ingest documents", False),
        ("Register agents", False),
        ("Create an API key", False),
        ("Ask a question", False),
        ("Rate an answer", False),
    ]
    page = response.content.decode()
    for name in ("admin:agents_document_add", "admin:agents_agentvariant_add", "admin:api_apikey_add", "chat"):
        assert f'href="{reverse(name)}"' in page
    assert page.count("not enough data") == 3


def test_steps_are_ticked_as_they_are_done_and_go_when_all_are(operator_client, superuser, library, agents):
    done = {step.title: step.done for step in home(operator_client).context["steps"]}
    assert done == {
        "Ingest documents": True,
        "Register agents": True,
        "Create an API key": False,
        "Ask a question": False,
        "Rate an answer": False,
    }


def test_home_says_what_can_not_be_met(operator_client, history, agents):
    assert "refused" not in home(operator_client).content.decode()
    category_pin(category="vague", agent_name="calm")
    agent_limit_set(agent_name="brisk", max_share=0.3)
    agent_set_state(agents[1], "retired", decided=True)  # as a guard does, whom limits don't stop
    text = home(operator_client).content.decode()
    assert "Questions of the category &#x27;vague&#x27; are refused: their agent, &#x27;calm&#x27;" in text
    assert "The limits on traffic are not kept" in text


def test_nothing_is_left_to_do_on_a_site_in_use(operator_client, superuser, history):
    key_create(user=superuser, name="bot", scope="query")
    assert home(operator_client).context["steps"] == []


@pytest.mark.parametrize("period", PERIODS)
def test_figures_agree_with_the_rows(operator_client, history, period):
    Interaction.objects.filter(pk=history[3].interaction_id).update(
        state="failed", error={"code": "x", "message": "It fell over."}
    )
    arms_rebuild()
    context = home(operator_client, period=period).context
    assert (context["total"], context["failed"]) == (4, 1)
    assert sum(sum(one["data"]) for one in context["traffic_chart"]["datasets"]) == 4
    assert (context["reward"].n, context["reward"].value) == (3, pytest.approx(1.75 / 3))
    assert context["reward"].low < context["reward"].value < context["reward"].high
    assert context["latency"].n == 3
    assert context["reward_chart"]["datasets"][2]["counts"][-1] == 3
    assert len(context["reward_chart"]["labels"]) == PERIODS[period].buckets


def test_what_lies_before_the_period_counts_as_before(operator_client, history):
    old = timezone.now() - timedelta(days=9)
    Interaction.objects.filter(pk__in=[one.interaction_id for one in history[:3]]).update(created_at=old)
    arms_rebuild()
    context = home(operator_client, period="7d").context
    assert (context["total"], context["before"]) == (1, 3)


def test_an_unknown_period_is_the_usual_one(operator_client, history):
    assert home(operator_client, period="forever").context["period"].key == "7d"


def test_running_jobs_and_errors_are_shown_with_links(operator_client, history):
    running = Job.objects.create(kind="index", title="Index harbour", state="running", progress=0.4, message="embedding")
    failed = Job.objects.create(kind="index", title="Index beach", state="failed", error="No disk.", finished_at=timezone.now())
    Interaction.objects.filter(pk=history[0].interaction_id).update(
        state="failed", error={"code": "x", "message": "It fell over."}
    )
    page = home(operator_client).content.decode()
    for job in (running, failed):
        assert reverse("admin:common_job_change", args=[job.pk]) in page
    assert "40 %, embedding" in page
    assert "It fell over." in page
    assert "hx-get" in page
    fragment = operator_client.get(reverse("admin_live_jobs")).content.decode()
    assert "Index harbour" in fragment
    assert "Index beach" not in fragment
    Job.objects.filter(pk=running.pk).update(state="succeeded")
    assert "hx-get" not in operator_client.get(reverse("admin_live_jobs")).content.decode()


def test_a_queue_that_nobody_serves_is_named_with_the_command_that_helps(operator_client):
    Job.objects.create(kind="index", title="Index harbour", queued_at=timezone.now() - timedelta(minutes=5))
    assert "python manage.py qcluster" in home(operator_client).content.decode()


def board(client, **query):
    return client.get(reverse("admin_leaderboard"), query)


def test_the_leaderboard_shows_each_agent_with_interval_and_n(operator_client, history):
    response = board(operator_client)
    rows = {
        (line.row.category, line.row.agent): line.row
        for line in [*response.context["overall"], *response.context["categories"]["factual"]]
    }
    assert {key: (row.n, row.mean) for key, row in rows.items()} == {
        (row.category, row.agent): (row.n, row.mean) for row in leaderboard() if row.category in (None, "factual")
    }
    page = response.content.decode()
    assert "not enough data" in page
    assert "<svg" in page
    assert "agent=brisk&amp;category=factual" in page


def test_a_rating_changes_the_leaderboard(operator_client, history):
    before = next(line.row for line in board(operator_client).context["overall"] if line.row.agent == history[3].agent)
    feedback_record(interaction_id=history[3].interaction_id, reward=1.0, rater="user:rita")
    after = next(line.row for line in board(operator_client).context["overall"] if line.row.agent == history[3].agent)
    assert after.n == before.n + 1


def test_enough_ratings_are_no_longer_called_not_enough(operator_client, history):
    for variant in AgentVariant.objects.all():
        for _ in range(ENOUGH):
            rated(variant, 0.75)
    page = board(operator_client).content.decode()
    assert page.count("not enough data") == 0


def test_a_period_leaves_out_what_came_before(operator_client, history):
    old = timezone.now() - timedelta(days=3)
    Interaction.objects.update(created_at=old)
    arms_rebuild()
    assert board(operator_client, period="24h").context["categories"] == {}
    assert "factual" in board(operator_client, period="7d").context["categories"]


def test_any_days_can_be_chosen_on_the_leaderboard(operator_client, history):
    day = timezone.localtime().replace(hour=12) - timedelta(days=40)
    Interaction.objects.update(created_at=day)
    arms_rebuild()
    one, next_day, later = (str((day + timedelta(days=number)).date()) for number in (0, 1, 30))
    for query, there, bars in (
        ({"from": one, "to": one}, 4, 24),
        ({"from": one, "to": later}, 4, 31),
        ({"from": one}, 4, 21),
        ({"to": one}, 4, 30),
        ({"from": next_day, "to": later}, 0, 30),
    ):
        context = board(operator_client, **query).context
        lines = context["categories"].get("factual", [])
        assert sum(line.row.interactions for line in lines) == there, query
        assert len(context["reward_chart"]["labels"]) == bars, query
        charted = [sum(column) for column in zip(*(set["data"] for set in context["share_chart"]["datasets"]), strict=True)]
        assert sum(charted) == pytest.approx(1.0 if there else 0.0)
    line = board(operator_client, **{"from": one, "to": one}).context["categories"]["factual"][0]
    assert len(operator_client.get(line.url).context["cl"].result_list) == line.row.interactions
    page = board(operator_client, **{"from": one, "to": later, "category": "vague"}).content.decode()
    assert f'value="{one}"' in page and f"?from={one}&amp;to={later}&amp;category=factual" in page


NO_DAYS = {"word": {"from": "soon"}, "no such day": {"to": "2026-02-30"}, "year 1": {"from": "0001-01-01"}}
NO_DAYS["backwards"] = {"from": "2026-05-02", "to": "2026-05-01"}


@pytest.mark.parametrize("query", NO_DAYS.values(), ids=NO_DAYS)
def test_days_that_are_none_are_told(operator_client, history, query):
    response = board(operator_client, **query)
    assert "All that counts is shown." in response.content.decode()
    assert "factual" in response.context["categories"]


def test_the_link_behind_a_row_leads_to_its_interactions(operator_client, history):
    line = board(operator_client, period="24h").context["categories"]["factual"][0]
    changelist = operator_client.get(line.url).context["cl"]
    assert len(changelist.result_list) == line.row.interactions


def test_reset_goes_back_to_the_priors(operator_client, history, superuser):
    PriorReward.objects.create(category="factual", agent_name="calm", pulls=2, total=1)
    operator_client.post(reverse("admin_learning_reset"), {"confirmed": "yes"})
    assert active_policy().learn_since is not None
    assert not BanditArm.objects.filter(pulls__gt=0).exists()
    assert PriorReward.objects.count() == 1
    assert RoutingPolicy.history.first().history_user == superuser


def test_a_policy_is_checked_saved_and_activated(operator_client, history):
    add = reverse("admin:rewards_routingpolicy_add")
    fields = {"name": "greedy", "kind": "epsilon_greedy", "min_share": "0.02", "parameter_epsilon": "0.2"}
    fields |= {"latency_weight": "0", "cost_weight": "0"}
    response = operator_client.post(add, fields | {"parameter_minimum": "0.5"})
    assert "must not exceed epsilon" in response.content.decode()
    assert operator_client.post(add, fields).status_code == 302
    greedy = RoutingPolicy.objects.get(name="greedy")
    assert (greedy.parameters, greedy.active) == ({"epsilon": 0.2}, False)
    operator_client.post(reverse("admin:rewards_routingpolicy_activate", args=[greedy.pk]), {"confirmed": "yes"})
    assert active_policy().name == "greedy"
    change = reverse("admin:rewards_routingpolicy_change", args=[greedy.pk])
    operator_client.post(change, fields | {"parameter_epsilon": "0.3"})
    greedy.refresh_from_db()
    assert (greedy.parameters, greedy.active, greedy.revision) == ({"epsilon": 0.3}, True, 2)
    assert operator_client.get(reverse("admin:rewards_routingpolicy_delete", args=[greedy.pk])).status_code == 403


def test_priors_are_edited_in_their_list(operator_client, agents):
    prior = PriorReward.objects.create(category="factual", agent_name="calm", pulls=2, total=1)
    rows = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-id": prior.pk, "_save": "Save"}
    changelist = reverse("admin:rewards_priorreward_changelist")
    response = operator_client.post(changelist, rows | {"form-0-pulls": "3", "form-0-total": "5"})
    assert "more than the 3 pulls" in response.content.decode()
    operator_client.post(changelist, rows | {"form-0-pulls": "6", "form-0-total": "5"})
    prior.refresh_from_db()
    assert (prior.pulls, prior.total) == (6.0, 5.0)


def test_interactions_are_found_by_their_filters(operator_client, history):
    changelist = reverse("admin:rewards_interaction_changelist")

    def found(**query):
        return len(operator_client.get(changelist, query).context["cl"].result_list)

    assert found() == 4
    assert found(rated="yes") == 3
    assert found(rated="low") == 1
    assert found(rated="no") == 1
    assert found(category="vague") == 0
    assert found(agent="brisk") + found(agent="calm") == 4
    assert found(q="lighthouse") == 4
    assert found(q=str(history[0].interaction_id)) == 1
    assert found(q="nothing like it") == 0
    assert found(state__exact="failed") == 0
    today = f"{timezone.localdate():%Y-%m-%d}"
    assert found(created_at_from_0=today) == found(created_at_to_0=today) == 4
    assert found(created_at_to_0=today, created_at_to_1="00:00:00") == 0
    assert found(created_at_from_0="no date") == 4


def test_an_interaction_tells_why_its_agent_was_chosen(operator_client, history):
    interaction = Interaction.objects.get(pk=history[0].interaction_id)
    page = operator_client.get(reverse("admin:rewards_interaction_change", args=[interaction.pk])).content.decode()
    assert f"propensity {interaction.propensity:.6f}" in page
    assert f"seed {interaction.seed}" in page
    assert "chosen" in page
    assert "Marta Olsen" in page
    assert "noted" in page
    assert "It counts as one pull of 1.000" in page


def test_the_leaderboard_charts_reward_and_shares_with_what_was_changed(operator_client, history, superuser):
    prior_set(category="factual", agent_name="calm", pulls=4, total=3, user=superuser)
    response = board(operator_client, period="24h", category="factual")
    context = response.context
    assert context["reward_chart"]["datasets"][2]["counts"][-1] == 3
    shares = [one["data"][-1] for one in context["share_chart"]["datasets"]]
    assert sum(shares) == pytest.approx(1)
    assert context["share_chart"]["markers"] == context["reward_chart"]["markers"]
    assert context["share_chart"]["markers"][-1]["index"] == 23
    page = response.content.decode()
    assert "calm / factual: 3 of 4" in page
    assert "by olga" in page
    assert board(operator_client, category="vague").context["share_table"] == []
