from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from django_q.models import OrmQ, Schedule

from adaptrag.common import jobs
from adaptrag.common.context import JobContext
from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.lease import LOG_CHARACTERS, JobSuperseded, claim
from adaptrag.common.models import Job
from adaptrag.common.registry import HANDLERS
from adaptrag.common.runner import exit_reason

pytestmark = pytest.mark.django_db
State = Job.State


@pytest.fixture
def handler():
    """Register a function as the handler of the kind `tested`."""

    def registered(function, **options):
        jobs.register("tested", function, **options)
        return "tested"

    yield registered
    HANDLERS.pop("tested", None)


@pytest.fixture
def eager(settings):
    settings.ADAPTRAG_JOBS_EAGER = True


def messages() -> list[tuple[str, tuple, int]]:
    return [(row.key, row.task["args"], row.task["timeout"]) for row in OrmQ.objects.order_by("pk")]


def test_an_eager_job_comes_back_ended_with_what_its_handler_left(handler, eager):
    def work(context: JobContext) -> dict:
        context.progress(0.5, "half of it")
        context.log("first line")
        context.save_checkpoint({"at": 3})
        return {"seen": context.payload["n"] + 1}

    job = jobs.job_enqueue(handler(work), {"n": 1}, title="Count")
    assert (job.state, job.result, job.progress, job.message) == (State.SUCCEEDED, {"seen": 2}, 1.0, "half of it")
    assert (job.attempt, job.checkpoint, str(job)) == (1, {"at": 3}, "Count")
    assert "first line" in job.log and job.seconds >= 0 and job.finished_at >= job.started_at


def test_the_message_leaves_with_the_commit_and_carries_the_number_alone(handler, django_capture_on_commit_callbacks):
    kind = handler(lambda context: None, heavy=True, queue="long")
    with django_capture_on_commit_callbacks(execute=True):
        job = jobs.job_enqueue(kind, {"n": 1})
        assert messages() == []
    assert messages() == [("long", (job.pk,), -1)]  # -1: django-q lets it run, its supervisor holds the limit


