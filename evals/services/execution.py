"""Executing a run: item by item, several at once, until all is answered, the budget is spent or somebody says stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any

from django.db import connection
from django.db.models import F, Sum
from django.utils import timezone

from adaptrag.common.errors import Conflict
from adaptrag.common.jobs import JobCancelled, JobSuperseded
from agents.retrieval.files import locked
from agents.services import derived_prepare
from evals.harness import Asker
from evals.models import EvalQuestion, EvalRun
from evals.services.reports import evalrun_summary, results_path, write_results

Progress = Callable[[float, str], None]
Work = Callable[[], None]
POLL = 1.0  # seconds between looks at the cancel flag while slow models answer


def evalrun_execute(run_id: int, progress: Progress | None = None) -> dict[str, Any]:
    """Ask what is missing, then sum up. Returns {"run", "state", "results_file"}.

    Results are saved one by one, so a killed run loses at most the items in flight, and pays none twice that was saved.
    Raises Conflict where another process of this machine executes the run.
    """
    run = EvalRun.objects.select_related("eval_set", "collection").get(pk=run_id)
    try:
        with locked(run.lock_path, patience=0):
            return _execute(run, progress or (lambda fraction, message: None))
    except TimeoutError:
        raise Conflict(f"Eval run {run_id} is under way in another process. Wait for its end, or cancel it there.") from None


def evalrun_questions(run: EvalRun) -> list[EvalQuestion]:
    """The questions that the run asks: the set's first `max_questions`, in its order."""
    return list(run.eval_set.questions.order_by("ordinal")[: run.max_questions])


def _execute(run: EvalRun, report: Progress) -> dict[str, Any]:
    rows = EvalRun.objects.filter(pk=run.pk)
    if run.collection is None:
        rows.update(state=EvalRun.State.FAILED)
        raise Conflict(f"The collection that {run} asks about has been deleted.")
    rows.update(state=EvalRun.State.RUNNING)
    try:
        state = _ask_missing(run, report)
    except JobSuperseded:  # another attempt goes on with it
        raise
    except (JobCancelled, KeyboardInterrupt):
        _finish(run, EvalRun.State.CANCELLED)
        raise
    except Exception:
        rows.update(state=EvalRun.State.FAILED)
        raise
    _finish(run, state)
    report(1.0, f"{EvalRun.State(state).label}: {run.results.count()} answers")
    return {"run": run.pk, "state": str(state), "results_file": run.results_file}


def _ask_missing(run: EvalRun, report: Progress) -> str:
    questions, variants = evalrun_questions(run), list(run.labelled().values())
    baseline = next(variant for variant in variants if variant.label == run.baseline)
    derived_prepare(run.collection, variants, lambda fraction, message: report(0.0, message))
    asker = Asker(run)
    answered = set(run.results.filter(complete=True).values_list("question_id", "variant_id"))
    compared = set(run.pairs.values_list("question_id", "variant_id"))
    answers = len(questions) * len(variants)
    pairs = len(questions) * (len(variants) - 1) if run.pairwise else 0
    counter = _Counter(report, total=answers + pairs, done=len(answered) + len(compared))

    def asking() -> Iterable[Work]:
        # Question by question, so that a run that stops early has asked every agent the same ones.
        for question in questions:
            for variant in variants:
                if (question.pk, variant.pk) not in answered:
                    yield lambda question=question, variant=variant: asker.ask(question, variant)

    def comparing() -> Iterable[Work]:
        for question in questions:
            both = {result.variant_id: result for result in run.results.filter(question=question, failed=False)}
            for variant in variants:
                if variant == baseline or (question.pk, variant.pk) in compared:
                    continue
                if variant.pk in both and baseline.pk in both:
                    own, other = both[variant.pk], both[baseline.pk]
                    yield lambda question=question, variant=variant, own=own, other=other: asker.compare(
                        question, variant, own, other
                    )

    finished = _work_off(run, asking(), counter) and (not run.pairwise or _work_off(run, comparing(), counter))
    return EvalRun.State.DONE if finished else EvalRun.State.STOPPED


class _Counter:
    """Progress in words: items done, and how long the rest takes at the pace so far."""

    def __init__(self, report: Progress, *, total: int, done: int) -> None:
        self._report, self._total, self._before, self._done = report, max(1, total), done, done
        self._begun = time.monotonic()
        self.tell()

    def add(self, items: int) -> None:
        self._done += items
        self.tell()

    def tell(self) -> None:
        made = self._done - self._before
        left = (self._total - self._done) * (time.monotonic() - self._begun) / made if made else None
        self._report(self._done / self._total, f"{self._done} of {self._total} items{_about(left)}")


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", about {seconds:.0f} s left" if seconds < 120 else f", about {seconds / 60:.0f} min left"


def _work_off(run: EvalRun, work: Iterable[Work], counter: _Counter) -> bool:
    """Do all of it, `run.concurrency` at once; False where the budget was spent before the end."""
    work = iter(work)
    # Inside somebody's transaction other threads would not see its rows: one by one then.
    if connection.in_atomic_block:
        for item in work:
            if _over_budget(run):
                return False
            item()
            counter.add(1)
        return True
    with ThreadPoolExecutor(max_workers=run.concurrency) as pool:
        running: set[Future[None]] = set()
        try:
            while True:
                stopped = _over_budget(run)
                while not stopped and len(running) < run.concurrency and (item := next(work, None)):
                    running.add(pool.submit(_in_thread, item))
                if not running:
                    return not (stopped and next(work, None))
                ended, running = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                counter.add(len(ended))
        finally:
            for future in running:
                future.cancel()


def _in_thread(work: Work) -> None:
    with closing(connection):
        work()


def evalrun_spent(run: EvalRun, *, retried: bool = True) -> tuple[int, float]:
    """(tokens, US dollars) paid so far for agents and judge together, `retried` items included that were asked again."""
    answers = run.results.aggregate(
        tokens=Sum(F("prompt_tokens") + F("completion_tokens") + F("judge_tokens"), default=0),
        usd=Sum(F("cost_usd") + F("judge_cost_usd"), default=0.0),
    )
    pairs = run.pairs.aggregate(tokens=Sum("judge_tokens", default=0), usd=Sum("judge_cost_usd", default=0.0))
    tokens, usd = answers["tokens"] + pairs["tokens"], answers["usd"] + pairs["usd"]
    return (tokens + run.retried_tokens, usd + run.retried_usd) if retried else (tokens, usd)


def _over_budget(run: EvalRun) -> bool:
    if run.budget_tokens is None and run.budget_usd is None:
        return False
    tokens, usd = evalrun_spent(run)
    return (run.budget_tokens is not None and tokens >= run.budget_tokens) or (
        run.budget_usd is not None and usd >= run.budget_usd
    )


def _finish(run: EvalRun, state: str) -> None:
    run.state = state
    run.finished_at = timezone.now()
    run.results_file = str(results_path(run))
    run.summary = evalrun_summary(run)
    write_results(run)
    run.save(update_fields=["state", "finished_at", "results_file", "summary"])
