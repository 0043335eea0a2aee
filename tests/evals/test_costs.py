"""What a run costs: the agent's and the judge's apart, both under the budget; abstentions are answers, not failures."""

import pytest

from adaptrag.common.errors import Conflict, InvalidInput
from agents.llm.scripted import ScriptedChatModel
from agents.services import agent_register
from evals.gate import gate_evidence
from evals.models import EvalResult
from evals.services import RunRequest, evalrun_create, evalrun_execute, evalrun_prepare, evalrun_summary, evalset_create
from evals.services.execution import evalrun_spent
from evals.services.reports import evalrun_items
from evals.sets import Item

pytestmark = pytest.mark.django_db
PRICES = {"price_prompt_per_million": 1000.0, "price_completion_per_million": 1000.0}
JUDGE = {"judge": "llm", "judge_backend": "scripted", "judge_model": "j"}
GOOD = {"answer": '{"explanation": "right", "score": 1, "winner": "A"}', **PRICES}


def executed(eval_set, agents, **values):
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=agents, **values))
    evalrun_execute(run.pk)
    run.refresh_from_db()
    return run


def test_the_judges_cost_stands_beside_the_agents_and_not_in_it(harbour, scripted):
    scripted("one", "Marta Olsen", **PRICES), scripted("two", "at six", **PRICES)
    plain = executed(harbour, ("one", "two"), judge="none")
    first, second = (executed(harbour, ("one", "two"), **JUDGE, judge_options=GOOD, pairwise=True) for _ in range(2))
    agents = [[row["cost_usd"] for row in run.summary["agents"]] for run in (plain, first, second)]
    assert agents[0] == agents[1] == agents[2] and agents[0][0] > 0
    paid = sum(row["judge_cost_usd"] for row in first.summary["agents"])
    pairs = first.summary["pairwise"][0]["judge_cost_usd"]
    assert paid > 0 and pairs > 0 and first.summary["judge_cost_usd"] == pytest.approx(paid + pairs)
    assert second.summary["judge_cost_usd"] == 0  # every verdict was known
    tokens, usd = evalrun_spent(first)
    assert usd == pytest.approx(sum(agents[1]) + paid + pairs)
    assert tokens > first.summary["judge_tokens"] > 0
    evidence = gate_evidence(first, "two", "one")
    assert evidence.candidate_cost_usd == pytest.approx(agents[0][1] / 3)


def test_a_money_budget_stops_at_what_agent_and_judge_cost_together(harbour, scripted):
    scripted("one", "Marta Olsen", **PRICES)
    agent_alone = executed(harbour, ("one",), judge="none").summary["agents"][0]["cost_usd"]
    run = executed(harbour, ("one",), **JUDGE, judge_options=GOOD, budget_usd=agent_alone)
    assert run.state == "stopped" and 1 <= run.results.count() < 3
    with pytest.raises(Conflict, match="Resume it with a larger budget_usd"):
        evalrun_prepare(run)
    evalrun_prepare(run, budget_usd=10.0)
    assert evalrun_execute(run.pk)["state"] == "done"


def test_a_money_budget_takes_prices_of_every_remote_model(harbour, scripted):
    def remote(name, **options):
        return agent_register(
            name=name, strategy="naive_rag", chat_backend="openai_compatible", chat_model="m", chat_options=options
        )

    remote("dear", **PRICES), remote("free", price_prompt_per_million=0), remote("unknown"), scripted("one")
    judge = {"judge": "llm", "judge_backend": "openai_compatible", "judge_model": "judge-1"}
    evalrun_create(RunRequest(eval_set=harbour, agents=("dear", "free", "one"), budget_usd=1.0))
    with pytest.raises(InvalidInput, match="would never stop unknown r1: m has no price"):
        evalrun_create(RunRequest(eval_set=harbour, agents=("dear", "unknown"), budget_usd=1.0))
    with pytest.raises(InvalidInput, match="would never stop the judge: judge-1 has no price"):
        evalrun_create(RunRequest(eval_set=harbour, agents=("one",), budget_usd=1.0, **judge))
    run = evalrun_create(RunRequest(eval_set=harbour, agents=("unknown",)))
    with pytest.raises(InvalidInput, match="has no price"):
        evalrun_prepare(run, budget_usd=1.0)


