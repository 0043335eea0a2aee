"""Runs on the real database with scripted agents: every item once, honest figures, resumable."""

import dataclasses
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from django.conf import settings

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import JobCancelled
from agents.retrieval.files import locked
from agents.services import agent_register, collection_get_or_create, document_add
from evals.metrics import token_f1
from evals.models import EvalResult, EvalRun
from evals.services import (
    RunRequest,
    evalrun_create,
    evalrun_execute,
    evalrun_priors,
    evalrun_regressions,
    evalrun_resume,
    evalrun_summary,
    evalset_create,
    evalset_export,
    evalset_from_interactions,
)
from evals.sets import Item
from rewards.models import BanditArm, Interaction, PriorReward
from tests.agents.faulty_server import answer, failing, serving

TEXT = b"# Harbour\n\nThe lighthouse keeper is Marta Olsen.\n\n# Ferries\n\nFerries leave at six in the morning.\n"
ITEMS = [
    Item(key="q1", question="Who is the lighthouse keeper?", answers=("Marta Olsen",), gold={"harbour.md": 1.0}),
    Item(key="q2", question="When do ferries leave in the morning?", answers=("at six",), gold={"harbour.md": 1.0}),
    Item(key="q3", question="Which keeper has the lighthouse?", answers=("Marta Olsen",), gold={"other.md": 1.0}),
]


def agent(name, answer="Marta Olsen", **options):
    return agent_register(
        name=name, strategy="naive_rag", chat_backend="scripted", parameters={"retriever": "bm25"},
        chat_options={"answer": answer, **options},
    )  # fmt: skip


@pytest.fixture
def library(db):
    document_add(collection=collection_get_or_create("default"), name="harbour.md", data=TEXT)


@pytest.fixture
def eval_set(library):
    return evalset_create(name="harbour", items=ITEMS, source="jsonl")


def test_a_run_scores_every_agent_on_every_question(eval_set):
    agent("one"), agent("two", "at six o'clock")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one", "two")))
    seen = []
    assert evalrun_execute(run.pk, lambda fraction, message: seen.append(fraction))["state"] == "done"
    assert run.results.count() == 6
    assert seen[-1] == 1.0 and seen == sorted(seen)
    summary = evalrun_summary(EvalRun.objects.get(pk=run.pk))
    expected = {
        name: [token_f1(answer, item.answers) for item in ITEMS]
        for name, answer in {"one": "Marta Olsen", "two": "at six o'clock"}.items()
    }
    for row in summary["agents"]:
        assert row["score"] == pytest.approx(sum(expected[row["agent"]]) / 3, abs=1e-6)
        assert (row["n"], row["unscored"]) == (3, 0)
    assert {row["agent"]: row["wins"] for row in summary["agents"]} == {"one": 2, "two": 1}
    (comparison,) = summary["comparisons"]
    assert (comparison["agent"], comparison["baseline"], comparison["n"]) == ("two", "one", 3)
    assert summary["agents"][0]["metrics"]["recall@5"] == {"mean": pytest.approx(2 / 3, abs=1e-6), "n": 3}
    # An offline run is no traffic.
    assert not Interaction.objects.exists() and not BanditArm.objects.exists()


def test_the_results_file_holds_answers_scores_and_winners(eval_set):
    agent("one"), agent("two", "at six o'clock")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one", "two")))
    path = evalrun_execute(run.pk)["results_file"]
    for written in (path, settings.DATA_DIR / "data" / "eval" / "results.json"):
        results = json.loads(Path(written).read_text())
        assert [question["winner"] for question in results["questions"]] == ["one", "two", "one"]
        assert results["questions"][0]["agents"]["one"]["answer"] == "Marta Olsen"
        assert results["run"] == run.pk


