"""improve: what it does, what it says it would do, and that a kill changes nothing."""

import json

import pytest
from django.core.management import call_command

from adaptrag.common.errors import Conflict, NotFound
from adaptrag.common.jobs import job_retry
from adaptrag.common.lease import claim
from adaptrag.common.models import Job
from adaptrag.common.registry import handler_for
from adaptrag.common.runner import run_here
from adaptrag.loop import stages
from adaptrag.loop.models import LoopRun
from adaptrag.loop.services import (
    ImproveRequest,
    improve_cancel,
    improve_get,
    improve_plan,
    improve_resume,
    improve_start,
    improve_summary,
    stage_current,
)
from adaptrag.simulation import part_of
from agents.models import AgentVariant, ModelArtifact
from agents.services import agent_register, agent_revise
from evals.models import EvalQuestion, EvalRun, EvalSet
from evals.services import evalset_create
from evals.sets import Item
from rewards.models import PromotionDecision
from tests.agents.tiny_chat import make
from tests.loop.conftest import asked, incumbent_registered, log
from training.errors import QuantizationFailed
from training.models import DistillationRun, QuantizationReport, SFTExample, TrainingRun
from training.sft import normalised

NAMES = ["prepare", "distil", "train", "quantize", "evaluate", "gate", "register"]


def request(student, **values):
    return ImproveRequest(**{"model": str(student), "steps": 1, "top_k": 1} | values)


@pytest.fixture
def quick(monkeypatch):
    """Trainings that take no time, whose candidate always says "1705"."""
    monkeypatch.setattr(stages, "training_execute", trained_at_once)


def trained_at_once(number, context, **options):
    run = TrainingRun.objects.get(pk=number)
    if run.artifact is None:
        run.artifact = ModelArtifact.objects.create(
            name=f"lora-{number}", kind="adapter", base_model=run.base_model, path="x", sha256="0"
        )
        run.result = {"seconds": 1.0, "steps": 1}
        run.save()
        old = AgentVariant.objects.filter(name="lora_rag").first()
        values = {"artifact": run.artifact, "chat_options": {"answer": "1705"} | options, "state": "candidate"}
        if old is not None:
            agent_revise(old, **values)
        else:
            values |= {"strategy": "naive_rag", "parameters": {"retriever": "bm25"}}
            agent_register(name="lora_rag", chat_backend="scripted", **values)
    return {"steps": 1, "train_loss": 1.0, "validation_loss": None}


def built_at_once(number, context):
    report = QuantizationReport.objects.get(pk=number)
    if report.artifact is None:
        report.artifact = ModelArtifact.objects.create(
            name=f"build-{number}", kind="quantized", base_model="x", path="y", sha256="1", parent=report.adapter
        )
        report.variant = agent_register(
            name="quantized_rag", strategy="naive_rag", chat_backend="scripted", chat_options={"answer": "1700"},
            parameters={"retriever": "bm25"}, artifact=report.artifact, state="candidate",
        )  # fmt: skip
        report.save()


def states(run):
    return {stage["stage"]: stage["state"] for stage in improve_summary(run)["stages"]}


def test_a_cheaper_candidate_that_is_no_worse_becomes_a_canary(site, student):
    site.ADAPTRAG_GATE_MARGIN = 0.05
    log(incumbent_registered(price_prompt_per_million=1000))
    run = improve_start(request(student))
    summary = improve_summary(run)
    assert [stage["stage"] for stage in summary["stages"]] == NAMES
    assert states(run) == dict.fromkeys(NAMES, "done") | {"distil": "skipped", "quantize": "skipped"}
    assert (run.verdict, run.state) == ("promoted", "done"), summary
    assert AgentVariant.objects.get(name="lora_rag").state == "canary"
    decision = PromotionDecision.objects.get(pk=run.stages.get(name="register").figures["decision"])
    assert (decision.variant, decision.reason in run.reason) == (run.candidate, True)


def test_one_that_is_neither_better_nor_cheaper_is_rejected_and_takes_no_traffic(site, incumbent, student, quick):
    log(incumbent)
    run = improve_start(request(student))
    assert (run.verdict, run.candidate.state) == ("rejected", "candidate")
    assert run.incumbent == incumbent


def test_a_quantized_build_is_the_candidate_and_its_report_gets_what_the_evaluation_found(
    site, incumbent, student, quick, monkeypatch
):
    monkeypatch.setattr(stages, "quantization_execute", built_at_once)
    log(incumbent)
    run = improve_start(request(student, quantize="int8"))
    assert (states(run)["quantize"], run.candidate.name, run.verdict) == ("done", "quantized_rag", "rejected")
    assert {variant.name for variant in EvalRun.objects.get().variants.all()} == {"old", "lora_rag", "quantized_rag"}
    assert QuantizationReport.objects.get().quality["token_f1"]["n"] == 10