def test_a_light_job_gets_django_q_as_a_backstop_behind_its_own_limit(handler, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        job = jobs.job_enqueue(handler(lambda context: None, limit=10), {})
    assert messages() == [("default", (job.pk,), 70)]


def test_a_rolled_back_job_sends_nothing(handler, django_capture_on_commit_callbacks):
    kind = handler(lambda context: None)
    with django_capture_on_commit_callbacks(execute=True), pytest.raises(RuntimeError), transaction.atomic():
        jobs.job_enqueue(kind, {})
        raise RuntimeError
    assert messages() == [] and not Job.objects.exists()


def test_a_live_job_with_the_same_key_is_returned_instead(handler):
    kind = handler(lambda context: None)
    first = jobs.job_enqueue(kind, {}, idempotency_key="index:1")
    assert jobs.job_enqueue(kind, {}, idempotency_key="index:1") == first
    assert jobs.job_enqueue(kind, {}, idempotency_key="index:2") != first
    jobs.job_run(first.pk)
    assert jobs.job_enqueue(kind, {}, idempotency_key="index:1") != first
    assert jobs.job_enqueue(kind, {}) != jobs.job_enqueue(kind, {})


def test_an_unknown_kind_is_refused_and_a_forgotten_one_fails_its_row():
    with pytest.raises(InvalidInput, match="No installed app handles jobs of the kind 'magic'"):
        jobs.job_enqueue("magic", {})
    job = Job.objects.create(kind="magic")
    assert jobs.job_run(job.pk) == State.FAILED
    job.refresh_from_db()
    assert "No installed app handles" in job.error


@pytest.mark.parametrize(
    ("raised", "error", "traced"),
    [
        (InvalidInput("The file is empty."), "The file is empty.", False),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero", True),
        (SystemExit(3), "SystemExit: 3", True),
        (MemoryError(), "It ran out of memory. Give it less work at once, or the machine more memory.", True),
    ],
)
def test_what_a_handler_raises_fails_the_row_in_words(handler, eager, raised, error, traced):
    def work(context: JobContext) -> None:
        context.progress(0.25, "reading")
        context.progress(0.5, "writing")
        raise raised

    job = jobs.job_enqueue(handler(work), {})
    assert (job.state, job.error, job.result) == (State.FAILED, error, None)
    assert (job.progress, job.message) == (0.5, "writing")  # the newest report, though not yet written when it came
    assert (type(raised).__name__ in job.traceback) is traced


def test_a_result_that_is_no_json_fails_the_job(handler, eager):
    job = jobs.job_enqueue(handler(lambda context: {"made": object()}), {})
    assert job.state == State.FAILED and "not JSON serializable" in job.error


def test_progress_never_goes_back_and_stays_between_0_and_1(handler, monkeypatch):
    monkeypatch.setattr("adaptrag.common.context.WRITE_INTERVAL", 0)
    job = Job.objects.create(kind=handler(lambda context: None))
    context = JobContext(claim(job.pk))
    seen = []
    for fraction in (-1, 0.2, 0.1, 0.7, 5, 0.9):
        context.progress(fraction)
        job.refresh_from_db()
        seen.append(job.progress)
    assert seen == [0, 0.2, 0.2, 0.7, 1, 1]
    with pytest.raises(ValueError, match="not a number"):
        context.progress(float("nan"))


def test_reports_in_quick_succession_are_written_once(handler, django_assert_num_queries):
    context = JobContext(claim(Job.objects.create(kind=handler(lambda context: None)).pk))
    with django_assert_num_queries(2):
        for number in range(1000):
            context.progress(number / 1000)


def test_writes_of_a_superseded_attempt_are_refused(handler, monkeypatch):
    monkeypatch.setattr("adaptrag.common.context.WRITE_INTERVAL", 0)
    job = Job.objects.create(kind=handler(lambda context: None))
    old = claim(job.pk)
    context = JobContext(old)
    Job.objects.filter(pk=job.pk).update(state=State.QUEUED)
    new = claim(job.pk)
    assert (old.attempt, new.attempt) == (1, 2)
    for write in (
        lambda: context.progress(0.9),
        lambda: context.log("late"),
        lambda: context.save_checkpoint({"late": True}),
        lambda: old.beat(),
        lambda: old.finish(State.SUCCEEDED),
    ):
        with pytest.raises(JobSuperseded):
            write()
    job.refresh_from_db()
    assert (job.state, job.attempt, job.progress, job.checkpoint) == (State.RUNNING, 2, 0, None)
    assert "late" not in job.log


def test_only_a_queued_job_can_be_claimed(handler):
    job = Job.objects.create(kind=handler(lambda context: None))
    assert claim(job.pk) is not None
    assert claim(job.pk) is None
    Job.objects.filter(pk=job.pk).update(state=State.CANCELLED)
    assert claim(job.pk) is None and claim(10**9) is None


def test_a_handler_s_broad_except_does_not_swallow_a_cancel(handler, monkeypatch):
    monkeypatch.setattr("adaptrag.common.context.WRITE_INTERVAL", 0)

    def work(context: JobContext) -> None:
        jobs.job_cancel(Job.objects.get(pk=context.job_id))
        for item in range(3):
            try:
                context.progress(item / 3)
            except Exception:
                pytest.fail("a cancel must not look like a failed item")

    job = Job.objects.create(kind=handler(work))
    assert jobs.job_run(job.pk, here=True) == State.CANCELLED


def test_cancelling_a_queued_job_ends_it_and_an_ended_one_stays(handler):
    job = Job.objects.create(kind=handler(lambda context: {"done": True}))
    assert jobs.job_cancel(job).state == State.CANCELLED
    assert jobs.job_run(job.pk) == State.CANCELLED
    done = Job.objects.create(kind="tested")
    jobs.job_run(done.pk, here=True)
    assert jobs.job_cancel(done).state == State.SUCCEEDED


def test_a_retry_goes_on_from_the_checkpoint_with_new_attempts(handler, eager):
    user = get_user_model().objects.create_user("olga")

    def work(context: JobContext) -> dict:
        if context.checkpoint is None:
            context.save_checkpoint({"at": 7})
            raise InvalidInput("Not yet.")
        return context.checkpoint

    job = jobs.job_enqueue(handler(work, max_attempts=2), {})
    assert job.state == State.FAILED
    job = jobs.job_retry(job, user=user)
    assert (job.state, job.result, job.attempt, job.max_attempts, job.error) == (State.SUCCEEDED, {"at": 7}, 2, 3, "")
    assert "queued again by olga" in job.log
    with pytest.raises(Conflict, match="only a failed or cancelled job"):
        jobs.job_retry(job)


def test_a_retry_beside_a_live_job_with_its_key_is_refused(handler):
    kind = handler(lambda context: None)
    old = jobs.job_cancel(jobs.job_enqueue(kind, {}, idempotency_key="index:1"))
    jobs.job_enqueue(kind, {}, idempotency_key="index:1")
    with pytest.raises(Conflict, match="Another job with the key 'index:1'"):
        jobs.job_retry(old)


def test_the_log_keeps_its_newest_end(handler):
    context = JobContext(claim(Job.objects.create(kind=handler(lambda context: None)).pk))
    for number in range(40):
        context.log(f"{number} " + "x" * 5000)
    log = Job.objects.get(pk=context.job_id).log
    assert len(log) == LOG_CHARACTERS
    assert log.endswith("x\n") and " 39 xxx" in log and " 2 xxx" not in log


def test_a_child_runs_only_what_its_parent_holds(handler):
    lease = claim(Job.objects.create(kind=handler(lambda context: None)).pk)
    with pytest.raises(Conflict, match="isn't held by the process that started this one"):
        jobs.job_run_child(lease.job_id, lease.attempt)


def test_the_schedules_are_made_once():
    from django.apps import apps

    from adaptrag.common.apps import schedules_ensure

    Schedule.objects.filter(name="jobs: reap").update(minutes=5)
    schedules_ensure(apps=apps, using="default")
    rows = Schedule.objects.filter(name__startswith="jobs: ").order_by("name").values_list("name", "func", "minutes")
    assert list(rows) == [("jobs: clean", "adaptrag.common.tasks.clean", None), ("jobs: reap", "adaptrag.common.tasks.reap", 5)]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "killed (signal 9, SIGKILL) after 12 s, using up to 1907 MiB"),
        (-15, "stopped from outside (signal 15"),
        (143, "stopped from outside (signal 15"),
        (-11, "crashed (signal 11, SIGSEGV)"),
        (3, "ended with exit code 3"),
        (0, "ended with exit code 0"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(code, words):
    assert words in exit_reason(code, 12, 2_000_000_000)