def test_what_an_agent_paid_for_before_it_failed_counts_and_still_does_after_asking_again(harbour, scripted, monkeypatch):
    agent_register(
        name="checks", strategy="agentic_rag", chat_backend="scripted", chat_options={"answer": "no", **PRICES},
        parameters={"critic": "model", "retries": 1},
    )  # fmt: skip
    whole, calls = ScriptedChatModel.complete, []

    def breaks(self, messages, **options):
        calls.append(self.name)
        if len(calls) > 1:
            raise RuntimeError("the second call breaks")
        return whole(self, messages, **options)

    monkeypatch.setattr(ScriptedChatModel, "complete", breaks)
    run = executed(harbour, ("checks",), judge="none", max_questions=1)
    (result,) = run.results.all()
    assert result.failed and result.prompt_tokens > 0 and result.cost_usd > 0
    assert run.summary["agents"][0]["cost_usd"] == pytest.approx(result.cost_usd, abs=1e-6)
    monkeypatch.undo()
    before = evalrun_spent(run)
    evalrun_prepare(run, retry_failed=True)
    assert run.results.count() == 0
    assert evalrun_spent(run) == (before[0], pytest.approx(before[1]))


@pytest.fixture
def silent(harbour, scripted):
    """An agent that knows that it does not know, and asks no model for it."""
    scripted("one", "Nobody.")
    agent_register(
        name="careful", strategy="corrective_rag", chat_backend="scripted", chat_options={"answer": "Marta"},
        parameters={"external_search": False},
    )  # fmt: skip
    return evalset_create(name="far", items=[Item(key="q", question="Zebra quagga okapi?", unanswerable=True)], source="jsonl")


def test_an_abstention_without_a_model_call_is_an_answer(silent):
    failing = {"answer": "prose"}
    run = executed(silent, ("one", "careful"), **JUDGE, judge_options=failing, pairwise=True)
    careful = run.results.get(variant__name="careful")
    assert (careful.model, careful.failed, careful.error["code"]) == ("", False, "judge_failed")
    assert careful.metrics["abstention"] == 1.0 and run.results.get(variant__name="one").metrics["abstention"] == 0.0
    row = next(row for row in run.summary["agents"] if row["agent"] == "careful")
    assert (row["failed"], row["unscored"]) == (0, 1)
    assert run.pairs.get().error["code"] == "judge_failed" and run.summary["pairwise"][0]["unscored"] == 1
    assert gate_evidence(run, "careful", "one").n == 0  # no verdict: left out, not worth 0
    evalrun_prepare(run, retry_failed=True)
    assert EvalResult.objects.filter(pk=careful.pk, complete=False).exists()


def test_pairs_are_in_the_results_with_their_reasons(silent):
    run = executed(silent, ("one", "careful"), **JUDGE, judge_options=GOOD, pairwise=True)
    (item,) = evalrun_items(run)
    pair = item["agents"]["careful"]["pairwise"]
    assert (pair["outcome"], pair["consistent"], pair["explanations"]) == ("tie", False, ["right", "right"])
    assert pair["model"] == "scripted:j" and pair["revision"] and item["agents"]["one"]["pairwise"] is None
    (row,) = evalrun_summary(run)["pairwise"]
    assert row["calibrated"] is False and row["sentence"].endswith("(pairwise: not calibrated).")


def test_preferences_over_several_agents_are_adjusted_together():
    from evals.summary import PairRow, ResultRow, summarise

    costs = {"latency_ms": 1.0, "prompt_tokens": 1, "completion_tokens": 1, "cost_usd": 0.0, "failed": False, "score": None}
    agents, outcomes = ("base", "a", "b"), ["win"] * 9 + ["loss"] * 2
    rows = [ResultRow(question=str(n), agent=agent, **costs) for agent in agents for n in range(12)]
    pairs = [PairRow(agent=agent, outcome=outcome, consistent=True) for agent in agents[1:] for outcome in outcomes]
    first, second = summarise(rows, agents, "base", pairs)["pairwise"]
    assert first["p_value"] == second["p_value"] == pytest.approx(0.06543, abs=1e-4)
    assert first["p_adjusted"] == pytest.approx(2 * first["p_value"], abs=1e-5)
    assert first["unscored"] == 1 and first["sentence"].startswith("No preference shown for a")
