"""Findings on the page and by the API, and what a click on one does."""

import random
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.urls import reverse
from django.utils import timezone

from adaptrag.api.services import key_create
from agents.models import AgentVariant
from agents.services import agent_set_enabled, collection_get_or_create
from evals.models import EvalSet
from rewards.models import AgentLimit, PriorReward, PromotionDecision, Reward
from rewards.selectors import change_markers
from rewards.self_improver import improvement_questions, improvement_report
from rewards.services import agent_pause
from tests.rewards.rows import interaction, rate

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_kept_report():
    cache.clear()


@pytest.fixture
def log(agents):
    """brisk is wrong more often than calm; questions on tides find nothing; harbour.md is in the worse answers."""
    dice, now = random.Random(0), timezone.now()
    brisk, calm = agents
    for number in range(160):
        agent = (brisk, calm)[number % 2]
        tides = number % 8 == 0
        good = dice.random() < (0.35 if agent is brisk else 0.85)
        row = interaction(
            agent,
            question=f"When is the tide {number} in?" if tides else f"Who keeps light {number}?",
            answer="I do not know." if tides else "Marta.",
            category="factual",
            created_at=now - timedelta(minutes=number),
            sources=[{"document": "harbour.md", "used": not tides}],
        )
        rate(row, float(good and not tides), correction="High at noon." if number == 0 else "")
    return agents


def page(client):
    return client.get(reverse("admin_improve"))


def found(client):
    return {line.finding.key: line for line in page(client).context["lines"]}


def test_findings_are_listed_with_numbers_and_buttons(operator_client, log):
    lines = found(operator_client)
    assert {"arm:all:brisk", "unsupported", "missing:tide"} <= set(lines)
    text = page(operator_client).content.decode()
    assert "brisk is worse than the other agents on all questions" in text
    assert "Add documents on “tide”" in text
    assert lines["arm:all:brisk"].url.replace("&", "&amp;") in text
    assert "160 rated answers" in text


def test_a_click_retires_the_worse_agent_and_the_history_says_who(operator_client, superuser, log):
    url = found(operator_client)["arm:all:brisk"].url
    assert "Retire brisk?" in operator_client.get(url).content.decode()
    assert AgentVariant.objects.get(name="brisk").state == "active"  # a link alone changes nothing
    response = operator_client.post(url, {"confirmed": "yes"}, follow=True)
    assert AgentVariant.objects.get(name="brisk").state == "retired"
    text = response.content.decode()
    assert "Done here" in text
    assert "Retire brisk" in text
    assert superuser.username in text


def test_the_decision_carries_the_finding_and_the_last_agent_stays(operator_client, superuser, log):
    url = found(operator_client)["arm:all:brisk"].url
    agent_set_enabled(log[1], False)
    text = operator_client.post(url, {"confirmed": "yes"}, follow=True).content.decode()
    assert "is the only agent that answers" in text
    agent_set_enabled(AgentVariant.objects.get(name="calm"), True)
    cache.clear()
    operator_client.post(found(operator_client)["arm:all:brisk"].url, {"confirmed": "yes"})
    decision = PromotionDecision.objects.get(variant__name="brisk")
    assert (decision.verdict, decision.user) == ("retired", superuser)
    assert decision.reason == "brisk is worse than the other agents on all questions"


def test_a_new_revision_is_not_blamed_for_the_one_before_it_and_a_paused_agent_gets_no_button(operator_client, log):
    from agents.services import agent_revise

    revised = agent_revise(log[0], parameters={"prompt_passages": 4})
    assert "arm:all:brisk" not in found(operator_client)
    for number in range(30):
        rate(interaction(revised, category="factual"), float(number % 3 == 0))
    cache.clear()
    lines = found(operator_client)
    assert "arm:all:brisk" in lines and lines["arm:all:brisk"].finding.n == 30
    agent_pause("brisk")
    cache.clear()
    assert not [key for key in found(operator_client) if key.startswith("arm:")]