def test_a_failing_agent_is_unscored_not_zero(eval_set):
    agent("one"), agent("down", fail="unavailable")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one", "down")))
    evalrun_execute(run.pk)
    rows = {row["agent"]: row for row in evalrun_summary(run)["agents"]}
    assert (rows["down"]["n"], rows["down"]["unscored"], rows["down"]["failed"], rows["down"]["score"]) == (0, 3, 3, None)
    assert evalrun_summary(run)["comparisons"][0]["sentence"].startswith("Not enough data to compare down with one")
    assert EvalResult.objects.filter(variant__name="down").first().error["code"] == "chat_model_unavailable"


def test_a_run_makes_what_a_candidate_searches_before_it_asks(eval_set):
    agent_register(name="new", strategy="sentence_window_rag", chat_backend="scripted", state="candidate")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("new@1",)))
    evalrun_execute(run.pk)
    assert run.results.filter(error__isnull=True).count() == 3


def test_a_cancelled_run_resumes_with_what_is_missing(eval_set):
    agent("one"), agent("two")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one", "two")))

    def cancel_after_two(fraction, message):
        if run.results.count() >= 2:
            raise JobCancelled("Cancel was asked.")

    with pytest.raises(JobCancelled):
        evalrun_execute(run.pk, cancel_after_two)
    run.refresh_from_db()
    assert run.state == "cancelled"
    before = set(run.results.values_list("pk", flat=True))
    assert len(before) == 2
    evalrun_execute(run.pk)
    assert run.results.count() == 6
    assert before <= set(run.results.values_list("pk", flat=True))


def test_a_budget_stops_the_run_cleanly(eval_set):
    agent("one")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one",), budget_tokens=1))
    assert evalrun_execute(run.pk)["state"] == "stopped"
    assert run.results.count() == 1
    assert evalrun_summary(run)["agents"][0]["n"] == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"agents": ()}, "at least one agent"),
        ({"agents": ("one", "one")}, "each once"),
        ({"baseline": "two"}, "baseline 'two'"),
        ({"top_k": 0}, "top_k must be"),
        ({"concurrency": True}, "concurrency must be"),
        ({"judge": "oracle"}, "Unknown judge 'oracle'"),
        ({"judge": "llm"}, "No judge model"),
    ],
)
def test_a_wrong_request_is_named(eval_set, values, words):
    agent("one")
    with pytest.raises(InvalidInput, match=words):
        evalrun_create(RunRequest(**{"eval_set": eval_set, "agents": ("one",)} | values))
    assert not EvalRun.objects.exists()


def test_judging_by_reference_needs_references(library):
    agent("one")
    eval_set = evalset_create(name="bare", items=[Item(key="q", question="Who?")], source="jsonl")
    with pytest.raises(InvalidInput, match="no gold answers"):
        evalrun_create(RunRequest(eval_set=eval_set, agents=("one",)))
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one",), judge="none"))
    evalrun_execute(run.pk)
    assert evalrun_summary(run)["agents"][0]["unscored"] == 1


def test_an_llm_judge_scores_once_and_its_verdict_is_kept(eval_set):
    agent("one")
    options = {"answer": '{"explanation": "right", "score": 0.75}'}
    values = {"agents": ("one",), "judge": "llm", "judge_backend": "scripted", "judge_model": "judge", "judge_options": options}
    runs = [evalrun_create(RunRequest(eval_set=eval_set, **values)) for _ in range(2)]
    for run in runs:
        evalrun_execute(run.pk)
    first, second = (list(run.results.order_by("question_id")) for run in runs)
    assert [result.score for result in first] == [result.score for result in second] == [0.75] * 3
    assert first[0].judgement["explanation"] == "right"
    assert all(result.judge_tokens > 0 for result in first) and not any(result.judge_tokens for result in second)
    assert [r.prompt_tokens for r in first] == [r.prompt_tokens for r in second]  # what the agent cost is comparable


def test_a_judge_that_talks_leaves_items_unscored_with_the_reason(eval_set):
    agent("one")
    run = evalrun_create(
        RunRequest(
            eval_set=eval_set, agents=("one",), judge="llm", judge_backend="scripted", judge_model="j",
            judge_options={"answer": "I like it."},
        )
    )  # fmt: skip
    evalrun_execute(run.pk)
    row = evalrun_summary(run)["agents"][0]
    assert (row["n"], row["unscored"], row["failed"]) == (0, 3, 0)
    assert run.results.first().error["code"] == "judge_failed"


