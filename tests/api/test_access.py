"""Keys, sessions, scopes, collections, throttles."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from adaptrag.api.models import ApiKey
from adaptrag.api.rates import spend
from adaptrag.api.services import key_create, key_revoke
from adaptrag.common.errors import InvalidInput
from agents.services import collection_get_or_create, document_add
from rewards.models import Reward
from tests.api.conftest import TEXT, Api

QUESTION = {"question": "Who keeps the lighthouse?"}


def code(response):
    return response.json()["error"]["code"]


@pytest.mark.parametrize(
    "path", ["/api/agents", "/api/collections", "/api/documents", "/api/rl/stats", "/api/rl/leaderboard", "/metrics"]
)
def test_without_a_key_nothing_is_told(db, path):
    response = Api().get(path)
    assert (response.status_code, code(response)) == (401, "not_authenticated")
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer", "Bearer a b", "Bearer nonsense", "Bearer ar_" + "0" * 64, "Bearer schlüssel"])
def test_a_wrong_key_is_refused(db, header):
    response = Api().get("/api/agents", headers={"authorization": header})
    assert (response.status_code, code(response)) == (401, "authentication_failed")
    assert response["WWW-Authenticate"] == "Bearer"


def test_health_schema_and_docs_need_no_key(db):
    assert Api().get("/api/health", {"live": 1}).json() == {"status": "ok"}
    assert Api().get("/api/schema").status_code == 200
    assert b"swagger" in Api().get("/api/docs").content


def test_a_key_is_stored_as_a_digest_only(user):
    key, text = key_create(user=user, name="k", scope="query")
    stored = ApiKey.objects.values().get(pk=key.pk)
    assert text.startswith("ar_")
    assert text not in str(stored)


def test_an_expired_revoked_or_switched_off_key_stops_at_once(user):
    key, text = key_create(user=user, name="k", scope="query", expires_in=timedelta(days=1))
    api = Api(text)
    assert api.get("/api/agents").status_code == 200
    ApiKey.objects.filter(pk=key.pk).update(expiry=timezone.now() - timedelta(seconds=1))
    assert "expired" in api.get("/api/agents").json()["error"]["message"]
    ApiKey.objects.filter(pk=key.pk).update(expiry=None)
    user.is_active = False
    user.save()
    assert api.get("/api/agents").status_code == 401
    user.is_active = True
    user.save()
    assert api.get("/api/agents").status_code == 200
    key_revoke(key)
    assert api.get("/api/agents").status_code == 401


@pytest.mark.parametrize(
    ("method", "path"), [("post", "/api/rl/reset"), ("post", "/api/documents"), ("delete", "/api/documents/1")]
)
def test_what_changes_the_site_needs_the_operator_scope(api, operator_api, library, method, path):
    assert code(getattr(api, method)(path)) == "permission_denied"
    assert getattr(operator_api, method)(path).status_code not in (401, 403)


def test_an_operator_key_of_an_account_that_is_no_longer_staff_only_asks(operator, operator_api, library):
    operator.is_staff = False
    operator.save()
    assert operator_api.post("/api/rl/reset").status_code == 403
    assert operator_api.get("/api/agents").status_code == 200


@pytest.mark.parametrize("wrong", [{"scope": "root"}, {"name": "n" * 101}, {"expires_in": timedelta(0)}, {"scope": "operator"}])
def test_a_key_that_could_not_work_is_not_made(user, wrong):
    with pytest.raises(InvalidInput):
        key_create(**{"user": user, "name": "k", "scope": "query"} | wrong)
    assert not ApiKey.objects.exists()


@pytest.fixture
def two_collections(agents):
    other = collection_get_or_create("other")
    document_add(collection=other, name="secret.md", data=b"# Safe\n\nThe code of the safe is 4711.\n")
    return other


@pytest.fixture
def limited(user, two_collections):
    return Api(key_create(user=user, name="limited", scope="query", collections=[two_collections])[1])


def test_a_limited_key_sees_its_collections_and_no_others(limited, api):
    assert [row["name"] for row in limited.get("/api/collections").json()["collections"]] == ["other"]
    documents = limited.get("/api/documents").json()["results"]
    assert {row["collection"] for row in documents} == {"other"}
    hidden = next(row for row in api.get("/api/documents").json()["results"] if row["collection"] == "default")
    assert limited.get(f"/api/documents/{hidden['id']}").status_code == 404
    assert limited.get("/api/documents", {"collection": "default"}).json()["count"] == 0


def test_a_limited_key_asks_in_its_collection_and_no_other_one_can_be_told_from_none(limited):
    answer = limited.send("/api/query", {"question": "What is the code of the safe?"}).json()
    assert {source["document"] for source in answer["sources"]} == {"Safe"}
    for stream in ("", "?stream=1"):
        there = limited.send(f"/api/query{stream}", QUESTION | {"collection": "default"})
        nowhere = limited.send(f"/api/query{stream}", QUESTION | {"collection": "nowhere"})
        assert (there.status_code, code(there)) == (nowhere.status_code, code(nowhere)) == (404, "unknown_collection")
        assert there.content.replace(b"default", b"nowhere") == nowhere.content
    assert limited.send("/api/compare", QUESTION | {"agents": ["one"], "collection": "default"}).status_code == 404


def test_a_limited_key_neither_rates_nor_reads_answers_from_elsewhere(limited, api):
    asked = api.send("/api/query", QUESTION).json()["interaction_id"]
    assert limited.send("/api/feedback", {"interaction_id": asked, "reward": 1}).status_code == 404
    assert limited.get(f"/api/interactions/{asked}").status_code == 404
    assert not Reward.objects.exists()


@pytest.mark.parametrize("path", ["/api/rl/stats", "/api/rl/leaderboard"])
def test_a_limited_key_gets_no_figures_over_all_collections(limited, path):
    assert limited.get(path).status_code == 403


def test_a_key_whose_only_collection_is_deleted_sees_nothing(limited, two_collections):
    two_collections.delete()
    assert limited.get("/api/collections").json()["collections"] == []
    assert limited.send("/api/query", QUESTION).status_code == 404


def test_a_limited_operator_key_uploads_to_its_collections_only(operator, two_collections):
    from django.core.files.uploadedfile import SimpleUploadedFile

    api = Api(key_create(user=operator, name="", scope="operator", collections=[two_collections])[1])

    def upload(**fields):
        return api.post("/api/documents", {"file": SimpleUploadedFile("new.md", TEXT), **fields})

    assert upload(collection="default").status_code == 404
    assert upload(collection="brand-new").status_code == 404
    assert upload().json()["document"]["collection"] == "other"
    assert api.post("/api/rl/reset").status_code == 403


def test_a_signed_in_user_needs_the_csrf_token_and_asks(agents, user):
    page = Api(enforce_csrf_checks=True)
    page.force_login(user)
    refused = page.send("/api/query", QUESTION)
    assert (refused.status_code, code(refused)) == (403, "permission_denied")
    assert "CSRF" in refused.json()["error"]["message"]
    page.cookies["csrftoken"] = token = "a" * 32
    assert page.send("/api/query", QUESTION, headers={"x-csrftoken": token}).status_code == 200
    assert page.send("/api/rl/reset", headers={"x-csrftoken": token}).status_code == 403


def test_signed_in_staff_are_operators(library, operator):
    page = Api()
    page.force_login(operator)
    assert page.send("/api/rl/reset").status_code == 200


def throttled(settings, **rates):
    settings.ADAPTRAG_THROTTLES = settings.ADAPTRAG_THROTTLES | rates


def test_a_key_over_its_rate_waits_and_others_do_not(api, operator_api, settings):
    throttled(settings, key="3/min")
    statuses = [api.get("/api/agents").status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    response = api.get("/api/agents")
    assert code(response) == "throttled"
    assert 1 <= int(response["Retry-After"]) <= 60
    assert operator_api.get("/api/agents").status_code == 200


def test_a_users_keys_share_the_users_rate(user, settings):
    throttled(settings, user="3/min")
    one, two = (Api(key_create(user=user, name=name, scope="query")[1]) for name in "ab")
    assert [client.get("/api/agents").status_code for client in (one, two, one, two)] == [200, 200, 200, 429]


def test_calls_without_a_key_and_wrong_keys_are_counted_by_address(db, settings):
    throttled(settings, anonymous="2/min", failed_login="1/min")
    assert [Api().get("/api/health", {"live": 1}).status_code for _ in range(3)] == [200, 200, 429]
    assert [Api("wrong").get("/api/agents").status_code for _ in range(2)] == [401, 429]


def test_guessing_passwords_ends_soon_even_with_the_right_one(user, settings):
    throttled(settings, failed_login="2/min")
    assert [Api().login(username="ada", password=guess) for guess in ("a", "b", "pw")] == [False, False, True]

    def sign_in(password):
        return Api().post("/login/", {"username": "ada", "password": password}).status_code

    assert [sign_in(guess) for guess in ("a", "b", "pw")] == [200, 200, 200]
    throttled(settings, failed_login="20/min")
    assert sign_in("pw") == 302


def test_the_window_slides(settings):
    throttled(settings, key="10/min")
    start = 1_000_000 * 60
    assert [spend("key", "k", start + 30) for _ in range(10)] == [None] * 10
    assert spend("key", "k", start + 31) is not None
    # Half a window on, half of the last one still counts.
    assert [spend("key", "k", start + 90) is None for _ in range(7)] == [True] * 5 + [False] * 2


def test_keys_are_made_listed_and_revoked_from_the_command_line(operator, library):
    import json

    def run(*words):
        out = StringIO()
        call_command("api_key", *words, "--json", stdout=out, stderr=StringIO())
        return json.loads(out.getvalue())

    made = run("create", "olga", "--name", "ci", "--scope", "operator", "--collection", "default", "--days", "2")
    assert Api(made["key"]).get("/api/agents").status_code == 200
    listed = run("list")["keys"]
    assert [(key["name"], key["collections"], key["user"]) for key in listed] == [("ci", ["default"], "olga")]
    assert made["key"] not in str(listed)
    assert run("revoke", made["prefix"])["name"] == "ci"
    assert not ApiKey.objects.exists()
    with pytest.raises(SystemExit):
        run("create", "nobody")
