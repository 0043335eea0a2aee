"""The teacher against a real server on loopback that fails in 30 % of its calls."""

import hashlib
import json
import threading

import pytest
from django.core.management import call_command
from django.test import override_settings

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import job_run
from adaptrag.common.models import Job
from agents.errors import ChatModelUnavailable
from agents.llm.base import Completion, Usage
from agents.selectors import live_variant
from agents.services import agents_register_defaults
from tests.agents.faulty_server import answer, failing, serving
from tests.training.chats import logged
from training.checks import check_teacher
from training.distillation import Item, agreement, distil, grounded, refused
from training.models import DistillationRun, TeacherAnswer, TeacherBudget
from training.services import (
    DistillationRequest,
    budget_get,
    budget_reserve,
    budget_set,
    distillation_get,
    distillation_resume,
    distillation_start,
)

PRICES = {"price_prompt_per_million": 1.0, "price_completion_per_million": 2.0, "timeout": 30}


def _item(gold=""):
    return Item(key="a", prompt=[{"role": "user", "content": "[1] The bridge was built in 1701 by Anna Stone."}], gold=gold)


@pytest.mark.parametrize(
    ("texts", "gold", "reason"),
    [
        (["1701"], "", ""),
        (["Anna Stone"], "Anna Stone, a mason", ""),
        (["I do not know."], "", "refusal"),
        (["in 1807"], "", "not in the passages"),
        (["Bert Wood"], "Anna Stone", "differs from the correction"),
        (["Anna Stone", "1701"], "", "differs from its own second answer"),
        (["Yes."], "", ""),
    ],
)
def test_answers_that_teach_nothing_good_are_refused(texts, gold, reason):
    assert refused(texts, _item(gold)) == reason


def test_grounding_and_agreement_count_words():
    assert grounded("the bridge of Anna Stone", "Anna Stone built a bridge")
    assert not grounded("a castle by Carl Wood", "Anna Stone built a bridge")
    assert agreement("the Stone bridge", "stone bridge") == 1.0
    assert agreement("stone", "wood") == 0.0


