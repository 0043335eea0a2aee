"""POST /api/feedback."""

from datetime import timedelta

import pytest

from rewards.models import BanditArm, Interaction, Reward
from tests.api.conftest import Api, scripted

QUESTION = {"question": "Who keeps the lighthouse?"}


@pytest.fixture
def asked(api, agents):
    return api.send("/api/query", QUESTION).json()


def rate(api, asked, reward, **fields):
    return api.send("/api/feedback", {"interaction_id": asked["interaction_id"], "reward": reward, **fields})


def test_a_rating_is_created_kept_and_replaced_and_the_arm_follows(api, asked):
    first = rate(api, asked, 1)
    assert first.status_code == 201
    assert first.json()["outcome"] == "created"
    arm = first.json()["arm"]
    assert (arm["agent"], arm["category"], arm["pulls"], arm["mean"]) == (asked["agent"], asked["category"], 1, 1)
    again = rate(api, asked, 1)
    assert (again.status_code, again.json()["outcome"], again.json()["arm"]) == (200, "unchanged", arm)
    other = rate(api, asked, 0.25)
    assert (other.status_code, other.json()["outcome"]) == (200, "replaced")
    assert (other.json()["arm"]["pulls"], other.json()["arm"]["mean"]) == (1, 0.25)
    assert BanditArm.objects.get(pulls__gt=0).total == 0.25


def test_the_rater_defaults_to_the_key_and_may_be_named(api, asked):
    own = rate(api, asked, 1).json()["rater"]
    assert own.startswith("key:ar_")
    assert rate(api, asked, 0, rater="customer 17").status_code == 201
    assert set(Reward.objects.values_list("rater", flat=True)) == {own, "customer 17"}
    assert rate(api, asked, 0, rater=own).json()["outcome"] == "replaced"


def test_nobody_rates_in_the_name_of_another_key_or_account(api, asked):
    response = rate(api, asked, 1, rater="user:olga")
    assert response.status_code == 400
    assert not Reward.objects.exists()


def test_a_correction_and_a_comment_are_kept(api, asked):
    body = rate(api, asked, 0, correction="Marta Olsen keeps it.", comment="too short").json()
    assert (body["correction"], body["comment"]) == ("Marta Olsen keeps it.", "too short")


def test_a_failed_answer_can_not_be_rated(api, agents):
    scripted("down", fail="unavailable")
    error = api.send("/api/query/down", QUESTION).json()["error"]
    response = api.send("/api/feedback", {"interaction_id": error["details"]["interaction_id"], "reward": 1})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "not_ratable")


def test_ratings_of_compared_answers_are_kept_and_count_for_no_arm(api, agents):
    result = api.send("/api/compare", QUESTION | {"agents": ["one", "two"]}).json()["results"][0]
    response = rate(api, result, 1)
    assert (response.status_code, response.json()["arm"]) == (201, None)
    assert not BanditArm.objects.filter(pulls__gt=0).exists()


def test_signed_in_users_rate_under_their_own_name(api, asked, user):
    page = Api(enforce_csrf_checks=False)
    page.force_login(user)
    assert rate(page, asked, 1).json()["rater"] == "user:ada"


def test_the_leaderboard_and_the_stats_show_what_was_rated(api, asked):
    rate(api, asked, 1)
    rows = api.get("/api/rl/leaderboard").json()["rows"]
    best = rows[0]
    assert (best["agent"], best["category"], best["n"], best["mean"], best["enough"]) == (asked["agent"], None, 1, 1, False)
    of_category = api.get("/api/rl/leaderboard", {"category": asked["category"]}).json()["rows"]
    assert {row["category"] for row in of_category} == {asked["category"]}
    stats = api.get("/api/rl/stats").json()
    assert (stats["overall"]["interactions"], stats["overall"]["n"]) == (1, 1)
    assert stats["categories"][asked["category"]]["mean_reward"] == 1


def test_a_period_ends_where_the_caller_says(api, asked):
    rate(api, asked, 1)
    row = Interaction.objects.get()
    hour = row.created_at.replace(minute=0, second=0, microsecond=0)
    later, before = {"until": (hour + timedelta(hours=1)).isoformat()}, {"until": hour.isoformat()}
    for query, n in ((later, 1), (before, 0), ({"since": hour.isoformat(), **later}, 1)):
        stats = api.get("/api/rl/stats", query).json()
        assert (stats["overall"]["interactions"], stats["overall"]["n"], stats["until"]) == (n, n, query["until"])
        assert max(one["n"] for one in api.get("/api/rl/leaderboard", query).json()["rows"]) == n
    wrong = api.get("/api/rl/stats", {"since": hour.isoformat(), **before})
    assert wrong.status_code == 400 and "later than since" in wrong.json()["error"]["message"]
    assert api.get("/api/rl/stats", {"until": "tomorrow"}).status_code == 400


def test_a_reset_goes_back_to_the_priors_and_keeps_the_log(operator_api, api, asked):
    rate(api, asked, 1)
    response = operator_api.send("/api/rl/reset")
    assert response.status_code == 200
    assert response.json()["learn_since"]
    assert not BanditArm.objects.filter(pulls__gt=0).exists()
    assert Reward.objects.count() == 1


@pytest.mark.parametrize("query", [{"category": "poetic"}, {"since": "yesterday"}, {"limit": "3"}])
def test_a_leaderboard_of_nonsense_is_refused(api, agents, query):
    assert api.get("/api/rl/leaderboard", query).status_code == 400
