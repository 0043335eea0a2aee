"""Judges against a real OpenAI-compatible server on loopback that misbehaves as it is told."""

import itertools
import json
import random

import pytest

from agents.errors import ChatModelTimeout, ChatModelUnavailable
from agents.llm.openai_compatible import OpenAICompatibleChatModel
from agents.services import agent_register, collection_get_or_create, document_add
from evals.errors import JudgeFailed
from evals.judges import PairwiseJudge, PointwiseJudge
from evals.models import EvalPair, JudgeCall
from evals.services import RunRequest, evalrun_create, evalrun_execute, evalrun_summary, evalset_create
from evals.sets import Item
from tests.agents import faulty_server
from tests.agents.faulty_server import answer, failing, hanging, send

GOOD = json.dumps({"explanation": "It names the keeper.", "score": 0.75})


@pytest.fixture
def server():
    with faulty_server.serving() as running:
        yield running


def chat(server, **options):
    return OpenAICompatibleChatModel("judge-1", {"base_url": server.url, "price_prompt_per_million": 1e6} | options)


def pointwise(server, **options):
    return PointwiseJudge(chat(server, **options)).judge(question="Who?", answer="Marta", references=["Marta Olsen"])


def preference(winner):
    return answer(json.dumps({"explanation": "because", "winner": winner}))


def test_a_verdict_comes_back_with_what_it_cost(server):
    server.behaviours = [answer(GOOD)]
    verdict = pointwise(server)
    assert (verdict.score, verdict.explanation) == (0.75, "It names the keeper.")
    assert verdict.usage.cost_usd == pytest.approx(11)
    (request,) = server.requests
    assert request["temperature"] == 0
    assert [message["role"] for message in request["messages"]] == ["system", "user"]


def test_a_server_that_takes_a_schema_gets_it_with_every_call(server):
    server.behaviours = [answer(GOOD), preference("A"), preference("B")]
    model = chat(server)
    assert PointwiseJudge(model).judge(question="Who?", answer="Marta").score == 0.75
    assert PairwiseJudge(model).judge(question="Who?", first="a", second="b").winner == "first"
    shapes = [request["response_format"] for request in server.requests]
    assert [shape["type"] for shape in shapes] == ["json_schema"] * 3 and all(one["json_schema"]["strict"] for one in shapes)
    schemas = [shape["json_schema"]["schema"] for shape in shapes]
    assert [list(schema["properties"]) for schema in schemas] == [["explanation", "score"], *[["explanation", "winner"]] * 2]
    assert all(schema["required"] == list(schema["properties"]) for schema in schemas)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_the_schema_is_asked_without_and_never_with_it_again(server, status):
    def plain(handler, body):
        (failing(status, "response_format is not supported") if "response_format" in body else answer(GOOD))(handler, body)

    server.behaviours = [plain]
    judge = PointwiseJudge(chat(server))
    assert [judge.judge(question="Who?", answer=text).score for text in ("Marta", "Ola")] == [0.75, 0.75]
    assert ["response_format" in request for request in server.requests] == [True, False, False]


def test_what_a_server_refuses_for_another_reason_stays_an_error(server):
    server.behaviours = [failing(400, "no such parameter"), failing(400, "no such parameter"), answer(GOOD)]
    judge = PointwiseJudge(chat(server))
    with pytest.raises(ChatModelUnavailable, match="no such parameter"):
        judge.judge(question="Who?", answer="Marta")
    assert judge.judge(question="Who?", answer="Marta").score == 0.75
    assert "response_format" in server.requests[-1]  # nothing said that the schema was the reason


@pytest.mark.parametrize("bad", ["Seven out of ten, I would say.", '{"score": 7, "explanation": "great"}', '{"score": 0.5'])
def test_a_reply_that_is_no_verdict_is_asked_for_again(server, bad):
    server.behaviours = [answer(bad), answer(GOOD)]
    assert pointwise(server).score == 0.75
    repeated = server.requests[1]["messages"]
    assert [message["role"] for message in repeated] == ["system", "user", "assistant", "user"]
    assert repeated[2]["content"] == bad


def test_a_judge_that_only_talks_fails_after_three_replies_and_says_what_it_cost(server):
    server.behaviours = [answer("I like it.")]
    with pytest.raises(JudgeFailed, match="no usable verdict in 3 replies") as caught:
        pointwise(server)
    assert len(server.requests) == 3
    assert caught.value.details["usage"]["prompt_tokens"] == 33


def test_429_is_waited_out_as_the_server_asks(server):
    server.behaviours = [failing(429, retry_after="0.3"), answer(GOOD)]
    assert pointwise(server).score == 0.75
    assert server.times[1] - server.times[0] >= 0.3


def test_a_wait_beyond_the_time_limit_is_refused_at_once(server):
    server.behaviours = [failing(429, retry_after="600")]
    with pytest.raises(ChatModelUnavailable, match="come back in 600 s"):
        pointwise(server, timeout=2)
    assert len(server.requests) == 1


def test_a_silent_judge_times_out(server):
    server.behaviours = [hanging(3)]
    with pytest.raises(ChatModelTimeout):
        pointwise(server, timeout=0.3)


def test_an_error_after_a_paid_reply_still_tells_the_cost(server):
    server.behaviours = [answer("prose"), failing(401)]
    with pytest.raises(ChatModelUnavailable) as caught:
        pointwise(server)
    assert caught.value.details["usage"]["prompt_tokens"] == 11