def test_a_build_that_drifts_leaves_the_adapter_alone_to_the_gate_and_the_verdict_says_so(
    site, incumbent, student, quick, monkeypatch
):
    def drifted(number, context):
        raise QuantizationFailed("Reloaded, the build's perplexity is too high.")

    monkeypatch.setattr(stages, "quantization_execute", drifted)
    log(incumbent)
    run = improve_start(request(student, quantize="int8"))
    assert (states(run)["quantize"], run.candidate.name, run.verdict) == ("skipped", "lora_rag", "rejected")
    assert "adapter alone" in run.reason and "perplexity is too high" in run.reason
    assert {variant.name for variant in EvalRun.objects.get().variants.all()} == {"old", "lora_rag"}
    assert improve_start(request(student, quantize="int8")).verdict == "skipped"  # nothing is new


def test_a_mode_that_the_model_can_not_have_is_told_before_the_training_and_the_adapter_goes_on_alone(
    site, incumbent, tmp_path, quick
):
    gpt2 = make(tmp_path / "gpt2", "gpt2")
    log(incumbent)
    run = improve_start(request(gpt2, quantize="cpu8"))
    assert "Modes for it: fp32, bf16, int8, nf4" in run.stages.get(name="prepare").detail
    assert (states(run)["quantize"], run.candidate.name, run.verdict) == ("skipped", "lora_rag", "rejected")
    assert "Mode cpu8 is for Llama models" in run.reason and not QuantizationReport.objects.exists()


def test_a_canary_under_trial_is_left_in_peace(site, student, quick):
    log(incumbent_registered(price_prompt_per_million=1000))
    canary = agent_register(name="lora_rag", strategy="naive_rag", chat_backend="scripted", state="canary")
    run = improve_start(request(student))
    assert (run.verdict, states(run)["train"]) == ("skipped", "skipped")
    assert "lora_rag r1 is still a canary" in run.reason
    assert improve_plan(request(student)).verdict == "skipped"
    site.ADAPTRAG_GATE_MARGIN = 0.05
    run = improve_start(request(student, force=True))
    assert run.verdict == "needs_human" and "lora_rag r1 is still a canary" in run.reason, run.reason
    canary.refresh_from_db()
    assert (canary.state, run.candidate.state) == ("canary", "candidate")


def test_too_few_corrections_need_a_person_and_say_what_to_collect(site, incumbent, student, quick):
    site.ADAPTRAG_GATE_REFERENCES = 100
    log(incumbent)
    run = improve_start(request(student))
    assert run.verdict == "needs_human"
    assert "10 questions with people's corrections; 100 are needed" in run.reason and "about 450 more" in run.reason
    assert run.candidate.state == "candidate"


def test_corrections_that_gate_or_report_never_train_and_the_parts_never_mix(site, incumbent, student, quick):
    log(incumbent)
    improve_start(request(student))
    trained = SFTExample.objects.exclude(split="left_out").values_list("question", flat=True)
    parts = {
        name: {part_of(normalised(question)) for question in questions}
        for name, questions in (
            ("trained", trained),
            ("gate", EvalQuestion.objects.filter(eval_set__name="corrections-gate").values_list("question", flat=True)),
            ("report", EvalQuestion.objects.filter(eval_set__name="corrections-report").values_list("question", flat=True)),
        )
    }
    assert parts == {"trained": {"A"}, "gate": {"B"}, "report": {"C"}}
    assert EvalRun.objects.get().eval_set.name == "corrections-gate"


def test_what_was_trained_on_gates_no_later_run(site, incumbent, student, quick):
    """A good answer is trained on; a correction that comes later does not make its question a judge of the next run."""
    site.ADAPTRAG_IMPROVE_MIN_NEW = 1
    number = next(n for n in range(100) if part_of(normalised(f"Which year of Town{n}?")) == "B")
    row = asked(incumbent, number, reward=1.0, words="Which year of Town{}?")
    log(incumbent, 20)
    improve_start(request(student))
    row.rewards.update(correction="1999", value=0.0)
    asked(incumbent, 300, correction="2000")
    improve_start(request(student, force=True))
    assert not EvalQuestion.objects.filter(question=row.question).exists()


def test_gold_answers_of_an_eval_set_come_before_corrections(site, incumbent, student, quick):
    log(incumbent, 30)
    items = [
        Item(key=f"g{n}", question=f"In which year was Town{n} given its bridge?", answers=(str(1700 + n),)) for n in range(6)
    ]
    evalset_create(name="exam", items=items, source="jsonl")
    run = improve_start(request(student, eval_set="exam"))
    assert EvalRun.objects.get().eval_set.name == "exam"
    assert run.stages.get(name="gate").figures["evidence"]["references"] == "gold"
    assert not EvalSet.objects.filter(name="corrections-gate").exists()


