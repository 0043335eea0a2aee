"""A variant's life in the admin: decided with a reason, shown with its history, kept from those who may not."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from agents.models import AgentVariant
from agents.services import agent_revise
from evals.services import RunRequest, evalrun_create, evalrun_execute, evalset_create
from evals.sets import Item
from rewards.models import Canary, PromotionDecision
from rewards.services import variant_promote

pytestmark = pytest.mark.django_db


@pytest.fixture
def rookie(agents):
    return agent_revise(agents[0], state="candidate", chat_options={"answer": "<b>Marta</b> Olsen."})


def page(row, name="change"):
    return reverse(f"admin:agents_agentvariant_{name}", args=[row.pk])


def state(row):
    return AgentVariant.objects.get(pk=row.pk).state


def test_a_candidate_is_promoted_against_the_gate_only_with_a_reason(operator_client, rookie):
    assert "No decision yet" in operator_client.get(page(rookie)).content.decode()
    asked = operator_client.get(page(rookie, "promote")).content.decode()
    assert "Override, and make it canary" in asked and 'name="override" value="yes"' in asked and "csrfmiddlewaretoken" in asked
    silent = operator_client.post(page(rookie, "promote"), {"confirmed": "yes", "override": "yes", "reason": " "})
    assert "Say why" in silent.content.decode() and state(rookie) == "candidate"
    operator_client.post(page(rookie, "promote"), {"confirmed": "yes", "override": "no", "reason": "sure"})
    assert state(rookie) == "candidate"
    operator_client.post(page(rookie, "promote"), {"confirmed": "yes", "override": "yes", "reason": "<i>demo</i>"})
    assert state(rookie) == "canary" and Canary.objects.get().incumbent.name == rookie.name
    shown = operator_client.get(page(rookie)).content.decode()
    assert "&lt;i&gt;demo&lt;/i&gt;" in shown and "override" in shown and "olga" in shown and "10 %" in shown


def test_one_click_rolls_back(operator_client, rookie):
    variant_promote(rookie, reason="try", override=True)
    form = operator_client.get(page(rookie)).content.decode()
    assert 'value="Rolled back by hand."' in form and page(rookie, "rollback") in form
    operator_client.post(page(rookie, "rollback"), {"confirmed": "yes", "reason": "Rolled back by hand."})
    assert state(rookie) == "retired" and not Canary.objects.exists()
    first = PromotionDecision.objects.first()
    assert (first.verdict, first.decided_by, str(first.rollback_to)) == ("rolled_back", "olga", "brisk r1")
    assert operator_client.get(page(rookie, "rollback")).status_code == 200


def test_a_link_followed_by_a_robot_moves_nothing(operator_client, rookie):
    for name in ("promote", "retire"):
        assert operator_client.get(page(rookie, name)).status_code == 200
    assert state(rookie) == "candidate" and not PromotionDecision.objects.exists()


def test_the_history_is_read_only_and_tells_figures(operator_client, rookie):
    decision = variant_promote(rookie, reason="try", override=True)
    listed = operator_client.get(reverse("admin:rewards_promotiondecision_changelist")).content.decode()
    assert "brisk r2" in listed and "candidate → canary" in listed and "try" in listed
    detail = reverse("admin:rewards_promotiondecision_change", args=[decision.pk])
    assert "brisk r1" in operator_client.get(detail).content.decode()
    assert operator_client.post(detail, {"reason": "other"}).status_code == 403
    assert operator_client.post(reverse("admin:rewards_promotiondecision_delete", args=[decision.pk])).status_code == 403


def test_who_may_only_look_sees_no_button_and_moves_nothing(client, clerk, rookie):
    clerk.user_permissions.add(Permission.objects.get(codename="view_agentvariant"))
    client.force_login(clerk)
    variant_promote(rookie, reason="try", override=True)
    assert "Roll back now" not in client.get(page(rookie)).content.decode()
    client.post(page(rookie, "rollback"), {"confirmed": "yes", "reason": "x"})
    assert state(rookie) == "canary"


def test_a_run_lets_a_candidate_through_its_gate(operator_client, library, agents, rookie):
    items = [Item(key=f"q{n}", question=f"Who keeps lighthouse {n}?", answers=("Marta Olsen",)) for n in range(3)]
    eval_set = evalset_create(name="harbour", items=items, source="jsonl")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("brisk@1", "brisk@2")))
    evalrun_execute(run.pk)
    assert "Gate brisk r2" in operator_client.get(reverse("admin:evals_evalrun_change", args=[run.pk])).content.decode()
    gate = f"{reverse('admin:evals_evalrun_gate', args=[run.pk])}?variant={rookie.pk}"
    assert "Collect 47 more" in operator_client.get(gate).content.decode()
    operator_client.post(gate, {"confirmed": "yes"})
    assert PromotionDecision.objects.get().verdict == "needs_human"
    assert "Collect 47 more" in operator_client.get(reverse("admin:index")).content.decode()


def test_steps_are_marked_on_the_leaderboard(operator_client, history, rookie):
    variant_promote(rookie, reason="try", override=True)
    assert "brisk r2: candidate to canary" in operator_client.get(reverse("admin_leaderboard")).content.decode()