@pytest.fixture
def log(db, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    agents_register_defaults()
    variant = live_variant("hybrid_rag")
    return [logged(variant, f"When was bridge number {number} built?", "I think 1950.") for number in range(40)]


def _worked(run):
    with override_settings(ADAPTRAG_JOBS_EAGER=True):
        job_run(run.job_id, here=True)
    return distillation_get(run.pk)


def _start(server, **values):
    options = PRICES | {"base_url": server.url} | values.pop("options", {})
    return distillation_start(DistillationRequest(model="tiny", options=options, **values))


def _flaky(server):
    """Every third or so of the calls fails, by a fixed pattern."""
    good, bad = answer("1701"), failing(500, retry_after="0.01")
    busy = failing(429, retry_after="0.01")
    for number in range(400):
        dice = hashlib.sha256(str(number).encode()).digest()[0] / 256
        server.behaviours[number:] = [bad if dice < 0.15 else busy if dice < 0.3 else good]
    server.behaviours.append(good)


@pytest.mark.django_db
def test_no_item_is_lost_on_a_server_that_fails_in_thirty_percent_of_its_calls(log, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with serving() as server:
        _flaky(server)
        run = _worked(_start(server, concurrency=8))
    assert run.job.state == Job.State.SUCCEEDED, run.job.error
    assert run.counts == {"asked": 40, "accepted": 40, "refused": {}, "failed": 0}
    assert len(server.requests) >= 50  # so it did fail
    assert set(run.answers.values_list("interaction_id", flat=True)) == {row.pk for row in log}
    assert run.cost_usd == pytest.approx(40 * (11 * 1 + 3 * 2) / 1e6)
    assert budget_get().spent == round(run.cost_usd * 1e6)


@pytest.mark.django_db
def test_a_resumed_run_asks_only_what_is_not_answered(log):
    with serving() as server:
        server.behaviours = [answer("1701")] * 15 + [failing(400)] * 75 + [answer("1701")]
        run = _worked(_start(server, concurrency=1))
        assert (run.job.state, run.counts["asked"], run.counts["failed"]) == (Job.State.SUCCEEDED, 15, 25)
        asked = len(server.requests)
        assert distillation_resume(run).state == Job.State.QUEUED
        run = _worked(distillation_get(run.pk))
        assert (len(server.requests) - asked, run.counts["asked"], run.counts["failed"]) == (25, 40, 0)
        with pytest.raises(Conflict, match="nothing that it was to ask is left"):
            distillation_resume(run)
    assert TeacherAnswer.objects.count() == 40


@pytest.mark.django_db
def test_a_limit_is_of_the_whole_run_and_another_run_goes_on_behind_it(log):
    with serving() as server:
        run = _worked(_start(server, limit=15))
        with pytest.raises(Conflict, match="is left"):
            distillation_resume(run)
        again = _worked(_start(server))
        assert (len(server.requests), again.counts["asked"]) == (40, 25)


@pytest.mark.django_db
def test_the_budget_stops_it_before_it_is_exceeded_and_raised_it_goes_on(log, monkeypatch, capsys):
    budget_set("default", limit_usd=0.0006)
    with serving() as server:
        run = _worked(_start(server, concurrency=1))
        assert run.job.result["stopped_by_budget"]
        assert 0 < run.counts["asked"] < 40
        assert budget_get().spent <= 600
        monkeypatch.setattr("adaptrag.common.jobs.async_task", lambda *args, **options: None)
        with override_settings(ADAPTRAG_JOBS_EAGER=False):
            call_command("distill_teacher", "--resume", str(run.pk), "--budget-usd", "1", "--queue", "--json")
        assert json.loads(capsys.readouterr().out)["job"] != run.job_id
        run = _worked(distillation_get(run.pk))
    assert run.counts["asked"] == len(server.requests) == 40


@pytest.mark.django_db
def test_two_can_not_take_the_last_of_a_budget():
    budget = budget_set("default", limit_usd=0.000_010)
    assert [budget_reserve(budget, 4) for _ in range(4)] == [True, True, False, False]
    assert TeacherBudget.objects.get().spent == 8


@pytest.mark.django_db
def test_accepted_answers_become_targets_and_refused_ones_do_not(log, tmp_path):
    from tests.agents.tiny_chat import make
    from training.services import DatasetRequest, dataset_prepare

    with serving() as server:
        server.behaviours = [answer("1701"), answer("I do not know.")]
        _worked(_start(server, concurrency=1))
    dataset = dataset_prepare(DatasetRequest(student=str(make(tmp_path / "student")), source="teacher"))
    assert dataset.counts["origins"] == {"teacher": 1}
    assert dataset.examples.get(origin="teacher").target == "1701"


@pytest.mark.django_db
def test_a_teacher_must_be_named(log):
    with pytest.raises(InvalidInput, match="ADAPTRAG_TEACHER_MODEL"):
        distillation_start(DistillationRequest())


class Teacher:
    """Says 1701. Calls whose number is in `fails` fail; the others wait for `gate`."""

    name = "teacher"

    def __init__(self, fails=()):
        self.calls, self.fails, self.gate, self.lock = 0, set(fails), threading.Event(), threading.Lock()

    def complete(self, messages, **options):
        with self.lock:
            self.calls += 1
            number = self.calls
        if number in self.fails:
            raise ChatModelUnavailable("It is down.")
        assert self.gate.wait(10)
        return Completion(text="1701", model="teacher-1", usage=Usage(prompt_tokens=1))


def _items(count):
    return [Item(key=str(number), prompt=_item().prompt) for number in range(count)]


def test_cancelled_it_awaits_the_calls_under_way_keeps_them_and_asks_no_more():
    teacher, kept = Teacher(), []

    def tick():
        teacher.gate.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(_items(9), teacher, samples=2, concurrency=3, reserve=lambda item: True, keep=kept.append, tick=tick)
    assert {one.key for one in kept} == {"0", "1", "2"}
    assert teacher.calls == sum(len(one.samples) for one in kept) == sum(one.usage.prompt_tokens for one in kept)


@pytest.mark.django_db
def test_a_cancelled_run_has_kept_and_counted_what_was_under_way_and_goes_on(log, monkeypatch):
    monkeypatch.setattr("adaptrag.common.context.WRITE_INTERVAL", 0)
    with serving() as server:
        run = _start(server, concurrency=4)

        def cancel(fraction, message):
            Job.objects.filter(pk=run.job_id).update(cancel_requested=True)

        with override_settings(ADAPTRAG_JOBS_EAGER=True):
            assert job_run(run.job_id, here=True, on_progress=cancel) == Job.State.CANCELLED
        run = distillation_get(run.pk)
        assert 1 <= len(server.requests) == run.counts["asked"] == run.answers.count() <= 8
        assert budget_get().spent == 17 * len(server.requests)
        distillation_resume(run)
        assert _worked(run).counts["asked"] == len(server.requests) == 40


def test_a_sample_that_was_paid_for_is_not_asked_again_where_the_next_one_fails():
    teacher, kept = Teacher(fails=[2]), []
    teacher.gate.set()
    distil(_items(1), teacher, samples=2, concurrency=1, reserve=lambda item: True, keep=kept.append, tick=lambda: None)
    assert [(one.failed, len(one.samples), one.usage.prompt_tokens) for one in kept] == [(True, 1, 1), (False, 2, 1)]
    assert (teacher.calls, kept[-1].reason, kept[-1].model) == (3, "", "teacher-1")


@pytest.mark.django_db
def test_another_run_takes_over_the_sample_that_an_unfinished_one_paid_for(log):
    with serving() as server:
        server.behaviours = [answer("1701"), failing(400)]
        first = _worked(_start(server, limit=1, samples=2))
        row = first.answers.get()
        assert (row.partial, row.accepted, row.text, first.counts["asked"]) == (True, False, "1701", 0)
        asked = len(server.requests)
        server.behaviours = [answer("1701")]
        second = _worked(_start(server, limit=1, samples=2))
    assert len(server.requests) == asked + 1
    row = second.answers.get()
    assert (row.accepted, row.text, row.samples, second.counts["asked"]) == (True, "1701", ["1701"], 1)
    assert budget_get().spent == round(1e6 * sum(run.cost_usd for run in DistillationRun.objects.all())) == 2 * 17


# Prices -----------------------------------------------------------------------------------------------------------------

PRICED = {"price_prompt_per_million": 1.0, "price_completion_per_million": 2.0}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "options",
    [{}, {"price_prompt_per_million": 1.0}, {"base_url": "http://10.0.0.7/v1"}],
    ids=["no price", "one price", "a server nearby"],
)
def test_a_teacher_elsewhere_is_not_asked_without_prices(options, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InvalidInput, match="no budget can hold it"):
        distillation_start(DistillationRequest(model="m", options=options))
    assert not DistillationRun.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "values",
    [
        {"options": PRICED},
        {"options": {"price_prompt_per_million": 0, "price_completion_per_million": 0}},
        {"options": {"base_url": "http://127.0.0.1:9/v1"}},
        {"options": {"base_url": "http://localhost:9/v1"}},
        {"backend": "local"},
    ],
    ids=["priced", "free", "on this machine", "by name", "local"],
)
def test_prices_may_be_zero_and_are_not_asked_for_on_this_machine(values, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert distillation_start(DistillationRequest(model="m", **values)).pk


@pytest.mark.django_db
def test_the_settings_name_the_teacher_of_whoever_names_none(settings, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    settings.ADAPTRAG_TEACHER_MODEL, settings.ADAPTRAG_TEACHER_OPTIONS = "big", PRICED | {"timeout": 9}
    run = distillation_start(DistillationRequest(options={"timeout": 5}))
    assert (run.backend, run.model, run.options) == ("openai_compatible", "big", PRICED | {"timeout": 5})
    with pytest.raises(InvalidInput, match="What other costs"):
        distillation_start(DistillationRequest(model="other"))
    assert distillation_start(DistillationRequest(backend="local")).options == {}
    assert check_teacher() == []


@pytest.mark.django_db
def test_a_teacher_without_prices_is_told_by_the_check_and_by_the_plan_of_improve(settings, monkeypatch):
    from adaptrag.loop.plan import teacher_absent

    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    settings.ADAPTRAG_TEACHER_MODEL = "big"
    assert "What big costs is not known" in check_teacher()[0].msg
    assert "What big costs is not known" in teacher_absent()
