"""Every page of the admin: it answers, with a bounded number of queries, and only for those who may see it."""

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from adaptrag.api.models import ApiKey
from adaptrag.api.services import key_create
from adaptrag.common.models import Job
from agents.models import AgentVariant, Collection, Document, IndexBuild
from rewards.models import BanditArm, Interaction, PriorReward, Reward, RoutingPolicy
from rewards.services import prior_set

pytestmark = pytest.mark.django_db
OWN = (AgentVariant, Collection, Document, IndexBuild, Interaction, Reward, BanditArm, PriorReward, RoutingPolicy, ApiKey, Job)
MOST_QUERIES = 25


@pytest.fixture
def site(history, superuser):
    """A row of every model."""
    prior_set(category="factual", agent_name="calm", pulls=4, total=3)
    key_create(user=superuser, name="bot", scope="query")
    Job.objects.create(kind="index", title="Index default", state="failed", error="The disk is full.")
    RoutingPolicy.objects.create(name="careful", kind="ucb1")


def pages(model):
    """Change list, add page where rows are added by hand, and the page of each row."""
    meta = model._meta
    prefix = f"admin:{meta.app_label}_{meta.model_name}"
    yield reverse(f"{prefix}_changelist")
    row = model._default_manager.first()
    if row is not None:
        yield reverse(f"{prefix}_change", args=[row.token_key if model is ApiKey else row.pk])
    yield reverse(f"{prefix}_add")


def test_every_registered_model_has_pages_that_answer(operator_client, site, django_assert_max_num_queries):
    for model in admin.site._registry:
        assert model not in OWN or model._default_manager.exists(), model
        for address in pages(model):
            with django_assert_max_num_queries(MOST_QUERIES):
                response = operator_client.get(address)
            addable = admin.site.get_model_admin(model).has_add_permission(response.wsgi_request)
            assert response.status_code == (200 if addable or not address.endswith("/add/") else 403), address


@pytest.mark.parametrize("name", ["admin:index", "admin_leaderboard", "admin_learning_reset", "admin_live_jobs"])
def test_pages_of_no_single_model_answer(operator_client, site, django_assert_max_num_queries, name):
    with django_assert_max_num_queries(40):
        assert operator_client.get(reverse(name)).status_code == 200


