"""A distillation by the batch API against a server on loopback that speaks it."""

import pytest
from django.test import override_settings

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import job_run
from adaptrag.common.models import Job
from agents.llm.batches import BatchChatModel
from agents.selectors import live_variant
from agents.services import agents_register_defaults
from tests.training.batch_server import serving_batches
from tests.training.chats import logged
from training.models import TeacherAnswer
from training.services import (
    DistillationRequest,
    batches,
    budget_get,
    budget_set,
    distillation_get,
    distillation_resume,
    distillation_start,
)

pytestmark = pytest.mark.django_db
PRICES = {"price_prompt_per_million": 1.0, "price_completion_per_million": 2.0, "timeout": 5}
COST = 17  # millionths of a dollar, of one answer


@pytest.fixture
def log(settings, tmp_path, monkeypatch):
    settings.DATA_DIR = tmp_path
    monkeypatch.setattr(batches, "FIRST_PAUSE", 0.01)
    agents_register_defaults()
    variant = live_variant("hybrid_rag")
    return [str(logged(variant, f"When was bridge number {number} built?", "I think 1950.").pk) for number in range(6)]


@pytest.fixture
def server():
    with serving_batches() as server:
        yield server


def _started(server, **values):
    request = DistillationRequest(model="tiny", batch=True, options=PRICES | {"base_url": server.url}, **values)
    return distillation_start(request)


def _worked(run):
    with override_settings(ADAPTRAG_JOBS_EAGER=True):
        job_run(distillation_get(run.pk).job_id, here=True)
    return distillation_get(run.pk)


def test_all_questions_go_as_one_batch_and_are_paid_by_what_its_results_count(log, server):
    run = _worked(_started(server, samples=2))
    assert run.job.state == Job.State.SUCCEEDED, run.job.error
    assert (len(server.batches), len(server.asked), run.batch_id) == (1, 12, "")
    assert run.counts == {"asked": 6, "accepted": 6, "refused": {}, "failed": 0}
    assert (run.prompt_tokens, run.completion_tokens) == (12 * 11, 12 * 3)
    assert budget_get().spent == 12 * COST == round(run.cost_usd * 1e6)
    bodies = [line["body"] for line in server.lines(server.batches["batch_0"])]
    assert {body["temperature"] for body in bodies} == {0.0, 0.7} and {body["model"] for body in bodies} == {"tiny"}


def test_what_failed_or_expired_goes_into_the_next_batch_alone(log, server):
    server.status, server.fails, server.expires = "expired", {f"{log[0]}:0"}, {f"{log[1]}:0", f"{log[2]}:1"}
    run = _worked(_started(server, samples=2))
    assert (run.job.state, run.counts["asked"], run.counts["failed"]) == (Job.State.SUCCEEDED, 3, 3)
    assert TeacherAnswer.objects.filter(partial=True).count() == 3
    assert budget_get().spent == 9 * COST
    server.status, server.fails, server.expires, server.asked = "completed", set(), set(), []
    distillation_resume(run)
    run = _worked(run)
    assert len(server.asked) == 3
    assert (run.counts["asked"], run.counts["failed"], budget_get().spent) == (6, 0, 12 * COST)
    with pytest.raises(Conflict):
        distillation_resume(run)


def test_one_that_was_killed_picks_up_the_batch_that_it_had_sent(log, server, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    run = _started(server)
    monkeypatch.setattr(batches, "_wait", kill)
    with pytest.raises(Killed):
        _worked(run)
    run = distillation_get(run.pk)
    assert run.batch_id == "batch_0"
    assert budget_get().spent == run.parameters["sent"]["reserved"] > 6 * COST
    monkeypatch.undo()
    Job.objects.filter(pk=run.job_id).update(state=Job.State.QUEUED)  # as the reaper does
    run = _worked(run)
    assert (len(server.batches), run.counts["accepted"], budget_get().spent) == (1, 6, 6 * COST)


def test_a_batch_whose_id_was_lost_is_found_by_its_label(log, server):
    server.lose_reply = True
    run = _worked(_started(server))
    assert (run.job.state, run.batch_id) == (Job.State.FAILED, "")
    distillation_resume(run)
    run = _worked(run)
    assert (len(server.batches), run.counts["accepted"], budget_get().spent) == (1, 6, 6 * COST)


def test_cancelled_it_leaves_the_batch_to_be_fetched(log, server, monkeypatch):
    monkeypatch.setattr("adaptrag.common.context.WRITE_INTERVAL", 0)
    server.looks = 100
    run = _started(server)

    def watch(fraction, message):
        Job.objects.filter(pk=run.job_id).update(cancel_requested=True)

    with override_settings(ADAPTRAG_JOBS_EAGER=True):
        assert job_run(run.job_id, here=True, on_progress=watch) == Job.State.CANCELLED
    server.looks = 1
    distillation_resume(distillation_get(run.pk))
    run = _worked(run)
    assert (len(server.batches), run.counts["accepted"]) == (1, 6)


def test_a_refused_batch_and_one_that_is_forgotten_give_the_budget_back_and_say_why(log, server):
    server.status = "failed"
    run = _worked(_started(server))
    assert (run.job.state, run.batch_id, budget_get().spent) == (Job.State.FAILED, "", 0)
    assert "refused the batch" in run.job.error
    server.status, server.looks = "completed", 1
    run.batch_id, run.parameters["sent"] = "batch_9", {"label": "x", "reserved": 0, "asked": 6, "stopped": False}
    run.save()
    distillation_resume(run)
    run = _worked(run)
    assert "does not know batch batch_9" in run.job.error
    distillation_resume(run)
    assert _worked(run).counts["accepted"] == 6


def test_the_budget_bounds_a_batch(log, server):
    budget_set("default", limit_usd=0.0011)
    run = _worked(_started(server))
    assert run.job.result["stopped_by_budget"]
    assert 0 < len(server.asked) == run.counts["asked"] < 6


def test_a_server_without_the_api_and_a_local_model_are_told(log, server):
    server.absent = True
    run = _worked(_started(server))
    assert "Ask without --batch" in run.job.error
    assert budget_get().spent == 0
    with pytest.raises(InvalidInput, match="no batch API"):
        distillation_start(DistillationRequest(backend="local", batch=True))


def test_a_batch_of_another_label_is_not_taken(server):
    assert BatchChatModel("tiny", {"base_url": server.url}).find("adaptrag-none") == ""