def test_little_that_is_new_is_a_reason_to_skip_and_force_goes_on(site, incumbent, student, quick):
    log(incumbent, 10)
    run = improve_start(request(student))
    assert (run.verdict, states(run)["prepare"], states(run)["train"]) == ("skipped", "done", "skipped")
    assert "10 corrections" in run.reason and "20 are needed" in run.reason
    assert not TrainingRun.objects.exists()
    assert improve_start(request(student, force=True)).verdict == "needs_human"


def test_what_one_run_has_looked_at_is_not_new_to_the_next(site, incumbent, student, quick):
    log(incumbent)
    assert improve_start(request(student)).verdict == "rejected"
    assert improve_plan(request(student)).new == 0
    assert improve_start(request(student)).verdict == "skipped"


def test_nothing_is_promoted_on_a_judge_that_is_not_calibrated(site, incumbent, student, quick, monkeypatch):
    site.ADAPTRAG_JUDGE_BACKEND, site.ADAPTRAG_JUDGE_MODEL = "scripted", "judge"
    for number in range(60):
        asked(incumbent, number, reward=1.0)
    run = improve_start(request(student))
    assert run.stages.get(name="prepare").figures["kind"] == "judge"
    assert run.verdict == "needs_human", run.reason
    assert run.candidate.state == "candidate"


def test_a_dry_run_says_it_all_with_figures_and_changes_nothing(site, incumbent, student, quick, capsys):
    log(incumbent)
    call_command("improve", "--dry-run", "--json", "--model", str(student), "--steps", "1")
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["verdict"], told["candidate"]) == (None, None, None)
    assert [stage["stage"] for stage in told["stages"]] == NAMES
    assert {stage["stage"]: stage["state"] for stage in told["stages"]}["distil"] == "skipped"
    assert (told["new"], told["references"]["kind"]) == (60, "corrections")
    assert "60 corrected" in told["stages"][0]["detail"]
    assert not (LoopRun.objects.exists() or EvalSet.objects.exists() or SFTExample.objects.exists())


def test_the_command_prints_the_contract_and_exits_3_where_the_gate_was_not_met(site, incumbent, student, quick, capsys):
    log(incumbent)
    with pytest.raises(SystemExit) as ended:
        call_command("improve", "--json", "--model", str(student), "--steps", "1")
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 3
    assert (told["verdict"], told["candidate"]) == ("rejected", "lora_rag r1")
    assert set(told["stages"][0]) == {"stage", "state", "seconds", "detail"}


def test_one_run_at_a_time(site, incumbent, student, quick):
    LoopRun.objects.create(state="running")
    with pytest.raises(Conflict, match="under way"):
        improve_start(request(student))
    with pytest.raises(NotFound, match="newest is"):
        improve_get(99)


def test_a_failed_stage_fails_the_run_with_its_reason_and_resuming_goes_on_from_it(site, incumbent, student, monkeypatch):
    log(incumbent)

    def broken(work):
        raise RuntimeError("no room on the disk")

    whole = stages.STAGES["train"]
    monkeypatch.setitem(stages.STAGES, "train", stages.replace(whole, execute=broken))
    run = improve_start(request(student))
    run.refresh_from_db()
    assert (run.state, run.verdict) == ("failed", "failed")
    assert "no room on the disk" in run.reason
    assert states(run)["evaluate"] == "waiting"
    monkeypatch.setitem(stages.STAGES, "train", whole)
    dataset = run.stages.get(name="prepare").figures["dataset"]
    run = improve_resume(run)
    assert run.verdict == "rejected"
    assert TrainingRun.objects.get().dataset_id == dataset
    with pytest.raises(Conflict, match="is done"):
        improve_resume(run)


def test_a_candidate_whose_model_is_down_gets_no_verdict_until_it_answers(site, incumbent, student, quick, monkeypatch):
    log(incumbent)
    monkeypatch.setattr(stages, "training_execute", lambda *given: trained_at_once(*given, fail="unavailable"))
    run = improve_start(request(student))
    assert run.state == "failed"
    assert "failed on 10 of 10 questions: The chat model scripted does not answer." in run.reason
    assert not PromotionDecision.objects.exists()
    AgentVariant.objects.filter(name="lora_rag").update(chat_options={"answer": "1705"})
    assert improve_resume(run).verdict == "rejected"


