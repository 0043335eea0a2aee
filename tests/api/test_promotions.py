"""Agents promoted and rolled back over HTTP, by operators alone."""

import pytest

from agents.models import AgentVariant
from agents.services import agent_revise
from evals.services import RunRequest, evalrun_create, evalrun_execute, evalset_create
from evals.sets import Item
from tests.api.conftest import scripted

pytestmark = pytest.mark.django_db


@pytest.fixture
def candidate(agents):
    return agent_revise(AgentVariant.objects.get(name="one"), state="candidate", chat_options={"answer": "Marta Olsen."})


def run_of(candidate, answers=("Marta Olsen",), questions=60, baseline="one@1"):
    items = [Item(key=f"q{n}", question=f"Who keeps lighthouse {n}?", answers=answers) for n in range(questions)]
    eval_set = evalset_create(name="harbour", items=items, source="jsonl")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=(baseline, f"{candidate.name}@{candidate.revision}")))
    evalrun_execute(run.pk)
    return run


def test_a_run_decides_and_the_agent_shows_it(operator_api, library):
    scripted("worse", answer="I do not know."), scripted("one")
    better = agent_revise(AgentVariant.objects.get(name="worse"), state="candidate", chat_options={"answer": "Marta Olsen."})
    run = run_of(better, baseline="worse@1")
    done = operator_api.send("/api/agents/worse/promote", {"run": run.pk})
    assert done.status_code == 200, done.content
    body = done.json()
    assert (body["verdict"], body["to_state"], body["rollback_to"], body["decided_by"], body["user"]) == (
        "promoted", "canary", "worse r1", "gate", "olga",
    )  # fmt: skip
    assert body["figures"]["n"] == 60 and body["figures"]["source"] == f"eval run {run.pk}"
    shown = operator_api.get("/api/agents/worse").json()
    assert [(one["revision"], one["state"]) for one in shown["revisions"]] == [(2, "canary"), (1, "active")]
    assert (shown["canary"]["revision"], shown["canary"]["incumbent"], shown["canary"]["max_share"]) == (2, "worse r1", 0.1)
    assert [one["decision"] for one in shown["decisions"]] == [body["decision"]]
    back = operator_api.send("/api/agents/worse/rollback", {"reason": "users complain"}).json()
    assert (back["verdict"], back["from_state"], back["rollback_to"]) == ("rolled_back", "canary", "worse r1")
    assert len(operator_api.get("/api/agents/worse").json()["decisions"]) == 2


def test_an_equal_candidate_that_saves_nothing_is_rejected_and_can_be_overridden(operator_api, candidate):
    assert operator_api.send("/api/agents/one/promote", {}).status_code == 409
    run = run_of(candidate, questions=5)
    assert operator_api.send("/api/agents/one/promote", {"run": run.pk}).json()["verdict"] == "needs_human"
    assert operator_api.send("/api/agents/one/promote", {"override": True}).status_code == 400
    body = operator_api.send("/api/agents/one/promote", {"override": True, "reason": "demo"}).json()
    assert (body["override"], body["reason"], body["to_state"]) == (True, "demo", "canary")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("ghost/promote", {}, 404),
        ("ghost/rollback", {"reason": "x"}, 404),
        ("one/promote", {"revision": 9}, 404),
        ("one/promote", {"run": 99}, 404),
        ("two/promote", {}, 409),
        ("two/rollback", {"reason": "x"}, 409),
        ("two/rollback", {}, 400),
        ("one/promote", {"run": 1, "override": True}, 400),
        ("one/promote", {"incumbent": "two"}, 400),
        ("one/promote", {"override": "yes please"}, 400),
    ],
)
def test_what_can_not_be_done_says_why(operator_api, candidate, path, body, status):
    answer = operator_api.send(f"/api/agents/{path}", body)
    assert answer.status_code == status and answer.json()["error"]["message"]


def test_keys_that_only_ask_see_and_move_nothing(api, candidate):
    assert api.get("/api/agents/one").status_code == 403
    for path in ("promote", "rollback"):
        assert api.send(f"/api/agents/one/{path}", {"reason": "x", "override": True}).status_code in (400, 403)
    assert AgentVariant.objects.get(pk=candidate.pk).state == "candidate"
