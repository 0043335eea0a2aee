"""API keys in the admin: shown once, digests nowhere, revoked at once."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from knox.crypto import hash_token

from adaptrag.api.models import ApiKey
from adaptrag.api.services import key_create

pytestmark = pytest.mark.django_db
ADD = "/admin/api/apikey/add/"


def create(client, user, **changes):
    once = re.search(r'name="once" value="([^"]+)"', client.get(ADD).content.decode())[1]
    return client.post(ADD, {"name": "bot", "user": user.pk, "scope": "query", "lifetime": "90", "once": once} | changes)


def test_a_key_is_shown_once_and_works(operator_client, superuser, agents, library):
    response = create(operator_client, superuser)
    text = re.search(r'id="key-text"[^>]* value="([^"]+)"', response.content.decode())[1]
    key = ApiKey.objects.get()
    assert key.digest == hash_token(text)
    assert (key.name, key.scope, key.restricted) == ("bot", "query", False)
    assert key.expiry is not None
    assert "no-store" in response["Cache-Control"]
    answer = Client().post(
        reverse("api:query"), {"question": "Who is the keeper?"}, "application/json", HTTP_AUTHORIZATION=f"Bearer {text}"
    )
    assert answer.status_code == 200
    for address in (reverse("admin:api_apikey_changelist"), reverse("admin:api_apikey_change", args=[key.token_key])):
        assert text not in operator_client.get(address).content.decode()
    assert text not in str(LogEntry.objects.values_list())


def test_sending_the_form_again_makes_no_second_key(operator_client, superuser):
    once = re.search(r'name="once" value="([^"]+)"', operator_client.get(ADD).content.decode())[1]
    fields = {"name": "bot", "user": superuser.pk, "scope": "query", "lifetime": "", "once": once}
    assert operator_client.post(ADD, fields).status_code == 200
    assert operator_client.post(ADD, fields).status_code == 302
    assert ApiKey.objects.count() == 1


def test_a_key_may_be_limited_to_collections(operator_client, superuser, library):
    create(operator_client, superuser, collections=[library.pk], lifetime="")
    key = ApiKey.objects.get()
    assert key.restricted
    assert list(key.collections.all()) == [library]
    assert key.expiry is None


def test_an_operators_key_is_for_staff(operator_client, reader):
    response = create(operator_client, reader, scope="operator")
    assert "rita is no staff" in response.content.decode()
    assert not ApiKey.objects.exists()


def test_no_page_and_no_address_holds_a_digest(operator_client, superuser):
    key, _ = key_create(user=superuser, name="bot", scope="query")
    page = reverse("admin:api_apikey_change", args=[key.token_key])
    for address in (reverse("admin:api_apikey_changelist"), page, reverse("admin:api_apikey_revoke", args=[key.token_key])):
        assert key.digest not in operator_client.get(address).content.decode()
    assert operator_client.get(reverse("admin:api_apikey_change", args=[key.digest])).status_code == 404
    assert operator_client.get(reverse("admin:api_apikey_history", args=[key.token_key])).status_code == 302
    assert operator_client.get(reverse("admin:api_apikey_delete", args=[key.token_key])).status_code == 403


def test_revoking_asks_first_and_is_logged_without_the_digest(operator_client, superuser):
    key, _ = key_create(user=superuser, name="bot", scope="query")
    address = reverse("admin:api_apikey_revoke", args=[key.token_key])
    assert "is refused from its next request on" in operator_client.get(address).content.decode()
    assert ApiKey.objects.exists()
    operator_client.post(address, {"confirmed": "yes"})
    assert not ApiKey.objects.exists()
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message) == (key.token_key, "Revoked.")
    assert key.digest not in str(vars(entry))