def test_a_click_sets_the_default_top_k(operator_client, superuser, agents):
    library, dice = collection_get_or_create("default"), random.Random(1)
    for number in range(160):
        top_k = (5, 8)[number // 2 % 2]
        row = interaction(agents[number % 2], top_k=top_k, collection=library)
        rate(row, float(dice.random() < {5: 0.4, 8: 0.9}[top_k]))
    line = found(operator_client)["top_k:default:8"]
    assert "of the top_k that are found the prompt holds only prompt_passages" in line.finding.detail
    assert "Set the top_k of default to 8?" in operator_client.get(line.url).content.decode()
    operator_client.post(line.url, {"confirmed": "yes"})
    library.refresh_from_db()
    assert (library.top_k, library.history.first().history_user) == (8, superuser)
    assert [marker.label for marker in change_markers()] == ["default: top_k 8"]
    assert found(operator_client)["top_k:default:8"].finding.action is None
    page = reverse("admin:agents_collection_change", args=[library.pk])
    form = {"description": "", "language": "english"}
    assert "less than or equal to 50" in operator_client.post(page, form | {"top_k": "99"}).content.decode()
    operator_client.post(page, form | {"top_k": "6"})
    library.refresh_from_db()
    assert library.top_k == 6


def test_a_wrong_prior_is_corrected(operator_client, superuser, log):
    prior = PriorReward.objects.create(category="factual", agent_name="calm", pulls=10, total=0)
    operator_client.post(found(operator_client)["prior:factual:calm"].url, {"confirmed": "yes"})
    prior.refresh_from_db()
    assert prior.pulls == 10
    assert prior.total / 10 > 0.6
    assert prior.history.first().history_user == superuser


def test_questions_without_support_become_an_eval_set(operator_client, log):
    operator_client.post(found(operator_client)["missing:tide"].url, {"confirmed": "yes"})
    questions = list(EvalSet.objects.get(name="hard-cases").questions.all())
    assert len(questions) == 20
    assert all("tide" in one.question for one in questions)
    assert ["High at noon."] in [list(one.answers) for one in questions]


def test_a_finding_that_no_longer_stands_changes_nothing(operator_client, log):
    url = found(operator_client)["arm:all:brisk"].url
    Reward.objects.all().delete()
    from rewards.services import arms_rebuild

    arms_rebuild()
    cache.clear()
    response = operator_client.post(url, {"confirmed": "yes"}, follow=True)
    assert "no longer stands" in response.content.decode()
    assert AgentVariant.objects.get(name="brisk").state == "active"


def test_who_may_not_act_sees_why(client, clerk, log):
    from django.contrib.auth.models import Permission

    client.force_login(clerk)
    assert page(client).status_code == 403
    clerk.user_permissions.add(Permission.objects.get(codename="view_interaction"))
    client.force_login(type(clerk).objects.get(pk=clerk.pk))
    assert "This takes the permission agents.change_agentvariant" in page(client).content.decode()
    client.post(found(client)["arm:all:brisk"].url, {"confirmed": "yes"})
    assert AgentVariant.objects.get(name="brisk").state == "active"
    assert not AgentLimit.objects.exists()


def test_an_empty_site_says_how_to_get_data(operator_client, agents):
    assert "Not enough data: 0 answers" in page(operator_client).content.decode()


def test_the_api_returns_the_same_to_operators_alone(client, superuser, log):
    _, operator = key_create(user=superuser, name="ops", scope="operator")
    _, asker = key_create(user=superuser, name="bot", scope="query")
    url = "/api/rl/optimize"
    response = client.post(url, headers={"Authorization": f"Bearer {operator}"}, content_type="application/json")
    assert response.status_code == 200
    body = response.json()
    assert [one["key"] for one in body["findings"]] == [one.key for one in improvement_report().findings]
    assert body["findings"][0]["action"]
    assert body["ratings"] == 160
    assert client.post(url, headers={"Authorization": f"Bearer {asker}"}).status_code == 403
    assert client.get(url, headers={"Authorization": f"Bearer {operator}"}).status_code == 405


def test_collected_questions_are_the_worst_first(log):
    rows = improvement_questions({"agent_name": "brisk", "newest": 30})
    assert rows
    assert {row.variant.name for row in rows} == {"brisk"}
    values = [row.pull.value for row in rows]
    assert values == sorted(values)
    assert max(values) < 0.5