@pytest.mark.parametrize("model", OWN)
def test_lists_take_no_more_queries_for_more_rows(operator_client, site, model, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    address = next(pages(model))
    operator_client.get(address)
    with CaptureQueriesContext(
        connection,
    ) as few:
        operator_client.get(address)
    for number in range(5):
        multiply(model, number)
    with CaptureQueriesContext(connection) as many:
        assert operator_client.get(address).status_code == 200
    assert len(many) <= len(few) + 1


def multiply(model, number):
    row = model._default_manager.first()
    if model is ApiKey:
        key_create(user=row.user, name=f"bot {number}", scope="query")
        return
    row.pk, row._state.adding = None, True
    if model is Interaction:
        row.pk = Interaction._meta.pk.get_default()
    changes = {
        AgentVariant: {"name": f"agent{number}"},
        Collection: {"name": f"collection{number}"},
        Document: {"source": f"source{number}"},
        Reward: {"rater": f"rater{number}"},
        BanditArm: {"category": f"category{number}"},
        PriorReward: {"category": f"category{number}"},
        RoutingPolicy: {"name": f"policy{number}", "active": False},
    }
    for name, value in changes.get(model, {}).items():
        setattr(row, name, value)
    row.save(force_insert=True)


def test_the_admin_is_for_staff(client, reader, site):
    client.force_login(reader)
    for model in OWN:
        for address in pages(model):
            assert client.get(address).status_code == 302
    for name in ("admin:index", "admin_leaderboard", "admin_learning_reset", "admin_live_jobs"):
        assert client.get(reverse(name)).status_code == 302


def test_staff_without_permissions_sees_the_home_and_nothing_else(client, clerk, site):
    client.force_login(clerk)
    home = client.get(reverse("admin:index"))
    assert home.status_code == 200
    assert "lighthouse" not in home.content.decode()
    for model in OWN:
        for address in pages(model):
            assert client.get(address).status_code == 403, address
    assert client.get(reverse("admin_leaderboard")).status_code == 403


def test_looking_takes_the_permission_to_view_only(client, clerk, site):
    clerk.user_permissions.add(*Permission.objects.filter(codename__startswith="view_"))
    client.force_login(clerk)
    for model in OWN:
        changelist, change, add = pages(model)
        assert client.get(changelist).status_code == 200
        assert client.get(change).status_code == 200
        assert client.get(add).status_code == 403
    board = client.get(reverse("admin_leaderboard")).content.decode()
    assert "Resetting takes the permission to change routing policies." in board
    assert reverse("admin_learning_reset") not in board
    variant, policy, key = AgentVariant.objects.first(), RoutingPolicy.objects.get(name="careful"), ApiKey.objects.first()
    for address in (
        reverse("admin:agents_agentvariant_retire", args=[variant.pk]),
        reverse("admin:agents_agentvariant_disable", args=[variant.pk]),
        reverse("admin:rewards_routingpolicy_activate", args=[policy.pk]),
        reverse("admin:api_apikey_revoke", args=[key.token_key]),
        reverse("admin:agents_collection_rebuild", args=[Collection.objects.first().pk]),
    ):
        assert client.post(address, {"confirmed": "yes"}).status_code == 403, address
    client.post(reverse("admin_learning_reset"), {"confirmed": "yes"})
    assert RoutingPolicy.objects.get(active=True).learn_since is None
    assert ApiKey.objects.exists()


ACTIONS = {
    "admin:agents_agentvariant_retire": lambda: AgentVariant.objects.first().pk,
    "admin:agents_agentvariant_disable": lambda: AgentVariant.objects.first().pk,
    "admin:rewards_routingpolicy_activate": lambda: RoutingPolicy.objects.get(name="careful").pk,
    "admin:api_apikey_revoke": lambda: ApiKey.objects.first().token_key,
    "admin_learning_reset": None,
}


def state():
    return (
        list(AgentVariant.objects.order_by("pk").values_list("pk", "state", "enabled")),
        list(RoutingPolicy.objects.order_by("pk").values_list("name", "active", "learn_since")),
        ApiKey.objects.count(),
    )


@pytest.mark.parametrize("name", ACTIONS)
def test_a_link_asks_first_and_a_forged_form_is_refused(superuser, site, name):
    address = reverse(name, args=[ACTIONS[name]()] if ACTIONS[name] else [])
    client = Client(enforce_csrf_checks=True)
    client.force_login(superuser)
    before = state()
    page = client.get(address)
    assert page.status_code == 200
    assert 'name="confirmed" value="yes"' in page.content.decode()
    assert client.post(address, {"confirmed": "yes"}).status_code == 403
    assert state() == before


@pytest.mark.parametrize("name", ACTIONS)
def test_a_confirmed_action_happens_and_is_logged(operator_client, site, name):
    address = reverse(name, args=[ACTIONS[name]()] if ACTIONS[name] else [])
    before = state()
    assert operator_client.post(address, {"confirmed": "yes", "reason": "a rehearsal"}).status_code == 302
    assert state() != before
    from django.contrib.admin.models import LogEntry

    assert LogEntry.objects.count() == 1


def test_texts_from_outside_are_escaped_on_every_page(operator_client, site):
    hostile = "<script>alert('x')</script>"
    Interaction.objects.update(
        question=hostile, answer=hostile, model=hostile, fallback={"from": hostile, "to": hostile, "reason": hostile},
        trace=[{"step": hostile, "at_ms": 0, "ms": 1, "text": hostile, "query": hostile}],
        messages=[{"role": "user", "content": hostile}], error={"code": "x", "message": hostile},
    )  # fmt: skip
    for interaction in Interaction.objects.all():
        sources = [
            one | {"text": hostile, "document": hostile, "heading": hostile, "retriever": hostile}
            for one in interaction.sources
        ]
        Interaction.objects.filter(pk=interaction.pk).update(sources=sources)
    Interaction.objects.filter(pk=Interaction.objects.first().pk).update(state="failed")
    Reward.objects.update(comment=hostile, correction=hostile, rater=hostile)
    Document.objects.update(title=hostile, source=hostile, error=hostile)
    Document.objects.get().chunks.update(text=hostile, heading=hostile)
    Collection.objects.update(description=hostile)
    Job.objects.update(title=hostile, error=hostile, message=hostile, log=hostile)
    AgentVariant.objects.update(note=hostile, chat_model=hostile)
    ApiKey.objects.update(name=hostile)
    addresses = [address for model in OWN for address in list(pages(model))[:2]]
    addresses += [reverse("admin:rewards_interaction_change", args=[one.pk]) for one in Interaction.objects.all()]
    for address in [*addresses, reverse("admin:index"), reverse("admin_leaderboard")]:
        assert "<script>alert('x')" not in operator_client.get(address).content.decode(), address