def test_a_stage_retried_on_its_jobs_page_takes_its_run_up_again(site, incumbent, student, monkeypatch):
    log(incumbent)

    def broken(number, context):
        raise RuntimeError("no room on the disk")

    monkeypatch.setattr(stages, "training_execute", broken)
    run = improve_start(request(student))
    assert run.state == "failed"
    seen = []

    def watched(number, context):
        seen.append(LoopRun.objects.get(pk=run.pk).state)
        with pytest.raises(Conflict, match="under way"):
            improve_start(request(student))
        return trained_at_once(number, context)

    monkeypatch.setattr(stages, "training_execute", watched)
    job_retry(run.stages.get(name="train").job)
    run.refresh_from_db()
    assert (seen, run.state, run.verdict) == (["running"], "done", "rejected")


def test_a_stage_is_not_retried_beside_another_run(site, incumbent, student, monkeypatch):
    log(incumbent)

    def broken(number, context):
        raise RuntimeError("no room on the disk")

    monkeypatch.setattr(stages, "training_execute", broken)
    run = improve_start(request(student))
    other = LoopRun.objects.create(state="running")
    job = job_retry(run.stages.get(name="train").job)
    run.refresh_from_db()
    assert (job.state, run.state) == ("failed", "failed") and f"Improvement {other.pk} is under way" in job.error


def test_a_cancelled_run_stops_and_can_be_resumed(site, incumbent, student, quick):
    log(incumbent)
    site.ADAPTRAG_JOBS_EAGER = False  # its job stays on the queue
    run = improve_cancel(improve_start(request(student)))
    assert (run.state, states(run)["prepare"]) == ("cancelled", "cancelled")
    site.ADAPTRAG_JOBS_EAGER = True
    assert improve_resume(run).verdict == "rejected"


class Killed(BaseException):
    """As SIGKILL: nothing that would catch an error sees it."""


def test_killed_at_every_stage_and_resumed_gives_the_same_verdict(site, student, monkeypatch):
    """Once as each stage begins, once in the middle of the work of another app that it does, once when all is done and its end
    is not yet written."""
    site.ADAPTRAG_GATE_MARGIN = 0.05
    site.ADAPTRAG_TEACHER_MODEL = "teacher"
    site.ADAPTRAG_TEACHER_OPTIONS = {"price_prompt_per_million": 0, "price_completion_per_million": 0}
    log(incumbent_registered(price_prompt_per_million=1000), 40)
    kills, killed = [], []
    for name in NAMES:
        within = [name] if name in ("distil", "train", "quantize", "evaluate") else []
        kills += [(name, "before"), *((one, "within") for one in within), (name, "after")]

    def mortal_work(name, function):
        def execute(*given):
            result = function(*given)
            if (name, "within") not in killed:
                killed.append((name, "within"))
                raise Killed
            return result

        return execute

    works = {
        "distil": ("distillation_execute", lambda number, context: {"accepted": 0, "asked": 0, "cost_usd": 0.0}),
        "train": ("training_execute", stages.training_execute),
        "quantize": ("quantization_execute", built_at_once),
        "evaluate": ("evalrun_execute", stages.evalrun_execute),
    }
    for name, (service, function) in works.items():
        monkeypatch.setattr(stages, service, mortal_work(name, function))

    def mortal(stage):
        def execute(work):
            for moment in ("before", "after"):
                if moment == "after":
                    ended = stage.execute(work)
                if (stage.name, moment) not in killed:
                    killed.append((stage.name, moment))
                    raise Killed
            return ended

        return stages.replace(stage, execute=execute)

    for name in stages.STAGES:
        monkeypatch.setitem(stages.STAGES, name, mortal(stages.STAGES[name]))
    site.ADAPTRAG_JOBS_EAGER = False
    run = improve_start(request(student, quantize="int8"))
    while run.state != "done":
        job = stage_current(run).job
        try:
            run_here(claim(job.pk), handler_for(job.kind), heartbeat=False)  # as a child of the queue's worker does
        except Killed:
            # What the worker that waits for the child writes in its place.
            Job.objects.filter(pk=job.pk).update(state="failed", error="Its process was killed (signal 9, SIGKILL).")
            assert improve_get(run.pk).verdict == "failed"
            run = improve_resume(run)
        run = improve_get(run.pk)
    assert killed == kills
    assert run.verdict == "promoted", improve_summary(run)
    made = (TrainingRun, QuantizationReport, EvalRun, PromotionDecision, DistillationRun)
    assert [model.objects.count() for model in made] == [1] * len(made)
    assert AgentVariant.objects.filter(name__in=["lora_rag", "quantized_rag"]).count() == 2
    assert run.stages.filter(state="done").count() == len(NAMES)