def test_scores_become_priors(eval_set):
    agent("one"), agent("two", "at six")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one", "two")))
    evalrun_execute(run.pk)
    evalrun_priors(run, pulls=10)
    prior = PriorReward.objects.get(agent_name="one", category="factual")
    assert (prior.pulls, prior.total) == (10, pytest.approx(10 * 2 / 3, abs=1e-4))
    with pytest.raises(InvalidInput, match="not -1"):
        evalrun_priors(run, pulls=-1)


def test_a_regression_is_measured_against_the_same_agent(eval_set):
    from agents.services import agent_revise

    variant = agent("one")
    before = evalrun_create(RunRequest(eval_set=eval_set, agents=("one",)))
    evalrun_execute(before.pk)
    agent_revise(variant, chat_options={"answer": "nobody"})
    after = evalrun_create(RunRequest(eval_set=eval_set, agents=("one",)))
    evalrun_execute(after.pk)
    (row,) = evalrun_regressions(after, before)
    assert row["difference"] == pytest.approx(-2 / 3, abs=1e-6)


def test_only_scores_of_one_judge_and_of_equal_questions_compare(eval_set):
    agent("one")
    first = evalrun_create(RunRequest(eval_set=eval_set, agents=("one",)))
    evalrun_execute(first.pk)
    judged = evalrun_create(
        RunRequest(
            eval_set=eval_set, agents=("one",), judge="llm", judge_backend="scripted", judge_model="j",
            judge_options={"answer": '{"explanation": "right", "score": 1}'},
        )
    )  # fmt: skip
    evalrun_execute(judged.pk)
    with pytest.raises(InvalidInput, match="judged differently"):
        evalrun_regressions(judged, first)
    changed = [dataclasses.replace(ITEMS[0], answers=("Ola",)), *ITEMS[1:]]
    again = evalrun_create(RunRequest(eval_set=evalset_create(name="harbour", items=changed, source="jsonl"), agents=("one",)))
    evalrun_execute(again.pk)
    assert evalrun_regressions(again, first)[0]["n"] == 2  # the question with another gold answer is another one


def test_a_done_run_is_not_resumed(eval_set):
    agent("one")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one",)))
    evalrun_execute(run.pk)
    run.refresh_from_db()
    with pytest.raises(Conflict, match="is done"):
        evalrun_resume(run)


def test_sets_have_versions_and_export_what_they_hold(eval_set):
    assert evalset_create(name="harbour", items=ITEMS, source="jsonl") == eval_set
    changed = evalset_create(name="harbour", items=ITEMS[:2], source="jsonl")
    assert (eval_set.version, changed.version) == (1, 2)
    assert list(evalset_export(eval_set)) == [item.as_line() for item in ITEMS]


def test_logged_questions_join_a_set_with_their_corrections(library):
    from adaptrag.orchestrator import QueryRequest, query
    from rewards.services import feedback_record

    agent("one")
    result = query(QueryRequest(question="Who is the keeper?"))
    feedback_record(interaction_id=result.interaction_id, reward=0.2, rater="ola", correction="Marta Olsen, since 2011")
    made = evalset_from_interactions("hard", Interaction.objects.all())
    again = evalset_from_interactions("hard", Interaction.objects.all())
    assert again == made
    assert made.questions.get().answers == ["Marta Olsen, since 2011"]


