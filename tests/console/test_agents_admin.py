"""Agents in the admin: registered and revised through the service, switched and retired with a question first."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from adaptrag.orchestrator import CompareRequest, compare
from agents.classifier import CATEGORIES
from agents.models import AgentVariant, ModelArtifact
from rewards.admin.agents import learned
from rewards.models import Interaction, PriorReward

pytestmark = pytest.mark.django_db
ADD = "/admin/agents/agentvariant/add/"


def form(**changes):
    return {
        "name": "fresh",
        "strategy": "agentic_rag",
        "chat_backend": "scripted",
        "chat_model": "",
        "chat_options": '{"answer": "Yes."}',
        "inherit": "0.5",
        "state": "active",
        "enabled": "on",
        "note": "",
    } | changes


def artifact(name="lora-1", **values):
    fields = {"kind": "adapter", "base_model": "smollm2", "path": f"artifacts/{name}", "sha256": "0"}
    return ModelArtifact.objects.create(name=name, **fields | values)


def priors(rows=()):
    """The inline's management form and rows of (category, pulls, total), as a browser sends them back untouched or not."""
    prefix = "rewards-priorreward"
    values = {f"{prefix}-TOTAL_FORMS": len(CATEGORIES), f"{prefix}-INITIAL_FORMS": 0}
    filled = {category: (pulls, total) for category, pulls, total in rows}
    for number, category in enumerate(CATEGORIES):
        pulls, total = filled.get(category, (0, 0))
        values |= {
            f"{prefix}-{number}-category": category,
            f"{prefix}-{number}-pulls": pulls,
            f"{prefix}-{number}-total": total,
        }
    return values


def change(variant):
    return reverse("admin:agents_agentvariant_change", args=[variant.pk])


def saved(variant, **changes):
    """The form of a variant as its page shows it, with changes."""
    import json

    return form(
        strategy=variant.strategy,
        chat_backend=variant.chat_backend,
        chat_model=variant.chat_model,
        chat_options=json.dumps(variant.chat_options),
        inherit=variant.inherit,
        note=variant.note,
        **{f"parameter_{name}": value for name, value in variant.parameters.items()},
    ) | priors() | changes  # fmt: skip


def test_an_agent_is_registered_with_the_parameters_of_its_strategy(operator_client, superuser):
    response = operator_client.post(ADD, form(parameter_retries="2", parameter_critic="model"))
    assert response.status_code == 302
    variant = AgentVariant.objects.get()
    assert (variant.name, variant.revision, variant.parameters) == ("fresh", 1, {"retries": 2, "critic": "model"})
    assert variant.created_by == superuser
    assert variant.history.get().history_user == superuser


def test_fields_of_other_strategies_are_left_out(operator_client):
    operator_client.post(ADD, form(strategy="naive_rag", parameter_retries="2", parameter_retriever="bm25"))
    assert AgentVariant.objects.get().parameters == {"retriever": "bm25"}


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"name": "Not A Slug"}, "name", "lower-case"),
        ({"strategy": "magic"}, "strategy", "magic"),
        ({"parameter_prompt_passages": "99"}, "parameter_prompt_passages", "50"),
        ({"parameter_critic": "nobody"}, "parameter_critic", "nobody"),
        ({"chat_options": '{"colour": "red"}'}, "chat_options", "colour"),
        ({"chat_options": "{"}, "chat_options", "valid JSON"),
        ({"inherit": "2"}, "__all__", "inherit"),
    ],
)
def test_a_mistake_is_named_at_its_field(operator_client, changes, field, words):
    response = operator_client.post(ADD, form(**changes))
    assert response.status_code == 200
    errors = response.context["adminform"].form.errors
    assert words in str(errors[field])
    assert not AgentVariant.objects.exists()


def test_a_taken_name_is_refused(operator_client, agents):
    response = operator_client.post(ADD, form(name="calm"))
    assert "There is an agent" in str(response.context["adminform"].form.errors["name"])


def test_the_form_offers_every_parameter_with_its_help(operator_client):
    page = operator_client.get(ADD).content.decode()
    for name in ("parameter_prompt_passages", "parameter_retriever", "parameter_retries", "parameter_critic"):
        assert f'name="{name}"' in page
    assert "Most times that it searches again and refines. 0 to 5." in page
    assert "1 by default" in page


def test_changing_what_an_agent_does_makes_its_next_revision(operator_client, history):
    old = AgentVariant.objects.get(name="calm")
    asked = old.interactions.count()
    response = operator_client.post(change(old), saved(old, parameter_max_tokens="32"), follow=True)
    new = AgentVariant.objects.get(name="calm", revision=2)
    assert response.redirect_chain[-1][0] == change(new)
    assert "Made revision 2 of calm. parameters:" in response.content.decode()
    assert "starts with 50% of the evidence of revision 1" in response.content.decode()
    old.refresh_from_db()
    assert (old.state, old.parameters, old.interactions.count()) == ("retired", {"retriever": "bm25"}, asked)
    assert new.parameters == {"retriever": "bm25", "max_tokens": 32}
    assert new.predecessor == old


