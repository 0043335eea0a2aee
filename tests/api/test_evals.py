"""Eval runs over HTTP: started, watched, read, cancelled and resumed by operators alone."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from evals.models import EvalRun
from evals.services import evalrun_execute, evalset_create
from evals.sets import Item
from tests.api.conftest import scripted

pytestmark = pytest.mark.django_db
RUNS = "/api/evals/runs"


@pytest.fixture
def eval_set(agents):
    items = [Item(key=f"q{n}", question=f"Who keeps lighthouse {n}?", answers=("Marta Olsen",)) for n in range(4)]
    return evalset_create(name="harbour", items=items, source="jsonl")


def test_a_run_is_started_watched_and_read(operator_api, eval_set, operator):
    started = operator_api.send(RUNS, {"eval_set": "harbour", "agents": ["one", "two"], "max_questions": 3, "name": "nightly"})
    assert started.status_code == 202
    body = started.json()
    assert (body["state"], body["eval_set"], body["agents"], body["progress"]) == ("queued", "harbour v1", ["one", "two"], 0.0)
    run = EvalRun.objects.get(pk=body["run"])
    assert (run.created_by, run.job_id) == (operator, body["job"])
    waiting = operator_api.get(f"{RUNS}/{run.pk}").json()
    assert [row["n"] for row in waiting["summary"]["agents"]] == [0, 0]
    evalrun_execute(run.pk)
    done = operator_api.get(f"{RUNS}/{run.pk}?baseline={run.pk}").json()
    assert (done["state"], [row["score"] for row in done["summary"]["agents"]]) == ("done", [1.0, 1.0])
    assert [row["difference"] for row in done["regressions"]] == [0.0, 0.0]
    results = operator_api.get(f"{RUNS}/{run.pk}/results?page_size=5").json()
    assert (results["count"], len(results["results"])) == (6, 5)
    first = results["results"][0]
    assert (first["question_id"], first["agent"], first["answer"], first["score"]) == ("q0", "one", "Marta Olsen.", 1.0)
    assert [row["run"] for row in operator_api.get(RUNS).json()["results"]] == [run.pk]
    (known,) = operator_api.get("/api/evals/sets").json()["results"]
    assert (known["name"], known["version"], known["questions"]) == ("harbour", 1, 4)


def test_a_run_is_cancelled_and_resumed(operator_api, eval_set):
    run = operator_api.send(RUNS, {"eval_set": "harbour", "agents": ["one"]}).json()["run"]
    assert operator_api.send(f"{RUNS}/{run}/resume", {}).status_code == 409
    assert operator_api.send(f"{RUNS}/{run}/cancel").json()["state"] == "cancelled"
    resumed = operator_api.send(f"{RUNS}/{run}/resume", {"budget_tokens": 1000})
    assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")
    assert EvalRun.objects.get().budget_tokens == 1000
    evalrun_execute(run)
    EvalRun.objects.get().job.delete()
    assert "nothing is missing" in operator_api.send(f"{RUNS}/{run}/resume", {}).json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"eval_set": "ghost", "agents": ["one"]}, 404, "There is no eval set 'ghost'"),
        ({"eval_set": "harbour", "version": 7, "agents": ["one"]}, 404, "no eval set 'harbour' v7"),
        ({"eval_set": "harbour", "agents": ["ghost"]}, 404, "agent 'ghost' does not exist"),
        ({"eval_set": "harbour", "agents": []}, 400, "agents"),
        ({"eval_set": "harbour", "agents": ["one"], "judge": "oracle"}, 400, "Must be one of none, reference, llm"),
        ({"eval_set": "harbour", "agents": ["one"], "judge": "llm"}, 400, "No judge model"),
        ({"eval_set": "harbour", "agents": ["one"], "collection": "ghost"}, 404, "no collection 'ghost'"),
        ({"eval_set": "harbour", "agents": ["one"], "budget_usd": 0}, 400, "above 0"),
        ({"eval_set": "harbour", "agents": ["one"], "colour": 1}, 400, "colour"),
    ],
)
def test_a_wrong_request_is_named(operator_api, eval_set, body, status, words):
    answer = operator_api.send(RUNS, body)
    assert answer.status_code == status
    assert words in answer.content.decode()
    assert not EvalRun.objects.exists()


def test_a_set_is_uploaded_and_exported_as_it_was(operator_api, db):
    def upload(body, **fields):
        file = SimpleUploadedFile("sea.jsonl", body.encode())
        return operator_api.post("/api/evals/sets", {"file": file, **fields})

    known = {"id": "q1", "question": "Who?", "answers": ["Marta"], "level": 3}
    lines = f"{json.dumps(known)}\n{json.dumps({'id': 'q2', 'question': 'X?', 'unanswerable': True})}\n"
    made = upload(lines)
    assert (made.status_code, made.json()["name"], made.json()["version"], made.json()["questions"]) == (201, "sea", 1, 2)
    assert made.json()["origin"] == "sea.jsonl"
    exported = b"".join(operator_api.get("/api/evals/sets/sea/export").streaming_content).decode()
    assert json.loads(exported.splitlines()[0])["metadata"] == {"level": 3}
    again = upload(exported, name="sea")
    assert (again.status_code, again.json()["sha256"]) == (200, made.json()["sha256"])
    bad = upload('{"question": "Who?"}\nprose\n')
    assert bad.status_code == 400 and "line 2 is not JSON" in bad.json()["error"]["message"]
    assert upload(lines, name="No Slug").status_code == 400
    assert operator_api.get("/api/evals/sets/sea/export?version=7").status_code == 404


def test_results_name_the_judge_as_not_calibrated_and_hold_its_preferences(operator_api, eval_set):
    body = {
        "eval_set": "harbour", "agents": ["one", "two"], "judge": "llm", "judge_model": "scripted:j", "pairwise": True,
        "judge_blind": True, "judge_options": {"answer": '{"explanation": "so", "score": 0.5, "winner": "A"}'},
    }  # fmt: skip
    assert "Unknown option" in operator_api.send(RUNS, body | {"judge_options": {"colour": 1}}).json()["error"]["message"]
    run = operator_api.send(RUNS, body).json()["run"]
    evalrun_execute(run)
    first, second = operator_api.get(f"{RUNS}/{run}/results").json()["results"][:2]
    assert (first["judge_calibrated"], first["pairwise"], first["judgement"]["references"]) == (False, None, False)
    assert second["pairwise"]["explanations"] == ["so", "so"] and first["judge_tokens"] > 0
    plain = operator_api.send(RUNS, {"eval_set": "harbour", "agents": ["one"], "max_questions": 1}).json()["run"]
    evalrun_execute(plain)
    assert operator_api.get(f"{RUNS}/{plain}/results").json()["results"][0]["judge_calibrated"] is None


def test_only_operators_see_and_start_runs(api, eval_set):
    scripted("three")
    for path in (RUNS, "/api/evals/sets", f"{RUNS}/1", f"{RUNS}/1/results"):
        assert api.get(path).status_code == 403
    assert api.send(RUNS, {"eval_set": "harbour", "agents": ["one"]}).status_code == 403
    assert api.send(f"{RUNS}/1/cancel").status_code == 403


def test_an_unknown_run_is_404(operator_api, db):
    for path in (f"{RUNS}/77", f"{RUNS}/77/results"):
        assert operator_api.get(path).json()["error"]["code"] == "unknown_run"
