"""From a run's rows to the evidence that the rules of promotion judge."""

from __future__ import annotations

import pytest

from adaptrag.common.errors import Conflict, InvalidInput
from agents.models import AgentVariant
from agents.services import agent_revise
from evals.gate import evalrun_gate, evalrun_verdict, gate_evidence
from evals.models import EvalResult, EvalRun, EvalSet
from evals.services import RunRequest, evalrun_create, evalrun_execute, evalset_create
from evals.sets import Item

pytestmark = pytest.mark.django_db


def items(count=4):
    return [Item(key=f"q{n}", question=f"Who keeps lighthouse {n}?", answers=("Marta Olsen",)) for n in range(count)]


def run_of(*agents, questions=None, source="jsonl"):
    run = evalrun_create(
        RunRequest(eval_set=evalset_create(name="gate", items=questions or items(), source=source), agents=agents)
    )
    evalrun_execute(run.pk)
    run.refresh_from_db()
    return run


@pytest.fixture
def pair(harbour, scripted):
    old = scripted("keeper", "I do not know.")
    return old, agent_revise(old, state="candidate", chat_options={"answer": "Marta Olsen"})


class TestEvidence:
    def test_differences_are_paired_by_question(self, pair):
        run = run_of("keeper@1", "keeper@2")
        EvalResult.objects.filter(run=run, variant=pair[0]).update(latency_ms=400, cost_usd=0.02)
        EvalResult.objects.filter(run=run, variant=pair[1]).update(latency_ms=100, cost_usd=0.02)
        evidence = gate_evidence(run, "keeper@2", "keeper r1")
        assert (evidence.candidate, evidence.incumbent, evidence.n) == ("keeper r2", "keeper r1", 4)
        assert (evidence.difference, evidence.candidate_mean, evidence.incumbent_mean) == (1.0, 1.0, 0.0)
        assert (evidence.candidate_latency_ms, evidence.incumbent_latency_ms) == (100, 400)
        assert evidence.saving == pytest.approx(0.5)
        assert (evidence.references, evidence.judge_calibrated, evidence.source) == ("gold", None, f"eval run {run.pk}")

    def test_a_failed_answer_is_worth_nothing_and_is_not_left_out(self, pair):
        run = run_of("keeper@1", "keeper@2")
        some = EvalResult.objects.filter(run=run, variant=pair[1], question__key__in=["q0", "q1", "q2"])
        some.update(score=None, failed=True, error={"code": "agent_failed", "message": "broke"})
        evidence = gate_evidence(run, "keeper@2", "keeper@1")
        assert (evidence.n, evidence.difference) == (4, 0.25)

    def test_an_answer_of_a_fall_back_model_says_nothing_of_the_candidate(self, pair):
        run = run_of("keeper@1", "keeper@2")
        some = EvalResult.objects.filter(run=run, variant=pair[1], question__key__in=["q0", "q1", "q2"])
        some.update(fallback={"from": "a", "to": "b", "reason": "down"}, latency_ms=1)
        EvalResult.objects.filter(run=run, variant=pair[1], question__key="q3").update(latency_ms=50)
        evidence = gate_evidence(run, "keeper@2", "keeper@1")
        assert (evidence.n, evidence.difference, evidence.candidate_latency_ms) == (4, 0.25, 50)

    def test_a_question_without_gold_answer_or_verdict_is_left_out(self, pair):
        run = run_of("keeper@1", "keeper@2", questions=[*items(2), Item(key="open", question="What is beyond?")])
        assert gate_evidence(run, "keeper@2", "keeper@1").n == 2

    def test_corrections_and_judges_are_told_apart(self, pair):
        run = run_of("keeper@1", "keeper@2", source="interactions")
        assert gate_evidence(run, "keeper@2", "keeper@1").references == "corrections"
        run.judge = EvalRun.Judge.LLM
        evidence = gate_evidence(run, "keeper@2", "keeper@1")
        assert (evidence.references, evidence.judge_calibrated) == ("judge", False)
        assert EvalSet.objects.get(name="gate").source == "interactions"

    @pytest.mark.parametrize(
        ("names", "words"), [(("other", "keeper@1"), "did not ask 'other'"), (("keeper@1", "keeper@1"), "with itself")]
    )
    def test_what_can_not_be_compared_is_named(self, pair, names, words):
        run = run_of("keeper@1", "keeper@2")
        with pytest.raises(InvalidInput, match=words):
            gate_evidence(run, *names)
        run.judge = EvalRun.Judge.NONE
        with pytest.raises(InvalidInput, match="no judge"):
            gate_evidence(run, "keeper@2", "keeper@1")


class TestGateByRun:
    def test_the_runs_baseline_is_the_incumbent_and_looking_decides_nothing(self, pair, settings):
        settings.ADAPTRAG_GATE_REFERENCES = 4
        run = run_of("keeper@1", "keeper@2")
        assert evalrun_verdict(run, pair[1]).outcome == "pass"
        assert AgentVariant.objects.get(pk=pair[1].pk).state == "candidate"
        decision = evalrun_gate(run, pair[1])
        assert (decision.verdict, decision.rollback_to, decision.figures["n"]) == ("promoted", pair[0], 4)

    def test_it_takes_a_run_that_is_done_and_asked_both(self, pair):
        with pytest.raises(InvalidInput, match="asked only"):
            evalrun_gate(run_of("keeper@2"), pair[1])
        run = evalrun_create(
            RunRequest(eval_set=evalset_create(name="later", items=items(), source="jsonl"), agents=("keeper@2",))
        )
        with pytest.raises(Conflict, match="A gate takes a run that is done"):
            evalrun_gate(run, pair[1])
