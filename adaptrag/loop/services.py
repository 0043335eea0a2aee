"""Every change to a run, one function each. A finished stage enqueues the next; no job waits for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from adaptrag.common.errors import Conflict
from adaptrag.common.jobs import JobCancelled, JobContext, JobSuperseded, job_cancel, job_enqueue, job_retry
from adaptrag.common.models import Job
from adaptrag.common.reaper import jobs_reap
from adaptrag.loop.errors import UnknownImprovement
from adaptrag.loop.models import LoopRun, LoopStage
from adaptrag.loop.plan import ImproveRequest, Options, Plan, options_of, plan_make
from adaptrag.loop.stages import STAGES, Ended, Work
from rewards.services.turn import write_turn

__all__ = [
    "ImproveRequest",
    "improve_cancel",
    "improve_get",
    "improve_plan",
    "improve_resume",
    "improve_settle",
    "improve_start",
    "improve_summary",
    "plan_summary",
    "stage_current",
    "stage_execute",
]


def improve_plan(request: ImproveRequest) -> Plan:
    """What a run would do now. Raises InvalidInput and the like for what can't be asked for."""
    return plan_make(options_of(request))


def plan_summary(plan: Plan) -> dict[str, Any]:
    """What `improve --dry-run --json` prints: the contract of a run, with figures."""
    return {
        "run": None,
        "dry_run": True,
        "stages": list(plan.stages),
        "verdict": plan.verdict or None,
        "candidate": None,
        "incumbent": str(plan.incumbent),
        "new": plan.new,
        "needed_new": plan.needed_new,
        "references": {"kind": plan.references.kind, "n": plan.references.n, "needed": plan.needed_references},
    }


def improve_get(number: int) -> LoopRun:
    """Raises UnknownImprovement, which names the newest."""
    run = LoopRun.objects.select_related("candidate", "incumbent").filter(pk=number).first()
    if run is None:
        newest = LoopRun.objects.values_list("pk", flat=True).first()
        known = f"The newest is {newest}." if newest else "There is none yet: python manage.py improve"
        raise UnknownImprovement(f"There is no improvement {number}. {known}", run=number)
    return improve_settle(run)


def improve_start(request: ImproveRequest) -> LoopRun:
    """A run with its first stage on the queue. Raises Conflict while another one is under way, and what improve_plan raises."""
    options = options_of(request)
    for running in LoopRun.objects.filter(state=LoopRun.State.RUNNING):
        improve_settle(running)
    user = request.user if getattr(request.user, "pk", None) else None
    try:
        with transaction.atomic():
            run = LoopRun.objects.create(options=asdict(options), trigger=request.trigger, created_by=user)
            LoopStage.objects.bulk_create(
                LoopStage(run=run, name=name, ordinal=place) for place, name in enumerate(STAGES, start=1)
            )
            _next(run)
    except IntegrityError:
        raise _under_way() from None
    run.refresh_from_db()
    return run


def improve_cancel(run: LoopRun) -> LoopRun:
    """Stop it at its stage; what that has kept stays, and improve_resume goes on from there. Raises Conflict once it ended."""
    stage = stage_current(run)
    if run.state != LoopRun.State.RUNNING or stage is None or stage.job is None:
        raise Conflict(f"{run} is {run.state}; only a running one can be cancelled.", run=run.pk)
    job_cancel(stage.job)
    return improve_settle(run)


def improve_resume(run: LoopRun, *, user: Any = None) -> LoopRun:
    """Go on at the stage that failed, was killed or cancelled. Raises Conflict for a run that is under way or done."""
    jobs_reap()  # a killed process's job is still noted as running
    run = improve_settle(run)
    stage = stage_current(run)
    if run.state == LoopRun.State.DONE or stage is None:
        raise Conflict(f"{run} is done: {run.get_verdict_display()}. Start another.", run=run.pk)
    try:
        with transaction.atomic():
            LoopRun.objects.filter(pk=run.pk).update(state=LoopRun.State.RUNNING, verdict="", reason="", finished_at=None)
            LoopStage.objects.filter(pk=stage.pk).update(state=LoopStage.State.WAITING, detail="")
            if stage.job is not None and stage.job.state in (Job.State.FAILED, Job.State.CANCELLED):
                job_retry(stage.job, user=user)
            elif stage.job is None or not stage.job.is_live:
                _enqueue(run, stage)
    except IntegrityError:
        raise _under_way() from None
    run.refresh_from_db()
    return run


def improve_settle(run: LoopRun) -> LoopRun:
    """The row as it is now: a run whose stage's process was killed or cancelled has no other to write its end."""
    run.refresh_from_db()
    stage = stage_current(run)
    if run.state != LoopRun.State.RUNNING or stage is None or stage.job is None or stage.job.is_live:
        return run
    if stage.job.state == Job.State.CANCELLED:
        _stopped(run, stage, cancelled=True)
    elif stage.job.state == Job.State.FAILED:
        _stopped(run, stage, error=stage.job.error)
    run.refresh_from_db()
    return run


def stage_current(run: LoopRun) -> LoopStage | None:
    """The first stage that has not come to its end; None if all have."""
    return run.stages.select_related("job").exclude(state__in=LoopStage.ENDED).first()


