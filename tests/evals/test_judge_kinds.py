"""A judge that saw the gold answers and one that did not are two judges, and one answer is one pair."""

import pytest

from evals.gate import evalrun_verdict, gate_evidence
from evals.models import EvalResult
from evals.selectors import judge_calibration, judge_calibrations, rater_notes
from evals.services import RunRequest, evalrun_create, evalrun_execute, evalrun_summary, evalrun_summary_now, evalset_create
from evals.sets import Item

pytestmark = pytest.mark.django_db
VERDICTS = [["Nobody", '{"explanation": "wrong", "score": 0.1}'], ["", '{"explanation": "right", "score": 0.9}']]
JUDGE = {"judge": "llm", "judge_backend": "scripted", "judge_model": "j", "judge_options": {"script": VERDICTS}}


def questions(count, *, gold=True):
    answers = ("Marta Olsen",) if gold else ()
    return [Item(key=f"q{n}", question=f"Who keeps lighthouse {n}?", answers=answers) for n in range(count)]


def executed(eval_set, agents=("knows", "guesses"), **values):
    run = evalrun_create(RunRequest(eval_set=eval_set, agents=agents, **JUDGE, **values))
    evalrun_execute(run.pk)
    run.refresh_from_db()
    return run


@pytest.fixture
def agents(harbour, scripted):
    return scripted("knows", "Marta Olsen"), scripted("guesses", "Nobody")


def test_what_was_shown_is_stored_and_calibrated_apart(agents):
    gold = evalset_create(name="gold", items=questions(30), source="jsonl")
    shown = executed(gold)
    assert {one["references"] for one in shown.results.values_list("judgement", flat=True)} == {True}
    assert judge_calibration(shown).calibrated  # 60 answers, ordered as F1 orders them
    bare = executed(evalset_create(name="bare", items=questions(30, gold=False), source="jsonl"))
    assert not judge_calibration(bare).calibrated  # nothing was shown there, so the label of the other does not hold
    assert "shown no gold answers, is not calibrated" in bare.summary["judge_calibration"]
    blind = executed(gold, judge_blind=True)
    assert {one["references"] for one in blind.results.values_list("judgement", flat=True)} == {False}
    assert judge_calibration(bare).calibrated
    assert bare.summary["judge_calibrated"] is False and evalrun_summary_now(bare)["judge_calibrated"] is True
    assert [(one.references, one.gold.n) for one in judge_calibrations()] == [(False, 60), (True, 60)]
    mixed = executed(evalset_create(name="mixed", items=[*questions(1), Item(key="x", question="Why?")], source="jsonl"))
    assert len(judge_calibration(mixed).kinds) == 2


def test_nothing_is_promoted_where_only_the_judge_that_saw_gold_answers_is_calibrated(agents):
    executed(evalset_create(name="gold", items=questions(30), source="jsonl"))
    bare = executed(evalset_create(name="bare", items=questions(30, gold=False), source="jsonl"))
    assert gate_evidence(bare, "knows", "guesses").judge_calibrated is False
    assert evalrun_verdict(bare, agents[0], str(agents[1])).outcome == "needs_human"


def test_an_operators_setting_that_changes_leaves_a_run_with_its_judge(agents, settings):
    settings.ADAPTRAG_JUDGE_BACKEND, settings.ADAPTRAG_JUDGE_MODEL = "scripted", "j"
    settings.ADAPTRAG_JUDGE_OPTIONS = {"script": VERDICTS}
    gold = evalset_create(name="gold", items=questions(2), source="jsonl")
    run = evalrun_create(RunRequest(eval_set=gold, agents=("knows",), judge="llm"))
    settings.ADAPTRAG_JUDGE_MODEL, settings.ADAPTRAG_JUDGE_OPTIONS = "another", {"answer": "prose"}
    evalrun_execute(run.pk)
    assert [result.score for result in run.results.all()] == [0.9, 0.9]


def test_asking_the_same_again_makes_no_more_pairs(agents):
    gold = evalset_create(name="gold", items=questions(10), source="jsonl")
    for _ in range(5):
        executed(gold, agents=("knows",))
    assert EvalResult.objects.count() == 50
    (judge,) = judge_calibrations()
    assert judge.gold.n == 10 and not judge.calibrated


def test_before_the_first_verdict_the_questions_say_which_kind_it_will_be(agents):
    bare = evalset_create(name="bare", items=questions(3, gold=False), source="jsonl")
    run = evalrun_create(RunRequest(eval_set=bare, agents=("knows",), **JUDGE))
    assert [one.references for one in judge_calibration(run).kinds] == [False]
    assert evalrun_summary(run)["judge_calibrated"] is False


def test_a_rater_without_pairs_is_not_calibrated():
    assert rater_notes(["model@abc"]) == {"model@abc": "not calibrated"}
