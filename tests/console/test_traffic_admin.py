"""Traffic limits, pinned categories and what counts as a reward, as an operator sets them."""

from __future__ import annotations

import pytest
from django.urls import reverse

from rewards.models import AgentLimit, CategoryPin, RoutingPolicy
from rewards.selectors import active_policy
from tests.rewards.rows import variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def agents():
    return [variant(name) for name in ("alpha", "beta")]


def test_a_limit_is_set_changed_and_removed_with_its_history(operator_client, agents):
    page = reverse("admin:rewards_agentlimit_add")
    assert b"beta" in operator_client.get(page).content
    operator_client.post(page, {"agent_name": "alpha", "min_share": "", "max_share": "0.4"})
    limit = AgentLimit.objects.get()
    assert (limit.agent_name, limit.max_share, limit.history.first().history_user.username) == ("alpha", 0.4, "olga")
    change = reverse("admin:rewards_agentlimit_change", args=[limit.pk])
    operator_client.post(change, {"min_share": "0.1", "max_share": "0.5", "paused": "on"})
    limit.refresh_from_db()
    assert (limit.min_share, limit.max_share, limit.paused) == (0.1, 0.5, True)
    assert b"paused" in operator_client.get(reverse("admin:rewards_agentlimit_changelist")).content
    assert operator_client.get(reverse("admin:rewards_agentlimit_history", args=[limit.pk])).status_code == 200
    operator_client.post(reverse("admin:rewards_agentlimit_delete", args=[limit.pk]), {"post": "yes"})
    assert not AgentLimit.objects.exists()


def test_what_cannot_be_kept_stands_beside_its_field(operator_client, agents):
    page = operator_client.post(
        reverse("admin:rewards_agentlimit_add"), {"agent_name": "alpha", "min_share": "0.6", "max_share": "0.5"}
    )
    assert "more than the largest share" in page.content.decode()
    both = {"min_share": "", "max_share": "0.3"}
    operator_client.post(reverse("admin:rewards_agentlimit_add"), {"agent_name": "alpha", **both})
    page = operator_client.post(reverse("admin:rewards_agentlimit_add"), {"agent_name": "beta", **both})
    assert "leave 40.00% of the traffic to nobody" in page.content.decode()
    assert AgentLimit.objects.count() == 1


def test_a_category_is_pinned_and_released(operator_client, agents):
    operator_client.post(reverse("admin:rewards_categorypin_add"), {"category": "factual", "agent_name": "beta"})
    pin = CategoryPin.objects.get()
    assert (pin.category, pin.agent_name) == ("factual", "beta")
    operator_client.post(reverse("admin:rewards_categorypin_delete", args=[pin.pk]), {"post": "yes"})
    assert not CategoryPin.objects.exists()


def test_the_policy_page_offers_every_kind_and_sets_what_counts(operator_client, agents):
    policy = active_policy()
    page = reverse("admin:rewards_routingpolicy_change", args=[policy.pk])
    text = operator_client.get(page).content.decode()
    assert all(kind in text for kind in RoutingPolicy.Kind.values)
    form = {
        "name": policy.name, "kind": "discounted_hierarchical_thompson", "parameter_half_life": "50", "parameter_unit": "days",
        "min_share": "0.05", "sticky_sessions": "on", "latency_weight": "0.1", "cost_weight": "5",
    }  # fmt: skip
    response = operator_client.post(page, form)
    assert response.status_code == 302, response.content.decode()
    policy.refresh_from_db()
    assert policy.parameters == {"half_life": 50.0, "unit": "days"}
    assert (policy.sticky_sessions, policy.latency_weight, policy.cost_weight, policy.revision) == (True, 0.1, 5.0, 2)
    page = operator_client.post(page, {**form, "latency_weight": "2"})
    assert "less than or equal to 1" in page.content.decode()
