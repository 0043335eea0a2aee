"""Prepared queries give what the queryset gives, whatever the values."""

import pytest
from django.contrib.auth import get_user_model

from adaptrag.api.models import ApiKey
from adaptrag.api.services import key_create
from adaptrag.common.prepared import Prepared, PreparedInsert
from agents.models import AgentVariant, Collection

pytestmark = pytest.mark.django_db


@pytest.fixture
def keys():
    users = [get_user_model().objects.create_user(name) for name in ("ada", "bob")]
    return [key_create(user=user, name=user.username, scope="query")[0] for user in users]


def test_rows_related_rows_and_converted_values_are_those_of_the_queryset(keys, django_assert_num_queries):
    prepared = Prepared(lambda prefix: ApiKey.objects.filter(token_key=prefix).select_related("user"))
    for key in keys:
        with django_assert_num_queries(1):
            (found,) = prepared(key.token_key)
            assert found.user.username == key.user.username
        assert found == key
        assert (found.created, found.restricted, found.expiry) == (key.created, False, None)
        assert not found._state.adding
    assert prepared("nobody's") == []


def test_it_reads_anew_each_time(keys):
    prepared = Prepared(lambda: ApiKey.objects.order_by("name"))
    assert [key.name for key in prepared()] == ["ada", "bob"]
    keys[0].delete()
    assert [key.name for key in prepared()] == ["bob"]


def test_constants_and_arguments_of_a_filter_keep_their_places():
    for name in ("a", "b", "x' OR 1=1 --"):
        Collection.objects.create(name=name, description=f"about {name}")
    prepared = Prepared(lambda name: Collection.objects.exclude(name="b").filter(name=name).values_list("name", "description"))
    assert prepared("a") == [("a", "about a")]
    assert prepared("b") == []
    assert prepared("x' OR 1=1 --") == [("x' OR 1=1 --", "about x' OR 1=1 --")]


def test_deferred_columns_are_read_when_somebody_asks(keys, django_assert_num_queries):
    prepared = Prepared(lambda: ApiKey.objects.select_related("user").defer("created", "user__email").order_by("name"))
    with django_assert_num_queries(1):
        first, _ = prepared()
        assert first.user.username == "ada"
    with django_assert_num_queries(2):
        assert (first.created, first.user.email) == (keys[0].created, "")


@pytest.mark.parametrize("count", [1, 3])
def test_inserted_rows_are_those_that_save_would_have_written(count):
    fields = {"strategy": "naive_rag", "state": AgentVariant.State.CANARY, "parameters": {"k": [1, "ü"]}, "note": "100 %s"}
    insert = PreparedInsert(AgentVariant)
    rows = [AgentVariant(pk=number, name=f"agent{number}", **fields) for number in range(1, count + 1)]
    insert(*rows)
    AgentVariant(pk=99, name="saved", **fields).save()
    saved, *written = AgentVariant.objects.order_by("-pk").values()
    assert len(written) == count
    for row in written:
        assert row | {"pk": 0, "id": 99, "name": "saved", "created_at": saved["created_at"]} == saved | {"pk": 0}
        assert row["created_at"] is not None
    assert not any(row._state.adding for row in rows)