SITE = """
from agents.retrieval.files import locked
from agents.services import agent_register, collection_get_or_create, document_add
from evals.services import RunRequest, evalrun_start, evalset_create
from evals.sets import Item
from tests.evals.test_runs import TEXT
document_add(collection=collection_get_or_create("default"), name="harbour.md", data=TEXT)
for name in ("one", "two"):
    agent_register(name=name, strategy="naive_rag", chat_backend="scripted", parameters={"retriever": "bm25"},
                   chat_options={"answer": "Marta", "delay": 0.15})
items = [Item(key=f"q{n}", question=f"Who keeps lighthouse {n}?", answers=("Marta",)) for n in range(15)]
eval_set = evalset_create(name="harbour", items=items, source="jsonl")
print(evalrun_start(RunRequest(eval_set=eval_set, agents=("one", "two"), concurrency=2)).job_id)
"""
WORKER = "from adaptrag.common.jobs import job_run; print(job_run({}))"
RESUME = """
from evals.models import EvalRun
from evals.services import evalrun_resume
run = EvalRun.objects.get()
print(run.status, "|", run.job.error)
evalrun_resume(run)
"""


@pytest.mark.django_db(transaction=True)
def test_questions_are_asked_at_once_up_to_the_bound_and_an_agent_may_fail_on_some():
    under_way, most, lock = 0, 0, threading.Lock()

    def behave(handler, body):
        nonlocal under_way, most
        with lock:
            under_way, most = under_way + 1, max(most, under_way + 1)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        wrong = "lighthouse 3" in body["messages"][-1]["content"]
        (failing(500) if wrong else answer("Marta Olsen"))(handler, body)

    document_add(collection=collection_get_or_create("default"), name="harbour.md", data=TEXT)
    items = [Item(key=f"q{n}", question=f"Who keeps lighthouse {n}?", answers=("Marta Olsen",)) for n in range(12)]
    with serving() as server:
        server.behaviours = [behave]
        agent_register(
            name="remote", strategy="naive_rag", chat_backend="openai_compatible", chat_model="m",
            chat_options={"base_url": server.url, "max_retries": 0}, parameters={"retriever": "bm25"},
        )  # fmt: skip
        request = RunRequest(
            eval_set=evalset_create(name="sea", items=items, source="jsonl"), agents=("remote",), concurrency=3
        )
        run = evalrun_create(request)
        evalrun_execute(run.pk)
    run.refresh_from_db()
    (row,) = run.summary["agents"]
    assert (row["n"], row["unscored"], row["failed"], row["score"]) == (11, 1, 1, 1.0)
    assert most == 3


@pytest.mark.django_db
def test_two_processes_do_not_execute_one_run(eval_set):
    agent("one")
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=("one",)))
    with locked(run.lock_path), pytest.raises(Conflict, match="under way in another process"):
        evalrun_execute(run.pk)
    assert not run.results.exists()


@pytest.mark.slow
def test_a_run_whose_child_is_killed_scores_every_item_once_after_resuming(tmp_path):
    """Real processes on a database of their own: a worker starts the child, SIGKILL ends it, resuming does the rest."""
    environment = os.environ | {"ADAPTRAG_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "adaptrag.settings"}

    def manage(*arguments):
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def rows(query):
        with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
            return database.execute(query).fetchall()

    def saved():
        return rows("SELECT id, question_id, variant_id FROM evals_evalresult")

    manage("migrate", "-v0")
    job = manage("shell", "-v0", "-c", SITE)[-1]
    worker = subprocess.Popen(
        [sys.executable, "manage.py", "shell", "-v0", "-c", WORKER.format(job)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    target, deadline = random.randint(1, 12), time.monotonic() + 90
    while len(saved()) < target and time.monotonic() < deadline:
        time.sleep(0.02)
    (child,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert worker.communicate(timeout=60)[0].split()[-1] == "failed"
    before = saved()
    assert target <= len(before) < 30
    (told,) = manage("shell", "-v0", "-c", RESUME)
    assert told.startswith("interrupted | Its process was killed (signal 9")
    assert manage("shell", "-v0", "-c", WORKER.format(job))[-1] == "succeeded"
    after = saved()
    assert set(before) <= set(after)
    assert len({(question, variant) for _, question, variant in after}) == len(after) == 30
    assert rows("SELECT state FROM evals_evalrun") == [("done",)]
    results = json.loads((tmp_path / "data" / "eval" / "results.json").read_text())
    assert [(row["n"], row["score"]) for row in results["agents"]] == [(15, 1.0), (15, 1.0)]