def test_pairs_are_asked_for_in_both_orders(server):
    server.behaviours = [preference("A"), preference("B")]
    verdict = PairwiseJudge(chat(server)).judge(question="Who?", first="Marta", second="Ola")
    assert (verdict.winner, verdict.consistent, verdict.usage.prompt_tokens) == ("first", True, 22)
    texts = [request["messages"][1]["content"] for request in server.requests]
    assert texts[0].index("Marta") < texts[0].index("Ola")
    assert texts[1].index("Ola") < texts[1].index("Marta")


def test_the_second_order_failing_tells_what_the_first_cost(server):
    server.behaviours = [preference("A"), failing(400)]
    with pytest.raises(ChatModelUnavailable) as caught:
        PairwiseJudge(chat(server)).judge(question="Who?", first="Marta", second="Ola")
    assert caught.value.details["usage"]["prompt_tokens"] == 11


def scripted(name, text):
    return agent_register(
        name=name,
        strategy="naive_rag",
        chat_backend="scripted",
        chat_options={"answer": text},
        parameters={"retriever": "bm25"},
    )


def evalset_of_the_sea(questions):
    """Questions that the agents "one" (who knows) and "two" (who does not) can answer."""
    document_add(collection=collection_get_or_create("default"), name="sea.md", data=b"# Sea\n\nThe keeper is Marta Olsen.")
    scripted("one", "Marta Olsen [1]."), scripted("two", "Nobody knows.")
    items = [Item(key=f"q{n}", question=f"Who keeps lighthouse {n}?", answers=("Marta",)) for n in range(questions)]
    return evalset_create(name="sea", items=items, source="jsonl")


def run_of(server, questions, **values):
    request = RunRequest(
        eval_set=evalset_of_the_sea(questions),
        agents=("one", "two"),
        judge="llm",
        judge_backend="openai_compatible",
        judge_model="judge-1",
        judge_options={"base_url": server.url, "max_retries": 0},
        **values,
    )
    run = evalrun_create(request)
    evalrun_execute(run.pk)
    run.refresh_from_db()
    return run


def grading(handler, body):
    """1 for the answer that names the keeper, 0.2 for the other; prefers it likewise, wherever it stands."""
    text = body["messages"][1]["content"]
    if '"winner"' in text:
        winner = "A" if text.index("Marta Olsen [1]") < text.index("Nobody knows") else "B"
        return preference(winner)(handler, body)
    score = 1.0 if "Marta Olsen [1]" in text else 0.2
    return answer(json.dumps({"explanation": "seen", "score": score}))(handler, body)


@pytest.mark.django_db
def test_a_run_with_a_third_of_the_calls_failing_counts_what_is_unscored(server):
    rng, failed = random.Random(3), itertools.count()

    def flaky(handler, body):
        if rng.random() < 0.3:
            next(failed)
            return send(handler, 500, {"error": {"message": "overloaded"}})
        return grading(handler, body)

    server.behaviours = [flaky]
    run = run_of(server, 12)
    lost = next(failed)
    assert 0 < lost < 24
    rows = {row["agent"]: row for row in run.summary["agents"]}
    assert sum(row["unscored"] for row in rows.values()) == lost
    assert (rows["one"]["score"], rows["two"]["score"]) == (1.0, pytest.approx(0.2))
    assert run.results.filter(score=None).first().error["code"] == "chat_model_unavailable"
    assert "not calibrated" in run.summary["judge_calibration"]
    assert JudgeCall.objects.count() == 24 - lost


@pytest.mark.django_db
def test_a_run_compares_pairs_and_reports_position_bias(server):
    server.behaviours = [grading]
    run = run_of(server, 6, pairwise=True)
    (row,) = run.summary["pairwise"]
    assert (row["agent"], row["baseline"], row["losses"], row["position_bias"]) == ("two", "one", 6, 0.0)
    assert row["sentence"] == "two is less liked than one: 0 wins, 0 ties, 6 losses in 6 (pairwise: not calibrated)."
    asked = len(server.requests)
    evalrun_execute(evalrun_create_like(run).pk)
    assert len(server.requests) == asked  # every verdict was known


def evalrun_create_like(run):
    return evalrun_create(
        RunRequest(
            eval_set=run.eval_set, agents=("one", "two"), judge="llm", judge_backend="openai_compatible", judge_model="judge-1",
            judge_options=run.judge_options, pairwise=True,
        )
    )  # fmt: skip


@pytest.mark.django_db
def test_a_judge_that_always_prefers_the_first_shows_as_position_bias(server):
    def first(handler, body):
        return (preference("A") if '"winner"' in body["messages"][1]["content"] else answer(GOOD))(handler, body)

    server.behaviours = [first]
    run = run_of(server, 4, pairwise=True)
    assert set(run.pairs.values_list("outcome", "consistent")) == {(EvalPair.Outcome.TIE, False)}
    (row,) = evalrun_summary(run)["pairwise"]
    assert row["position_bias"] == 1.0
    assert "in 4 of 4 the order of the answers decided (position bias)" in row["sentence"]


@pytest.mark.django_db
def test_failed_verdicts_are_asked_for_again_on_request_and_answers_are_not(server):
    from evals.services import evalrun_prepare

    server.behaviours = [failing(503)]
    run = run_of(server, 2)
    assert run.summary["agents"][0]["unscored"] == 2
    answers = set(run.results.values_list("pk", flat=True))
    server.behaviours = [grading]
    evalrun_prepare(run, retry_failed=True)
    evalrun_execute(run.pk)
    run.refresh_from_db()
    assert set(run.results.values_list("pk", flat=True)) == answers
    assert [row["unscored"] for row in run.summary["agents"]] == [0, 0]