def stage_execute(number: int, name: str, context: JobContext) -> dict[str, Any]:
    """Run one stage and enqueue the next. Called by the job. Raises Conflict where its run had stopped and another is under
    way."""
    stage = LoopStage.objects.select_related("run", "run__candidate", "run__incumbent", "run__created_by").get(
        run=number, name=name
    )
    run, begun = stage.run, timezone.now()
    if stage.state in LoopStage.ENDED:  # killed between its end and its job's
        return {"run": run.pk, "stage": name, "detail": stage.detail}
    _taken_up(run)
    LoopStage.objects.filter(pk=stage.pk).update(state=LoopStage.State.RUNNING, started_at=begun)
    earlier = {one.name: one.figures for one in run.stages.filter(ordinal__lt=stage.ordinal)}
    work = Work(run=run, stage=stage, context=context, options=Options.of(run.options), found=earlier)
    short = not STAGES[name].heavy
    try:
        with _whole() if short else nullcontext():
            ended = STAGES[name].execute(work)
            with _whole():
                _finish(stage, ended, (timezone.now() - begun).total_seconds())
                if ended.verdict:
                    _end(run, ended.verdict, ended.detail)
                else:
                    _next(run)
    except JobSuperseded:  # another attempt goes on with it
        raise
    except (JobCancelled, KeyboardInterrupt):
        _stopped(run, stage, cancelled=True)
        raise
    except Exception as error:
        _stopped(run, stage, error=getattr(error, "message", "") or f"{type(error).__name__}: {error}")
        raise
    return {"run": run.pk, "stage": name, "detail": ended.detail}


def improve_summary(run: LoopRun) -> dict[str, Any]:
    """What `improve --json` prints and the API returns."""
    return {
        "run": run.pk,
        "stages": [
            {"stage": one.name, "state": one.state, "seconds": one.seconds, "detail": one.detail} for one in run.stages.all()
        ],
        "verdict": run.verdict or None,
        "candidate": str(run.candidate) if run.candidate else None,
        "incumbent": str(run.incumbent) if run.incumbent else None,
        "state": run.state,
        "reason": run.reason,
    }


@contextmanager
def _whole() -> Iterator[None]:
    """All of it or nothing, whatever dies."""
    with write_turn(), transaction.atomic():
        yield


def _taken_up(run: LoopRun) -> None:
    """A run that had stopped goes on when somebody retries its stage's job on the job's own page, or the training there."""
    stopped = LoopRun.objects.filter(pk=run.pk, state__in=[LoopRun.State.FAILED, LoopRun.State.CANCELLED])
    try:
        with transaction.atomic():
            stopped.update(state=LoopRun.State.RUNNING, verdict="", reason="", finished_at=None)
    except IntegrityError:
        raise _under_way() from None


def _next(run: LoopRun) -> None:
    """Put the next stage on the queue, past those that have nothing to do."""
    options = Options.of(run.options)
    for stage in run.stages.filter(state=LoopStage.State.WAITING):
        if reason := STAGES[stage.name].absent(options):
            LoopStage.objects.filter(pk=stage.pk).update(state=LoopStage.State.SKIPPED, detail=reason)
            continue
        _enqueue(run, stage)
        return


def _enqueue(run: LoopRun, stage: LoopStage) -> None:
    title = f"Improvement {run.pk}: {STAGES[stage.name].title.lower()}"
    payload, key = {"run": run.pk, "stage": stage.name}, f"loop:{run.pk}:{stage.name}"
    job = job_enqueue(STAGES[stage.name].kind, payload, title=title, idempotency_key=key, user=run.created_by)
    LoopStage.objects.filter(pk=stage.pk).update(job=job)


def _finish(stage: LoopStage, ended: Ended, seconds: float) -> None:
    LoopStage.objects.filter(pk=stage.pk).update(
        state=ended.state, detail=ended.detail, seconds=round((stage.seconds or 0) + seconds, 1)
    )


def _end(run: LoopRun, verdict: str, reason: str) -> None:
    waiting = run.stages.filter(state=LoopStage.State.WAITING)
    waiting.update(state=LoopStage.State.SKIPPED, detail=f"The run ended before it: {LoopRun.Verdict(verdict).label}.")
    LoopRun.objects.filter(pk=run.pk).update(
        state=LoopRun.State.DONE, verdict=verdict, reason=reason, finished_at=timezone.now()
    )


def _stopped(run: LoopRun, stage: LoopStage, *, error: str = "", cancelled: bool = False) -> None:
    """A stage that failed or was cancelled stops its run; resuming begins with it."""
    with transaction.atomic():
        LoopStage.objects.filter(pk=stage.pk).exclude(state__in=LoopStage.ENDED).update(
            state=LoopStage.State.CANCELLED if cancelled else LoopStage.State.FAILED, detail=error
        )
        LoopRun.objects.filter(pk=run.pk, state=LoopRun.State.RUNNING).update(
            state=LoopRun.State.CANCELLED if cancelled else LoopRun.State.FAILED,
            verdict="" if cancelled else LoopRun.Verdict.FAILED,
            reason=error,
            finished_at=timezone.now(),
        )


def _under_way() -> Conflict:
    running = LoopRun.objects.filter(state=LoopRun.State.RUNNING).values_list("pk", flat=True).first()
    return Conflict(f"Improvement {running} is under way. Wait for its end, or cancel it.", run=running)