def test_a_note_is_no_new_revision(operator_client, agents, superuser):
    variant = agents[0]
    operator_client.post(change(variant), saved(variant, note="the quick one"))
    variant.refresh_from_db()
    assert variant.note == "the quick one"
    assert AgentVariant.objects.filter(name=variant.name).count() == 1
    assert variant.history.first().history_user == superuser


def test_saving_unchanged_changes_nothing(operator_client, agents):
    variant = agents[0]
    operator_client.post(change(variant), saved(variant))
    assert AgentVariant.objects.count() == 2
    assert not PriorReward.objects.exists()


def test_priors_of_every_category_stand_on_the_agents_page(operator_client, agents, superuser):
    variant = agents[0]
    page = operator_client.get(change(variant)).content.decode()
    for category in CATEGORIES:
        assert f'value="{category}"' in page
    operator_client.post(change(variant), saved(variant) | priors([("factual", 4, 3), ("vague", 2, 0.5)]))
    assert set(PriorReward.objects.values_list("agent_name", "category", "pulls", "total")) == {
        (variant.name, "factual", 4.0, 3.0),
        (variant.name, "vague", 2.0, 0.5),
    }
    assert PriorReward.objects.first().history.first().history_user == superuser
    assert AgentVariant.objects.count() == 2


def test_a_prior_of_more_reward_than_pulls_is_refused(operator_client, agents):
    variant = agents[0]
    response = operator_client.post(change(variant), saved(variant) | priors([("factual", 1, 3)]))
    assert response.status_code == 200
    assert "more than the 1 pulls" in response.content.decode()
    assert not PriorReward.objects.exists()


def test_the_last_agent_can_be_neither_disabled_nor_retired(operator_client, agents):
    first, last = agents
    disable = reverse("admin:agents_agentvariant_disable", args=[first.pk])
    assert operator_client.post(disable, {"confirmed": "yes"}).status_code == 302
    for name in ("disable", "retire"):
        address = reverse(f"admin:agents_agentvariant_{name}", args=[last.pk])
        page = operator_client.get(address).content.decode()
        assert "It is the only agent that takes questions." in page
        assert "disabled" in page
        operator_client.post(address, {"confirmed": "yes"})
        last.refresh_from_db()
        assert (last.enabled, last.state) == (True, "active")


def test_several_are_disabled_after_one_question(operator_client, agents):
    changelist = reverse("admin:agents_agentvariant_changelist")
    chosen = {"action": "disable_selected", "_selected_action": [agents[0].pk]}
    asked = operator_client.post(changelist, chosen)
    assert asked.status_code == 200
    assert f'name="_selected_action" value="{agents[0].pk}"' in asked.content.decode()
    agents[0].refresh_from_db()
    assert agents[0].enabled
    operator_client.post(changelist, chosen | {"confirmed": "yes"})
    agents[0].refresh_from_db()
    assert not agents[0].enabled
    operator_client.post(changelist, {"action": "enable_selected", "_selected_action": [agents[0].pk]})
    agents[0].refresh_from_db()
    assert agents[0].enabled


def test_the_list_shows_what_an_operator_decides_by(operator_client, history):
    page = operator_client.get(reverse("admin:agents_agentvariant_changelist")).content.decode()
    assert "n 3" in page or ("n 1" in page and "n 2" in page)
    assert "not enough data" in page
    assert "%" in page


def test_history_tells_who_switched_what(operator_client, agents):
    operator_client.post(reverse("admin:agents_agentvariant_disable", args=[agents[0].pk]), {"confirmed": "yes"})
    page = operator_client.get(reverse("admin:agents_agentvariant_history", args=[agents[0].pk])).content.decode()
    assert "olga" in page


def test_the_traffic_beside_the_agents_is_read_from_kept_sums(history, agents):
    """The log itself may hold a million interactions."""
    compare(CompareRequest(question="Who is the lighthouse keeper?", agents=("brisk", "calm")))
    with CaptureQueriesContext(connection) as queries:
        figures = learned([agent.pk for agent in agents])
    assert len(queries) == 2 and not any('"rewards_interaction"' in query["sql"] for query in queries)
    asked = [Interaction.objects.filter(variant=agent).exclude(mode="compare").count() for agent in agents]
    assert [figures[agent.pk].share for agent in agents] == [count / 4 for count in asked]


def test_an_artifact_is_chosen_on_the_form_and_linked_from_the_agent(operator_client):
    first, second = artifact("lora-1"), artifact("lora-2")
    operator_client.post(ADD, form(artifact=first.pk))
    variant = AgentVariant.objects.get(name="fresh")
    assert variant.artifact == first
    response = operator_client.post(change(variant), saved(variant, artifact=second.pk), follow=True)
    assert "artifact: lora-1 → lora-2" in response.content.decode()
    assert AgentVariant.objects.get(name="fresh", revision=2).artifact == second
    page = reverse("admin:agents_modelartifact_change", args=[second.pk])
    assert page in operator_client.get(reverse("admin:agents_agentvariant_changelist")).content.decode()
    assert "fresh r2" in operator_client.get(page).content.decode()
