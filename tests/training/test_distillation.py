"""The teacher against a real server on loopback that fails in 30 % of its calls."""

import hashlib

import pytest
from django.test import override_settings

from adaptrag.common.errors import InvalidInput
from adaptrag.common.jobs import job_run
from adaptrag.common.models import Job
from agents.selectors import live_variant
from agents.services import agents_register_defaults
from tests.agents.faulty_server import answer, failing, serving
from tests.training.chats import logged
from training.distillation import Item, agreement, grounded, refused
from training.models import TeacherAnswer, TeacherBudget
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
        run = _worked(_start(server, limit=15))
        assert len(server.requests) == 15
        Job.objects.filter(pk=run.job_id).update(state=Job.State.FAILED)
        run.parameters["limit"] = 25
        run.save()
        distillation_resume(run)
        _worked(run)
        assert len(server.requests) == 25
        again = _worked(_start(server))
        assert (len(server.requests), again.counts["asked"]) == (40, 15)
    assert TeacherAnswer.objects.count() == 40


@pytest.mark.django_db
def test_the_budget_stops_it_before_it_is_exceeded(log):
    budget_set("default", limit_usd=0.0006)
    with serving() as server:
        run = _worked(_start(server, concurrency=1))
    assert run.job.result["stopped_by_budget"]
    assert 0 < run.counts["asked"] < 40
    assert budget_get().spent <= 600


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
